"""The types of a published record, as `datasets` reads them from a card's front matter."""

from __future__ import annotations

from collections.abc import Iterable
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from dress.data.index import FEATURES, IMAGE_EXTENSIONS
from dress.record import Record

Feature = dict[str, Any]
"""A node of `dataset_info.features`: `dtype`, `list` or `struct`, with `name` where it stands in a struct."""

DTYPES = {str: "string", int: "int64", float: "float64", bool: "bool"}
FREE = "json"
"""Of an object whose fields nobody fixed: `datasets` keeps it whole, and gives it back as an object."""


def features(extensions: Iterable[str], records: bool = True) -> list[Feature]:
    """The columns of a sample: a member of its shard each, null in a sample without it, and webdataset's own two.

    Args:
        extensions: of the members that stand in the shards; those that no reader of ours knows are no columns.
        records: whether each `json` is a record; else it is whatever its publisher wrote.
    """
    types: dict[str, Feature] = {extension: {"dtype": "image"} for extension in IMAGE_EXTENSIONS}
    types |= {"txt": {"dtype": "string"}, FEATURES: {"dtype": "binary"}}
    types["json"] = _feature(Record) if records else {"dtype": FREE}
    types |= {"__key__": {"dtype": "string"}, "__url__": {"dtype": "string"}}
    columns = [*sorted(types.keys() & set(extensions)), "__key__", "__url__"]
    return [{"name": name, **types[name]} for name in columns]


def _feature(kind: Any) -> Feature:
    """The node of an annotation of `dress.record`."""
    origin, inside = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        (kind,) = (part for part in inside if part is not NoneType)
        return _feature(kind)
    if origin is Annotated:
        return _feature(inside[0])
    if origin is Literal:
        return {"dtype": DTYPES[type(inside[0])]}
    if origin is list:
        return {"list": _short(_feature(inside[0]))}
    if origin is tuple:
        return {"list": _short(_feature(inside[0])), "length": len(inside)}
    if origin is dict:
        return {"dtype": FREE}
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return {"struct": [{"name": name, **_feature(of.annotation)} for name, of in kind.model_fields.items()]}
    return {"dtype": DTYPES[kind]}


def _short(feature: Feature) -> Any:
    """As `datasets` itself writes what stands in a list."""
    return feature.get("struct") or (feature["dtype"] if list(feature) == ["dtype"] else feature)
