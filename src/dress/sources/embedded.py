"""Images that stand in a row as base64 go beside it, as those of Parquet do."""

from __future__ import annotations

import base64
import binascii
import re

from dress.sources.arrow_rows import image_name
from dress.sources.protocol import RowError
from dress.sources.rows import Fault, Row

# A whole JSON string that begins as a JPEG, PNG, WebP or GIF does in base64, with or without `data:image/…;base64,`.
_BASE64 = re.compile(
    rb'"(?:data:image\\?/[^",]*;base64,)?((?:\\?/9j\\?/|iVBORw0KGgo|UklGR|R0lGOD)(?:[A-Za-z0-9+/=]|\\[/nr])+)"'
)


def with_images_beside(row: Row) -> Row:
    """The row with a name in the place of each image that it holds as base64."""
    if row.fault or not _BASE64.search(row.data):
        return row
    images = dict(row.images)

    def name(match: re.Match[bytes]) -> bytes:
        text = match[1].replace(b"\\/", b"/").replace(b"\\n", b"").replace(b"\\r", b"")
        try:
            data = base64.b64decode(text, validate=True)
        except binascii.Error:
            return match[0]
        return b'"' + image_name(data, None, images).encode() + b'"'

    try:
        data = _BASE64.sub(name, row.data)
    except RowError as error:
        return row._replace(fault=Fault(error.reason, error.detail))
    return row._replace(data=data, images=tuple(images.items()))
