"""vision -> projector -> language: the model, and how it answers. Knows nothing of phases."""
