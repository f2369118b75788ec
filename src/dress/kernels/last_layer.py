"""The last decoder layer, on the rows that predict something.

Rows without a target need nothing of it but their keys and values: output projection, MLP and final
norm are computed for the others only. Exact, because all of these work row by row.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers.modeling_utils import PreTrainedModel

PARTS = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
"""Children of a pre-norm layer (Llama, Mistral, Qwen, SmolLM); one with others (Gemma) is left as it is."""


def prune_last_layer(language: PreTrainedModel) -> bool:
    """Make the last layer give `plan.rows` only; False where its kind is not known, and nothing changes."""
    layers = getattr(language.base_model, "layers", None)
    if not layers or {name for name, _ in layers[-1].named_children()} != PARTS:
        return False
    layer = layers[-1]
    if not hasattr(layer.self_attn, "o_proj"):
        return False
    layer.__class__ = type(f"Last{type(layer).__name__}", (_Last, type(layer)), {})
    return True


class _Last(nn.Module):
    """Mixed into the class of a decoder layer."""

    def forward(self: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Hidden states [1, T, D] to [1, U, D] where a plan names rows; as before where none does."""
        rows = getattr(kwargs.get("plan"), "rows", None)
        if rows is None:
            return super().forward(hidden_states, *args, **kwargs)

        def select(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return (inputs[0].index_select(1, rows), *inputs[1:])

        hook = self.self_attn.o_proj.register_forward_pre_hook(select)
        try:
            attended, _ = self.self_attn(self.input_layernorm(hidden_states), *args, **kwargs)
        finally:
            hook.remove()
        hidden_states = hidden_states.index_select(1, rows) + attended
        return hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))
