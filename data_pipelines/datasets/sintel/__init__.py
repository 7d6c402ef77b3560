"""MPI Sintel with its depth maps."""
