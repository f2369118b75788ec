"""What every room stands on: files, seeds, progress, redaction, the run folder and what ranks need of each other."""
