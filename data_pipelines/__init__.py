"""Files to batches of NumPy arrays: reading, TFDS data sets, degradation, patches and the training loader."""
