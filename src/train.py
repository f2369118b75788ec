"""Train: `python src/train.py experiment=dress_full`."""

import dress  # first: sets how CPU threads wait  # noqa: F401, I001

import hydra
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from dress.config import check


@hydra.main(version_base="1.3", config_path="../configs", config_name="train")
def main(composed: DictConfig) -> None:
    console = Console()
    settings = check(OmegaConf.to_container(composed, resolve=True))
    from dress.curriculum import Curriculum
    result = Curriculum(settings, console).run()
    import json
    for m in ("sft","dress"):
        if m in result:
            console.print(m, {k: (round(v["value"],3) if isinstance(v,dict) and v["value"] is not None else [x["value"] for x in v] if isinstance(v,list) else v) for k,v in result[m].items()})


if __name__ == "__main__":
    main()
