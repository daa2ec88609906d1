"""What a run tells while it goes on: progress, the record of events, experiment loggers."""
