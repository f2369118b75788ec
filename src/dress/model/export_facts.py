"""`dress.json` of an exported model's folder: where it comes from, and what it is asked under."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from dress.base.files import read_json, write_json
from dress.config.types import Positive, Section
from dress.dialogue.jinja_condition import condition_of

FILE = "dress.json"
TEMPLATE = "chat_template.jinja"
"""Where transformers keeps a chat template."""
DAMAGED = "Take this file from a copy of the folder, or export the run again"


class ExportFacts(Section):
    """What is known of an exported model beside what its own files say.

    Attributes:
        run: name of the run, and `stage` of the one that trained the model.
        form: the whole model, or an adapter beside its base.
        condition: name of the one that the chat template holds; None: it holds none.
        conditions: name to text of all that the model was taught, `none` (an empty text) included.
        advice_condition: name of the one under which it was taught to follow advice.
        max_new_tokens: longest answer that the run asked it for.
        gap: what the model writes before an answer's text, by its chat format; servers give it with the answer.
        template: name of the file with the chat template without condition; None: there is none.
    """

    format: Literal[1] = 1
    run: str
    stage: str
    form: Literal["merged", "adapter"]
    condition: str | None
    conditions: dict[str, str]
    advice_condition: str
    max_new_tokens: Positive
    gap: str = ""
    template: Annotated[str, Field(pattern=r"^[\w-][\w.-]*$")] | None

    @model_validator(mode="after")
    def _conditions_there(self) -> ExportFacts:
        if self.conditions.get("none") != "":
            raise ValueError("conditions: expected an empty text for none")
        for name, key in (("condition", self.condition), ("advice_condition", self.advice_condition)):
            if key is not None and key not in self.conditions:
                raise ValueError(f"{name}: expected one of {', '.join(self.conditions)}, got {key!r:.60}")
        return self


def read_export(folder: Path) -> ExportFacts | None:
    """The facts of an exported folder; None where there are none.

    Raises:
        ValueError: damaged, or of another version; names the file.
    """
    file = folder / FILE
    if not file.is_file():
        return None
    facts: dict[str, Any] = read_json(file, dict, DAMAGED)
    if facts.get("format") != 1:
        raise ValueError(f"{file}: expected format 1, got {facts.get('format')!r:.60}. {DAMAGED}")
    try:
        return ExportFacts.model_validate(facts)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        place = "".join(f"{part}: " for part in problem["loc"])
        message = problem["msg"].removeprefix("Value error, ")
        got = f" (got {problem['input']!r:.60})" if place and problem["type"] != "missing" else ""
        raise ValueError(f"{file}: {place}{message}{got}. {DAMAGED}") from None


def write_export(folder: Path, facts: ExportFacts) -> None:
    """Write the facts into an exported folder."""
    write_json(folder / FILE, facts.model_dump())


def read_template(folder: Path, name: str) -> str:
    """The chat template without condition, from the file that the facts name.

    Raises:
        ValueError: it is not there, or no text; names the file.
    """
    file = folder / name
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or "no UTF-8"
        raise ValueError(
            f"{file}: expected the chat template without condition, as {FILE} has it, got none that can be read "
            f"({why}). {DAMAGED}"
        ) from None


def template_condition(folder: Path) -> str | None:
    """The text of the condition that the chat template of a folder holds; None where it holds none, or nobody knows."""
    try:
        return condition_of((folder / TEMPLATE).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        pass
    try:
        facts = read_export(folder)
    except (OSError, ValueError):
        return None
    return None if facts is None or facts.condition is None else facts.conditions[facts.condition] or None
