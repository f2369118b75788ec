"""What a run needs of its data and what lies there: said before anything is made, in one line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dress import config
from dress.config.stages import SPLITS
from dress.data.cache import is_remote
from dress.data.opening import shard_files
from dress.worlds.registry import world_named

TOKENIZER = "align", "sft", "prompts"
"""Splits whose words a tokenizer of the run's own is made from; `feedback` too where one of them is not there."""


def check_splits(settings: config.Config, folder: Path | str) -> None:
    """Refuse stages that read splits which are not there.

    Args:
        settings: of the run.
        folder: that splits are relative to, or a URL.

    Raises:
        FileNotFoundError: names each stage, what it needs, what there is, and how to leave the stage out.
    """
    lacking = {
        name: missing
        for name, stage in settings.curriculum.stages.items()
        if name in settings.curriculum.order
        and (missing := [split for split in reads(stage) if not is_there(settings, split, folder)])
    }
    if not lacking:
        return
    needs = ", ".join(
        f"for stage {name} in {place} (data.{split})"
        for name, missing in lacking.items()
        for split in missing
        for place in _places(settings, split, folder)
    )
    spare = [name for name, missing in lacking.items() if "feedback" not in missing]  # else it is not this experiment
    stages, remaining = settings.curriculum.stages, [name for name in settings.curriculum.order if name not in lacking]
    learning = [(name, one) for name in remaining if isinstance(one := stages[name], config.TrainStage)]
    heir = next((name for name, one in learning if one.weights in lacking), None)
    mends = [f"data.{next(iter(lacking.values()))[0]}=DIR says where it is"]
    if learning and spare:
        mends.insert(0, f"curriculum.without=[{','.join(spare)}] leaves out what has no data")
    if learning and spare and heir is not None:
        mends[0] += (
            f" ({heir} then starts from the initial model, or from that of another run, whose tokenizer comes with it: "
            f"curriculum.stages.{heir}.weights=RUN:STAGE)"
        )
    here = [
        (split, Path.cwd() / source)
        for missing in lacking.values()
        for split in missing
        if isinstance(source := getattr(settings.data, split), str)
        and not is_remote(source)
        and _has_shards(Path(source))
    ]
    mends += [f"data.{split}={place} is the one in this folder" for split, place in here]
    there = ", ".join(lying(folder)) or "no split"
    raise FileNotFoundError(f"{folder}: expected shards (*.tar) {needs}; found {there}. {'; '.join(mends)}")


def check_drawn(settings: config.Config) -> None:
    """Refuse stages that read splits which the run's world does not draw, before it draws anything.

    Raises:
        FileNotFoundError: names stage, split, and what takes data of one's own.
    """
    if settings.data.world is None:
        return
    drawn = set(world_named(settings.data.world).SPLITS)
    for name in settings.curriculum.order:
        for split in reads(settings.curriculum.stages[name]):
            lacking = [place for place in _places(settings, split, "") if str(place) not in drawn]
            if any(not isinstance(place, str) and not _has_shards(place) for place in lacking):
                raise FileNotFoundError(
                    f"experiment={settings.name}: stage {name} reads data.{split}={lacking[0]}, which "
                    f"data={settings.data.world} does not draw ({', '.join(sorted(drawn))}). Data of your own: "
                    f"data=shards data.path=FOLDER, which prepare made; or data.{split}=$PWD/FOLDER of shards"
                )


def check_places(settings: config.Config) -> None:
    """Refuse a file where a folder of splits is expected, and a folder of splits where one of shards is.

    Raises:
        FileNotFoundError: names the setting and what is meant.
    """
    folder = settings.data.path
    if settings.data.world is None and not is_remote(folder) and Path(folder).is_file():
        raise FileNotFoundError(
            f"data.path={folder}: expected a folder of shards, got a file. This makes one of a table: "
            f"python src/prepare.py source=rows path={folder} out=data/mine"
        )
    for name in settings.curriculum.order:
        for split in reads(settings.curriculum.stages[name]):
            for place in _places(settings, split, folder):
                if isinstance(place, Path) and (inside := lying(place)) and not any(place.glob("*.tar")):
                    meant = place / (split if split in inside else inside[0])
                    raise FileNotFoundError(
                        f"data.{split}={place}: expected a folder of shards, got one of splits ({', '.join(inside)}). "
                        f"Did you mean {meant}?"
                    )


def ignored(settings: config.Config, folder: Path | str) -> str | None:
    """The splits that lie in `data.path` and that no stage reads, as a line; None where there are none."""
    if settings.data.world is not None:
        return None
    stages = [settings.curriculum.stages[name] for name in settings.curriculum.order]
    read = {split for stage in stages for split in reads(stage)}
    places = {str(place) for split in (*read, "validation") for place in _places(settings, split, folder)}
    unread = [split for split in lying(folder) if str(Path(folder, split)) not in places]
    if not unread:
        return None
    hint = ""
    if "feedback" in unread and "feedback" not in read:
        hint = f"; experiment=given_feedback learns from {Path(folder, 'feedback')}"
    return f"{folder} also holds {', '.join(unread)}, which no stage of {settings.name} reads{hint}"


def is_there(settings: config.Config, split: str, folder: Path | str) -> bool:
    """Whether a split has shards; of what is remote that is known when it is opened."""
    places = _places(settings, split, folder)
    return bool(places) and all(isinstance(place, str) or _has_shards(place) for place in places)


def tokenizer_splits(settings: config.Config, folder: Path | str) -> list[str]:
    """The splits whose words a tokenizer of the run's own is made from.

    Raises:
        FileNotFoundError: none of them is there; says where a tokenizer can come from.
    """
    there = [split for split in TOKENIZER if is_there(settings, split, folder)]
    if len(there) < len(TOKENIZER) and is_there(settings, "feedback", folder):
        there.append("feedback")
    if not there:
        splits = ", ".join(f"data.{split}" for split in (*TOKENIZER, "feedback"))
        raise FileNotFoundError(
            f"{folder}: the model has no tokenizer of its own, and none of {splits} is there to make one "
            f"from. Name a model that has one (model.language.name=FOLDER), or start from another run: "
            f"curriculum.stages.<stage>.weights=RUN:STAGE"
        )
    return there


def lying(folder: Path | str) -> list[str]:
    """The splits that a local folder holds."""
    return [] if is_remote(str(folder)) else [split for split in SPLITS if _has_shards(Path(folder, split))]


def reads(stage: config.Stage) -> Iterator[str]:
    """The splits that a stage reads."""
    names = stage.data if isinstance(stage, config.TrainStage) else [stage.data]
    return (name for name in names if name in SPLITS)


def _places(settings: config.Config, split: str, folder: Path | str) -> list[Path | str]:
    """The folders of a split, and as texts its URLs; none where it is null."""
    source = getattr(settings.data, split)
    paths = [one.path for one in source.values()] if isinstance(source, dict) else [source] if source else []
    return [path if is_remote(path) or is_remote(str(folder)) else Path(folder, path) for path in paths]


def _has_shards(place: Path) -> bool:
    try:
        return bool(shard_files(place))
    except FileNotFoundError:
        return False
    except ValueError:  # named when it is opened
        return True
