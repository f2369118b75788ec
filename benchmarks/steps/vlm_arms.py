"""The arms on a vision-language model of transformers: everybody's own training loop over the same tuples."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import cycle, islice
from typing import Any

import transformers as hf
from torch import Tensor

from dress import config
from dress.dialogue.batch import Batch, Example, collate
from dress.dialogue.tree import build_tree
from dress.kernels.memory import keep_freed_memory
from dress.model.hf import HFLVLM
from steps import vlm
from steps.arm import ArmSpec, Meter
from steps.arms import train_ours, train_plain
from steps.tuples import Tuple, make

MAX_TOKENS = 8192


def dress(spec: ArmSpec, meter: Meter, share: bool = True) -> None:
    """Our trainer; `share` false gives every dialogue its own sequence, ragged, in the same forest."""
    assert isinstance(spec.model, vlm.VLMModel)
    lora = vlm.LORA if spec.model.trained == "lora" else None
    model = HFLVLM(config.HFModel(kind="hf", name=str(spec.model.folder), lora=lora), MAX_TOKENS)
    vlm.draw_lora(model)
    model.set_trainable(vlm.PARTS[spec.model.trained])
    for name, parameter in model.named_parameters():
        if vlm.KEYS.search(name):
            parameter.requires_grad_(False)
    if spec.bf16 and lora is not None:  # as a run does whose stages train no more
        model.round({"vision", "language"})
        model.hold_rounded()
    reader = model.reader()

    def example(one: Tuple, data: bytes) -> Example:
        picture = reader(data, "a picture")
        encoded = [model.encoder.supervised(each, "", picture.layout) for each in vlm.dialogues(one)]
        return Example([build_tree(encoded)] if share else [build_tree([each]) for each in encoded], picture)

    files = {id(one): _png(one) for one in drawn(spec)}  # as shards have them, and TRL's data set

    def batches() -> Iterator[Batch]:
        for tuples in steps_of(spec):
            yield collate([example(one, files[id(one)]) for one in tuples], spec.forest)

    train_ours(model, batches, vlm.PARTS[spec.model.trained], spec, meter)


def unshared(spec: ArmSpec, meter: Meter) -> None:
    """Our trainer with sharing off."""
    dress(spec, meter, share=False)


@lru_cache
def drawn(spec: ArmSpec) -> tuple[Tuple, ...]:
    """All tuples."""
    return tuple(make(spec.shape, number) for number in range(spec.tuples))


def steps_of(spec: ArmSpec) -> Iterator[list[Tuple]]:
    """The tuples of each step, in order, again and again."""
    again = cycle(drawn(spec))
    while True:
        yield list(islice(again, spec.per_step))


def _png(one: Tuple) -> bytes:
    assert one.picture is not None
    data = io.BytesIO()
    one.picture.save(data, "PNG", compress_level=1)
    return data.getvalue()


def plain(spec: ArmSpec, meter: Meter) -> None:
    """A plain loop over padded rows, one per dialogue with loss on each of its answers; freed memory is kept."""
    assert isinstance(spec.model, vlm.VLMModel)
    if spec.device == "cpu":
        keep_freed_memory()
    model = vlm.theirs(spec.model, spec.bf16).to(spec.device)
    processor = hf.AutoProcessor.from_pretrained(spec.model.folder)

    def steps() -> Iterator[list[dict[str, Tensor]]]:
        for tuples in steps_of(spec):
            rows = [(row, one.picture) for one in tuples for row in vlm.messages(one)]
            size = spec.rows_at_once or len(rows)
            yield [padded(processor, rows[first : first + size]) for first in range(0, len(rows), size)]

    train_plain(model, steps(), spec, meter)


def padded(processor: Any, rows: list[tuple[list[dict[str, str]], Any]]) -> dict[str, Tensor]:
    """Rows as the model takes them: what its processor makes of them, and labels of the answers."""
    conversations = [
        [{**row[0], "content": [{"type": "image", "image": image}, {"type": "text", "text": row[0]["content"]}]},
         *({**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in row[1:])]
        for row, image in rows
    ]  # fmt: skip
    out = processor.apply_chat_template(
        conversations, tokenize=True, return_dict=True, return_tensors="pt", return_assistant_tokens_mask=True,
        processor_kwargs={"padding": True, "padding_side": "right", "add_special_tokens": False},
    )  # fmt: skip
    learned = out.pop("assistant_masks") != 0
    return {**out, "labels": out["input_ids"].masked_fill(~learned | (out["attention_mask"] == 0), -100)}


def trl_tuned(spec: ArmSpec, meter: Meter) -> None:
    """TRL's own trainer and collator: rows as above, no checkpointing, loss on the answers, freed memory kept."""
    from steps.trl_arm import fit

    assert isinstance(spec.model, vlm.VLMModel)
    if spec.device == "cpu":
        keep_freed_memory()
    rows = [{"images": [one.picture], "messages": row} for one in drawn(spec) for row in vlm.messages(one)]
    processor = hf.AutoProcessor.from_pretrained(spec.model.folder)
    fit(vlm.theirs(spec.model, spec.bf16), processor, rows, spec, meter, tuned=True)


ARMS: dict[str, Callable[[ArmSpec, Meter], None]] = {
    "dress": dress,
    "dress, sharing off": unshared,
    "TRL tuned": trl_tuned,
    "plain HF padded": plain,
}
