"""The language model: any Hugging Face causal LM, from a config, a folder or the hub."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedTokenizerBase,
)
from transformers.modeling_utils import PreTrainedModel
from transformers.pytorch_utils import Conv1D
from transformers.utils import logging

from dress import config
from dress.base.files import read_json
from dress.config.model import SMOLLM2
from dress.dialogue.batch import Example, collate
from dress.dialogue.encode import EncodedDialogue
from dress.dialogue.tree import Tree, build_tree
from dress.model import attention
from dress.model.quantization import in_layer, quantize
from dress.model.skeleton import on_meta

PROVED = {"llama", "qwen2", "qwen3", "mistral", "smollm3", "gemma2", "gemma3_text", "gpt2"}
"""Kinds of models whose loss and gradients the tests compare with separate sequences; others are tried when built."""

UNEQUAL = 1e-4
"""Relative difference of a hidden state above which sharing is not exact (fp32)."""


def check_language(settings: config.Language) -> None:
    """Refuse a model that is not there, or is described wrongly, without its weights.

    Raises:
        ValueError: names it.
    """
    if settings.config is not None:
        _described(settings.config)
        return
    source = source_of(settings)
    try:
        AutoConfig.from_pretrained(source, trust_remote_code=settings.trust_remote_code, revision=settings.revision)
    except (OSError, ImportError, ValueError) as error:
        raise ValueError(f"model.language: cannot load {source} ({_line(error, settings)})") from error


def build_language(
    settings: config.Language, vocabulary: int | None, packing: config.Quantize | None = None
) -> PreTrainedModel:
    """The causal LM with its weights (random when built from a config), LoRA layers included.

    Args:
        settings: where it comes from.
        vocabulary: size of the hermetic tokenizer, for a model built from a config.
        packing: how the matrices of its layers are held; None for as they are.

    Raises:
        ValueError: not found, or a kind of model that token trees cannot represent.
    """
    if settings.config is not None:
        fields = dict(settings.config)
        if vocabulary is not None:
            fields["vocab_size"] = vocabulary
        language = _from_config(fields)
    else:
        source = source_of(settings)
        bars_for_people()
        try:
            language = load_pretrained(
                AutoModelForCausalLM,
                source,
                revision=settings.revision,
                attn_implementation=attention.NAME,
                trust_remote_code=settings.trust_remote_code,
            )
        except (OSError, ImportError, ValueError, SafetensorError) as error:
            raise ValueError(f"model.language: cannot load {source} ({_line(error, settings)})") from error
    language.generation_config.pad_token_id = None
    refuse_unsupported(language.config, "model.language")
    refuse_modules(language, f"model.language {language.config.get_text_config().model_type}")
    if language.config.get_text_config().model_type not in PROVED and not on_meta():
        refuse_unequal(language)
    if packing is not None:
        quantize(language, packing, f"model.language.name={settings.name}")
    if settings.lora is not None:
        add_lora(language, settings.lora)
    return language


def load_pretrained(
    auto: Any, source: str, *, revision: str | None, trust_remote_code: bool, attn_implementation: Any, **more: Any
) -> Any:
    """What `auto.from_pretrained` gives, in fp32; on the meta device without opening a file of weights.

    Args:
        auto: a class of transformers that reads models of many kinds.
        source: folder or hub id.
        revision: of the hub.
        trust_remote_code: whether code that comes with the model runs.
        attn_implementation: how it attends.
        more: what only reading weights takes.
    """
    how = {"trust_remote_code": trust_remote_code, "attn_implementation": attn_implementation, "dtype": torch.float32}
    if not on_meta():
        return auto.from_pretrained(source, revision=revision, **how, **more)
    described = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=trust_remote_code)
    model = auto.from_config(described, **how)
    with suppress(OSError):  # there is none: what its configuration says stands already
        model.generation_config = GenerationConfig.from_pretrained(source, revision=revision or "main")
    return model.eval()


def bars_for_people() -> None:
    """Without a terminal, transformers draws no progress bars: in a log they are noise."""
    if not sys.stderr.isatty():
        logging.disable_progress_bar()


def load_own_tokenizer(settings: config.Language) -> PreTrainedTokenizerBase | None:
    """The tokenizer that comes with a named language model; None for one built from a config."""
    if settings.config is not None:
        return None
    source = source_of(settings)
    try:
        return AutoTokenizer.from_pretrained(
            source, trust_remote_code=settings.trust_remote_code, revision=settings.revision
        )
    except Exception as error:  # of the tokenizers library, which raises nothing more special
        raise ValueError(f"model.language: cannot load the tokenizer of {source} ({_line(error, settings)})") from error


def _from_config(fields: dict[str, Any]) -> PreTrainedModel:
    """A model with random weights.

    Raises:
        ValueError: fields of a wrong type or that do not go together, or a kind of model without our attention.
    """
    kind, described = fields.get("model_type"), _described(fields)
    try:
        return AutoModelForCausalLM.from_config(
            described, attn_implementation=attention.NAME, dtype=torch.float32, trust_remote_code=False
        )
    except KeyError as error:  # falcon, gptj: a table of attention classes of their own
        raise ValueError(f"model.language {kind}: it takes no attention from transformers' interface") from error
    except Exception as error:  # the fields reach torch as they are
        raise ValueError(f"model.language.config: cannot build {kind!r:.40} from it ({_line(error)})") from error


def _described(fields: dict[str, Any]) -> PretrainedConfig:
    try:
        described: PretrainedConfig = AutoConfig.for_model(**fields)
    except Exception as error:  # transformers checks types in ways that change with its versions
        kind = fields.get("model_type")
        raise ValueError(f"model.language.config: no configuration of {kind!r:.40} ({_line(error)})") from error
    return described


def _line(error: Exception, settings: config.Language | None = None) -> str:
    """An error of a library in one line."""
    file = Path((settings and settings.name) or ".") / "config.json"
    code = settings is not None and file.is_file() and "auto_map" in read_json(file, dict)
    if "trust_remote_code" in str(error) or (code and settings is not None and not settings.trust_remote_code):
        return "it comes with code of its own; if you trust that, set model.language.trust_remote_code=true"
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def source_of(settings: config.Language) -> str:
    """Hub id or folder.

    Raises:
        ValueError: the folder of `scale=small` has not been made.
    """
    name = str(settings.name)
    if name == SMOLLM2 and not Path(name).is_dir():
        raise ValueError(f"model.language.name={name}: expected a folder, found none. `make photos` makes it")
    return name


def refuse_unsupported(described: PretrainedConfig, where: str, own_positions: bool = False) -> None:
    """Refuse by name what sharing prefixes does not represent, before any weight is read.

    Args:
        described: transformers' configuration of the model.
        where: names the model in an error.
        own_positions: whether the model is asked for positions of its own, and for what its image tokens see.

    Raises:
        ValueError: mixture of experts, recurrent or linear attention layers, cross-attention, encoder and decoder,
            RoPE that depends on the longest sequence of a batch, attention dropout (one mask would serve all dialogues
            that share a token), logits that are scaled, multi-dimensional RoPE or bidirectional attention where
            nothing is known of images.
    """
    text = described.get_text_config()
    parts = [text, *(getattr(described, name) for name in getattr(described, "sub_configs", {}))]
    kinds = set(getattr(text, "layer_types", None) or [])
    rope = getattr(text, "rope_parameters", None) or {}
    ropes = [rope, *(one for one in rope.values() if isinstance(one, dict))]
    experts = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts", "num_experts_per_tok")
    problems = {
        "mixture-of-experts routing": any(getattr(text, name, None) for name in experts),
        "linear attention or state-space layers": bool(kinds - {"full_attention", "sliding_attention"}),
        "cross-attention": bool(getattr(text, "cross_attention_layers", None)),
        "an encoder and a decoder": bool(getattr(described, "is_encoder_decoder", False)),
        "a prefix that sees itself whole": described.model_type in ("paligemma", "colpali"),
        "dropout (set attention_dropout to 0 in its configuration)": any(
            getattr(one, "attention_dropout", 0) for one in parts
        ),
        "scaled logits": any(getattr(text, name, 1) not in (None, 1) for name in ("logit_scale", "logits_scaling")),
        "multi-dimensional RoPE": "mrope_section" in rope and not own_positions,
        "RoPE scaled by the length of a batch": any(one.get("rope_type") in ("dynamic", "longrope") for one in ropes),
        "bidirectional attention": getattr(text, "use_bidirectional_attention", False)
        not in (None, False, *(("vision",) if own_positions else ())),
    }
    names = [name for name, there in problems.items() if there]
    if names:
        raise ValueError(
            f"{where} {text.model_type}: token trees do not represent {', '.join(names)}. "
            f"Choose a model with plain RoPE or learned positions and full or sliding attention"
        )


def refuse_modules(model: torch.nn.Module, where: str) -> None:
    """Refuse what only the built model shows.

    Raises:
        ValueError: dropout, or an output head with a bias.
    """
    if any(isinstance(module, torch.nn.Dropout) and module.p > 0 for module in model.modules()):
        raise ValueError(f"{where}: token trees do not represent dropout. Set it to 0 in the model's configuration")
    head = getattr(model, "get_output_embeddings", lambda: None)()
    if getattr(head, "bias", None) is not None:
        raise ValueError(f"{where}: expected an output head without a bias, got one")


def refuse_unequal(language: PreTrainedModel) -> None:
    """Refuse a kind of model that is not in `PROVED` unless a small tree gives what its sequences give.

    Raises:
        ValueError: it takes its positions or its mask from elsewhere (ALiBi, for example).
    """
    rows = [[5, 6, 7, 8, 9, 10], [5, 6, 7, 11, 12, 13, 14], [5, 6, 7, 11, 15]]
    tree = build_tree([EncodedDialogue("sft", np.array(ids), np.array([0.0] + [1.0] * (len(ids) - 1))) for ids in rows])
    forest = collate([Example([tree], None)], len(tree)).forests[0]
    kind = language.config.get_text_config().model_type
    was = language.training
    language.eval()
    try:
        with torch.no_grad():
            hidden = language.base_model(
                inputs_embeds=language.get_input_embeddings()(forest.ids[None]), position_ids=forest.depth[None],
                attention_mask=attention.foreign_mask(forest.ids.device), use_cache=False,
                plan=attention.plan(forest, "dense"),
            ).last_hidden_state[0]  # fmt: skip
            plain = [language.base_model(input_ids=torch.tensor([ids])).last_hidden_state[0, :-1] for ids in rows]
    except Exception as problem:  # whatever a foreign model says of arguments that it does not take
        raise ValueError(f"model.language {kind}: token trees do not run through it ({problem!r})") from problem
    finally:
        language.train(was)
    by_context = {context: hidden[at] for context, at in _contexts(tree).items()}
    error = max(
        float((by_context[tuple(ids[: n + 1])] - one[n]).norm() / one[n].norm())
        for ids, one in zip(rows, plain, strict=True)
        for n in range(len(one))
    )
    if error > UNEQUAL:
        raise ValueError(
            f"model.language {kind}: a token tree gives other hidden states than its sequences (relative difference "
            f"{error:.1e}). It does not take positions and attention from transformers' interfaces; choose another"
        )


def _contexts(tree: Tree) -> dict[tuple[int, ...], int]:
    """Tokens from the root down to each place."""
    out: dict[tuple[int, ...], int] = {}
    for at in range(len(tree)):
        above = [i for i in range(at + 1) if tree.subtree_end[i] > at]
        out[tuple(tree.ids[above].tolist())] = at
    return out


def add_lora(language: PreTrainedModel, lora: config.Lora) -> None:
    """Put low-rank adapters beside the layers that `lora.targets` names; `auto`: beside every linear map of a layer.

    Args:
        language: a language model, or the text model inside of a vision-language model, whose tower has none.
        lora: their size and place.

    Raises:
        ValueError: no layer has such a name.
    """
    from peft import LoraConfig, inject_adapter_in_model

    targets = linear_maps(language) if lora.targets == "auto" else lora.targets
    settings = LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, target_modules=targets, lora_dropout=0.0, use_dora=lora.dora
    )
    try:
        inject_adapter_in_model(settings, language)
    except ValueError as error:
        if "Target modules" not in str(error):
            raise
        raise ValueError(
            f"lora.targets: expected names of linear maps of the language model, {', '.join(linear_maps(language))}, "
            f"got {', '.join(targets)}"
        ) from None


def linear_maps(language: torch.nn.Module) -> list[str]:
    """Names of the linear maps of a language model's layers, also fused ones; not of its head."""
    head = getattr(language, "get_output_embeddings", lambda: None)()
    kinds = (torch.nn.Linear, Conv1D)
    named = [name for name, one in language.named_modules() if isinstance(one, kinds) and one is not head]
    return sorted({name.rpartition(".")[2] for name in named if in_layer(name)})
