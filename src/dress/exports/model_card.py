"""The card of an exported model: a README.md with the front matter that model hubs read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from dress import config
from dress.config.graph import amount, lineage
from dress.config.stages import TrainStage
from dress.data.licences import NOT_STATED
from dress.exports.bases import Base
from dress.exports.markdown import table
from dress.exports.proof import Figures
from dress.report.figures import cells, quantities

_TEXT = """---
{front}---
# {title}

{about}

## How to ask it
```python
from transformers import AutoModelForImageTextToText, AutoProcessor

{loading}
content = [{{"type": "image", "url": "photo.jpg"}}, {{"type": "text", "text": "What is in the picture?"}}]
messages = [{{"role": "user", "content": content}}]
inputs = processor.apply_chat_template(
    messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
)
answer = model.generate(**inputs, max_new_tokens={max_new_tokens})
print(processor.decode(answer[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))
```
{condition}

## What it was made from
{bases}

## Training
{stages}

Data: {data}

## Figures
{figures}

## Is this folder the model that was trained?
{proof}

## Licence
{licence}
"""


@dataclass(frozen=True)
class CardFacts:
    """What a card says.

    Attributes:
        run: settings of the run.
        stage: whose model it is.
        condition: name and text of what the template carries; None: nothing.
        template: file of the template without condition.
        form: `merged` or `adapter`.
        class_name: that loads it.
        licence: of the folder; None: nobody said.
        bases: what it was made from.
        licences: of the data, by source.
        metrics: of the run's evaluation, as metrics.json has them; empty without one.
        proof: how equal it is to what was trained.
        dtype: of the weights; what is not float32 was rounded after the proof.
    """

    run: config.Config
    stage: str
    condition: tuple[str, str] | None
    template: str | None
    form: str
    class_name: str
    licence: str | None
    bases: Sequence[Base]
    licences: Mapping[str, str]
    metrics: Mapping[str, Any]
    proof: Figures
    dtype: str = "float32"


def model_card(facts: CardFacts) -> str:
    """The text of README.md."""
    front: dict[str, Any] = {
        "license": facts.licence or "other", "library_name": "peft" if facts.form == "adapter" else "transformers",
        "pipeline_tag": "image-text-to-text", "tags": ["dress", "natural-language-feedback"],
        "base_model": [base.name for base in facts.bases if base.hub] or None,
    }  # fmt: skip
    if facts.licence is None:
        front["license_name"] = "see-below"
    front = {name: value for name, value in front.items() if value is not None}
    return _TEXT.format(
        front=yaml.safe_dump(front, sort_keys=False, allow_unicode=True),
        title=f"{facts.run.name}, stage {facts.stage}",
        about=_about(facts),
        loading=_loading(facts.form),
        max_new_tokens=facts.run.generation.max_new_tokens,
        condition=_condition(facts),
        bases=table(("part", "model", "licence"), [(one.part, one.name, one.licence) for one in facts.bases])
        if facts.bases
        else "Nothing: its weights were drawn.",
        stages=_stages(facts.run, facts.stage),
        data=_data(facts),
        figures=_figures(facts),
        proof=_proof(facts.proof, facts.dtype) + _packing(facts.run.model.quantize),
        licence=_licence(facts),
    )


def _about(facts: CardFacts) -> str:
    parts = " and ".join(f"{one.name} ({one.part})" for one in facts.bases) or "a model from scratch"
    return (
        f"A vision-language model that learned from natural-language feedback (DRESS, "
        f"[arXiv 2311.10081](https://arxiv.org/abs/2311.10081)), made from {parts}. `{facts.class_name}` loads it."
    )


def _loading(form: str) -> str:
    also = "  # the base and this adapter" if form == "adapter" else ""
    return (
        f'model = AutoModelForImageTextToText.from_pretrained("THIS_FOLDER"){also}\n'
        'processor = AutoProcessor.from_pretrained("THIS_FOLDER")'
    )


def _condition(facts: CardFacts) -> str:
    if facts.condition is None:
        return "The chat template carries no condition."
    name, text = facts.condition
    return (
        f"The chat template puts the condition it was trained under behind the last question (`{name}`): "
        f"`{text}`. Without it, answers are not those that the figures below are of. `{facts.template}` is the "
        f"template without it, from which further training begins."
    )


def _stages(run: config.Config, stage: str) -> str:
    rows = []
    for name in lineage(run.curriculum, stage):
        one = run.curriculum.stages[name]
        assert isinstance(one, TrainStage)
        length = f"{amount(one.total_steps, one.epochs)} of {one.records_per_step}"
        rows.append((name, ", ".join(one.phases), one.data_title, ", ".join(one.trainable), length, f"{one.rate:g}"))
    return table(("stage", "learns", "from", "trained parts", "steps of records", "rate"), rows)


def _data(facts: CardFacts) -> str:
    if facts.run.data.world is not None:
        return f"drawn by the embedded world `{facts.run.data.world}`; no licence applies."
    if not facts.licences:
        return f"`{facts.run.data.path}`; its licence is not stated."
    return "; ".join(f"{name} ({licence})" for name, licence in sorted(facts.licences.items())) + "."


def _figures(facts: CardFacts) -> str:
    if not facts.metrics:
        return "The run has no evaluation."
    by_cell = cells(facts.metrics)
    rows = [
        (f"{one.group}: {one.name}", *(_cell(one.cell(figures)) for figures in by_cell.values()))
        for one in quantities(facts.metrics)
    ]
    text = table(("model/condition", *by_cell), rows)
    return f"{text}\n\nValue [95 % interval], n. Sampling error of the records only; one run."


def _cell(cell: Any) -> str:
    interval = f" [{cell.interval}]" if cell.interval else ""
    return f"{cell.text}{interval}, {cell.n or 0}"


def _proof(figures: Figures, dtype: str) -> str:
    n = figures.examples
    pixels = (
        "" if figures.pixels is None else
        f"; pixels differ by at most {figures.pixels:.1e} standard deviations between the two image processors"
    )  # fmt: skip
    return (
        f"Read anew by transformers alone in a process of its own, and compared with the run on {n} of its records: "
        f"{figures.ids} of {n} prompts have the same tokens, logits differ by at most {figures.logits:.1e} of the "
        f"largest, {figures.answers} of {n} greedy answers ({figures.tokens:,} tokens in all) are the same from the "
        f"same pixels and {figures.answers_from_pixels} of {n} from the folder's own{pixels}."
        + ("" if dtype == "float32" else f" The weights were float32 then, and rounded to {dtype} afterwards.")
    )


def _packing(kind: config.Quantize | None) -> str:
    """What else was held while it learned than what is written here."""
    return "" if kind is None else (
        f" It learned, and was evaluated, beside a base whose matrices were held in {kind}; here its adapters stand "
        f"beside the base as its files have it, which gives other answers here and there. The comparison is with that."
    )  # fmt: skip


def _licence(facts: CardFacts) -> str:
    stated = f"`{facts.licence}`, as whoever exported it says." if facts.licence else "Not stated."
    forbids = [one.name for one in facts.bases if one.forbids_changes]
    more = f" **{', '.join(forbids)} allows no changed copies.**" if forbids else ""
    unknown = [one.name for one in facts.bases if one.licence == NOT_STATED]
    look = f" Look up the licences of {', '.join(unknown)} before you pass this on." if unknown else ""
    own = " What it was made from stands under its own licences (above)." if facts.bases else ""
    return f"{stated}{own}{more}{look}"
