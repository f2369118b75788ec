"""DRESS: train vision-language models from natural-language feedback."""

import os

# How long OpenMP's threads (libgomp) spin between two operators before they sleep. Waking takes longer than most
# operators of small models; spinning for long takes the core from any neighbour (docs/decisions.md, "Machine").
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ["OMP_WAIT_POLICY"] = "passive"
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
