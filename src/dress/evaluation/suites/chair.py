"""CHAIR: objects that captions name and images do not hold; needs captions and objects, and no model."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console

from dress.coco.chair_list import Words, load_words
from dress.evaluation.measures import Measure
from dress.evaluation.outcomes import Outcome, counted
from dress.evaluation.rows import FileRow, image_key, read_mapping, read_rows
from dress.evaluation.settings import Measured
from dress.evaluation.suite import suite


class Chair(Measured):
    """Objects that captions name and images do not hold (Rohrbach et al., 2018)."""

    captions: str  # image_id, caption (or text): JSON, JSON lines, or objects one after the other
    objects: str  # {image: [labels]}, COCO's instances file, or rows with image and instances
    references: str | None = None  # COCO's captions file: what people name is there, too
    words: str | None = None  # CHAIR's own list in its publisher's form (synonyms.txt); null = ours


MEASURES = (
    Measure("chair_i", "invented mentions (CHAIR_i)", lambda o: (o.facts["invented"], o.facts["mentions"]),
            kind="ratio", up=False),
    Measure("chair_s", "captions that invent (CHAIR_s)", lambda o: (o.facts["invented"] > 0, 1), up=False),
    Measure("coverage", "objects named (coverage)", lambda o: (o.facts["named"], o.facts["present"]), kind="ratio"),
)  # fmt: skip


@dataclass
class Objects:
    """What is in the images: image to COCO-80 labels.

    `complete` says that these are the images of an evaluation, each of which needs a caption; COCO's
    files annotate a whole data set. `unknown` are labels that mean no object of `words`, with their number.
    """

    words: Words
    by_image: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    complete: bool = True
    unknown: Counter[str] = field(default_factory=Counter)
    damaged: list[FileRow] = field(default_factory=list)

    def add(self, image: Any, labels: Iterable[Any]) -> None:
        """These labels are in the image; a label that means no object is counted in `unknown`."""
        present = self.by_image[image_key(image)]
        for label in labels:
            name = str(label).strip().lower()
            meant = self.words.label(name)
            if meant is None:
                self.unknown[name] += 1
            else:
                present.add(meant)

    def mention(self, image: Any, text: str) -> None:
        """What a caption names is there."""
        self.by_image[image_key(image)].update(label for label, _ in self.words.mentions(text))


def most_invented(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The objects that are invented most, with their number."""
    labels = Counter(label for o in counted(outcomes) for label in o.facts["invented_labels"])
    return {"most_invented": dict(labels.most_common(10))}


@suite("chair", Chair, measures=MEASURES, more=most_invented)
def chair(settings: Chair, console: Console) -> list[Outcome]:
    """What CHAIR counts in the captions of a file.

    Raises:
        FileNotFoundError, ValueError: a file that is not there or holds nothing that can be used.
    """
    objects = read_objects(settings.objects, settings.references, load_words(settings.words))
    return outcomes(read_captions(settings.captions), objects)


def outcomes(captions: Sequence[FileRow], objects: Objects) -> list[Outcome]:
    """One outcome per caption, per image without caption, and per row that cannot be used.

    Args:
        captions: `image_id` (or `image`), `caption` (or `text`), and perhaps `category`.
        objects: of the images.
    """
    seen: dict[str, str] = {}
    rows = [_outcome(row, objects, seen) for row in captions]
    rows += [row.failed(f"objects: {row.damage}") for row in objects.damaged]
    rows += [
        Outcome(item=f"objects/{label}", failed=objects.words.unknown, facts={"times": times}, where=label)
        for label, times in objects.unknown.items()
    ]
    if objects.complete:
        rows += [Outcome(item=image, failed="no caption") for image in objects.by_image if image not in seen]
    return rows


def facts(caption: str, present: set[str], words: Words) -> dict[str, Any]:
    """What CHAIR counts in one caption: `mentions` and `invented` ones, `present` objects and `named` ones."""
    return counted_facts([label for label, _ in words.mentions(caption)], present)


def counted_facts(mentioned: Sequence[str], present: set[str]) -> dict[str, Any]:
    """The same for mentions that are known: COCO-80 labels, each as often as it is mentioned."""
    invented = [label for label in mentioned if label not in present]
    return {
        "mentions": len(mentioned), "invented": len(invented), "invented_labels": sorted(set(invented)),
        "present": len(present), "named": len(present & set(mentioned)),
    }  # fmt: skip


