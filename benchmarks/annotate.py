"""What ledger, limits, structured replies and checks cost: calls per second beside the bare openai client.

    python benchmarks/annotate.py --calls 1000 --rounds 5

All ask the same questions of a server on loopback that answers at once (tests/llm_server.py), in turns, round by round:
`bare` by `chat.completions.create`, `bare_post` by the client's plain `post`, `ledger` by our client into a fresh
ledger on disk. Writes medians to `benchmarks/results/annotate.json`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]

from llm_server import started  # noqa: E402
from openai import AsyncOpenAI  # noqa: E402

from dress.config.raters import Endpoint  # noqa: E402
from dress.feedback.rubric import Rubric, RubricReply  # noqa: E402
from dress.llm.client import LLMClient  # noqa: E402
from dress.llm.ledger import Ledger  # noqa: E402
from dress.llm.request import Request  # noqa: E402
from dress.llm.structured import response_format  # noqa: E402
from dress.record import Dialogue, ImageAnnotation, Record, Turn  # noqa: E402


def questions(number: int) -> list[Request]:
    """Different answers under the rubric that annotator=llm asks by."""
    rubric = Rubric.load("feedback")
    record = Record(key="a", annotation=ImageAnnotation(captions=["A dog beside a red ball on the grass."]))
    dialogues = [
        Dialogue(criterion="honesty", turns=[Turn(user="What do you see?", assistant=f"A dog and {n} balls.")])
        for n in range(number)
    ]
    return [Request(rubric.messages(record, d, False), rubric.prompt_version, RubricReply) for d in dialogues]


def bare(url: str, requests: list[Request], concurrency: int, post: bool) -> float:
    """Seconds without a ledger, not counting the making of the client."""

    async def work(client: AsyncOpenAI, left: Any) -> None:
        for request in left:
            body: dict[str, Any] = {
                "model": "m", "messages": list(request.messages), "max_tokens": request.max_tokens,
                "temperature": request.temperature, "response_format": response_format(RubricReply, "json_schema"),
            }  # fmt: skip
            if post:
                await client.post("/chat/completions", cast_to=object, body=body)
            else:
                await client.chat.completions.create(**body)

    async def all_of_them() -> float:
        async with AsyncOpenAI(api_key="none", base_url=url, max_retries=0) as client:
            left, began = iter(requests), time.perf_counter()
            await asyncio.gather(*(work(client, left) for _ in range(concurrency)))
            return time.perf_counter() - began

    return asyncio.run(all_of_them())


def with_ledger(url: str, requests: list[Request], concurrency: int) -> float:
    """Seconds with everything."""
    with tempfile.TemporaryDirectory(dir=ROOT) as folder:  # on the disk that a ledger would be on
        ledger = Ledger(Path(folder) / "ledger.sqlite")
        client = LLMClient(Endpoint(base_url=url, model="m", concurrency=concurrency), ledger, "json_schema")
        began = time.perf_counter()
        replies = client.ask_all(requests)
        seconds = time.perf_counter() - began
        assert all(reply.status == "done" for reply in replies)
        ledger.close()
    return seconds


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Measure, write, and return what was written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/annotate.json")
    given = parser.parse_args(arguments)
    requests = questions(given.calls)
    seconds: dict[str, list[float]] = {"bare": [], "bare_post": [], "ledger": []}
    with started() as server:
        bare(server.url, requests[:50], given.concurrency, post=False)  # warm
        for _ in range(given.rounds):
            seconds["bare"].append(bare(server.url, requests, given.concurrency, post=False))
            seconds["bare_post"].append(bare(server.url, requests, given.concurrency, post=True))
            seconds["ledger"].append(with_ledger(server.url, requests, given.concurrency))
    rates = {name: [round(given.calls / one, 1) for one in each] for name, each in seconds.items()}
    medians = {name: statistics.median(each) for name, each in rates.items()}
    result = {
        "command": f"python benchmarks/annotate.py --calls {given.calls} --rounds {given.rounds} "
                   f"--concurrency {given.concurrency}",
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "calls_per_second": medians,
        "rounds": rates,
        "ledger_over_bare": round(medians["ledger"] / medians["bare"], 3),
        "ledger_over_bare_post": round(medians["ledger"] / medians["bare_post"], 3),
    }  # fmt: skip
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    return result


if __name__ == "__main__":
    main()
