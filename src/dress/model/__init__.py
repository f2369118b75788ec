"""vision -> projector -> language: the model, and how it answers. Knows nothing of phases."""

import logging
import sys
from importlib import import_module
from importlib.util import find_spec

# Where bitsandbytes is installed, peft imports it, and on CPUs with bf16 it would fetch and run code of the hub
# through the package `kernels`, or say that it lacks it.
if find_spec("bitsandbytes") is not None and "bitsandbytes" not in sys.modules:
    hub, level = sys.modules.get("kernels"), logging.root.manager.disable
    sys.modules["kernels"] = None  # type: ignore[assignment]  # as the import system marks what cannot be imported
    logging.disable(max(level, logging.WARNING))
    try:
        import_module("bitsandbytes")
    finally:
        logging.disable(level)
        del sys.modules["kernels"]
        if hub is not None:
            sys.modules["kernels"] = hub
