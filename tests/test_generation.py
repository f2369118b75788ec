"""Generation from a cache: what a row has read is, token by token, what training reads."""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import platform
import subprocess
import sys
import weakref
from collections.abc import Sequence
from itertools import takewhile

import numpy as np
import pytest
import torch
from conftest import LAYOUT, ROOT, embedded, picture, small_model
from hypothesis import given, settings
from hypothesis import strategies as st
from sequences import MODELS
from transformers import DynamicCache

from dress.data.shards import Shards
from dress.dialogue.chat import FORMATS
from dress.dialogue.encode import IMAGE
from dress.dialogue.image import Picture
from dress.dialogue.spans import Span, SupervisedDialogue
from dress.dialogue.tokenizer import train_tokenizer
from dress.kernels.packed import PackedWeights, packs
from dress.kernels.precision import cpu_multiplies_bf16
from dress.model import memory, session
from dress.model.cache import Prefill
from dress.model.generation import generate
from dress.model.sampling import SamplingParams, choose, noise_of
from dress.model.session import ImageTokens, Prompt, Session
from dress.rollout.checkpoint import CkptResponder
from dress.rollout.conversation import Opening, Rollout, converse
from dress.rollout.responder import Sampling
from dress.worlds.shapes.rater import OracleRater

FAMILIES = {
    kind: {"model_type": kind} | {k: v for k, v in fields.items() if k != "vocab_size"}
    for kind, fields in MODELS.items()
}
WORDS = ["Describe the picture.", "What colour is the circle?", "How many?", "Name the shapes in it, please."]
FEEDBACK = Span("condition", "Feedback: Perfect.")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Products this small only wait for a second thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def pictures(n: int) -> list[Picture]:
    generator = torch.Generator().manual_seed(1)
    return [picture(torch.rand(3, 48, 48, generator=generator)) for _ in range(n)]


def encode(model, prompt: Prompt) -> list[int]:
    return model.encoder.prompt(prompt.spans, None if prompt.image is None else LAYOUT).ids.tolist()


def sharp(model):
    """Weights so large that attention and answers differ from token to token."""
    torch.manual_seed(1)
    for parameter in model.language.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    return model.eval()


def plainly(model, ids: list[int], image: Picture | None):
    """Logits [S, V], keys and values by layer [S, K, d]: transformers' own masks and cache, one sequence at once."""
    cache = DynamicCache(config=model.language.config)
    with torch.no_grad():
        hidden = model.language.base_model(
            inputs_embeds=embedded(model, ids, image), past_key_values=cache, use_cache=True
        )
        layers = [(layer.keys[0].transpose(0, 1), layer.values[0].transpose(0, 1)) for layer in cache.layers]
        return model.logits(hidden.last_hidden_state[0]), layers


def often_ends(model) -> None:
    """Raise the stop token's logit so far that every fifth token is one."""
    ids, logits, stop = encode(model, Prompt((Span("user", WORDS[0]),), None)), model.logits, model.encoder.stop_id
    logits_there = plainly(model, [*ids, *range(40, 100)], None)[0]
    raised = torch.zeros(logits_there.shape[1])
    raised[stop] = (logits_there.max(-1).values - logits_there[:, stop]).quantile(0.2)
    model.logits = lambda hidden: logits(hidden) + raised


def in_common(one: list[int], two: list[int]) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, two, strict=False)))


class Watched(Session):
    """Keeps the logits that each row's first new token was chosen from."""

    def answer(self, prompts, keys, *args, **more):
        seen: list[torch.Tensor] = []
        logits = self.model.logits
        self.model.logits = lambda hidden: seen.append(logits(hidden)) or seen[-1]
        try:
            places: dict = {}
            drop = self._decode

            def decode(rows, *rest):
                places.update({row.key: i for i, row in enumerate(sorted(rows, key=lambda row: row.place))})
                return drop(rows, *rest)

            self._decode = decode
            out = super().answer(prompts, keys, *args, **more)
        finally:
            self.model.logits = logits
            del self._decode
        self.first = {key: seen[0][place] for key, place in places.items()}
        return out


