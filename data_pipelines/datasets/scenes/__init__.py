"""Generated rooms with exact depth."""
