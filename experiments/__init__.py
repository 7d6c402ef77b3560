"""Training, evaluation and use from the command line: the only place that knows models and data sets."""
