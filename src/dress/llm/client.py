"""The client of a language model behind an OpenAI-compatible server: every call goes through the ledger."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pydantic import BaseModel
from tenacity import AsyncRetrying, RetryCallState, retry_if_result, wait_exponential, wait_random_exponential

from dress.base import event_loop
from dress.base.progress import Advance, ignore
from dress.base.ranks import processes
from dress.base.redaction import secrets, substitute
from dress.config.raters import Endpoint, Recorded
from dress.llm.attempt import Attempt, repair
from dress.llm.connection import Connection
from dress.llm.interface import Client
from dress.llm.journal import Journal
from dress.llm.keys import api_key
from dress.llm.ledger import Begin, End, Ledger, open_ledger
from dress.llm.limits import Limits
from dress.llm.replay import ReplayClient, recorded_model, recorded_reply
from dress.llm.request import Message, Reply, Request, Stopped
from dress.llm.structured import Form, forms, storable, with_schema
from dress.llm.tally import Tally

BACKOFF = 0.5
"""Seconds before the first repeat, within a quarter; doubled with each."""
LONGEST_WAIT = 30.0
LONGEST_RETRY_AFTER = 900.0
"""Seconds; a server that asks for a longer wait ends the run."""
REPAIRS = 2
"""How often a reply that does not fit is asked for again."""
PROBE_FAULTS = 2
MESSAGE_TOKENS = 16
"""More than any chat format puts around a message."""
LEASE = 60.0
"""Seconds beyond a call's timeout after which another process may send it."""
LOOK_AGAIN = 0.2
"""Seconds after which a process looks whether another has a reply."""


class Answer(BaseModel):
    """What a server is probed with: a form works if the reply fits this."""

    answer: Literal["yes", "no"]


PROBE: tuple[Message, ...] = ({"role": "user", "content": "Is snow white? Reply in JSON."},)


def build_client(settings: Endpoint | Recorded, folder: Path | None = None) -> Client:
    """A client for a rater's or responder's settings.

    Args:
        settings: of an LLM, a server or a replay.
        folder: holds `ledger.sqlite` where the settings name no ledger.

    Raises:
        ValueError: the key's variable is not set, no ledger can be had, or the recorded models do not fit.
    """
    if isinstance(settings, Recorded):
        recorded = Ledger(Path(settings.ledger), readonly=True)
        return ReplayClient(recorded, recorded_model(recorded, settings.model))
    if settings.ledger is None and folder is None:
        raise ValueError("expected a ledger: name a file (annotator.ledger=… or judge.ledger=…)")
    ledger = Path(settings.ledger) if settings.ledger is not None else Path(folder or ".") / "ledger.sqlite"
    structured = getattr(settings, "structured", "auto")  # of those that ask for forms
    return LLMClient(settings, open_ledger(ledger), structured)


@dataclass
class _Call:
    """A request on its way to a reply: what is sent next, and what may still be tried."""

    request: Request
    key: str
    form: Form | None
    messages: list[Message]
    faults: int
    repairs: int = REPAIRS


