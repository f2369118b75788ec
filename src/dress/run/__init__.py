"""The command line, the beginning of a run folder, and loggers."""
