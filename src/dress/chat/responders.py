"""Who answers on the page: servers, of which those of our own models are started here."""

from __future__ import annotations

import os
import secrets
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import openai
from rich.console import Console

from dress.base import supervised
from dress.base.files import data_uri
from dress.base.redaction import redacted
from dress.config.commands import ChatCommand, Loading
from dress.dialogue.spans import Completion
from dress.llm.keys import api_key
from dress.record import CUT, Dialogue
from dress.rollout.kinds import responder_kind
from dress.rollout.server import SERVER_TOKENS
from dress.serving.requests import messages_of

KEY = "DRESS_CHAT_KEY"
"""Variable that holds the key of a server that is started here."""
GRACE, POLL, DEADLINE = 2.0, 0.1, 900.0
"""Seconds for a server to end, between looks whether it is there, and until it must be."""
TIMEOUT = 300.0
"""Seconds between two pieces of an answer."""
LAST_LINES = 6
"""Of the output of a server that did not start."""


@dataclass(frozen=True)
class PageResponder:
    """A server's model, as the page asks it.

    Attributes:
        name: that people see.
        client: of its server.
        model: that the server knows it by.
        conditions: under which it can be asked; empty: it knows none.
        max_tokens: of an answer; None: as the server has it.
    """

    name: str
    client: openai.AsyncOpenAI
    model: str
    conditions: tuple[str, ...]
    max_tokens: int | None

    async def answer(
        self, dialogue: Dialogue, picture: bytes | None, condition: str | None, settings: ChatCommand
    ) -> AsyncIterator[str | Completion]:
        """The pieces of an answer, and at last how it ended, as a `Completion` of the whole text.

        Args:
            dialogue: its last turn is open.
            picture: the image file's bytes.
            condition: one of `conditions`; None: the model's own.
            settings: how it is drawn.

        Raises:
            ValueError: the server gives none; says why.
        """
        body: dict[str, Any] = {
            "model": f"{self.model}:{condition}" if condition else self.model, "temperature": settings.temperature,
            "messages": messages_of(dialogue, None if picture is None else data_uri(picture)), "top_p": settings.top_p,
            "seed": settings.seed,
        }  # fmt: skip
        if self.max_tokens is not None:
            body["max_tokens"] = self.max_tokens
        text, reason = "", None
        try:
            async with await self.client.chat.completions.create(**body, stream=True) as stream:
                async for chunk in stream:
                    for choice in chunk.choices[:1]:
                        if choice.delta.content:
                            text += choice.delta.content
                            yield choice.delta.content
                        reason = choice.finish_reason or reason
        except (openai.OpenAIError, httpx2.HTTPError, ValueError) as error:
            raise ValueError(redacted(str(error))[:500]) from None
        yield Completion(text, reason or CUT)


def responders(settings: ChatCommand, out: Path, stack: ExitStack, console: Console) -> list[PageResponder]:
    """Who answers: none, one or two.

    Args:
        settings: name them.
        out: gets the logs of servers that are started.
        stack: ends these servers.
        console: says that they start.

    Raises:
        ValueError: a server does not start, is not there, or knows no such model.
        FileNotFoundError: no such run or folder.
    """
    names = [
        (settings.responder, settings.model, settings.api_key_env, "responder"),
        (settings.vs, settings.vs_model, settings.vs_api_key_env, "vs"),
    ]
    starting, opened = [], []
    for source, model, variable, setting in names:
        if source is None:
            continue
        match responder_kind(source):
            case "server":
                key = api_key(variable, source)
            case "file":
                raise ValueError(f"{setting}={source}: expected a run, a model's folder or a server, got a file")
            case _:
                key = secrets.token_hex(16)
                starting.append(_Starting(source, settings, out / f"{setting}.log", key, setting))
                console.print(f"{setting}={source}: loading", highlight=False)
                stack.callback(starting[-1].end)
                source = starting[-1].address
        opened.append((source, model, key, setting))
    for one in starting:
        one.wait()
    return [_open(*one, settings) for one in opened]


def _open(address: str, model: str | None, key: str, setting: str, settings: ChatCommand) -> PageResponder:
    """Ask a server what it has."""
    try:
        with openai.OpenAI(api_key=key, base_url=address, timeout=20, max_retries=1) as asking:
            rows = [row.model_dump() for row in asking.models.list()]
    except (openai.OpenAIError, httpx2.HTTPError) as error:
        raise ValueError(f"{setting}={address}: expected a server that names its models, got none ({error})") from None
    ids = [str(row["id"]) for row in rows]
    conditions = tuple(str(row["condition"]) for row in rows if row.get("condition"))
    if model is None:
        if not ids or (len(ids) > 1 and not conditions):
            key_of = "model" if setting == "responder" else "vs_model"
            raise ValueError(f"{key_of}: expected the name of one of {', '.join(ids)[:300] or 'no models'}, got none")
        model = ids[0]
    elif model not in ids:
        raise ValueError(f"{setting}={address}: expected one of its models {', '.join(ids)[:300]}, got {model}")
    client = openai.AsyncOpenAI(api_key=key, base_url=address, timeout=TIMEOUT, max_retries=0)
    most = settings.max_new_tokens or (None if conditions else SERVER_TOKENS)
    return PageResponder(model, client, model, conditions, most)


class _Starting:
    """A server of our own model on its way."""

    def __init__(self, source: str, settings: ChatCommand, log: Path, key: str, setting: str) -> None:
        self.port, self.log, self.setting, self.source = supervised.free_port(), log, setting, source
        self.address = f"http://127.0.0.1:{self.port}/v1"
        loading = settings.model_dump(include=set(Loading.model_fields), exclude_defaults=True)
        words = [f"{name}={_word(value)}" for name, value in loading.items()]
        if settings.max_new_tokens is not None:
            words.append(f"max_new_tokens={settings.max_new_tokens}")
        code = str(Path(sys.modules["dress"].__file__ or "").resolve().parents[1])
        paths = os.pathsep.join([code, *filter(None, [os.environ.get("PYTHONPATH")])])
        log.unlink(missing_ok=True)
        self.process = supervised.start(
            [sys.executable, "-m", "dress", "serve", source, f"port={self.port}", f"api_key_env={KEY}", *words],
            os.environ | {KEY: key, "PYTHONPATH": paths}, log, GRACE,
        )  # fmt: skip

    def wait(self) -> None:
        """Until it answers.

        Raises:
            ValueError: it ended, or takes too long; shows the end of its log.
        """
        until = time.monotonic() + DEADLINE
        while time.monotonic() < until:
            if self.process.poll() is not None:
                break
            with suppress(urllib.error.URLError, OSError):
                health = f"http://127.0.0.1:{self.port}/health"
                with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(health, timeout=5):
                    return
            time.sleep(POLL)
        lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-LAST_LINES:]
        said = " | ".join(line.strip()[:300] for line in lines)
        raise ValueError(f"{self.setting}={self.source}: expected a model that can be served, got: {said or 'nothing'}")

    def end(self) -> None:
        """Let nothing of it be left."""
        supervised.end(self.process, GRACE + 5)


def _word(value: Any) -> str:
    """A setting's value as it is typed."""
    return f"[{','.join(value)}]" if isinstance(value, Sequence) and not isinstance(value, str) else str(value)