class LLMClient:
    """Asks a server; see `request.Client`.

    Args:
        endpoint: where, how fast, at which price, within which budget.
        ledger: where every call is written.
        structured: the form of replies that have a schema; `auto` finds the best that the server can.
        limits: of requests and tokens; None makes them from the endpoint.
        known_as: what the ledger calls the model; None: as the server does.
        askers: processes that ask this server at once, and share its limits; None: all of the run.
        backoff: seconds before the first repeat of a call.

    Raises:
        ValueError: the variable that should hold the key is not set.
    """

    def __init__(
        self, endpoint: Endpoint, ledger: Ledger, structured: str = "auto",
        limits: Limits | None = None, backoff: float = BACKOFF, known_as: str | None = None,
        askers: int | None = None,
    ) -> None:  # fmt: skip
        self.endpoint, self.ledger, self.model = endpoint, ledger, known_as or endpoint.model
        self.tally, self.askers = Tally(), askers
        self._key = api_key(endpoint.api_key_env, endpoint.base_url)
        self._hidden = secrets(*filter(None, [endpoint.api_key_env]))
        self._forms = forms(structured)
        # Three quarters of the wait, and up to half of it by chance: calls that failed together do not come together.
        self._backoff = wait_exponential(backoff * 0.75, LONGEST_WAIT * 0.75) + wait_random_exponential(
            backoff * 0.5, LONGEST_WAIT * 0.5
        )
        self._limits = limits or Limits(endpoint.requests_per_minute, endpoint.tokens_per_minute)
        self._settled: set[str] = set()
        self._stopped: Stopped | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        server = f"{endpoint.base_url} {endpoint.model}"
        self._form_fact, self._limit_fact = f"form {structured} {server}", f"max_tokens {server}"
        self._limit_name = ledger.fact(self._limit_fact) or "max_tokens"

    def ask_all(self, requests: Sequence[Request], progress: Advance = ignore) -> list[Reply]:
        """Replies in the order of the requests; see `request.Client.ask_all`."""
        return event_loop.run(self._ask_all(requests, progress))

    async def ask(self, request: Request) -> Reply:
        """The reply; see `request.Client.ask`."""
        self._attach()
        key = request.key(self.model)
        known = self._recorded({key: request})
        return known[key] if known else await self._shared(request, key)

    def replay(self) -> ReplayClient:
        """A client that answers from the same ledger and asks nobody."""
        return ReplayClient(self.ledger, self.model)

    def origin(self) -> str:
        """See `interface.Client`."""
        return event_loop.run(Connection(self.endpoint, self._key, self._hide).origin())

    async def aclose(self) -> None:
        """Give up the connections of the running event loop."""
        if self._loop is asyncio.get_running_loop():
            self._loop = None
            await self._connection.close()

    async def _ask_all(self, requests: Sequence[Request], progress: Advance) -> list[Reply]:
        self._attach()
        keys = [request.key(self.model) for request in requests]
        unique = dict(zip(keys, requests, strict=True))
        replies = self._recorded(unique)
        self.tally.total += len(unique)
        for reply in replies.values():
            self.tally.add(reply)
        doubles = len(keys) - len(unique)
        progress(len(replies) + doubles, self.tally.line())
        missing = iter([(key, request) for key, request in unique.items() if key not in replies])

        async def work() -> None:
            for key, request in missing:
                replies[key] = await self._shared(request, key)
                self.tally.add(replies[key])
                progress(1, self.tally.line())

        try:
            workers = [asyncio.create_task(work()) for _ in range(self.endpoint.concurrency)]
            results = await asyncio.gather(*workers, return_exceptions=True)  # what is in flight is paid for
        finally:
            await self.aclose()
        for error in results:
            if isinstance(error, BaseException):
                raise error
        return [replies[key] for key in keys]

    async def _shared(self, request: Request, key: str) -> Reply:
        """One call for all who ask the same at the same time."""
        if key not in self._asking:
            task = self._asking[key] = asyncio.ensure_future(self._settle(request, key))
            task.add_done_callback(lambda _: self._asking.pop(key, None))
        return await asyncio.shield(self._asking[key])

    def _attach(self) -> None:
        """Connections, locks and tasks belong to the running event loop."""
        loop = asyncio.get_running_loop()
        if loop is self._loop:
            return
        self._loop = loop
        self._connection = Connection(self.endpoint, self._key, self._hide)
        self._journal = Journal(self.ledger)
        self._slots = asyncio.Semaphore(self.endpoint.concurrency)
        self._probing = asyncio.Lock()
        self._back = asyncio.Event()  # set when a call comes back
        self._limits.share = self.askers or processes()
        self._asking: dict[str, asyncio.Future[Reply]] = {}

    def _recorded(self, requests: dict[str, Request]) -> dict[str, Reply]:
        """Replies that the ledger holds; failures of earlier runs are asked again with `retry_failed`."""
        rows = self.ledger.get(list(requests))
        return {
            key: recorded_reply(rows[key], request)
            for key, request in requests.items()
            if key in rows and (rows[key]["status"] == "done" or not self.endpoint.retry_failed or key in self._settled)
        }

    async def _settle(self, request: Request, key: str) -> Reply:
        async with self._slots:
            form = await self._form() if request.schema is not None else None
            try:
                reply = await self._persist(request, key, form, self.endpoint.retries)
            except BaseException:
                self.ledger.release(key)
                raise
        self._settled.add(key)
        return reply

    async def _persist(self, request: Request, key: str, form: Form | None, faults: int) -> Reply:
        """Ask until the call is done or has failed for good."""
        messages = list(request.messages)
        if request.schema is not None and form is not None:
            messages = with_schema(request.messages, request.schema, form)
        # Whether to stop is known to each attempt, since the ledger says so in the same entry.
        retrying = AsyncRetrying(retry=retry_if_result(lambda it: isinstance(it, Attempt)), wait=self._wait)
        return await retrying(self._try, _Call(request, key, form, messages, faults))

    async def _try(self, call: _Call) -> Reply | Attempt:
        """One attempt; the reply where that settles the call."""
        while (attempt := await self._attempt(call)) is None:
            if (reply := await self._reply_of_another(call)) is not None:
                return reply
        if attempt.next in ("done", "failed"):
            return recorded_reply(self.ledger.get([call.key])[call.key], call.request, recorded=False)
        if attempt.next == "repair":
            call.repairs -= 1
            call.messages = repair(call.messages, attempt)
        else:
            call.faults -= 1
            if attempt.wait is not None:
                self._limits.pause(attempt.wait)  # for all: the server is at its limit, not this call
        self.tally.repeats[attempt.reason or ""] += 1
        return attempt

    def _wait(self, state: RetryCallState) -> float:
        """Seconds before the next attempt: those the server asked for, else more with each."""
        assert state.outcome is not None
        attempt: Attempt = state.outcome.result()
        if attempt.next == "repair":
            return 0.0
        return attempt.wait if attempt.wait is not None else self._backoff(state)

    async def _reply_of_another(self, call: _Call) -> Reply | None:
        """The reply that another process gets; None where it gave up, or its time is over."""
        while call.key not in (rows := self.ledger.get([call.key])):
            if not self.ledger.taken(call.key):
                return None
            if self._stopped is not None:
                raise self._stopped
            await asyncio.sleep(LOOK_AGAIN)
        return recorded_reply(rows[call.key], call.request)

    @property
    def _lease(self) -> float:
        """Seconds that a claim lasts: longer than any attempt."""
        return self.endpoint.timeout + LEASE

    async def _attempt(self, call: _Call) -> Attempt | None:
        """One attempt: written down, sent, written down; None where another process makes it."""
        request = call.request
        size = sum(len(message["content"].encode("utf-8", "surrogatepass")) for message in call.messages)
        image = 0 if request.image is None else self.endpoint.image_tokens
        ticket = await self._limits.admit(size // 4 + image + request.max_tokens)
        if self._stopped is not None:
            raise self._stopped
        # A token is at least a byte.
        reserved = self._price(size + MESSAGE_TOKENS * len(call.messages) + image, request.max_tokens)
        try:
            if not await self._claim(self._begin(call, reserved)):
                self._limits.correct(ticket, 0)
                return None
            began, limit = time.monotonic(), self._limit_name
            attempt = self._decide(await self._connection.send(request, call.form, call.messages, limit), call, limit)
            prompt, completion = attempt.prompt_tokens, attempt.completion_tokens
            if prompt is None or completion is None:
                prompt, completion = 0, 0
                cost = reserved if attempt.billed else 0.0
            else:
                cost = self._price(prompt, completion)
                self._limits.correct(ticket, prompt + completion)
            await self._journal.write(
                End(
                    call.key, attempt.next if attempt.next in ("done", "failed") else None, attempt.reason, attempt.raw,
                    None if attempt.parsed is None else attempt.parsed.model_dump_json(),
                    prompt, completion, cost, round(time.monotonic() - began, 4), attempt.served_by,
                    self._lease + max(attempt.wait or 0.0, LONGEST_WAIT),
                )
            )  # fmt: skip
            self.tally.spend(prompt, completion, cost)
        finally:
            self._back.set()
        if attempt.next == "stop":
            raise self._stop(attempt.problem)
        return attempt

    def _decide(self, attempt: Attempt, call: _Call, limit: str) -> Attempt:
        """What follows, by what may still be tried."""
        if attempt.reason == "http_400" and limit == "max_tokens" and "max_completion_tokens" in (attempt.raw or ""):
            self._limit_name = "max_completion_tokens"  # OpenAI's reasoning models know only this one
            self.ledger.remember(self._limit_fact, self._limit_name)
            return replace(attempt, next="again", wait=0.0)
        if attempt.wait is not None and attempt.wait > LONGEST_RETRY_AFTER and attempt.next == "again":
            return replace(attempt, next="stop", problem=f"the server asks to wait for {attempt.wait:.0f} s")
        if attempt.reason == "web_page" and not self.tally.done:
            problem = f"this is no OpenAI-compatible server: expected JSON, got a web page ({attempt.raw!r:.80})"
            return replace(attempt, next="stop", problem=f"{problem}. base_url mostly ends in /v1")
        if attempt.next == "again" and call.faults <= 0:
            if attempt.reason == "unreachable":
                return replace(attempt, next="stop", problem=f"nobody answers there ({attempt.raw})")
            return replace(attempt, next="failed")
        return replace(attempt, next="failed") if attempt.next == "repair" and call.repairs <= 0 else attempt

    async def _form(self) -> Form:
        """The form of structured replies: found by asking once, then remembered in the ledger."""
        if len(self._forms) == 1:
            return self._forms[0]
        async with self._probing:
            known = self.ledger.fact(self._form_fact)
            for form in self._forms:
                if known == form:
                    return form
            for form in self._forms[:-1]:
                if await self._can(form):
                    break
            else:
                form = self._forms[-1]
            self.ledger.remember(self._form_fact, form)
            return form

    async def _can(self, form: Form) -> bool:
        probe = Request(PROBE, prompt_version=f"probe-{form}", schema=Answer, max_tokens=100)
        reply = await self._persist(probe, probe.key(self.model), form, PROBE_FAULTS)
        if reply.reason in ("timeout", "connection"):
            raise self._stop(f"it does not answer ({reply.reason} {reply.attempts} times)")
        return reply.status == "done"

    def _price(self, prompt_tokens: int, completion_tokens: int) -> float:
        return (prompt_tokens * self.endpoint.price_in + completion_tokens * self.endpoint.price_out) / 1e6

    async def _claim(self, entry: Begin) -> bool:
        """Write a call down before it is sent; waits for calls in flight, which mostly cost less than they can.

        Returns:
            False where another process asks it, or has asked it.

        Raises:
            Stopped: even without the calls in flight the budget could be passed.
        """
        while (result := await self._journal.write(entry)) == "wait":
            self._back.clear()
            with contextlib.suppress(TimeoutError):  # what comes back to another process sets no event here
                await asyncio.wait_for(self._back.wait(), LOOK_AGAIN)
        if result == "over":
            self._stopped = self._stopped or Stopped(
                f"budget={entry.budget:g}: {self.ledger.spent:.4f} is spent by the calls in {self.ledger.path}, and "
                f"the next call may cost up to {entry.reserved:.4f}; stopped before the budget is passed. What was "
                f"answered is kept; to go on, give a larger budget"
            )
            raise self._stopped
        return result == "written"

    def _begin(self, call: _Call, reserved: float) -> Begin:
        request = call.request
        return Begin(
            call.key, request.content, self.model, json.dumps(request.sampling), request.prompt_version,
            None if request.image is None else hashlib.sha256(request.image).hexdigest(),
            storable(json.dumps(substitute(list(request.messages), self._hidden), ensure_ascii=False)), call.form,
            reserved, self._lease, self.endpoint.budget,
        )  # fmt: skip

    def _stop(self, why: str) -> Stopped:
        where = f"{self.endpoint.base_url} (model {self.endpoint.model})"
        self._stopped = self._stopped or Stopped(f"{where}: {why}. What was answered is kept in {self.ledger.path}")
        return self._stopped

    def _hide(self, text: str) -> str:
        return str(substitute(text, self._hidden))
