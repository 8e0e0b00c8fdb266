"""What runs an experiment: configuration, loop, metrics, reports."""
