"""Settings of answers in collect and eval stages: what computes them, and how."""

from __future__ import annotations

import re
import shlex
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from dress.config.raters import Address, Calls
from dress.config.types import Positive, PositiveReal, Section

Engine = Literal["native", "server"]
"""What computes answers."""
KeepCache = Literal["auto", "on", "off"]
"""Go on from the turn before, a batch of dialogues at a time; auto: where keys and values fit into memory."""

PLACEHOLDER = re.compile(r"\{(\w+)\}")
"""What is put in; other braces, as of JSON, are text."""
IN_COMMAND, NEEDED = ("model", "port", "name", "key"), ("model", "port")
IN_MODEL = ("run", "stage")


def _names(text: str, known: tuple[str, ...]) -> set[str]:
    """The placeholders of a text.

    Raises:
        ValueError: an unknown one.
    """
    names = set(PLACEHOLDER.findall(text))
    if unknown := sorted(names - set(known)):
        raise ValueError(f"expected only {', '.join(f'{{{name}}}' for name in known)}, got {{{unknown[0]}}}")
    return names


class GenerationServer(Calls):
    """A server that computes the answers of stages' models: one at an address, or one that each stage starts."""

    url: Address | None = None  # up to /v1, of a server that holds the model already
    model: str = "{stage}"  # of url: the name that it knows the model by; {run} and {stage} become names
    # starts one in an environment of its own; {model} (a folder), {port}, {name} and {key} become what they say:
    command: str | list[str] | None = None
    health: Annotated[str, Field(pattern=r"^/\S*$")] = "/health"  # path that answers 200 once it takes questions
    deadline: Annotated[PositiveReal, Field(le=86_400)] = 1800.0  # seconds until then
    grace: Annotated[PositiveReal, Field(le=3600)] = 10.0  # seconds that it has to end, before it is killed

    @field_validator("command")
    @classmethod
    def _has_places(cls, command: str | list[str] | None) -> str | list[str] | None:
        if command is None:
            return None
        try:
            words = _words(command)
        except ValueError as error:  # an open quotation
            raise ValueError(f"expected a command line, got {command!r:.80} ({error})") from None
        if not words:
            raise ValueError("expected a program and its arguments, got none")
        missing = [name for name in NEEDED if name not in _names(" ".join(words), IN_COMMAND)]
        if missing:
            places = " and ".join(f"{{{name}}}" for name in NEEDED)
            raise ValueError(f"expected a place for {places}, got {' '.join(words)!r:.120} without {{{missing[0]}}}")
        return command

    @field_validator("model")
    @classmethod
    def _is_a_name(cls, model: str) -> str:
        _names(model, IN_MODEL)
        return model

    @model_validator(mode="after")
    def _own_key(self) -> GenerationServer:
        if self.command is not None and self.api_key_env is not None:
            raise ValueError(
                f"api_key_env={self.api_key_env}: expected null beside command, whose server gets a key of its own"
            )
        return self

    @property
    def words(self) -> list[str]:
        """Program and arguments of the command; empty without one."""
        return [] if self.command is None else _words(self.command)


def _words(command: str | list[str]) -> list[str]:
    return shlex.split(command) if isinstance(command, str) else list(command)


class Generation(Section):
    """How models answer in collect and eval stages."""

    max_new_tokens: Positive  # longest answer, in tokens
    batch_size: Positive  # prompts
    keep_cache: KeepCache = "auto"  # go on from what the turn before has read; auto: where it fits into memory
    engine: Engine = "native"  # what computes answers: the run's own code, or generation.server
    server: GenerationServer = GenerationServer()

    @model_validator(mode="after")
    def _one_server(self) -> Generation:
        places = [name for name in ("url", "command") if getattr(self.server, name) is not None]
        if self.engine == "server" and len(places) != 1:
            raise ValueError(
                "engine=server: expected either server.url, a server that holds the model, or server.command, which "
                f"starts one, got {' and '.join(places) or 'neither'}"
            )
        return self

    @property
    def native(self) -> Generation:
        """The same by the run's own code."""
        return self.model_copy(update={"engine": "native"})
