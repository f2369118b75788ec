"""Settings of raters, and of the servers behind which language models stand."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from dress.config.types import Count, Name, Positive, PositiveReal, Real, Section, VariableName


def _address(url: str) -> str:
    """A server's address that may stand in files."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("expected http://… or https://…")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("expected a plain address without user, password or query; keys go through api_key_env")
    return url.rstrip("/")


Address = Annotated[str, AfterValidator(_address)]
ResponderName = Annotated[
    str, AfterValidator(lambda name: _address(name) and name if name.startswith(("http://", "https://")) else name)
]
"""A run folder, a file, or a server's address."""


class PlainRater(Section):
    """A rater that needs no settings: `oracle` of the shapes world, `rules` on the image annotation, `none` (nobody),
    or another that registers under this name."""

    kind: Name


class Calls(Section):
    """How a server may be asked."""

    api_key_env: VariableName | None = None  # null = a server that asks for no key
    concurrency: Annotated[int, Field(gt=0, le=4096)] = 16  # calls in flight
    requests_per_minute: Positive | None = None  # null = no limit
    tokens_per_minute: Positive | None = None  # prompt and reply
    timeout: Annotated[PositiveReal, Field(le=86_400)] = 120.0  # seconds of one call
    retries: Annotated[Count, Field(le=1000)] = 6  # of one call, after 429, 5xx, time-outs, dropped connections
    price_in: Real = 0.0  # per million tokens
    price_out: Real = 0.0  # the same, of replies
    budget: PositiveReal | None = None  # of all calls in the ledger, in the prices' currency
    image_tokens: Positive = 1600  # that an image is counted as before the server has said
    ledger: str | None = None  # a file; null = ledger.sqlite beside the results
    retry_failed: bool = False  # ask again what has failed

    @model_validator(mode="after")
    def _priced(self) -> Calls:
        if self.budget is not None and not (self.price_in or self.price_out):
            raise ValueError("budget needs price_in and price_out, per million tokens")
        return self


class Endpoint(Calls):
    """A model behind an OpenAI-compatible server."""

    base_url: Address  # up to /v1
    model: str  # name that the server knows it by


class Server(Calls):
    """A responder that is a server; its address is the responder's name."""

    model: str | None = None  # name that the server knows it by
    sees_image: bool = True  # send the image with the first question
    system: str | None = None  # system message; null = none

    def endpoint(self, base_url: str) -> Endpoint:
        """With the address.

        Raises:
            ValueError: no model is named.
        """
        if self.model is None:
            raise ValueError(f"server.model: expected the name that {base_url} knows the model by, got none")
        return Endpoint(base_url=base_url, **self.model_dump(exclude={"sees_image", "system"}))


class LLM(Endpoint):
    """A rater that is an LLM with a rubric."""

    kind: Literal["llm"]  # an LLM behind a server
    rubric: str = "feedback"  # configs/rubrics/<name>.yaml, or a file
    sees_image: bool = False  # send the image beside what is known of it
    structured: Literal["auto", "json_schema", "json_object", "text"] = "auto"  # auto: the best the server can
    temperature: Annotated[Real, Field(le=100)] | None = 0.0  # null = the server's own
    max_tokens: Positive = 800  # of a reply
    preview: Count = 5  # shown before the rest is asked
    confirm: bool = False  # stop after the preview unless somebody agrees


class Recorded(Section):
    """Replies out of a ledger; nobody is asked."""

    kind: Literal["replay"]  # what a ledger holds
    ledger: str  # a file
    model: str | None = None  # whose replies; null = the only one there


class Replay(Recorded):
    """A rater that answers from a ledger and asks nobody."""

    rubric: str = "feedback"  # as it was recorded
    sees_image: bool = False  # as it was recorded


class Human(Section):
    """People, whose words on answers stand in a journal that a page wrote."""

    kind: Literal["human"]  # what people said
    journal: str  # feedback.jsonl, or the folder that holds it
    who: list[str] = Field(default=[])  # whose words; empty = everybody's


def _section(rater: Any) -> str:
    """Which of the sections below a rater's settings are, by their kind."""
    kind = rater.get("kind") if isinstance(rater, dict) else getattr(rater, "kind", None)
    return kind if kind in ("llm", "replay", "human") else "plain"


RaterSettings = Annotated[
    Annotated[PlainRater, Tag("plain")]
    | Annotated[LLM, Tag("llm")]
    | Annotated[Replay, Tag("replay")]
    | Annotated[Human, Tag("human")],
    Discriminator(_section),
]
"""Who rates, and how."""
