"""Reads an exported folder with transformers alone and compares it: `python -m dress.exports.proof_process`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor

TOKEN_TYPES = ("mm_token_type_ids", "token_type_ids")


def main(folder: Path, aside: Path, max_new_tokens: int) -> None:
    """Write `result.json` beside what is expected (`dress.exports.proof`).

    Raises:
        ValueError: weights are missing, or there are some that the class does not know.
    """
    loaded: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    model, report = loaded
    wrong = {name: sorted(map(str, report[name])) for name in ("missing_keys", "unexpected_keys", "mismatched_keys")}
    if any(wrong.values()):
        raise ValueError(f"weights of {folder}: " + "; ".join(f"{name}: {one[:3]}" for name, one in wrong.items()))
    model.eval()
    processor: Any = AutoProcessor.from_pretrained(folder)
    facts = json.loads((folder / "dress.json").read_text(encoding="utf-8"))
    plain = (folder / facts["template"]).read_text(encoding="utf-8") if facts.get("template") else None
    rows = json.loads((aside / "examples.json").read_text(encoding="utf-8"))
    tensors = load_file(aside / "expected.safetensors")
    dialogues = [_Dialogue(model, processor, row, aside) for row in rows]
    result: dict[str, Any] = {"examples": len(rows), "tokens": sum(len(row["answer"]) for row in rows)}
    result["ids"] = sum(
        one.prompt_is(row["prompt"]) and one.plain_is(row["plain"], plain)
        for one, row in zip(dialogues, rows, strict=True)
    )
    logits, pixels, answers, from_own_pixels = list[float](), list[float](), 0, 0
    for number, (one, row) in enumerate(zip(dialogues, rows, strict=True)):
        own = tensors.get(f"pixels.{number}")
        expected = tensors[f"logits.{number}"]
        read = one.logits(row["ids"], row["places"], own)[:, : expected.shape[1]]  # without a row added for images
        logits.append(float((read - expected).abs().max() / expected.abs().max()))
        if own is not None:
            pixels.append(float((one.inputs["pixel_values"].reshape(own.shape) - own).abs().max()))
        from_own_pixels += one.answer(None, max_new_tokens) == row["answer"]
        answers += one.answer(own, max_new_tokens) == row["answer"]
    result |= {"logits": _largest(logits), "answers": answers, "answers_from_pixels": from_own_pixels}
    result["pixels"] = _largest(pixels) if pixels else None
    (aside / "result.json").write_text(json.dumps(result), encoding="utf-8")


def _largest(values: list[float]) -> float:
    """The largest, or NaN where one is, which `max` may pass over."""
    return float(torch.tensor(values, dtype=torch.float64).max())


class _Dialogue:
    """A dialogue as the folder's processor gives it.

    Args:
        model: of the folder.
        processor: of the folder.
        row: messages, and the name of a picture.
        aside: where the picture lies.
    """

    def __init__(self, model: Any, processor: Any, row: dict[str, Any], aside: Path) -> None:
        self.model, self.processor = model, processor
        self.messages = [
            {"role": m["role"], "content": [{"type": "text", "text": m["content"]}]} for m in row["messages"]
        ]
        if row["image"] is not None:
            picture = Image.open(aside / row["image"])
            first = next(message for message in self.messages if message["role"] == "user")
            first["content"] = [{"type": "image", "image": picture.convert("RGB")}, *first["content"]]
        self.inputs = self._inputs()

    def _inputs(self, **more: Any) -> Any:
        return self.processor.apply_chat_template(
            self.messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
            sanitize_control_tokens=True, **more,
        )  # fmt: skip

    def prompt_is(self, expected: list[int]) -> bool:
        """Whether its tokens are these; -1 is an image token."""
        return self._ids(self.inputs) == expected

    def plain_is(self, expected: list[int], template: str | None) -> bool:
        """The same with another template."""
        return template is None or self._ids(self._inputs(chat_template=template)) == expected

    def _ids(self, inputs: Any) -> list[int]:
        image = self.model.config.image_token_id
        return [-1 if one == image else one for one in inputs["input_ids"][0].tolist()]

    def _with(self, pixels: Tensor | None, ids: Tensor) -> dict[str, Any]:
        """What the model takes of other tokens, and of these pixels where there are some."""
        more = {name: value for name, value in self.inputs.items() if name not in ("input_ids", "attention_mask")}
        for name in TOKEN_TYPES:
            if name in more:
                more[name] = (ids == self.model.config.image_token_id).long()
        if pixels is not None:
            more["pixel_values"] = pixels.reshape(more["pixel_values"].shape)
        return {**more, "input_ids": ids, "attention_mask": torch.ones_like(ids)}

    @torch.no_grad()
    def logits(self, ids: list[int], places: list[int], pixels: Tensor | None) -> Tensor:
        """Of the tokens in these places [A, M], each from those before it."""
        every = torch.tensor([ids])
        every = every.masked_fill(every < 0, self.model.config.image_token_id)
        logits = self.model(**self._with(pixels, every), use_cache=False).logits
        return logits[0, torch.tensor(places) - 1].float()

    @torch.no_grad()
    def answer(self, pixels: Tensor | None, max_new_tokens: int) -> list[int]:
        """Tokens of the greedy answer."""
        ids = self.inputs["input_ids"]
        out = self.model.generate(**self._with(pixels, ids), do_sample=False, max_new_tokens=max_new_tokens)
        tokens: list[int] = out[0, ids.shape[1] :].tolist()
        return tokens


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
