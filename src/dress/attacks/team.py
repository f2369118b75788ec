"""Who writes and who judges, as the settings name them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from dress.attacker import Attacker, AttackJudge, registered
from dress.attacks.llm_writer import LLMAttacker, LLMAttackJudge
from dress.attacks.prompts import AttackFile
from dress.config.attacks import (
    AttackCommand,
    AttackerSettings,
    AttackJudgeSettings,
    LLMReviewer,
    LLMWriter,
    OwnWriter,
    RecordedReviewer,
)
from dress.config.raters import Endpoint
from dress.llm.client import build_client
from dress.llm.keys import api_key
from dress.worlds import import_worlds

AUTO = "auto"


class Team(NamedTuple):
    """Who writes requests, and who judges them."""

    attacker: Attacker
    judge: AttackJudge


def settled(settings: AttackCommand) -> AttackCommand:
    """The settings with what `auto` means in its place: the own attacker of the data's world; a judge as the attacker.

    Raises:
        ValueError: no world made the data.
    """
    attacker, judge = settings.attacker, settings.judge
    if isinstance(attacker, OwnWriter) and attacker.kind == AUTO:
        world = settings.data.world if settings.data is not None and settings.shards is None else None
        if world is None:
            raise ValueError(
                "attacker=auto: expected data of a world that writes its own requests (data=shapes); for other images "
                "name a language model: attacker=llm attacker.model=NAME (docs/attacks.md)"
            )
        attacker = OwnWriter(kind=world)
    if isinstance(judge, OwnWriter) and judge.kind == AUTO:
        judge = _as(attacker)
    return settings.model_copy(update={"attacker": attacker, "judge": judge})


def _as(attacker: AttackerSettings) -> AttackJudgeSettings:
    """A judge that is the attacker's own model, or world."""
    if isinstance(attacker, OwnWriter):
        return attacker
    if isinstance(attacker, LLMWriter):
        return LLMReviewer(**attacker.model_dump(exclude={"temperature", "preview", "confirm"}))
    return RecordedReviewer(kind="replay", ledger=attacker.ledger, model=attacker.model)


def check_team(settings: AttackCommand) -> None:
    """See early what would stop it hours later.

    Raises:
        ValueError: a world that writes none, a file of prompts or the variable of a key that is not there.
        FileNotFoundError: no ledger to replay.
    """
    for one in (settings.attacker, settings.judge):
        if isinstance(one, OwnWriter):
            import_worlds()
            registered(one.kind)
            continue
        AttackFile.load(settings.file)
        if isinstance(one, Endpoint):
            api_key(one.api_key_env, one.base_url)
        elif not Path(one.ledger).is_file():
            raise FileNotFoundError(f"{one.ledger}: expected a ledger, found none")


def build_team(settings: AttackCommand) -> Team:
    """Who the settings name.

    Args:
        settings: `settled` ones; `out` holds the ledger where they name none.

    Raises:
        ValueError: as `check_team`, or a ledger cannot be used.
    """
    out, one, other = Path(settings.out), settings.attacker, settings.judge
    import_worlds()
    attacker: Attacker
    if isinstance(one, OwnWriter):
        attacker = registered(one.kind)
    else:
        attacker = LLMAttacker(build_client(one, out), AttackFile.load(settings.file), one.temperature, one.max_tokens)
    judge: AttackJudge
    if isinstance(other, OwnWriter):
        judge = attacker if other == one else registered(other.kind)  # type: ignore[assignment]  # a world's does both
    else:
        file = AttackFile.load(settings.file)
        judge = LLMAttackJudge(build_client(other, out), file, other.temperature, other.max_tokens)
    return Team(attacker, judge)


def categories_of(settings: AttackCommand) -> list[str]:
    """The categories that requests are drawn from: those that are named, of those the attacker knows.

    Raises:
        ValueError: one that it does not know, or fewer than requests of an image.
    """
    own = isinstance(settings.attacker, OwnWriter)
    known = registered(settings.attacker.kind).categories if own else AttackFile.load(settings.file).categories
    chosen = list(known) if settings.categories is None else list(dict.fromkeys(settings.categories))
    unknown = [name for name in chosen if name not in known]
    if unknown or not chosen:
        raise ValueError(f"categories: expected some of {', '.join(known)}, got {', '.join(unknown) or 'none'}")
    if settings.per_image > len(chosen):
        raise ValueError(
            f"per_image={settings.per_image}: expected at most {len(chosen)}, one of each category, got more"
        )
    return chosen


def identity(one: AttackerSettings | AttackJudgeSettings, file: str) -> dict[str, Any]:
    """What is written depends on: equal identities give interchangeable requests."""
    if isinstance(one, OwnWriter):
        return one.model_dump()
    names = {"kind", "model", "temperature", "max_tokens"} | (set() if isinstance(one, Endpoint) else {"ledger"})
    return {**one.model_dump(include=names), "prompt_version": AttackFile.load(file).prompt_version}
