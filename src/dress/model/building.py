"""The model before any stage has trained it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection

import torch
from transformers import PreTrainedTokenizerBase

from dress import config
from dress.base.errors import in_one_line
from dress.base.ranks import met, of_first, of_ranks, rank
from dress.dialogue.chat import ChatFormat
from dress.dialogue.template import TemplateChat
from dress.dialogue.template_check import check_template
from dress.dialogue.tokenizer import check_cuts, check_texts
from dress.model.composed import ComposedLVLM
from dress.model.hf import HFLVLM
from dress.model.hf_folder import check_hf, load_processor
from dress.model.language import check_language, load_own_tokenizer
from dress.model.lvlm import LVLM
from dress.model.projector import check_projector
from dress.model.quantization import check_quantization
from dress.model.sharding import share_first
from dress.model.skeleton import Form, difference, form_of
from dress.model.vision import check_vision

LOG = logging.getLogger(__name__)


def check_model(settings: config.Model) -> None:
    """Refuse a language model or a vision encoder that is not there, before anything is made.

    Raises:
        ValueError: names it.
    """
    check_quantization(settings.quantize)
    match settings:
        case config.ComposedModel():
            check_language(settings.language)
            check_vision(settings.vision)
            check_projector(settings.projector_weights)
        case config.HFModel():
            check_hf(settings)


def make_model(
    settings: config.Model, tokenizer: PreTrainedTokenizerBase, max_tokens: int, form: Form | None = None
) -> LVLM:
    """A model of the kind that the settings name, with its weights from files, or drawn.

    Args:
        settings: its parts.
        tokenizer: of its language model.
        max_tokens: of the longest dialogue.
        form: of the same model with weights, where this one is to have none (`model.skeleton`).

    Raises:
        ValueError: it cannot be loaded, or token trees do not represent it; all by name.
    """
    match settings:
        case config.ComposedModel():
            return ComposedLVLM(settings, tokenizer, max_tokens, form)
        case config.HFModel():
            return HFLVLM(settings, max_tokens, form)


def own_tokenizer(settings: config.Model) -> PreTrainedTokenizerBase | None:
    """The tokenizer that comes with a model; None for a language model from a config.

    Raises:
        ValueError: it cannot be loaded.
    """
    match settings:
        case config.ComposedModel():
            return load_own_tokenizer(settings.language)
        case config.HFModel():
            tokenizer: PreTrainedTokenizerBase = load_processor(settings).tokenizer
            return tokenizer


def build_model(
    settings: config.Model,
    tokenizer: PreTrainedTokenizerBase,
    max_tokens: int,
    seed: int,
    rounded: Collection[str] = (),
    spread: torch.device | None = None,
) -> LVLM:
    """Load or draw a model; where the ranks of a run have met, the first one does, and all call.

    Args:
        settings: its parts.
        tokenizer: of its language model.
        max_tokens: of the longest dialogue.
        seed: of all weights that are drawn.
        rounded: parts (`vision`, `language`) whose weights are rounded to bf16, and held and multiplied in it.
        spread: this rank's device, where each is to hold a part of the model; None: all of it, on the CPU.

    Raises:
        ValueError: weights that cannot be loaded, a tokenizer that the chat format does not fit, a model that token
            trees do not represent, or one with fewer positions than `max_tokens`.
        SystemExit: on other ranks than the first, which says why.
    """

    def built(form: Form | None = None) -> LVLM:
        torch.manual_seed(seed)
        model = make_model(settings, tokenizer, max_tokens, form)
        _check(model, tokenizer, max_tokens)
        if form is not None:
            model.rounded, model.computes_in_bf16 = form.facts["rounded"], form.facts["computes_in_bf16"]
        elif rounded:
            model.round(set(rounded))
            model.hold_rounded()
        return model

    if not met() or settings.quantize is not None:  # what packs a matrix keeps more of it than its tensors
        return built()
    return _first_builds(built, spread)


def _first_builds(build: Callable[[Form | None], LVLM], spread: torch.device | None) -> LVLM:
    """The first rank's model on every rank, from which no other one reads or draws weights.

    Args:
        build: makes the model; of a form, without its numbers.
        spread: see `build_model`.

    Raises:
        Exception: of `build`, on the first rank; SystemExit on the others.
    """
    model, form, error = None, None, None
    if rank() == 0:
        try:
            model = build(None)
            form = form_of(model, model.facts())
        except Exception as problem:  # said once the others, which wait for a form, know of it
            error = problem
    form = of_first(form)
    if error is not None:
        raise error
    if form is None:
        raise SystemExit(1)
    why = None
    if model is None:
        try:
            model = build(form)
            why = difference(model, form)
        except Exception as problem:  # whatever foreign classes say of the meta device
            why = f"{type(problem).__name__}: {in_one_line(problem)}"
    if reasons := [one for one in of_ranks(why) if one]:
        if rank() == 0:
            LOG.warning("every rank builds the model for itself, and holds it whole meanwhile: %s", reasons[0])
        return model if rank() == 0 and model is not None else build(None)
    assert model is not None
    share_first(model, form, spread)
    torch.set_rng_state(form.random)
    return model


def _check(model: LVLM, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> None:
    """Refuse a tokenizer that the chat format does not fit, and more tokens than the model has positions.

    Raises:
        ValueError: names it.
    """
    match model.encoder.chat:
        case ChatFormat() as chat:
            check_cuts(tokenizer, chat)
        case TemplateChat() as chat:
            model.encoder.apart = check_template(model.encoder, chat)
            check_texts(model.encoder)
    positions = getattr(model.text_config, "max_position_embeddings", None)
    if positions is not None and max_tokens > positions:
        raise ValueError(
            f"data.max_tokens={max_tokens}: expected at most {positions}, the positions that the language model has. "
            f"Set data.max_tokens={positions}"
        )
