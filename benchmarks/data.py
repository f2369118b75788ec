"""The data path on one thread: shuffled tuples with stored features, and photos, beside a bare tar read.

    python benchmarks/data.py

No workers, warm cache. Every arm is first shown to give the same samples; an arm that does not, or that is
not installed, has no figure. Then all arms take turns, round by round, and the figures are medians: what
counts are ratios within a round, because a machine is never alone. Writes `benchmarks/results/data.json`
and `data.md`. `pip install litdata` (into another folder on PYTHONPATH) adds its arm.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import platform
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

import numpy as np  # noqa: E402
import open_clip  # noqa: E402
import torch  # noqa: E402
import webdataset  # noqa: E402
from PIL import Image  # noqa: E402
from safetensors.torch import load  # noqa: E402

from dress.data.features import StoredImage, encode  # noqa: E402
from dress.data.index import FEATURES  # noqa: E402
from dress.data.pixels import Pixels, decode  # noqa: E402
from dress.data.shards import Shards, write_shards  # noqa: E402
from dress.data.stream import Part, Stream  # noqa: E402
from dress.record import Record  # noqa: E402

PUBLIC = Path(os.environ.get("DRESS_PUBLIC_DATA", ROOT.parent / "shared" / "data"))
PAYLOADS = {"147 KB": (64, 1152), "1.18 MB": (576, 1024)}
"""Image tokens x width of a small and a large tower; stored as bf16."""
SIDE = 336
PAGE = 2048
"""bf16 numbers in a page of memory."""
TEXT = "The answer names what is in the picture and stays with it; it could say more about where things stand. "

Arm = Callable[[], Iterable[tuple[str, torch.Tensor]]]
"""One pass over all samples: (key, features [V, D_v])."""
Times = dict[str, list[tuple[float, float]]]


# --- tuples ---


def record(number: int) -> Record:
    """The size of a record of LVLM_NLF: two turns with feedback, 1.6 KB of JSON."""
    feedback = {"criterion": "helpfulness", "rating": 3, "critique": TEXT, "annotator": "gpt-4"}
    turns = [{"user": TEXT, "assistant": TEXT * 3, "feedback": [feedback]}] * 2
    image = {"id": f"{number:012d}.jpg"}
    fields = {"key": f"s{number:06d}", "image": image, "annotation": {"captions": [TEXT]}}
    return Record.model_validate({**fields, "dialogues": [{"criterion": "helpfulness", "turns": turns}]})


def write_tuples(folder: Path, shape: tuple[int, int], samples: int, per_shard: int) -> None:
    """Shards of records with random features."""
    generator = torch.Generator().manual_seed(0)
    records = [record(number) for number in range(samples)]
    for first in range(0, samples, per_shard):
        part = records[first : first + per_shard]
        made = {r.key: encode(torch.randn(shape, generator=generator), "bf16", {"weights": "random"}) for r in part}
        write_shards(folder, ((r, None) for r in part), per_shard, start=first // per_shard, features=made)


def bare(paths: list[Path], mode: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Python's tarfile, member by member in the order of the file; nothing is parsed."""
    for path in paths:
        with tarfile.open(path, mode) as tar:
            for member in tar:
                file = tar.extractfile(member)
                assert file is not None
                data = file.read()
                if member.name.endswith(FEATURES):
                    yield member.name.partition(".")[0], data  # type: ignore[misc]


