"""`ahmf report`: evaluations and training runs as one HTML page that needs nothing else, and as Markdown."""
