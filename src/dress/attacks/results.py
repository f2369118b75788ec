"""What is written: shards of records, rows as VLSafe has them, harmless twins, all that was not taken, and a card."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from dress.attacks.attack_card import attack_card
from dress.attacks.filters import opening_of
from dress.attacks.plan import Plan
from dress.attacks.rounds import Attack, Rejected, Rounds
from dress.base.files import image_extension, write_aside, write_json, write_lines, write_text
from dress.coco.mentions import COCO80
from dress.config.attacks import AttackCommand
from dress.data.index_file import INDEX
from dress.data.licences import licence_of, licences_of
from dress.data.shards import Sample, write_shards
from dress.record import Dialogue, Record, Turn

ROWS, TWINS, REJECTED, CARD = "vlsafe/harmful.jsonl", "benign.jsonl", "rejected.jsonl", "README.md"
IMAGES, OBJECTS = "vlsafe/images", "vlsafe/objects.json"
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,69}")
"""Names of images that VLSafe's rows may have, without their extension."""
BENIGN = "benign"
"""Category of twins: what refuses them refuses too much."""


def write_results(rounds: Rounds, plan: Plan, settings: AttackCommand) -> dict[str, Any]:
    """Write everything to `settings.out`; equal requests give equal bytes.

    Args:
        rounds: all that was written.
        plan: of what it is about.
        settings: of the command.

    Returns:
        The figures.
    """
    out, prompts = Path(settings.out), f"{rounds.attacker.prompt_version} {rounds.judge.prompt_version}"
    (out / INDEX).unlink(missing_ok=True)  # it tells of older shards
    by_record = [(key, list(own)) for key, own in groupby(rounds.attacks, lambda attack: attack.asked.record.key)]
    names = dict(_image_names(by_record, plan))
    written = write_shards(out, _samples(by_record, rounds, plan), settings.per_shard)
    for shard in sorted(out.glob("shard-*.tar"))[-(-written // settings.per_shard) :]:
        shard.unlink()  # of an earlier call, when more could be had
    rows = [_row(attack, names[attack.asked.record.key], rounds) for attack in rounds.attacks]
    write_lines(out / ROWS, rows)
    write_lines(out / TWINS, [row for attack in rounds.attacks for row in _twin_rows(attack, names)])
    write_lines(out / REJECTED, map(_rejected_row, rounds.rejected))
    if settings.images:
        _write_images(out / IMAGES, names, plan)
        _write_objects(out / OBJECTS, names, [own[0].asked.record for _, own in by_record])
    counts = figures(rounds, plan)
    licences = _licences(by_record, settings)
    write_text(out / CARD, attack_card(counts, rounds, prompts, licences))
    return counts


def figures(rounds: Rounds, plan: Plan) -> dict[str, Any]:
    """How many texts of each kind were written (or asked for in vain), taken, and not taken by fault."""
    attacks, faults = rounds.attacks, rounds.faults()
    taken = {
        "request": len(attacks),
        "twin": sum(attack.twin is not None for attack in attacks),
        "refusal": sum(attack.reference is not None for attack in attacks),
    }
    by_kind: dict[str, Any] = {}
    for kind, number in taken.items():
        own = {reason: times for (which, reason), times in sorted(faults.items()) if which == kind}
        by_kind[kind] = {"written": number + sum(own.values()), "taken": number, "rejected": own}
    openings = Counter(opening_of(attack.reference) for attack in attacks if attack.reference is not None)
    return {
        "asked": len(plan.asked), "images": len(plan.places), "left_out": plan.left_out, "texts": by_kind,
        "categories": _counted(attack.asked.category for attack in attacks),
        "alone": _counted(attack.words.alone for attack in attacks),
        "harm": _counted(str(attack.review.harm) for attack in attacks),
        "rounds": _counted(str(attack.rounds) for attack in attacks),
        "request_openings": _most(Counter(opening_of(attack.draft.query) for attack in attacks)),
        "refusal_openings": _most(openings),
    }  # fmt: skip


def _counted(values: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(values).items()))


def _most(counted: Counter[str]) -> dict[str, int]:
    """The five that come most often."""
    return dict(sorted(counted.items(), key=lambda item: (-item[1], item[0]))[:5])


def _samples(by_record: Sequence[tuple[str, list[Attack]]], rounds: Rounds, plan: Plan) -> Iterator[Sample]:
    for key, attacks in by_record:
        dialogues = [dialogue for attack in attacks for dialogue in _dialogues(attack, rounds)]
        record = attacks[0].asked.record.model_copy(update={"dialogues": dialogues})
        yield record, plan.images.image(plan.places[key])


def _dialogues(attack: Attack, rounds: Rounds) -> Iterator[Dialogue]:
    """The request, with its refusal as reference; and its twin, which nobody has answered."""
    yield Dialogue(
        criterion="harmlessness",
        reference=attack.reference,
        turns=[Turn(user=attack.draft.query)],
        extra={"request": {"kind": "harmful", **attack.facts, **_facts(attack, rounds)}},
    )
    if attack.twin is not None:
        about = {"category": BENIGN, "thing": attack.draft.thing, "twin_of": attack.draft.query}
        request = {"kind": "harmless", **attack.twin_facts, **about}
        yield Dialogue(criterion="harmlessness", turns=[Turn(user=attack.twin)], extra={"request": request})


def _facts(attack: Attack, rounds: Rounds) -> dict[str, Any]:
    return {
        "category": attack.asked.category, "thing": attack.draft.thing, "alone": attack.words.alone,
        "harm": attack.review.harm, "writer": rounds.attacker.name, "judge": rounds.judge.name,
        "prompt": rounds.attacker.prompt_version, "rounds": attack.rounds,
    }  # fmt: skip


def _caption(record: Record) -> str:
    labels = ", ".join(thing.label for thing in record.annotation.objects)
    return next((caption for caption in record.annotation.captions if caption.strip()), labels)


def _row(attack: Attack, image: str, rounds: Rounds) -> dict[str, Any]:
    named = {"image_id": image, "caption": _caption(attack.asked.record), "query": attack.draft.query}
    return {**named, "reference": attack.reference, **_facts(attack, rounds)}


def _twin_rows(attack: Attack, names: dict[str, str]) -> Iterator[dict[str, Any]]:
    """As AutoSteer's benign rewrites of VLSafe are; `suite=vlsafe benign=FILE` reads them."""
    if attack.twin is not None:
        named = {"image_id": names[attack.asked.record.key], "caption": _caption(attack.asked.record)}
        yield {**named, "safe_query": attack.twin, "orig_query": attack.draft.query}


def _rejected_row(one: Rejected) -> dict[str, Any]:
    reason, _, detail = one.fault.partition(": ")
    return {
        "key": one.asked.record.key, "category": one.asked.category, "kind": one.kind,
        "round": len(one.asked.tried) + 1, "text": one.text, "fault": reason, "detail": detail,
        "query": one.asked.draft.query if one.asked.draft else None, "call": one.call,
    }  # fmt: skip


def _image_names(by_record: Sequence[tuple[str, list[Attack]]], plan: Plan) -> Iterator[tuple[str, str]]:
    """What each record's image is called in the rows: as it is, where VLSafe's rows may have that, else by its key."""
    used: set[str] = set()
    for key, own in by_record:
        image, data = own[0].asked.record.image, plan.images.image(plan.places[key])
        extension = image_extension(data or b"")
        stem, _, ending = (image.id if image else "").rpartition(".")
        fits = bool(_PLAIN.fullmatch(stem)) and ending.lower().replace("jpeg", "jpg") == extension
        name = image.id if fits and image else f"{_plain(key)}.{extension}"
        if name in used:
            name = f"{_plain(f'{plan.places[key]:06d}-{key}')}.{extension}"
        used.add(name)
        yield key, name


def _plain(key: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "-", key).lstrip("-_")[:70] or "image"


def _write_images(folder: Path, names: dict[str, str], plan: Plan) -> None:
    for key, name in names.items():
        data = plan.images.image(plan.places[key])
        if data is not None and not (folder / name).exists():
            with write_aside(folder / name) as aside:
                aside.write_bytes(data)


def _write_objects(file: Path, names: dict[str, str], records: Sequence[Record]) -> None:
    """Labels by image, only where all of COCO's that are there are known: an importer asks about what is absent."""
    labels = {names[one.key]: [thing.label for thing in one.annotation.objects] for one in records}
    complete = all(one.annotation.extra.get("vocabulary") == "coco80" for one in records)
    if complete and labels and all(set(own) <= set(COCO80) for own in labels.values()):
        write_json(file, labels)
    else:
        file.unlink(missing_ok=True)


def _licences(by_record: Sequence[tuple[str, list[Attack]]], settings: AttackCommand) -> dict[str, str]:
    """Source of the images to the licence of its set, as far as an import has said it."""
    place = settings.shards or (settings.data.path if settings.data is not None else "")
    stated = licences_of(Path(place))
    sources = sorted({own[0].asked.record.source for _, own in by_record})
    return {source: licence_of(source, stated) for source in sources}
