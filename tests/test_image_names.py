"""One image is one record however its name is written, and a name that is not found says why."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest
from conftest import png
from imports import imported
from PIL import Image

from dress.data.shards import Shards