def check(live: Watched, prompts: Sequence[Prompt], keys, out: list[list[int]], images: list[Picture], size: int):
    """Ids, positions, mask and logits of every row are those of its whole dialogue, read at once."""
    model, cache = live.model, live.cache
    for prompt, key, tokens in zip(prompts, keys, out, strict=True):
        image = None if prompt.image is None else images[prompt.image]
        learned = model.encoder.supervised(
            SupervisedDialogue("sft", (*prompt.spans, Span("assistant", "A cat.", 1.0)), image is not None), "here",
            LAYOUT,
        )  # fmt: skip
        ids = encode(model, prompt)
        assert ids == learned.ids[: len(ids)].tolist()
        row = live.rows[key]
        assert np.where(row.ids < 0, IMAGE, row.ids).tolist() == ids + tokens[:-1]
        logits, expected = plainly(model, ids + tokens[:-1], image)
        assert torch.allclose(live.first[key], logits[len(ids) - 1], atol=1e-5)
        assert tokens == logits[len(ids) - 1 :].argmax(-1).tolist()  # each the greedy one after those before it
        assert len(tokens) == size or tokens[-1] == model.encoder.stop_id
        assert model.encoder.stop_id not in tokens[:-1]
        for layer, (k, v) in enumerate(expected):  # keys carry positions; below the first layer all carry the mask
            for got, full in zip(cache.read(layer, row.place, len(row.ids), torch.float32), (k, v), strict=True):
                assert torch.allclose(got[0].transpose(0, 1)[-len(full) :], full, atol=1e-5)


@pytest.mark.parametrize("shared", [0, 10**6], ids=["beginnings kept once", "kept by row"])
@pytest.mark.parametrize("kind", FAMILIES)
def test_every_kind_of_model_answers_as_without_a_cache(tokenizer, monkeypatch, kind, shared):
    monkeypatch.setattr(session, "SHARED_TOKENS", shared)
    model = sharp(small_model(tokenizer, **FAMILIES[kind]))
    images, live, keys = pictures(2), Watched(model), list(range(6))
    spans = [(Span("user", word),) for word in (WORDS[0], WORDS[0], WORDS[1], WORDS[1])]
    prompts = [Prompt(s, i) for s, i in zip(spans, (0, 0, 0, 1), strict=True)]
    prompts += [Prompt((*spans[0], FEEDBACK), 0), Prompt((Span("user", "Why?"),), None)]
    out = live.answer(prompts, keys, ImageTokens(model, images), SamplingParams(7))
    assert any(cache_shared > 9 for cache_shared in live.cache.shared) == (shared == 0)
    check(live, prompts, keys, out, images, 7)
    again = [
        Prompt((*spans[i], Span("assistant", model.encoder.decode(out[i])), Span("user", WORDS[3])), prompts[i].image)
        for i in (0, 2, 3)
    ]
    more = live.answer(again, [0, 2, 3], ImageTokens(model, images), SamplingParams(7))
    check(live, again, [0, 2, 3], more, images, 7)
    branches = Watched(model)
    out = branches.answer([prompts[0]] * 3, range(3), ImageTokens(model, images), SamplingParams(4))
    check(branches, [prompts[0]] * 3, range(3), out, images, 4)


@pytest.fixture(scope="module")
def tokenizers(shapes_folder):
    by_chat = {}
    for name, chat in FORMATS.items():
        texts = [turn.user for record, _ in Shards(shapes_folder / "sft") for d in record.dialogues for turn in d.turns]
        by_chat[name] = train_tokenizer([*texts, *WORDS], 600, chat)
        by_chat[name].add_tokens(["<|im_start|>", "<|im_end|>", "</s>"], special_tokens=True)
    return by_chat


