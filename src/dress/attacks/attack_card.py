"""The card of a set of requests: what it is and is not for, who wrote and judged it, and its figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dress.attacks.rounds import Rounds
from dress.exports.markdown import table

_TEXT = """# Requests that would do harm, about images

Written by `{attacker}`, judged by `{judge}`, with the prompts {prompts}, as VLSafe was made (DRESS,
[arXiv 2311.10081](https://arxiv.org/abs/2311.10081)). It holds requests, refusals of them, and harmless twins in nearly
the same words. It holds no answer that does what is asked, and none was ever asked for.
{alike}
## What it is for
- Teaching a model to refuse requests about everyday photos, and to say why (`vlsafe/harmful.jsonl`, `shard-*.tar`).
- Measuring refusals, and with the twins how often a model refuses what is harmless (`benign.jsonl`).

## What it is not for
- Teaching a model to do what is asked, or passing the requests on without the refusals.
- A test of jailbreaks or of harmful images: the photos are everyday photos, and the requests say what they want.
- Ranking models by one number: {alone} of {requests} requests are harmful by their words alone, so that a model that
  never sees the image can refuse them. `alone` says which.
- Anything before somebody has read a sample: no person has looked at these texts. What was not taken stands in
  `rejected.jsonl`.

## Figures
{texts}

Requests that were taken, by category of harm, by what their words are without the image, by harm (1-4), and by the
drafts that they took:

{taken}

How texts begin most often (a stock phrase is learned):

{openings}

## Files
- `vlsafe/harmful.jsonl`: `image_id`, `caption`, `query`, `reference` as VLSafe has them, and `category`, `thing`,
  `alone`, `harm`, `writer`, `judge`, `prompt`, `rounds`; `vlsafe/images/`; `vlsafe/objects.json` where all objects of
  COCO that are there are known.
- `benign.jsonl`: `image_id`, `caption`, `safe_query`, `orig_query`.
- `shard-*.tar`: the same as records, criterion `harmlessness`; twins have `request.twin_of`.
- `rejected.jsonl`: every text that was not taken, with its fault; `attack.json`: settings and figures.

## Licence
The texts stand under what their writer's provider allows. Images keep the licence of their publishers:

{licences}
"""


def attack_card(counts: Mapping[str, Any], rounds: Rounds, prompts: str, licences: Mapping[str, str]) -> str:
    """The card's text.

    Args:
        counts: see `results.figures`.
        rounds: who wrote and judged.
        prompts: versions of what they were asked.
        licences: of the sets that the images are from, by source.
    """
    attacker, judge = rounds.attacker.name, rounds.judge.name
    texts = [
        (kind, own["written"], own["taken"], ", ".join(f"{reason} {n}" for reason, n in own["rejected"].items()))
        for kind, own in counts["texts"].items()
    ]
    taken = [(of, name, n) for of in ("categories", "alone", "harm", "rounds") for name, n in counts[of].items()]
    openings = [
        (of.removesuffix("_openings"), name, n)
        for of in ("request_openings", "refusal_openings")
        for name, n in counts[of].items()
    ]
    alike = "\nThe judge is the writer: it agrees with itself.\n" if rounds.judges_itself else ""
    return _TEXT.format(
        attacker=attacker,
        judge=judge,
        prompts=" and ".join(f"`{name}`" for name in dict.fromkeys(prompts.split())),
        alike=alike,
        alone=counts["alone"].get("harmful", 0),
        requests=counts["texts"]["request"]["taken"],
        texts=table(("texts", "written", "taken", "not taken"), texts),
        taken=table(("of", "which", "requests"), taken),
        openings=table(("of", "first words", "texts"), openings),
        licences=table(("source", "licence of its set"), list(licences.items())),
    )
