"""What every setting is, its unit and range, for people: from the schema and the comments beside its fields."""

from __future__ import annotations

import ast
import inspect
import json
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

from dress.config.export import ExportStage
from dress.config.raters import LLM
from dress.config.run import Config
from dress.config.stages import CollectStage, EvalStage, TrainStage
from dress.config.types import MOST

Expanded = Mapping[str, tuple[str, type[BaseModel]]]

EXPANDED: Expanded = {
    "curriculum.stages": ("curriculum.stages.NAME", TrainStage),
    "annotator": ("annotator", LLM),
}
"""Settings whose keys depend on what is chosen: the name that stands for them, and a section that may stand there."""


@dataclass(frozen=True)
class Setting:
    """A setting as a person reads it: key, default (None: the files say it), what it is, and what may stand there."""

    key: str
    default: str | None
    text: str
    values: str


def described(section: type[BaseModel] = Config, prefix: str = "", expanded: Expanded = EXPANDED) -> Iterator[Setting]:
    """Every setting of a section and of those in it, in their order."""
    schema = section.model_json_schema()
    for name, field in section.model_fields.items():
        alias = field.alias or name
        key = prefix + alias
        kinds = map(_bare, (field.annotation, *get_args(field.annotation)))
        inner: list[Any] = [one for one in kinds if _is_section(one)]
        if key == "model" or (len(inner) == 1 and key not in expanded):
            yield from dict.fromkeys(one for kind in inner for one in described(kind, f"{key}.", expanded))
            continue
        default = None if field.is_required() else _plain(field.get_default(call_default_factory=True))
        values = _values(schema["properties"][alias], schema)
        if bounds := _bounds(field.annotation, field.metadata):
            values = re.sub(r"number(?! [>≥<≤])", f"number {bounds}", values, count=1)
        yield Setting(key, default, comments(section).get(name, ""), values)
        if key in expanded:
            place, kind = expanded[key]
            yield from described(kind, f"{place}.")
            if kind is TrainStage:
                yield from described(CollectStage, f"{place}.")
                yield from described(EvalStage, f"{place}.")
                yield from described(ExportStage, f"{place}.")


@cache
def comments(section: type[BaseModel]) -> dict[str, str]:
    """Field to the comment beside it, also of fields that a section inherits."""
    texts: dict[str, str] = {}
    for place in reversed(section.__mro__):
        if place is BaseModel or not issubclass(place, BaseModel):
            continue
        source = textwrap.dedent(inspect.getsource(place))
        lines = source.splitlines()
        (definition,) = ast.parse(source).body
        for node in definition.body if isinstance(definition, ast.ClassDef) else ():
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                line = lines[(node.end_lineno or node.lineno) - 1]
                beside = [text for text in re.split(r"  # ", line)[1:] if not text.startswith("type:")]
                above = lines[node.lineno - 2].strip() if node.lineno > 1 else ""
                if beside:
                    texts[node.target.id] = beside[-1].strip()
                elif above.startswith("# "):
                    texts[node.target.id] = above.removeprefix("# ").rstrip(":")
    return texts


def _bare(kind: Any) -> Any:
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _plain(value: Any) -> str:
    return json.dumps(value.model_dump() if isinstance(value, BaseModel) else value, ensure_ascii=False)


def _values(schema: dict[str, Any], whole: dict[str, Any]) -> str:
    """What a JSON schema allows, in words."""
    if "$ref" in schema:
        return _values(whole["$defs"][schema["$ref"].rpartition("/")[2]], whole)
    if parts := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(dict.fromkeys(_values(part, whole) for part in parts))
    if "enum" in schema:
        return ", ".join(map(str, schema["enum"]))
    if "const" in schema:
        return str(schema["const"])
    match schema.get("type"):
        case "integer" | "number" as kind:
            return ("whole number" if kind == "integer" else "number") + _range(schema)
        case "boolean":
            return "true or false"
        case "array" if "prefixItems" in schema:
            return f"[{', '.join(_values(part, whole) for part in schema['prefixItems'])}]"
        case "array":
            return f"list of {_values(schema.get('items', {}), whole)}"
        case "string":
            return "text"
        case "object":
            return "mapping"
        case "null":
            return "null"
    return "anything"


def _bounds(annotation: Any, metadata: Iterable[Any] = ()) -> str:
    """The range of a number that is read in ways of its own, which its JSON schema leaves out."""
    if get_origin(annotation) is Annotated:
        annotation, *more = get_args(annotation)
        metadata = [*metadata, *more]
    rules = [rule for one in metadata for rule in getattr(one, "metadata", [one])]
    signs = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
    ends = [
        f"{sign} {getattr(rule, name):g}"
        for name, sign in signs.items()
        for rule in rules
        if isinstance(getattr(rule, name, None), int | float) and abs(getattr(rule, name)) < MOST
    ]
    parts = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else ()
    return " and ".join(dict.fromkeys(ends)) or next(filter(None, map(_bounds, parts)), "")


def _range(schema: dict[str, Any]) -> str:
    names = {"exclusiveMinimum": ">", "minimum": "≥", "exclusiveMaximum": "<", "maximum": "≤"}
    ends = [f"{sign} {schema[name]:g}" for name, sign in names.items() if name in schema and abs(schema[name]) < MOST]
    return f" {' and '.join(ends)}" if ends else ""