@pytest.mark.parametrize("shared", [0, 10**6], ids=["beginnings kept once", "kept by row"])
@pytest.mark.parametrize("chat", FORMATS)
def test_a_dialogue_goes_on_as_training_would_read_it(tokenizers, monkeypatch, chat, shared):
    """Answers that end early, are cut, empty, padded with blanks, or not what was sampled at all."""
    monkeypatch.setattr(session, "SHARED_TOKENS", shared)
    model = sharp(small_model(tokenizers[chat], chat=chat))
    images, live, size = pictures(2), Watched(model), 6
    rewritten = [lambda t: t, lambda t: t, lambda t: "", lambda t: "  " + t[:3] + "\n\n x ", lambda t: "A red cat."]
    keys = list(range(2 * len(rewritten)))
    spans: list[list[Span]] = [[Span("user", WORDS[key % 2])] for key in keys]
    often_ends(model)
    ends: set[bool] = set()
    stood: list[list[int]] = []
    for turn in range(3):
        conditions = [(FEEDBACK,) if (key + turn) % 2 else () for key in keys]
        prompts = [Prompt((*spans[key], *conditions[key]), key % 2 if key < 8 else None) for key in keys]
        before = live.tokens_read
        out = live.answer(prompts, keys, ImageTokens(model, images), SamplingParams(size))
        check(live, prompts, keys, out, images, size)
        ends |= {len(tokens) < size for tokens in out}
        if turn:  # nothing is read again that stands unchanged
            prompt_ids = [encode(model, prompt) for prompt in prompts]
            unchanged = sum(in_common(old, ids[:-1]) for old, ids in zip(stood, prompt_ids, strict=True))
            assert live.tokens_read - before == sum(map(len, prompt_ids)) - unchanged
        stood = [np.where(live.rows[key].ids < 0, IMAGE, live.rows[key].ids).tolist() for key in keys]
        for key in keys:
            text = rewritten[key // 2](model.encoder.decode(out[key]))
            spans[key] += [Span("assistant", text), Span("user", WORDS[2 + turn % 2])]
    assert ends == {True, False}


@settings(max_examples=12, deadline=None)
@given(st.data())
def test_any_order_of_any_rows_turn_by_turn(tokenizer, data):
    """Rows drop out, come back, change places, branch off from an image or a question, are new."""
    model = small_model(tokenizer, num_hidden_layers=1)
    often_ends(sharp(model))
    images, live, size = pictures(2), Watched(model), data.draw(st.integers(1, 5))
    spans: dict[int, list[Span]] = {}
    for _ in range(data.draw(st.integers(2, 4))):
        keys = data.draw(st.lists(st.integers(0, 5), min_size=1, max_size=6, unique=True))
        if live.rows and data.draw(st.booleans()):
            keys = [key for key in keys if key in live.rows] or list(live.rows)
        for key in keys:
            word = Span("user", data.draw(st.sampled_from(WORDS)))
            reply = Span("assistant", data.draw(st.sampled_from(["", "A cat.", "Two red circles, I think."])))
            spans[key] = [*spans[key], reply, word] if key in spans else [word]
        condition = (FEEDBACK,) if data.draw(st.booleans()) else ()
        prompts = [Prompt((*spans[key], *condition), (0, 0, 0, 1, 1, None)[key]) for key in keys]
        out = live.answer(prompts, keys, ImageTokens(model, images), SamplingParams(size))
        check(live, prompts, keys, out, images, size)


def test_what_is_shared_is_read_once(tokenizer):
    model = small_model(tokenizer)
    images = ImageTokens(model, pictures(1))
    one = Prompt((Span("user", WORDS[0]),), 0)
    conditioned = Prompt((*one.spans, FEEDBACK), 0)
    other = Prompt((Span("user", WORDS[1]),), 0)
    branches = Session(model)
    branches.answer([one] * 4, range(4), images, SamplingParams(2, 1.0))
    assert branches.tokens_read == len(encode(model, one))
    live = Session(model)
    live.answer([one, conditioned, other], range(3), images, SamplingParams(2))
    question, image = len(encode(model, one)), LAYOUT.tokens
    assert (
        live.tokens_read
        <= question + len(encode(model, conditioned)) - question + 1 + len(encode(model, other)) - image
    )


@pytest.fixture(scope="module")
def samples(shapes_folder):
    shards = Shards(shapes_folder / "prompts")
    return [shards[i] for i in range(4)]


class Plain:
    """A responder that keeps nothing, as a server's or a file's."""

    def __init__(self, inner: CkptResponder) -> None:
        self.name, self.answer, self.preprocess = inner.name, inner.answer, inner.preprocess


def conversed(responder, samples, batch_size: int, temperature: float = 0.0, conditions=("", "Feedback: Perfect.", "")):
    rollout = Rollout(responder, OracleRater(), Sampling(8, batch_size, temperature, 0.9), seed=3)
    openings = [
        Opening(i, dialogue, conditions) for i, (record, _) in enumerate(samples) for dialogue in record.dialogues
    ]
    return [[turn.assistant for turn in dialogue.turns] for dialogue in converse(rollout, samples, openings)]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_conversation_is_the_same_however_it_is_held(tokenizer, samples, monkeypatch, temperature):
    """Kept or read again, in batches of any size, by a responder with or without a cache, in little memory."""
    model = sharp(small_model(tokenizer))
    often_ends(model)
    expected = conversed(CkptResponder(model, "m", "off"), samples, 64, temperature)
    assert len({answer for answers in expected for answer in answers}) > 10
    reads: list[int] = []
    sessions = weakref.WeakSet[Session]()
    answer = Session.answer

    def counted(self, *args, **more):
        sessions.add(self)
        before = self.tokens_read
        out = answer(self, *args, **more)
        reads.append(self.tokens_read - before)
        return out

    monkeypatch.setattr(Session, "answer", counted)
    assert conversed(CkptResponder(model, "m", "off"), samples, 5, temperature) == expected
    anew = sum(reads)
    for responder, size in ((CkptResponder(model, "m"), 64), (CkptResponder(model, "m", "on"), 5)):
        reads.clear()
        assert conversed(responder, samples, size, temperature) == expected
        assert sum(reads) < 0.75 * anew
        gc.collect()
        assert not sessions, "keys and values are kept longer than they are needed"
    assert conversed(Plain(CkptResponder(model, "m")), samples, 64, temperature) == expected
    monkeypatch.setattr(memory, "free_bytes", lambda device: 3 * memory.cache_bytes(model, 150))
    reads.clear()
    assert conversed(CkptResponder(model, "m"), samples, 64, temperature) == expected
    assert reads[0] == 0 and len(reads) > 12  # one batch did not fit; smaller ones did


def test_samples_depend_on_prompt_and_seed_alone(tokenizer):
    model = sharp(small_model(tokenizer))
    prompts = [Prompt((Span("user", WORDS[i % 2]),), i % 3 if i % 3 < 2 else None) for i in range(9)]
    one = generate(model, prompts, pictures(2), SamplingParams(6, 1.0, seed=1), batch_size=9)
    assert generate(model, prompts, pictures(2), SamplingParams(6, 1.0, seed=1), batch_size=2) == one
    assert generate(model, prompts, pictures(2), SamplingParams(6, 1.0, seed=2), batch_size=9) != one
    drawn = generate(model, [prompts[0]] * 40, pictures(2), SamplingParams(6, 1.0, seed=range(40)), batch_size=40)
    assert len(set(drawn)) > 20
    again = generate(model, [prompts[0]] * 3, pictures(2), SamplingParams(6, 1.0, seed=[7, 3, 7]), batch_size=2)
    assert again == [drawn[7], drawn[3], drawn[7]]


def test_draws_follow_the_distribution():
    logits = torch.tensor([[0.5, float("-inf"), 1.5, -1.0]]).expand(20_000, 4)
    noise = noise_of(SamplingParams(1, 1.0), range(20_000))[:, 0]
    drawn = choose(logits, SamplingParams(1, 1.0), noise).bincount(minlength=4) / 20_000
    assert torch.allclose(drawn, logits[0].softmax(-1), atol=0.015)
    assert drawn[1] == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_packed_weights_multiply_alike_and_leave_no_trace(dtype, monkeypatch):
    monkeypatch.setattr("dress.kernels.packed.SMALLEST", 1000)
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(48, 96), torch.nn.Linear(96, 32, bias=False)).to(dtype)
    x = torch.randn(3, 5, 48, dtype=dtype)
    assert packs(dtype) or not (dtype == torch.bfloat16 and cpu_multiplies_bf16())
    with torch.inference_mode():
        expected, packed = module(x), PackedWeights(module)
        with packed:
            assert ["forward" in vars(layer) for layer in module] == [packs(dtype)] * 2
            assert torch.allclose(module(x), expected, rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-3)
    assert not any("forward" in vars(layer) for layer in module)


