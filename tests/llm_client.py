"""Clients of the tests' LLM server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dress.config.raters import Endpoint
from dress.feedback.rubric import RubricReply
from dress.llm.client import LLMClient
from dress.llm.ledger import open_ledger
from dress.llm.request import Request

QUICK = {"timeout": 3.0, "concurrency": 32, "retries": 8}


def client(url: str, folder: Path, structured: str = "auto", **more: Any) -> LLMClient:
    endpoint = Endpoint(**({"base_url": url, "model": "loopback"} | QUICK | more))
    return LLMClient(endpoint, open_ledger(folder / "ledger.sqlite"), structured, backoff=0.005)


def requests(number: int, first: int = 0, **more: Any) -> list[Request]:
    return [
        Request(({"role": "user", "content": f"Give a rating to answer {n}."},), "test-1", RubricReply, **more)
        for n in range(first, first + number)
    ]


def reopened(ours: LLMClient) -> Path:
    """Leave a ledger as a process that ends does."""
    ours.ledger.close()
    return ours.ledger.path.parent
