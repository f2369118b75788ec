"""The card of a published dataset: a README.md with the front matter that dataset hubs read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import yaml

from dress.data.counts import Counts, mean_rating
from dress.data.licences import licence_of
from dress.exports.features import Feature
from dress.exports.markdown import table
from dress.record import TOP_RATING

SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
LARGEST = "n>10M"
CONFIG = "default"

_TEXT = """---
{front}---
# {title}

{about}

## Contents
{splits}

{rated}

{annotators}

{responders}

{sources}

## Format
Plain [webdataset](https://github.com/webdataset/webdataset) tar files. A sample is `<key>.json` (UTF-8) and its image
(`<key>.png`, `.jpg` or `.webp`; none for text only). The JSON has `key`, `source`, `image` (`id`, `sha256`),
`annotation` (`captions`, `objects` with boxes as fractions) and `dialogues`, each with `criterion`, `reference` and
`turns` of `user`, `assistant` and `feedback` (`criterion`, `rating`, `critique`, `refinement`, `annotator`,
`prompt_version`, and `spans` where parts of the answer are marked). A rating that was given on another scale has it in
`original`. Nothing here needs to be unpickled.

```
import json, webdataset
for sample in webdataset.WebDataset("{example}", shardshuffle=False):
    record, image = json.loads(sample["json"]), sample.get("png") or sample.get("jpg")
```

`datasets.load_dataset(FOLDER)` (4.7 or later) reads every split with the types that stand above; `extra` and
`provenance`, whose fields are free, come as JSON objects.

## Integrity
`SHA256SUMS` holds the checksum of every file: `sha256sum --check SHA256SUMS`. `counts.json` holds the figures above.

## Licence
{license} What comes from other sets stands under their licences too (Sources, above). Images keep the licence of their
publishers.
"""


_WITHOUT_FEEDBACK = "Images and dialogues over them, without feedback on the answers."
_WITH_FEEDBACK = """Images, dialogues over them, and natural-language feedback on the answers: a **rating** of 1 to 4
(4 is best), a **critique** that says what is good and bad, and a **refinement** that says how to improve the answer and
stands as the user's next text. The method is described in [arXiv 2311.10081](https://arxiv.org/abs/2311.10081)."""


def card(
    title: str, license: str, counts: Mapping[str, Counts], licences: Mapping[str, str], columns: Sequence[Feature]
) -> str:
    """The card's text.

    Args:
        title: of the dataset.
        license: SPDX identifier in small letters, or `unknown`.
        counts: by split.
        licences: of the sets that it was made from, by the records' source.
        columns: of a sample, with their types.
    """
    total = sum(counted.records for counted in counts.values())
    files = [{"split": split, "path": f"{split}/**/*.tar"} for split in counts]
    annotators = [(*who, n) for who, n in _sum(counted.annotators for counted in counts.values())]
    tags = ["webdataset", "dress", *(["natural-language-feedback"] if annotators else [])]
    front = {
        "license": license,
        "pretty_name": title,
        "task_categories": ["image-text-to-text"],
        "tags": tags,
        "size_categories": [next((name for limit, name in SIZES if total < limit), LARGEST)],
        "dataset_info": {"config_name": CONFIG, "features": list(columns)},
        "configs": [{"config_name": CONFIG, "data_files": files}],
    }
    sources = [(name, licence_of(name, dict(licences)), n) for name, n in _sum(c.sources for c in counts.values())]
    responders = _sum(counted.responders for counted in counts.values())
    statement = "Not stated by whoever made this folder." if license == "unknown" else f"`{license}`."
    return _TEXT.format(
        front=yaml.safe_dump(front, sort_keys=False, allow_unicode=True),
        title=title,
        about=_WITH_FEEDBACK if annotators else _WITHOUT_FEEDBACK,
        splits=table(
            ("split", "records", "with image", "dialogues", "questions", "answers"),
            [(s, c.records, c.with_image, c.dialogues, c.questions, c.answers) for s, c in counts.items()],
        ),
        rated=_ratings(counts),
        annotators=_part("Annotators", ("annotator", "prompt version", "answers"), annotators),
        responders=_part("Responders", ("who answered", "answers"), responders),
        sources=_part("Sources", ("source", "licence of its set", "records"), sources),
        example=f"{next(iter(counts))}/shard-000000.tar",
        license=statement,
    )  # fmt: skip


def _ratings(counts: Mapping[str, Counts]) -> str:
    rows = []
    for split, counted in counts.items():
        for criterion, turns in counted.table().items():
            for turn, numbers in turns.items():
                mean = mean_rating(numbers)
                rows.append((split, criterion, turn, *numbers, "–" if mean is None else f"{mean:.2f}"))
    head = ("split", "criterion", "turn", *(f"rated {r}" for r in range(1, TOP_RATING + 1)), "not rated", "mean")
    return _part("Answers by criterion, turn and rating", head, rows)


def _sum(counters: Iterable[Counter]) -> list[tuple]:
    return sorted(sum(counters, Counter()).items(), key=lambda item: (-item[1], str(item[0])))


def _part(title: str, head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    return f"## {title}\n{table(head, rows) if rows else 'None.'}"
