"""A stage's model behind a server: exported, started, compared with the model in memory, asked, and ended."""

from __future__ import annotations

import gc
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from dress import config
from dress.base.files import read_json, write_json
from dress.config.generation import PLACEHOLDER
from dress.config.raters import Calls, Endpoint
from dress.dialogue.encode import DialogueEncoder
from dress.exports.agreement import NEAR, Agreement, Expected, compare, turns
from dress.exports.model_folder import TrainedModel, write_for_server
from dress.llm.client import LLMClient
from dress.llm.ledger import open_ledger
from dress.model.lvlm import LVLM
from dress.rollout.owned_server import KEY, RunningServer, owned_server
from dress.rollout.responder import NoAnswer, Sampling
from dress.rollout.server import ServerResponder

ENGINE, LOG = "engine.json", "server.log"
"""In the folder of the stage that asks: which servers answered, and what those that were started have printed."""
LEDGER = "ledger.sqlite"
"""Beside the results, where every call is written."""
FOLDER = "served-"
"""Beginning of the name of the folder that a server reads, there as long as the server is."""


@dataclass(frozen=True)
class ServedModel:
    """Whose answers a server is to give.

    Attributes:
        run: settings of the run.
        stage: that trained the model.
        exact: reads it anew, in fp32 on the CPU.
        fingerprint: of the model.
        folder: of the stage that asks.
        ledger: where every call is written, unless the settings name another file.
        rounded: whether its answers are computed in bfloat16.
    """

    run: config.Config
    stage: str
    exact: Callable[[], LVLM]
    fingerprint: str
    folder: Path
    ledger: Path
    rounded: bool

    @property
    def settings(self) -> config.GenerationServer:
        """Of the server."""
        return self.run.generation.server

    def identity(self, version: str | None) -> str:
        """What tells its answers from others: run, stage, weights, and the server's version where it says one."""
        return f"{self.run.name}/{self.stage}@{self.fingerprint}, server{f' {version}' if version else ''}"


def free_device() -> None:
    """Give back what this process holds of a GPU's memory beside its models: a server needs it."""
    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()


@contextmanager
def served(
    model: ServedModel, expected: Sequence[Expected], encoder: DialogueEncoder, console: Console
) -> Iterator[ServerResponder]:
    """A server that gives the answers of a model; one that is started here has ended when the context ends.

    Args:
        model: whose answers.
        expected: of the model in memory, to compare the server's to.
        encoder: of the model.
        console: says who answers.

    Raises:
        ValueError: no server, or one that does not start, or whose answers are not this model's.
    """
    with ExitStack() as during:
        once = secrets.token_hex(4)  # no name is used twice: servers keep what they have computed by a model's name
        server = _owned(model, once, during, console) if model.settings.words else _server_at_address(model)
        url, name = server.url, server.name
        key = {"api_key_env": KEY} if model.settings.words else {}
        calls = model.settings.model_dump(include=set(Calls.model_fields)) | key
        endpoint = Endpoint(base_url=url, model=name, **calls)
        ledger = open_ledger(Path(model.settings.ledger) if model.settings.ledger else model.ledger)
        identity = model.identity(server.version)

        def responder(known_as: str) -> ServerResponder:
            chat = encoder.chat
            return ServerResponder(
                LLMClient(endpoint, ledger, known_as=known_as, askers=1), around=(chat.gap, chat.tail)
            )

        agreement = _agreement(model, expected, encoder, responder(f"{identity}, first answers {once}"))
        _note(model, server, agreement)
        _check(agreement, f"{url} (model {name})", model.folder / ENGINE)
        equal = f"{agreement.equal} of {len(agreement.answers)} first answers equal"
        near = f", {agreement.near} within rounding" if agreement.near else ""
        near += f", {agreement.left_out} left out: too long to be read again" if agreement.left_out else ""
        console.print(f"answers: {identity} ({equal}{near})", highlight=False, markup=False, soft_wrap=True)
        yield responder(identity)


def _owned(model: ServedModel, once: str, during: ExitStack, console: Console) -> RunningServer:
    """Export the model, and start a server of it."""
    for old in model.folder.glob(f"{FOLDER}*"):  # of a run that was killed
        shutil.rmtree(old, ignore_errors=True)
    folder = (model.folder / f"{FOLDER}{once}").absolute()
    during.callback(shutil.rmtree, folder, ignore_errors=True)
    name = f"{model.run.name}/{model.stage}@{model.fingerprint}-{once}"
    with console.status("writing the model for the server"):
        trained = TrainedModel(model.run, model.stage, model.exact().eval(), {"none": ""}, "none", {})
        write_for_server(trained, folder, model.rounded)
        del trained
    log = (model.folder / LOG).absolute()
    console.print(f"starting the server of {name} ({log})", highlight=False, markup=False, soft_wrap=True)
    return during.enter_context(owned_server(model.settings, folder, name, log))


def _server_at_address(model: ServedModel) -> RunningServer:
    """The server at the address."""
    places = {"run": model.run.name, "stage": model.stage}
    name = PLACEHOLDER.sub(lambda place: places[place[1]], model.settings.model)
    return RunningServer(str(model.settings.url), name, None)


def _agreement(
    model: ServedModel, expected: Sequence[Expected], encoder: DialogueEncoder, responder: ServerResponder
) -> Agreement:
    opened, images = turns([one.asked for one in expected])
    longest = model.run.generation.max_new_tokens
    answers = responder.answer(opened, images, Sampling(longest, len(opened))) if opened else []
    for one in answers:
        if isinstance(one, NoAnswer):
            endpoint = responder.client.ledger.path
            raise ValueError(
                f"generation.server: expected an answer to each of the first {len(answers)} questions, got none to one "
                f"({one.reason}); {endpoint} holds what the server said"
            )
    return compare(expected, answers, encoder, NEAR[torch.bfloat16 if model.rounded else torch.float32])


def _note(model: ServedModel, server: RunningServer, agreement: Agreement) -> None:
    """Add what answers from now on to `engine.json`."""
    file = model.folder / ENGINE
    before: list[Any] = read_json(file, list, "Delete it") if file.exists() else []
    origin = {"command": model.settings.words} if model.settings.words else {"url": server.url}
    facts = {
        "engine": "server", "version": server.version, "name": server.name, "stage": model.stage,
        "fingerprint": model.fingerprint, **origin, "first_answers": agreement.facts(),
    }  # fmt: skip
    write_json(file, [*before, facts])


def _check(agreement: Agreement, server: str, file: Path) -> None:
    """Refuse another model's answers.

    Raises:
        ValueError: shows the first.
    """
    if (one := agreement.first_difference) is None:
        return
    agreed = agreement.equal + agreement.near
    apart = "a token that is no likely one" if one.nats is None else f"a token that is {one.nats:.2g} nats less likely"
    under = f" under {one.condition!r:.80}" if one.condition else ""
    raise ValueError(
        f"generation.server: {server} gives other answers than the model in memory: {agreed} of "
        f"{len(agreement.answers)} first answers agree. Expected {one.expected!r:.200}, got {one.answer!r:.200}, which "
        f"parts from it at {apart} (at most {agreement.bound:g} are rounding), to {one.question!r:.200} about "
        f"{one.key}{under}. Nothing of it was used; all are in {file}"
    )
