"""Training recipes, one file each: what it is, the command, and what to expect."""
