"""The stream: mixtures, anybody's shards, ranks and workers, randomness."""

from __future__ import annotations

import io
import os
import random
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

import pytest
import webdataset
from conftest import composed, png, small_model, tar
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from torch.utils.data import DataLoader

from dress.config import Mixed
from dress.config.tasks import Index
from dress.data import shards as shards_module
from dress.data.index_task import run as index_task
from dress.data.order import BLOCK, mixed, quotas
from dress.data.shards import ShardError, Shards, write_shards
from dress.data.stream import Part, Stream, open_stream
from dress.objectives.stage import stage_objectives
from dress.record import RecordError
from dress.train.examples import Examples
from dress.train.steps import StepDataset
from dress.worlds.shapes import generate as shapes

# --- mixtures ---


@given(st.lists(st.floats(0.01, 10), min_size=2, max_size=5), st.integers(0, 3), st.integers(0, 3 * BLOCK))
@settings(max_examples=40, deadline=None)
def test_a_mixture_loses_and_repeats_nothing(weights, seed, start):
    counts = tuple(quotas(weights))
    assert sum(counts) == BLOCK
    assert all(abs(c / BLOCK - w / sum(weights)) <= 1 / BLOCK for c, w in zip(counts, weights, strict=True))
    places = [mixed(p, seed, counts) for p in range(start + 500)]
    for part in range(len(weights)):
        own = [place for owner, place in places if owner == part]
        assert own == list(range(len(own)))  # each dataset's own order, without gap or repetition
    assert [mixed(p, seed, counts) for p in range(start, start + 500)] == places[start:]


def test_a_weight_that_gets_nothing_is_refused():
    with pytest.raises(ValueError, match="at least 1/4096"):
        quotas([1.0, 1e-5])


