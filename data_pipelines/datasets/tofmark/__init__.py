"""ToFMark."""