ON_AVX2 = """
import torch
from dress.kernels.precision import cpu_multiplies_bf16
from dress.kernels import packed
packed.SMALLEST = 1000
for dtype in (torch.float32, torch.bfloat16):
    layer = torch.nn.Linear(48, 96, bias=False).to(dtype)
    with torch.inference_mode():
        x = torch.randn(3, 48, dtype=dtype)
        wanted = layer(x)
        with packed.PackedWeights(layer):
            print("forward" in vars(layer), torch.allclose(layer(x), wanted, rtol=1e-2, atol=1e-3))
print(cpu_multiplies_bf16())
"""


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="AVX2 is of x86-64")
def test_without_avx512_bf16_is_not_packed_and_not_chosen():
    """oneDNN and PyTorch look at the CPU once, so the machine without AVX512 is a process of its own."""
    limits = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, "-c", ON_AVX2], env=os.environ | limits, capture_output=True, text=True)
    assert done.stdout.split() == ["True", "True", "False", "True", "False"], done.stderr


def test_a_session_that_broke_off_is_read_anew(tokenizer, monkeypatch):
    model = sharp(small_model(tokenizer))
    images, live = pictures(1), Watched(model)
    prompts = [Prompt((Span("user", WORDS[0]),), 0), Prompt((Span("user", WORDS[1]),), 0)]
    live.answer(prompts, [0, 1], ImageTokens(model, images), SamplingParams(3))
    attend = Prefill.attend

    def stopped(self, layer, *more):
        """The first layer's keys are written over, the others' are not."""
        if layer:
            raise KeyboardInterrupt
        return attend(self, layer, *more)

    with monkeypatch.context() as broken, pytest.raises(KeyboardInterrupt):
        broken.setattr(Prefill, "attend", stopped)
        live.answer(prompts[::-1], [0, 1], ImageTokens(model, images), SamplingParams(3))
    out = live.answer(prompts, [0, 1], ImageTokens(model, images), SamplingParams(3))
    check(live, prompts, [0, 1], out, images, 3)
    assert not any("forward" in vars(module) for module in model.language.modules())


def test_the_benchmark_runs_and_proves_equal_tokens(monkeypatch, tmp_path):
    source = importlib.util.spec_from_file_location("generation_benchmark", ROOT / "benchmarks" / "generation.py")
    benchmark = importlib.util.module_from_spec(source)
    source.loader.exec_module(benchmark)
    monkeypatch.setattr(session, "SHARED_TOKENS", session.SHARED_TOKENS)  # put back after the benchmark
    monkeypatch.setattr("sys.argv", ["generation.py", "--smoke", "--branches", "3", "--out", str(tmp_path)])
    benchmark.main()
    cases = json.loads((tmp_path / "generation.json").read_text())["cases"]["fp32"]
    assert {"n=3", "3 turns, 4 dialogues"} == set(cases)
    assert all(arm["equal_tokens"] == 1 and arm["seconds"] > 0 for case in cases.values() for arm in case.values())
    assert "| fp32 | n=3 | ours |" in (tmp_path / "generation.md").read_text()
    other = [lambda: [[1, 2]], lambda: [[1, 3]]]
    with pytest.raises(ValueError, match="the same tokens of every arm"):
        benchmark.measure(dict(zip("ab", other, strict=True)), 1, gate=True)
