"""Output of a run while it is in progress: progress display, event log, experiment loggers."""
