"""Stages and their curriculum: module, data module, callbacks, devices.

The room can be called: `dress.train([...])` is `run.from_python.train`, which stands above it.
"""

import sys
from types import ModuleType
from typing import Any


class _Room(ModuleType):
    def __call__(self, *arguments: Any, **more: Any) -> Any:
        import dress

        return dress._train(*arguments, **more)


sys.modules[__name__].__class__ = _Room
