"""DRESS: train vision-language models from natural-language feedback."""

import os

# Spinning OpenMP threads lose their core to any neighbour and slow small CPU models up to tenfold.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
