"""Products, norms and attention for CPU and CUDA, which the model reads without knowing."""
