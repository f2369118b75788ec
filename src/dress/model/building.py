"""The model of a run, with its tokenizer: loaded, or trained on the run's own texts."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import torch
from rich.console import Console

from dress import config
from dress.base.ranks import rank, wait_for
from dress.base.seeding import seed_for
from dress.config.raters import PlainRater
from dress.dialogue.chat import FORMATS
from dress.dialogue.tokenizer import check_cuts, save_tokenizer, train_tokenizer
from dress.feedback.rater import NoRater, build_rater
from dress.kernels.precision import precision_for
from dress.model.checkpoint import read_tokenizer
from dress.model.language import load_own_tokenizer
from dress.model.lvlm import LVLM
from dress.phases.critique import praise
from dress.train.corpus import corpus
from dress.train.run_data import RunData
from dress.train.stages import trained_stages

TOKENIZER_RECORDS = 2000
"""Records per split that the hermetic tokenizer is trained on."""


def build_model(settings: config.Config, read: RunData, folder: Path, console: Console) -> LVLM:
    """The model before the first stage.

    Args:
        settings: the whole configuration.
        read: texts for a tokenizer of the run's own.
        folder: of the run; keeps that tokenizer.
        console: for an annotator that says something.

    Raises:
        ValueError: weights or tokenizer that cannot be loaded, a model that token trees do not represent.
    """
    language, data = settings.model.language, settings.data
    file, chat = folder / "tokenizer.json", FORMATS[language.chat]
    tokenizer = load_own_tokenizer(language)
    if tokenizer is None:
        if rank() > 0:
            wait_for(file)
        if not file.exists():
            streams = [read.stream(source) for source in (data.align, data.sft, data.prompts)]
            splits = [part.shards for stream in streams for part in stream.parts]
            phases = settings.phases  # not the experiment's conditions: ablations share the tokenizer
            fixed = [phases.align.prompt, praise(phases.critique.condition, phases)]
            plain = isinstance(settings.annotator, PlainRater)  # others take money for every word
            rater = build_rater(settings.annotator, folder, console) if plain else NoRater()
            texts = chain(fixed, corpus(splits, rater, TOKENIZER_RECORDS))
            file.parent.mkdir(parents=True, exist_ok=True)
            save_tokenizer(train_tokenizer(texts, settings.model.tokenizer.vocabulary, chat), file)
        tokenizer = read_tokenizer(file, language.chat)
    check_cuts(tokenizer, chat)
    torch.manual_seed(seed_for(settings.seed, "init"))
    model = LVLM(settings.model, tokenizer, data.max_tokens)
    positions = getattr(model.language.config.get_text_config(), "max_position_embeddings", None)
    if positions is not None and data.max_tokens > positions:
        raise ValueError(
            f"data.max_tokens={data.max_tokens}: expected at most {positions}, the positions that model.language has"
        )
    if precision_for(settings.trainer.precision) == "bf16-mixed":
        stages = [settings.curriculum.stages[name] for name in trained_stages(settings.curriculum)]
        learned = {part for stage in stages if isinstance(stage, config.TrainStage) for part in stage.trainable}
        model.round({"vision", "language"} - learned)
    return model