def ours(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """The stream's order, record parsed and validated, features as a tensor."""
    stream = Stream([Part("", Shards(folder))], seed=1)
    for position in range(len(stream.parts[0].shards)):
        place = stream.at(position)
        shards = stream.shards(place)
        yield shards.record(place.sample).key, shards.features(place.sample)  # type: ignore[misc]


def plain_webdataset(paths: list[Path], whole: bool) -> Iterator[tuple[str, torch.Tensor]]:
    """webdataset with its shuffle buffer: the raw bytes, or the same work as ours."""
    names = [str(path) for path in paths]
    for raw in webdataset.WebDataset(names, shardshuffle=False).shuffle(1000, seed=1):
        if whole:
            yield Record.parse(raw["json"], "").key, load(raw[FEATURES])["features"]
        else:
            yield raw["__key__"], raw[FEATURES]


def litdata_sample(place: tuple[str, int]) -> dict[str, Any]:
    """What litdata writes of a sample."""
    shards = Shards(place[0])
    features = shards.features(place[1])
    assert features is not None
    return {"json": shards.members(place[1])["json"], "features": features.view(torch.int16)}  # it knows no bf16


def litdata(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Lightning's streaming format, shuffled."""
    import litdata as lit  # type: ignore[import-not-found]

    for sample in lit.StreamingDataset(str(folder), shuffle=True, seed=1):
        yield Record.parse(bytes(sample["json"]), "").key, sample["features"].view(torch.bfloat16)


def tuple_arms(folder: Path, with_litdata: bool) -> dict[str, Arm | str]:
    """Name to arm, or to why there is none."""
    paths = sorted(folder.glob("*.tar"))
    arms: dict[str, Arm | str] = {
        "bare tar read (r:)": partial(bare, paths, "r:"),
        "bare tar read (r|)": partial(bare, paths, "r|"),
        "ours": partial(ours, folder),
        "webdataset, bytes only": partial(plain_webdataset, paths, False),
        "webdataset, same work": partial(plain_webdataset, paths, True),
    }
    if not with_litdata:
        return arms
    try:
        import litdata as lit

        chunks = folder / "litdata"
        places = [(str(folder), i) for i in range(len(Shards(folder)))]
        lit.optimize(litdata_sample, places, str(chunks), chunk_bytes="64MB", num_workers=1)
        arms["litdata, same work"] = partial(litdata, chunks)
    except Exception as error:  # whatever keeps it from running here
        arms["litdata, same work"] = f"does not run here: {error!r:.200}"
    return arms


def digest(key: str, features: Any) -> tuple[str, str]:
    """A sample, however its features came."""
    if isinstance(features, StoredImage):
        features = features.features
    elif not isinstance(features, torch.Tensor):
        features = load(bytes(features))["features"]
    data = features.contiguous().view(torch.int16).numpy().tobytes()
    return key, hashlib.sha256(data).hexdigest()


def measure_tuples(
    name: str, shape: tuple[int, int], samples: int, rounds: int, with_litdata: bool, folder: Path
) -> dict[str, Any]:
    write_tuples(folder, shape, samples, max(1, samples // 8))
    arms = tuple_arms(folder, with_litdata)
    expected = {digest(*sample) for sample in bare(sorted(folder.glob("*.tar")), "r:")}
    assert len(expected) == samples
    for arm, run in arms.items():
        if callable(run) and {digest(*sample) for sample in run()} != expected:
            arms[arm] = "other samples than were written"
    order = [key for key, _ in ours(folder)]
    assert order != sorted(order), "the order is shuffled"
    times = take_turns({arm: run for arm, run in arms.items() if callable(run)}, rounds)
    base = min((arm for arm in times if arm.startswith("bare")), key=lambda arm: median(times[arm]))
    rows = {
        arm: {"refused": run} if isinstance(run, str) else row(times, arm, base, samples) for arm, run in arms.items()
    }
    return {"payload": name, "shape": shape, "samples": samples, "bare": base, "arms": rows}


# --- photos ---


def photos(number: int) -> tuple[list[bytes], str]:
    """JPEGs of 640 x 480: real photos enlarged, or noise with the spectrum of photos where there are none."""
    files = sorted((PUBLIC / "coco_vlsafe" / "images").glob("*.jpg"))[:number]
    images = [Image.open(file).convert("RGB").resize((640, 480), Image.Resampling.LANCZOS) for file in files]
    source = f"{len(images)} COCO photos of {PUBLIC.name}, enlarged"
    if not images:
        rng, source = np.random.default_rng(0), f"{number} images of 1/f noise"
        reach = np.hypot(*np.meshgrid(np.fft.fftfreq(480), np.fft.fftfreq(640), indexing="ij"))[..., None] + 1 / 640
        for _ in range(number):
            noise = np.fft.ifft2(np.fft.fft2(rng.normal(size=(480, 640, 3)), axes=(0, 1)) / reach, axes=(0, 1)).real
            noise = (noise - noise.min()) / np.ptp(noise) * 255
            images.append(Image.fromarray(noise.astype(np.uint8)))
    encoded = []
    for image in images:
        out = io.BytesIO()
        image.save(out, "JPEG", quality=90)
        encoded.append(out.getvalue())
    return encoded, source


def pil_resized(data: bytes) -> Image.Image:
    """As OpenCLIP's transform: shorter side to 336, bicubic, centre cut."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    scale = SIDE / min(image.size)
    image = image.resize((int(image.width * scale), int(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = round((image.width - SIDE) / 2), round((image.height - SIDE) / 2)
    return image.crop((left, top, left + SIDE, top + SIDE))


def measure_photos(number: int, rounds: int) -> dict[str, Any]:
    data, source = photos(number)
    wanted = open_clip.transform.PreprocessCfg(size=SIDE)
    transform = open_clip.transform.image_transform_v2(wanted, is_train=False)
    settings = vars(wanted)
    fast, exact = (Pixels(settings, transform, mode) for mode in ("fast", "exact"))
    levels = torch.stack([fast.resized(d, "").int() for d in data])
    plain = torch.stack([torch.from_numpy(np.array(pil_resized(d))).permute(2, 0, 1).int() for d in data])
    std = torch.tensor(settings["std"])[:, None, None]
    error = torch.stack([(fast(d, "") - exact(d, "")).abs() * std * 255 for d in data])
    arms = {
        "PIL: decode, resize": lambda: [pil_resized(d) for d in data],
        "ours: decode, resize": lambda: [fast.resized(d, "") for d in data],
        "OpenCLIP's transform (images=exact)": lambda: [exact(d, "") for d in data],
        "ours (images=fast)": lambda: [fast(d, "") for d in data],
        "PIL: decode": lambda: [Image.open(io.BytesIO(d)).convert("RGB") for d in data],
        "torchvision: decode": lambda: [decode(d, "") for d in data],
    }
    times = take_turns(arms, rounds)
    rows = {arm: row(times, arm, "PIL: decode, resize", len(data)) for arm in arms}
    transform = row(times, "ours (images=fast)", "OpenCLIP's transform (images=exact)", len(data))
    return {
        "photos": source, "bytes": round(statistics.mean(map(len, data))), "side": SIDE, "arms": rows,
        "transform": transform["ratio"],
        "error": {
            "of": "255 levels, against OpenCLIP's transform",
            "mean": round(error.mean().item(), 4), "largest": round(error.max().item(), 2),
            "share_of_pixels_that_differ": round((error > 0.5).float().mean().item(), 4),
            "largest_against_plain_pil": int((levels - plain).abs().max()),
        },
    }  # fmt: skip


# --- both ---


def take_turns(arms: dict[str, Callable[[], Iterable[Any]]], rounds: int) -> Times:
    """(wall, CPU) seconds of every arm in every round, one arm after another; a round before them warms up."""
    times: Times = {arm: [] for arm in arms}
    for number in range(rounds + 1):
        for arm, run in arms.items():
            began, busy = time.perf_counter(), time.process_time()
            for item in run():
                if isinstance(item, tuple) and isinstance(item[1], torch.Tensor):
                    item[1].view(-1)[::PAGE].sum()  # a view of a memory map is read only now
            if number:
                times[arm].append((time.perf_counter() - began, time.process_time() - busy))
        print(f"round {number} of {rounds}", file=sys.stderr)
    return times


def median(times: list[tuple[float, float]]) -> float:
    return statistics.median(wall for wall, _ in times)


def row(times: Times, arm: str, base: str, items: int) -> dict[str, float]:
    """Items per second, and how many times those of `base`: the median over rounds, its extremes, and by CPU time."""
    wall, cpu = (sorted(b[i] / t[i] for b, t in zip(times[base], times[arm], strict=True)) for i in (0, 1))
    found = {"ratio": statistics.median(wall), "low": wall[0], "high": wall[-1], "cpu_ratio": statistics.median(cpu)}
    return {"per_second": round(items / median(times[arm]), 1), **{name: round(x, 3) for name, x in found.items()}}


def markdown(result: dict[str, Any]) -> str:
    """The tables of `data.md`."""
    before, after = (", ".join(map(str, result[f"load_{when}"])) for when in ("before", "after"))
    lines = [f"`python {' '.join(result['command'])}`: {result['machine']}, one thread, {result['rounds']} rounds.",
             f"Load average {before} before, {after} after.", ""]  # fmt: skip
    for size in result["tuples"]:
        title = f"{size['payload']} of features, {size['samples']:,} tuples"
        lines += _table(title, f"× {size['bare']}", size["arms"])
    jpeg, error = result["jpeg"], result["jpeg"]["error"]
    lines += _table(f"{jpeg['photos']} ({jpeg['bytes']:,} bytes), to {jpeg['side']} px", "× plain PIL", jpeg["arms"])
    lines += [
        f"The whole transform, normalised pixels: {jpeg['transform']:.2f} × OpenCLIP's.",
        f"Its pixels against OpenCLIP's, of 255 levels: {error['mean']} away on average, {error['largest']} at most; "
        f"{error['share_of_pixels_that_differ']:.2%} differ.",
    ]
    return "\n".join(lines) + "\n"


def _table(title: str, base: str, arms: dict[str, dict[str, Any]]) -> list[str]:
    lines = [f"| {title} | per second | {base} | rounds from, to | by CPU time |", "|---|--:|--:|--:|--:|"]
    for arm, found in arms.items():
        if "refused" in found:
            lines.append(f"| {arm} | {found['refused']} | | | |")
            continue
        spread = f"{found['low']:.2f}, {found['high']:.2f}"
        ratios = f"{found['ratio']:.2f} | {spread} | {found['cpu_ratio']:.2f}"
        lines.append(f"| {arm} | {found['per_second']:,.0f} | {ratios} |")
    return [*lines, ""]


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=300, help="of features, for each payload")
    parser.add_argument("--photos", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--litdata", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    before = os.getloadavg()
    tuples = []
    for name, shape in PAYLOADS.items():
        with tempfile.TemporaryDirectory() as folder:
            samples = max(16, given.megabytes * 1_000_000 // (shape[0] * shape[1] * 2))
            tuples.append(measure_tuples(name, shape, samples, given.rounds, given.litdata, Path(folder)))
    result = {
        "command": ["benchmarks/data.py", *(arguments if arguments is not None else sys.argv[1:])],
        "machine": f"{os.cpu_count()} cores, {platform.processor() or platform.machine()}, torch {torch.__version__}",
        "rounds": given.rounds,
        "tuples": tuples,
        "jpeg": measure_photos(given.photos, given.rounds),
        "load_before": [round(x, 1) for x in before],
        "load_after": [round(x, 1) for x in os.getloadavg()],
    }
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "data.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (given.out / "data.md").write_text(markdown(result), encoding="utf-8")
    print(markdown(result))
    return result


if __name__ == "__main__":
    main()
