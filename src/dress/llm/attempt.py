"""What one attempt at a call came back with, and what follows: done, ask again, ask for a repair, give up, stop."""

from __future__ import annotations

import email.utils
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import httpx2
import openai
from pydantic import BaseModel, Field, ValidationError

from dress.llm.bounded import TooLarge
from dress.llm.request import Message
from dress.llm.structured import Misfit, parse, storable

Next = Literal["done", "again", "repair", "failed", "stop"]

STOPPING = {401: "the server refused the key", 402: "the account has no credit", 403: "the server refused access",
            404: "the server knows no such model or path"}  # fmt: skip
"""HTTP statuses that the next call would meet too."""

_REFUSES = re.compile(
    r"^\W*(?:I'm sorry|I am sorry|Sorry|I can(?:'t|not| not)|I'm (?:not able|unable)|I won't)\b", re.I
)

_PAGE = re.compile(r"\s*<(?:!doctype\s+html|html)\b", re.I)


@dataclass(frozen=True)
class Attempt:
    """How one attempt ended.

    Args:
        next: what follows.
        reason: see `Reply`.
        raw: the reply's text, or the error's.
        parsed: the reply in the schema's form.
        problem: what to tell the model when it is asked for a repair, or the user when all stops.
        prompt_tokens: as billed; None where the server did not say.
        completion_tokens: as billed; None where the server did not say.
        billed: whether it can have cost something.
        wait: seconds the server asks to wait.
        served_by: model and system fingerprint.
    """

    next: Next
    reason: str | None = None
    raw: str | None = None
    parsed: BaseModel | None = None
    problem: str = ""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    billed: bool = True
    wait: float | None = None
    served_by: str | None = None


class _Message(BaseModel):
    content: str | None = None
    refusal: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


_Tokens = Annotated[int, Field(ge=0, le=10**9)]


class _Usage(BaseModel):
    prompt_tokens: _Tokens | None = None
    completion_tokens: _Tokens | None = None


class _Completion(BaseModel):
    """What is read of a chat completion; servers add much and differ in the rest."""

    choices: list[_Choice] = Field(min_length=1)
    usage: _Usage | None = None
    model: str | None = None
    system_fingerprint: str | None = None


def read_completion(completion: Any, schema: type[BaseModel] | None, hide: Any = lambda text: text) -> Attempt:
    """What a reply is worth.

    Args:
        completion: the JSON that the server sent, or its text.
        schema: that the text must fit; None takes any text but an empty one.
        hide: takes secrets out of text.
    """
    try:
        body = _Completion.model_validate(completion)
    except ValidationError:
        raw = storable(hide(_text_of(completion)))
        if _PAGE.match(raw):
            return Attempt("again", "web_page", raw, billed=False)
        return Attempt("again", "bad_response", raw)
    choice, usage = body.choices[0], body.usage or _Usage()
    text, refusal = hide(choice.message.content or ""), storable(hide(choice.message.refusal or ""))
    as_sent, text = text, storable(text)
    attempt = Attempt(
        "done",
        raw=text,
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        served_by=storable(" ".join(filter(None, (body.model, body.system_fingerprint)))) or None,
    )
    if choice.finish_reason == "content_filter" or (refusal and schema is not None):
        return replace(attempt, next="failed", reason="refusal", raw=refusal or text)
    if schema is None:  # an answer: it may refuse, and it may fill all the tokens it has
        if text != as_sent:
            return replace(attempt, next="again", reason="bad_response")
        answer = text or refusal
        if not answer.strip():
            return replace(attempt, next="again", reason="empty")
        return replace(attempt, raw=answer, reason=choice.finish_reason)
    if choice.finish_reason == "length":
        return replace(attempt, next="repair", reason="length", problem="it was too long and was cut off; be brief")
    if not text.strip():
        return replace(attempt, next="repair", reason="empty", problem="it was empty")
    if text != as_sent:
        problem = "it holds half of a surrogate pair or a nul character"
        return replace(attempt, next="repair", reason="schema", problem=problem)
    try:
        return replace(attempt, parsed=parse(text, schema))
    except Misfit as misfit:
        if misfit.reason == "not_json" and _REFUSES.search(text):
            return replace(attempt, next="failed", reason="refusal")
        return replace(attempt, next="repair", reason=misfit.reason, problem=str(misfit))


def read_error(error: Exception, hide: Any = lambda text: text) -> Attempt:
    """What an error of the openai client means."""
    if isinstance(error, openai.APITimeoutError | TimeoutError):
        return Attempt("again", "timeout", hide(str(error) or "no reply in time"))
    if isinstance(error.__cause__, TooLarge):
        return Attempt("again", "bad_response", str(error.__cause__))
    if isinstance(error, openai.APIConnectionError):
        # Nobody there: nothing was sent, nothing can be billed.
        absent = isinstance(error.__cause__, httpx2.ConnectError | httpx2.ConnectTimeout)
        return Attempt(
            "again", "unreachable" if absent else "connection", storable(hide(_causes(error))), billed=not absent
        )
    if isinstance(error, openai.APIStatusError) and error.status_code >= 400:
        status, raw = error.status_code, storable(hide(_body(error.response)))
        attempt = Attempt("failed", f"http_{status}", raw, billed=False, wait=retry_after(error.response.headers))
        if status in STOPPING:
            return replace(attempt, next="stop", problem=f"{STOPPING[status]} (HTTP {status}: {raw[:300]})")
        if status == 429 and "insufficient_quota" in raw:
            return replace(attempt, next="stop", problem=f"the account has no quota left ({raw[:300]})")
        return replace(attempt, next="again") if status in (408, 409, 429) or status >= 500 else attempt
    return Attempt("again", "bad_response", storable(hide(_causes(error))))


def repair(messages: list[Message], attempt: Attempt) -> list[Message]:
    """The messages with the reply that came and what is wrong with it, to be asked for a better one."""
    reply = [{"role": "assistant", "content": attempt.raw[:4000]}] if attempt.raw else []
    return [
        *messages,
        *reply,
        {"role": "user", "content": f"That reply cannot be used: {attempt.problem}. Write it again."},
    ]


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds from `Retry-After` (a number or a date) or `retry-after-ms`; None where there is none."""
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        text = headers.get(name)
        if text is None:
            continue
        try:
            return max(0.0, float(text) * unit)
        except ValueError:
            pass
        try:
            return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
        except (ValueError, TypeError, OverflowError):
            pass
    return None


def _body(response: httpx2.Response) -> str:
    try:
        return response.text
    except httpx2.HTTPError:
        return ""


def _causes(error: BaseException) -> str:
    """The error and what it came from, in words."""
    parts: list[str] = []
    cause: BaseException | None = error
    while cause is not None and len(parts) < 4:
        parts.append(f"{type(cause).__name__}: {cause}")
        cause = cause.__cause__
    return " <- ".join(parts)


def _text_of(completion: Any) -> str:
    try:
        return completion if isinstance(completion, str) else json.dumps(completion, default=str)
    except (ValueError, RecursionError):
        return "(a reply that cannot be shown)"
