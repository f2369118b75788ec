"""Generation: n answers from one reading of image and question, against `generate` of transformers on n prompts.

    OMP_NUM_THREADS=1 python benchmarks/generation.py                 # tens of minutes on one core
    python benchmarks/generation.py --smoke --out /tmp/generation     # seconds, a toy model; no figures to quote

SmolLM2-135M's shape with random weights, 576 image tokens, greedy answers of 64 tokens. transformers gets its
prompts as ready embeddings, so that it encodes no image and embeds no text; ours begins with the pixels (of a
small encoder). Before a ratio is printed, both must give the same tokens in fp32. Arms are interleaved, figures
are medians over rounds, ratios are paired by round.

Arms: `transformers`; `ours`; and `ours` with one thing switched off: `no packed weights` (kernels.packed), `kept by
row` (what rows share is read once, but kept by every row). `turns` is a conversation of three turns: from the
cache, and read again at every turn.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

import dress  # noqa: E402, F401, I001 - first: sets how CPU threads wait
import torch  # noqa: E402
import transformers  # noqa: E402
from tokenizers import AddedToken  # noqa: E402

from dress import config  # noqa: E402
from dress.kernels.precision import cpu_multiplies_bf16  # noqa: E402
from dress.dialogue.chat import FORMATS  # noqa: E402
from dress.dialogue.batch import image_batches  # noqa: E402
from dress.dialogue.encode import IMAGE  # noqa: E402
from dress.dialogue.image import Picture  # noqa: E402
from dress.dialogue.spans import Span  # noqa: E402
from dress.dialogue.tokenizer import train_tokenizer  # noqa: E402
from dress.kernels import packed  # noqa: E402
from dress.model import session  # noqa: E402
from dress.model.composed import ComposedLVLM  # noqa: E402
from dress.model.sampling import SamplingParams  # noqa: E402
from dress.model.session import ImageTokens, Prompt, Session  # noqa: E402

SMOLLM2_135M = {
    "model_type": "llama", "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536,
    "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True,
    "max_position_embeddings": 8192, "rope_theta": 100000.0, "initializer_range": 0.04,
}  # fmt: skip
TOY = SMOLLM2_135M | {"vocab_size": 600, "hidden_size": 36, "intermediate_size": 48, "num_hidden_layers": 2}
QUESTION = "Describe what you see in the picture, and where everything is, as exactly as you can. " * 2
ADVICE = "There is no green cross in the picture. You forgot the blue square in the south. Say it again."

Arm = Callable[[], list[list[int]]]


def build(shape: dict[str, Any], side: int) -> ComposedLVLM:
    """A model of random weights, whose image has `side` squared tokens."""
    chat = FORMATS["plain"]
    tokenizer = train_tokenizer([QUESTION, ADVICE] * 3, 400, chat)
    tokenizer.add_tokens([AddedToken(f"<{i}>") for i in range(shape["vocab_size"] - len(tokenizer))])
    vision = config.Vision(vit=config.ViT(image_size=14 * side, patch_size=14, width=32, layers=1, heads=2))
    settings = config.ComposedModel(vision=vision, language=config.Language(config=shape))
    torch.manual_seed(0)
    model = ComposedLVLM(settings, tokenizer, 100_000).eval()
    with torch.no_grad():  # answers of full length: the stop token is never the best
        model.language.get_input_embeddings().weight[model.encoder.stop_id] = 0
    return model


def pictures(model: ComposedLVLM, number: int) -> list[Picture]:
    """Images of random pixels."""
    size = model.vision.transform.transforms[0].size[0]
    layout = model.reader().layout((size, size))
    return [Picture({"pixels": pixels[None]}, layout) for pixels in torch.rand(number, 3, size, size)]


def plain(model: ComposedLVLM) -> Any:
    """The language model with the same weights, as transformers runs it."""
    other = copy.deepcopy(model.language)
    other.set_attn_implementation("sdpa")
    other.generation_config.eos_token_id = None
    return other


def arms(model: ComposedLVLM, n: int, tokens: int) -> dict[str, Arm]:
    """Ways to draw n greedy answers to one question."""
    prompt = Prompt((Span("user", QUESTION),), 0)
    images = pictures(model, 1)
    other = plain(model)
    ids = torch.from_numpy(model.encoder.prompt(prompt.spans, images[0].layout).ids).expand(n, -1)
    with torch.inference_mode():
        (batch,) = image_batches(images)
        embeddings = model.language.get_input_embeddings()(ids[:1].clamp(min=0))
        embeddings = embeddings.masked_scatter((ids[:1] == IMAGE)[..., None], model.encode_images(batch))
        embeddings = embeddings.expand(n, -1, -1)

    def theirs() -> list[list[int]]:
        with torch.inference_mode():
            return other.generate(
                inputs_embeds=embeddings, attention_mask=torch.ones_like(ids), do_sample=False,
                max_new_tokens=tokens, min_new_tokens=tokens, pad_token_id=0,
            ).tolist()  # fmt: skip

    def ours() -> list[list[int]]:
        out = Session(model).answer([prompt] * n, range(n), ImageTokens(model, images), SamplingParams(tokens))
        assert out is not None
        return out

    found: dict[str, Arm] = {"transformers": theirs, "ours": ours}
    found["no packed weights"] = switched(ours, packed, "SMALLEST", 10**12)
    if n > 1:
        found["kept by row"] = switched(ours, session, "SHARED_TOKENS", 10**9)
    return found


def turns(model: ComposedLVLM, dialogues: int, tokens: int) -> dict[str, Arm]:
    """Ways to hold dialogues of three turns, each about an image of its own."""
    images = pictures(model, dialogues)

    def hold(cached: bool) -> list[list[int]]:
        live, spans = Session(model), [[Span("user", QUESTION)] for _ in images]
        out: list[list[int]] = []
        for _ in range(3):
            prompts = [Prompt(tuple(messages), i) for i, messages in enumerate(spans)]
            live = live if cached else Session(model)
            found = live.answer(prompts, range(dialogues), ImageTokens(model, images), SamplingParams(tokens))
            assert found is not None
            for messages, answer in zip(spans, found, strict=True):
                messages += [Span("assistant", model.encoder.decode(answer)), Span("user", ADVICE)]
            out += found
        return out

    return {"read again": lambda: hold(False), "from the cache": lambda: hold(True)}


def switched(arm: Arm, module: Any, name: str, value: int) -> Arm:
    """The arm with one number of a module set to another."""

    def run() -> list[list[int]]:
        before = getattr(module, name)
        setattr(module, name, value)
        try:
            return arm()
        finally:
            setattr(module, name, before)

    return run


def measure(found: dict[str, Arm], rounds: int, gate: bool) -> dict[str, Any]:
    """Seconds of every arm, interleaved; the first is what the others are compared with.

    Raises:
        ValueError: `gate`, and an arm gives other tokens than the first one.
    """
    answers_of = {name: arm() for name, arm in found.items()}  # also warms up
    first = next(iter(answers_of.values()))
    same = {name: share(tokens, first) for name, tokens in answers_of.items()}
    if gate and min(same.values()) < 1:
        raise ValueError(f"expected the same tokens of every arm, got {same}")
    seconds: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(rounds):
        for name, arm in found.items():
            began = time.perf_counter()
            arm()
            seconds[name].append(time.perf_counter() - began)
    base = next(iter(seconds.values()))
    result = {}
    for name, spent in seconds.items():
        ratios = [b / s for b, s in zip(base, spent, strict=True)]
        result[name] = {
            "seconds": median(spent), "all_seconds": spent, "times_as_fast": median(ratios),
            "lowest": min(ratios), "highest": max(ratios), "equal_tokens": same[name],
        }  # fmt: skip
    return result


def cpu() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    names = [line.partition(": ")[2] for line in info.splitlines() if line.startswith("model name")]
    return names[0] if names else platform.machine()


def share(one: list[list[int]], two: list[list[int]]) -> float:
    """Share of tokens that are equal."""
    pairs = [a == b for x, y in zip(one, two, strict=True) for a, b in zip(x, y, strict=True)]
    return sum(pairs) / len(pairs)


def table(results: dict[str, Any]) -> str:
    """The results in Markdown."""
    lines = [
        f"`{results['command']}`, {results['threads']} thread(s), {results['cpu']}, torch {results['torch']}, "
        f"transformers {results['transformers']}, load average {results['load']:.1f}. {results['image_tokens']} image "
        f"tokens, {results['tokens']}-token greedy answers, {results['rounds']} rounds, medians. Times as fast is "
        f"paired by round, in brackets the lowest and highest round.",
        "",
        "| dtype | case | arm | seconds | times as fast | equal tokens |",
        "|---|---|---|--:|--:|--:|",
    ]
    for dtype, cases in results["cases"].items():
        for case, found in cases.items():
            for name, r in found.items():
                ratio = f"{r['times_as_fast']:.2f} [{r['lowest']:.2f}, {r['highest']:.2f}]"
                lines.append(f"| {dtype} | {case} | {name} | {r['seconds']:.2f} | {ratio} | {r['equal_tokens']:.1%} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a toy model, one round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--branches", type=int, nargs="+", default=[8, 4, 2, 1])
    parser.add_argument("--dtypes", nargs="+", default=["fp32", *(["bf16"] if cpu_multiplies_bf16() else [])])
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    shape, side, tokens = (TOY, 4, 4) if arguments.smoke else (SMOLLM2_135M, 24, 64)
    rounds = 1 if arguments.smoke else arguments.rounds
    session.SHARED_TOKENS = 1 if arguments.smoke else session.SHARED_TOKENS
    cases: dict[str, dict[str, Any]] = {}
    for dtype in arguments.dtypes:
        model = build(shape, side).to({"fp32": torch.float32, "bf16": torch.bfloat16}[dtype])
        gate = dtype == "fp32"
        cases[dtype] = {}
        for n in arguments.branches:
            cases[dtype][f"n={n}"] = measure(arms(model, n, tokens), rounds, gate)
            print(
                dtype, n, {name: round(r["times_as_fast"], 2) for name, r in cases[dtype][f"n={n}"].items()}, flush=True
            )
        cases[dtype]["3 turns, 4 dialogues"] = measure(turns(model, 4, tokens), rounds, gate)
    results = {
        "command": " ".join(["python", "benchmarks/generation.py", *sys.argv[1:]]),
        "threads": arguments.threads, "cpu": cpu(), "load": os.getloadavg()[0],
        "torch": torch.__version__, "transformers": transformers.__version__, "rounds": rounds,
        "image_tokens": side * side, "tokens": tokens, "cases": cases,
    }  # fmt: skip
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "generation.json").write_text(json.dumps(results, indent=1) + "\n")
    (arguments.out / "generation.md").write_text(table(results))
    print(table(results))


if __name__ == "__main__":
    main()
