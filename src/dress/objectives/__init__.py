"""What a training step minimises, given the scores of supervised tokens."""