def test_datasets_are_mixed_by_weight_and_each_goes_through_its_own_epochs(tmp_path):
    for name, number, seed in (("a", 30, 1), ("b", 12, 2)):
        write_shards(tmp_path / name, shapes.samples("sft", number, seed=seed), per_shard=10)
    data = composed(
        f"data.path={tmp_path}", "data.sft={one: {path: a, weight: 3}, two: {path: b}}", "data=shards"
    ).data  # fmt: skip
    assert data.sft == {"one": Mixed(path="a", weight=3), "two": Mixed(path="b")}
    stream = open_stream(data.sft, tmp_path, data, seed=5)
    places = [stream.at(p) for p in range(BLOCK)]
    assert Counter(place.part for place in places) == {0: 3 * BLOCK // 4, 1: BLOCK // 4}
    for part, size in ((0, 30), (1, 12)):
        own = [place.sample for place in places if place.part == part]
        assert all(sorted(own[i : i + size]) == list(range(size)) for i in range(0, len(own) - size, size))
    assert stream[places[0]][0].key in {r.key for p in stream.parts for r, _ in p.shards}
    again = open_stream(data.sft, tmp_path, data, seed=5)
    assert again.fingerprint == stream.fingerprint
    assert Stream([Part("one", stream.parts[0].shards)], 5).fingerprint != stream.fingerprint


# --- anybody's shards ---


def test_shards_of_plain_webdataset_are_read_after_indexing(tmp_path):
    with webdataset.TarWriter(str(tmp_path / "x-000000.tar")) as writer:
        for number in range(3):
            writer.write({"__key__": f"part/{number:03d}", "png": png(), "txt": f"a red square {number}", "cls": 1})
    with pytest.raises(ShardError, match=r"got \.cls; other kinds of file are never decoded"):
        Shards(tmp_path)
    out = io.StringIO()
    index_task(Index(task="index", path=str(tmp_path), ignore=["cls"]), Console(file=out, width=120))
    assert re.search(r"samples \(captions\)\s+│\s+3", out.getvalue()), out.getvalue()
    shards = Shards(tmp_path)
    record, image = shards[1]
    assert (record.key, record.annotation.captions, image) == ("part-001", ["a red square 1"], png())


def test_captions_in_json_and_none_at_all(tmp_path):
    members = [("a.jpg", png()), ("a.json", b'{"caption": "a dog", "url": "x"}'), ("b.jpg", png()), ("b.json", b"{}")]
    tar(tmp_path / "s.tar", members)
    index_task(Index(task="index", path=str(tmp_path)), Console(quiet=True))
    shards = Shards(tmp_path)
    assert shards[0][0].annotation.captions == ["a dog"]
    with pytest.raises(RecordError, match=r"s\.tar: b: expected a caption"):
        shards[1]


class _Draw(tuple):
    """(key, a random number of that sample); it can be given a name, as an example is."""


class _Draws(Examples):
    """Of draws."""

    def build(self, record, picture, where, rng, other):
        return _Draw((record.key, rng.random()))


class _Steps(StepDataset):
    """What a rank trains on in a step, as a list."""

    def collated(self, samples):
        return list(samples)


def steps(folder: Path, rank: int, world: int, size: int = 10) -> _Steps:
    plain = composed()
    stage = plain.curriculum.stages["sft"].model_copy(update={"records_per_step": size, "steps": 8})
    stream = Stream([Part("", Shards(folder))], seed=5)
    examples = _Draws(stage_objectives(stage), plain.phases, plain.data, None, None, folder / "r")
    return _Steps(stream, stage, examples, rank=rank, world=world)


def test_ranks_share_a_step_evenly_and_no_worker_of_any_kind_reads_what_another_does(tmp_path, monkeypatch):
    write_shards(tmp_path, shapes.samples("sft", 40, seed=3), per_shard=5)
    whole = [steps(tmp_path, 0, 1)[n] for n in range(8)]
    assert len({key for step in whole[:4] for key, _ in step}) == 40  # an epoch: each once
    monkeypatch.setenv("RANK", "7")  # what a worker could find out by itself is not asked
    monkeypatch.setenv("WORLD_SIZE", "9")
    for world in (2, 3):
        parts = []
        for rank in range(world):
            how = {"num_workers": 2, "multiprocessing_context": "forkserver"} if (world, rank) == (2, 1) else {}
            parts.append(list(DataLoader(steps(tmp_path, rank, world), batch_size=None, **how)))
        for number, step in enumerate(whole):
            share = [part[number] for part in parts]
            assert sorted(map(tuple, chain.from_iterable(share))) == sorted(step)
            assert max(map(len, share)) - min(map(len, share)) <= 1


def test_randomness_is_of_seed_epoch_and_sample_alone(tmp_path):
    write_shards(tmp_path, shapes.samples("sft", 20, seed=3), per_shard=5)
    first = dict(steps(tmp_path, 0, 1)[0] + steps(tmp_path, 0, 1)[1])
    again = dict(steps(tmp_path, 0, 1, size=5)[3] + steps(tmp_path, 1, 2)[1])
    assert again.items() <= first.items()
    later = dict(steps(tmp_path, 0, 1)[2] + steps(tmp_path, 0, 1)[3])
    assert later.keys() == first.keys() and not set(later.values()) & set(first.values())


def test_some_dialogues_of_a_record_are_drawn_anew_in_each_epoch(tmp_path, tokenizer):
    write_shards(tmp_path, shapes.samples("sft", 1, seed=3))
    plain, model = composed("data.dialogues_per_record=1"), small_model(tokenizer)
    stage = plain.curriculum.stages["sft"].model_copy(update={"records_per_step": 1})

    def drawn(data, step: int) -> int:
        stream = Stream([Part("", Shards(tmp_path))], seed=5)
        reader = model.reader(data.images)
        examples = Examples(stage_objectives(stage), plain.phases, data, model.encoder, reader, tmp_path / "r")
        return StepDataset(stream, stage, examples)[step].forests[0].tokens

    assert max(drawn(plain.data, step) for step in range(8)) < drawn(composed().data, 0)
    assert len({drawn(plain.data, step) for step in range(8)}) > 1
    assert drawn(plain.data, 3) == drawn(plain.data, 3)


def test_more_shards_than_open_files_are_read_by_threads(tmp_path, monkeypatch):
    monkeypatch.setattr(shards_module, "OPEN_FILES", 2)
    write_shards(tmp_path, shapes.samples("sft", 24, seed=3), per_shard=2)
    shards = Shards(tmp_path)
    expected = [shards.record(i).key for i in range(24)]
    before = len(os.listdir("/proc/self/fd"))
    with ThreadPoolExecutor(8) as pool:
        order = [i for seed in range(8) for i in random.Random(seed).sample(range(24), 24)]
        assert list(pool.map(lambda i: shards.record(i).key, order)) == [expected[i] for i in order]
    assert len(os.listdir("/proc/self/fd")) <= before + 8


def test_a_shard_that_is_cut_while_it_is_read_is_named(tmp_path):
    write_shards(tmp_path, shapes.samples("sft", 6, seed=3), per_shard=6)
    shards = Shards(tmp_path)
    assert shards[0]
    os.truncate(tmp_path / "shard-000000.tar", 3000)
    with pytest.raises(RecordError, match=r"shard-000000\.tar: expected \d+ bytes at \d+, got 0: the shard was cut"):
        shards[5]
