"""The tokenizer of a run: the language model's own, that of the weights it starts from, or one trained beforehand."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

from rich.console import Console
from transformers import PreTrainedTokenizerBase

from dress import config
from dress.base.ranks import rank, wait_for
from dress.base.run_folder import TOKENIZER
from dress.config.names import is_place, place_of
from dress.config.raters import PlainRater
from dress.dialogue.chat import ChatFormat
from dress.dialogue.tokenizer import save_tokenizer, train_tokenizer
from dress.feedback.raters import build_rater
from dress.model.building import own_tokenizer
from dress.model.chats import own_format
from dress.model.checkpoint import read_tokenizer
from dress.phases.critique import praise
from dress.rater import NoRater
from dress.train.corpus import corpus
from dress.train.run_data import RunData
from dress.train.splits import tokenizer_splits

TOKENIZER_RECORDS = 2000
"""Records per split that a tokenizer is trained on."""


def run_tokenizer(settings: config.Config, data: RunData, folder: Path, console: Console) -> PreTrainedTokenizerBase:
    """The tokenizer that a run's model has.

    Args:
        settings: of the run.
        data: texts for a tokenizer of the run's own.
        folder: of the run; keeps that tokenizer, and the first process writes it.
        console: for an annotator that says something.

    Raises:
        FileNotFoundError: weights of another run without a tokenizer, or no texts to train one on.
        ValueError: a tokenizer that cannot be loaded.
    """
    own = own_tokenizer(settings.model)
    if own is not None:
        return own
    assert isinstance(settings.model, config.ComposedModel)
    chat = own_format(settings.model.language)
    stages = [settings.curriculum.stages[name] for name in settings.curriculum.order]
    weights = [stage.weights for stage in stages if isinstance(stage, config.TrainStage) and stage.weights]
    for place in filter(is_place, weights):
        return read_tokenizer(place_of(place) / TOKENIZER, chat)
    if rank() > 0:
        wait_for(folder / TOKENIZER)
    if not (folder / TOKENIZER).exists():
        _train(settings, data, folder / TOKENIZER, console, chat)
    return read_tokenizer(folder / TOKENIZER, chat)


def _train(settings: config.Config, data: RunData, file: Path, console: Console, chat: ChatFormat) -> None:
    """From the training splits and the annotator's words on them: the same for all experiments on these data."""
    sources = (getattr(settings.data, split) for split in tokenizer_splits(settings, data.root))
    streams = [data.stream(source) for source in sources]
    splits = [part.shards for stream in streams for part in stream.parts]
    phases = settings.phases  # not the experiment's conditions: ablations share the tokenizer
    fixed = [phases.align.prompt, praise(phases.critique.condition, phases)]
    plain = isinstance(settings.annotator, PlainRater)  # others take money for every word
    rater = build_rater(settings.annotator, file.parent, console) if plain else NoRater()
    texts = chain(fixed, corpus(splits, rater, TOKENIZER_RECORDS))
    file.parent.mkdir(parents=True, exist_ok=True)
    assert isinstance(settings.model, config.ComposedModel)
    save_tokenizer(train_tokenizer(texts, settings.model.tokenizer.vocabulary, chat), file)