def _outcome(row: FileRow, objects: Objects, seen: dict[str, str]) -> Outcome:
    image, text = row.text("image_id", "image", "id"), row.text("caption", "text", "answer")
    category = row.text("category") or ""

    def failed(reason: str) -> Outcome:
        item = row.where if image is None else image_key(image)
        return row.failed(reason, item=item, category=category, answer=text)

    if row.damage is not None:
        return failed(row.damage)
    if image is None:
        return failed("no image_id")
    key = image_key(image)
    if key in seen:
        return failed("captioned again" if seen[key] == text else "captioned again, differently")
    seen[key] = text or ""
    if text is None or not text.strip():
        return failed("empty caption")
    if key not in objects.by_image:
        return failed("image is not in objects")
    return Outcome(
        item=key, category=category, facts=facts(text, objects.by_image[key], objects.words),
        user=row.text("prompt", "question"), answer=text, judge="rules", prompt=objects.words.version, where=row.where,
    )  # fmt: skip


def read_captions(path: str) -> list[FileRow]:
    """Rows with an image and a caption; or one object `{image: caption}`, or COCO's `{"annotations": […]}`."""
    content = read_mapping("captions", path)
    if isinstance(content, list):
        return content
    if isinstance(content.get("annotations"), list):
        return [FileRow(f"annotations[{n}]", row) for n, row in enumerate(content["annotations"])]
    if {"image_id", "image", "caption", "text"} & content.keys():
        return read_rows("captions", path)
    return [FileRow(f"{path}: {image}", {"image_id": image, "caption": text}) for image, text in content.items()]


def read_objects(path: str, references: str | None, words: Words) -> Objects:
    """The objects of every image.

    Args:
        path: `{image: [labels]}`; COCO's instances (`images, annotations, categories`); or rows with
            `image` and `instances` (`category`) or `objects`.
        references: COCO's captions; what people name there is there too, as CHAIR has it.
        words: how names and captions are read.

    Raises:
        FileNotFoundError, ValueError: no such file, or none of these.
    """
    content, objects = read_mapping("objects", path), Objects(words)
    if isinstance(content, list):
        _from_rows(content, objects)
    elif "annotations" in content and "categories" in content:
        _from_coco(path, content, objects)
    elif all(isinstance(labels, list) for labels in content.values()):
        for image, labels in content.items():
            objects.add(image, labels)
    else:
        raise ValueError(
            f"objects={path}: expected {{image: [labels]}}, COCO's instances, or rows of image and instances; "
            f"got an object with {', '.join(list(content)[:5])}"
        )
    if references is not None:
        _add_references(read_captions(references), objects)
    if not objects.by_image:
        raise ValueError(f"objects={path}: expected objects of images, found none")
    return objects


def _add_references(rows: Sequence[FileRow], objects: Objects) -> None:
    for row in rows:
        image, text = row.text("image_id", "image"), row.text("caption", "text")
        if row.damage is not None or image is None or text is None:
            objects.damaged.append(FileRow(row.where, {}, row.damage or "reference without image_id or caption"))
        elif image_key(image) in objects.by_image:  # COCO's captions are of a whole data set
            objects.mention(image, text)


def _from_coco(path: str, content: Mapping[str, Any], objects: Objects) -> None:
    objects.complete = False
    try:
        names = {category["id"]: category["name"] for category in content["categories"]}
        for image in content.get("images", []):
            objects.add(image["id"], [])
        for annotation in content["annotations"]:
            objects.add(annotation["image_id"], [names[annotation["category_id"]]])
    except (KeyError, TypeError) as error:
        raise ValueError(f"objects={path}: expected COCO's instances file, got an entry without {error}") from None


def _from_rows(rows: Sequence[FileRow], objects: Objects) -> None:
    for row in rows:
        image, listed = row.text("image", "image_id", "id"), row.data.get("instances", row.data.get("objects"))
        if row.damage is not None or image is None or not isinstance(listed, list):
            objects.damaged.append(FileRow(row.where, {}, row.damage or "no image, or no list of instances"))
            continue
        labels = (item.get("category", item.get("label")) if isinstance(item, dict) else item for item in listed)
        objects.add(image, labels)
        for caption in row.data.get("captions") or []:
            objects.mention(image, str(caption))
