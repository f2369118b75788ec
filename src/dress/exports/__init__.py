"""Export: shards become files that others read, or a folder fit to publish (`src/prepare.py task=export`)."""
