"""DIML/CVL RGB-D, indoor."""
