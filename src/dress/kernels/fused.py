"""Norms, rotary positions and gated MLPs with hand-written backward passes, put in the place of transformers' own.

transformers composes them of a dozen passes over fp32 tensors, and autocast adds casts. These take the
same inputs to the same outputs, in fp32 inside and in the dtype of autocast outside, in a third of the
passes, and keep less for the backward pass. They serve results in 16 bits; wider ones stay transformers'
own, to the last bit. `fuse` tries each on random numbers first and leaves a model alone where they differ.

Shapes: N rows, D width, B batch, H heads, T tokens, d width of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_utils import PreTrainedModel

TOLERANCE = 1e-5
"""Relative difference to transformers' own result, in fp32, above which a part is not replaced."""


def fuse(language: PreTrainedModel, replaced: Collection[str] | None = None) -> list[str]:
    """Replace norms, rotary positions and gated MLPs where ours give the same; names of the replaced classes.

    Args:
        language: changed in place.
        replaced: names of the classes for which that was found before: nothing is tried, and no other one is replaced.
    """
    verdicts: dict[type, type | None] = {}
    for module in language.modules():
        kind = type(module)
        if kind not in verdicts:
            tried = None if replaced is None else kind.__name__ in replaced
            verdicts[kind] = _fused_norm(module, tried) or _fused_attention(module, tried) or _fused_mlp(module, tried)
        if (fused := verdicts[kind]) is not None:
            module.__class__ = fused
    return [kind.__name__ for kind, fused in verdicts.items() if fused is not None]


def out_dtype(x: Tensor) -> torch.dtype:
    """What the next matrix product would cast `x` to."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def _halved(x: Tensor) -> bool:
    return out_dtype(x).itemsize == 2


def _wide(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


# --- norms ----------------------------------------------------------------------------------------


def rms_norm(x: Tensor, weight: Tensor, eps: float, shift: float = 0.0) -> Tensor:
    """x / rms(x) * (shift + weight) over the last dimension.

    Args:
        x: [..., D].
        weight: [D].
        eps: added to the mean square.
        shift: 1 where weights stand for their difference to one (Gemma).
    """
    return _RMSNorm.apply(x, weight, eps, shift, out_dtype(x))


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, shift: float, dtype: torch.dtype) -> Tensor:
        rows, factor = x.to(_wide(x)), weight.to(_wide(x)) + shift if shift else weight.to(_wide(x))
        inverse = torch.linalg.vector_norm(rows, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, inverse)
        ctx.shift = shift
        return (rows * inverse).mul_(factor).to(dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, weight, inverse = ctx.saved_tensors
        width = x.shape[-1]
        rows = x.reshape(-1, width).to(_wide(x))
        factor = weight.to(rows.dtype) + ctx.shift if ctx.shift else weight.to(rows.dtype)
        inverse = inverse.view(-1, 1)
        grad = grad.reshape(-1, width).to(rows.dtype)
        normal = rows * inverse
        grad_weight = (grad * normal).sum(0).to(weight.dtype) if ctx.needs_input_grad[1] else None
        if not ctx.needs_input_grad[0]:
            return None, grad_weight, None, None, None
        grad = grad * factor
        along = (grad * normal).sum(-1, keepdim=True).div_(-width)
        grad_x = grad.addcmul_(normal, along).mul_(inverse)
        return grad_x.to(x.dtype).view(x.shape), grad_weight, None, None, None


def _fused_norm(module: nn.Module, same: bool | None) -> type | None:
    """A subclass with `rms_norm` for transformers' own; `same`: whether that is known to give the same."""
    kind, weight = type(module), getattr(module, "weight", None)
    name = "variance_epsilon" if hasattr(module, "variance_epsilon") else "eps"
    eps = getattr(module, name, None)
    if "RMSNorm" not in kind.__name__ or not isinstance(eps, float) or not isinstance(weight, Tensor):
        return None
    shift = 1.0 if "Gemma" in kind.__name__ else 0.0

    class Fused(kind):  # type: ignore[misc, valid-type]  # its base is chosen at run time
        def forward(self, x: Tensor) -> Tensor:
            return rms_norm(x, self.weight, getattr(self, name), shift) if _halved(x) else super().forward(x)

    if same is None:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(3, len(weight), generator=generator, device="cpu").to(weight.device)
        with torch.no_grad():
            same = _same(rms_norm(x, weight, eps, shift), module(x))
    return _named(Fused, kind) if same else None


# --- rotary positions -----------------------------------------------------------------------------


