"""RGB-D-D."""
