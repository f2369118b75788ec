"""Collect a model's own answers with feedback: `python src/collect.py responder=logs/latest out=DIR`."""

import dress  # first: sets how CPU threads wait  # noqa: F401, I001

from pathlib import Path
from typing import Any

from rich.console import Console

from dress.command_line import entry_point
from dress.config import CollectCommand, CollectStage, Config, check_as
from dress.files import read_json, write_json


def collect_from(settings: CollectCommand, console: Console) -> Path:
    """Write shards of answers with feedback to `settings.out`; goes on where an earlier call stopped.

    Raises:
        FileNotFoundError: no run folder, or its stage holds no model.
        ValueError: `out` was begun with other settings, or the annotator cannot judge these records.
    """
    from dress.data.shards import Shards
    from dress.data.stream import open_split
    from dress.feedback.collect import CkptResponder, Sampling, collect, ratings_table
    from dress.feedback.rater import build_rater
    from dress.model.checkpoint import load_model
    from dress.progress import CurriculumProgress
    from dress.show import ratings_as_table
    from dress.worlds.prepared import prepared

    run, out = Path(settings.responder), Path(settings.out)
    if not (run / "config.json").exists():
        raise FileNotFoundError(f"responder={run}: expected a run folder with config.json, found none")
    began = out / "collect.json"
    if began.exists() and read_json(began) != settings.model_dump():
        raise ValueError(f"out={out}: begun with other settings ({began}); choose another folder")
    write_json(began, settings.model_dump())
    trained = Config.model_validate(read_json(run / "config.json"))
    with CurriculumProgress(console, {}) as progress:
        folder = prepared(trained.data, lambda n: progress.start("shapes world", n), progress.advance)
        prompts = open_split(settings.shards or trained.data.prompts, "." if settings.shards else folder, trained.data)
        model, _ = load_model(run / "stages" / settings.stage)
        stage = CollectStage(**{name: getattr(settings, name) for name in CollectStage.model_fields if name != "kind"})
        progress.start("collect", min(stage.records, len(prompts)))
        sampling = Sampling(
            settings.max_new_tokens or trained.generation.max_new_tokens,
            settings.batch_size, stage.temperature, stage.top_p,
        )  # fmt: skip
        collect(
            CkptResponder(model, f"{trained.name}/{settings.stage}", settings.keep_cache),
            build_rater(settings.annotator), prompts, out, stage, sampling, settings.seed, progress.advance,
        )  # fmt: skip
        progress.end()
    console.print(ratings_as_table(ratings_table(Shards(out))))
    console.print(f"shards: {out}", highlight=False)
    return out


@entry_point("collect")
def main(composed: dict[str, Any]) -> None:
    collect_from(check_as(CollectCommand, composed), Console())


if __name__ == "__main__":
    main()