def rotary(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Queries and keys turned by their positions, the first half of a head's numbers with the second.

    Args:
        q: queries [B, H, T, d].
        k: keys [B, H, T, d].
        cos: of the positions [B, T, d], the same in both halves.
        sin: as cos.
    """
    return _Rotary.apply(q, cos, sin, out_dtype(q)), _Rotary.apply(k, cos, sin, out_dtype(k))


class _Rotary(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.dtype = x.dtype
        return _turn(x, cos, sin, 1, dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        cos, sin = ctx.saved_tensors
        return _turn(grad, cos, sin, -1, ctx.dtype), None, None, None


def _turn(x: Tensor, cos: Tensor, sin: Tensor, way: int, dtype: torch.dtype) -> Tensor:
    half = x.shape[-1] // 2
    cos, sin = cos[:, None, :, :half], sin[:, None, :, :half]
    wide = x.to(torch.promote_types(x.dtype, cos.dtype))
    one, two = wide[..., :half], wide[..., half:]
    out = torch.empty(x.shape, dtype=wide.dtype, device=x.device)
    torch.mul(one, cos, out=out[..., :half]).addcmul_(two, sin, value=-way)
    torch.mul(two, cos, out=out[..., half:]).addcmul_(one, sin, value=way)
    return out.to(dtype)


def _fused_attention(module: nn.Module, same: bool | None) -> type | None:
    """A subclass whose forward is transformers' own, with `rotary` for `apply_rotary_pos_emb`; `same` as above."""
    kind = type(module)
    forward = kind.forward
    if not isinstance(forward, FunctionType) or "apply_rotary_pos_emb" not in forward.__code__.co_names:
        return None
    theirs: Callable[..., Any] = forward.__globals__["apply_rotary_pos_emb"]
    if not (_same_turns(theirs) if same is None else same):
        return None

    def turned(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> Any:
        return rotary(q, k, cos, sin) if _halved(q) else theirs(q, k, cos, sin, unsqueeze_dim=unsqueeze_dim)

    ours = FunctionType(
        forward.__code__, {**forward.__globals__, "apply_rotary_pos_emb": turned}, forward.__name__,
        forward.__defaults__, forward.__closure__,
    )  # fmt: skip
    ours.__kwdefaults__ = forward.__kwdefaults__
    return _named(type("Fused", (kind,), {"forward": ours}), kind)


def _same_turns(theirs: Callable[..., Any]) -> bool:
    generator = torch.Generator().manual_seed(0)
    q, k, angle = (
        torch.randn(size, generator=generator, device="cpu") for size in ((1, 4, 5, 8), (1, 2, 5, 8), (1, 5, 4))
    )
    angle = torch.cat((angle, angle), -1)
    try:
        expected = theirs(q, k, angle.cos(), angle.sin())
        return all(_same(a, b) for a, b in zip(rotary(q, k, angle.cos(), angle.sin()), expected, strict=True))
    except (TypeError, ValueError, RuntimeError, IndexError):
        return False


# --- gated MLPs -----------------------------------------------------------------------------------


def gated(gate: Tensor, up: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """(silu(gate) * up) @ weight.T + bias; of the wide tensors only `gate` and `up` are kept.

    Args:
        gate: [..., I].
        up: [..., I].
        weight: of the projection down, [D, I].
        bias: of the projection down, [D].
    """
    dtype = out_dtype(gate)
    return _Gated.apply(gate.to(dtype), up.to(dtype), weight, bias, dtype)


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
        cast_weight = weight.to(dtype)
        ctx.save_for_backward(gate, up, cast_weight)
        ctx.dtypes = weight.dtype, None if bias is None else bias.dtype
        return F.linear(F.silu(gate).mul_(up), cast_weight, None if bias is None else bias.to(dtype))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        gate, up, weight = ctx.saved_tensors
        active = F.silu(gate)
        rows = grad.reshape(-1, grad.shape[-1])
        grad_weight = grad_bias = grad_gate = grad_up = None
        if ctx.needs_input_grad[2]:
            grad_weight = (rows.T @ (active * up).view(-1, up.shape[-1])).to(ctx.dtypes[0])
        if ctx.dtypes[1] is not None and ctx.needs_input_grad[3]:
            grad_bias = rows.sum(0, dtype=_wide(rows)).to(ctx.dtypes[1])
        if ctx.needs_input_grad[0] or ctx.needs_input_grad[1]:
            inner = (rows @ weight).view(gate.shape)
            grad_up = active.mul_(inner)
            grad_gate = torch.ops.aten.silu_backward(inner.mul_(up), gate)
        return grad_gate, grad_up, grad_weight, grad_bias, None


def _fused_mlp(module: nn.Module, same: bool | None) -> type | None:
    """A subclass with `gated` for transformers' own; `same` as above."""
    kind, parts = type(module), ("gate_proj", "up_proj", "down_proj")
    if {name for name, _ in module.named_children()} - {"act_fn"} != set(parts):
        return None
    if any(type(getattr(module, part)) is not nn.Linear for part in parts):
        return None

    class Fused(kind):  # type: ignore[misc, valid-type]  # its base is chosen at run time
        def forward(self, x: Tensor) -> Tensor:
            if type(self.down_proj) is not nn.Linear or not _halved(x) or not torch.is_grad_enabled():
                return super().forward(x)  # adapters, wide results, packed weights
            return gated(self.gate_proj(x), self.up_proj(x), self.down_proj.weight, self.down_proj.bias)

    if same is None:
        mlp: Any = module
        down, generator = mlp.down_proj, torch.Generator().manual_seed(0)
        x = torch.randn(3, down.out_features, generator=generator, device="cpu").to(down.weight)
        with torch.no_grad():
            same = _same(gated(mlp.gate_proj(x), mlp.up_proj(x), down.weight, down.bias), mlp(x))
    return _named(Fused, kind) if same else None


def _named(fused: type, kind: type) -> type:
    fused.__name__ = fused.__qualname__ = f"Fused{kind.__name__}"
    return fused


def _same(one: Tensor, two: Tensor) -> bool:
    return one.shape == two.shape and bool((one - two).norm() <= TOLERANCE * two.norm())
