"""Norms as autograd functions of their own, on a CPU: fewer passes over the tensors than the formulas make.

Gradients of gain and bias are one call of the kernel that torch has for LayerNorm's. A gradient that is to be
differentiated again is that of the formula.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.autograd import forward_ad

from ..base.protocols import AutogradContext


# what a tensor must be: subclasses (sharded, fake, quantised) have rules of their own
_PLAIN = (torch.Tensor, torch.nn.Parameter)


class FusedNorms:
    """The switch: with `FusedNorms.enabled = False` every norm runs by its formula.

    The environment variable HF_ADDNORM_FUSED=0 sets it, for code that came with a checkpoint too.
    """

    enabled = os.environ.get("HF_ADDNORM_FUSED", "1") != "0"


def runs_eagerly(x: torch.Tensor, *others: torch.Tensor | None) -> bool:
    """Whether operations run one by one on a CPU here, on tensors that are no more than that.

    Not where they are compiled, exported or traced, within `torch.func`, in forward-mode differentiation, nor
    elsewhere than on a CPU.
    """
    if torch.compiler.is_compiling() or not FusedNorms.enabled:
        return False
    if torch.jit.is_tracing():  # type: ignore[attr-defined]
        return False
    if x.device.type != "cpu" or x.numel() == 0:
        return False
    return is_plain(x, *others)


def is_plain(*tensors: torch.Tensor | None) -> bool:
    """Whether these are plain tensors, outside of `torch.func` and of forward-mode differentiation."""
    if any(type(tensor) not in _PLAIN for tensor in tensors if tensor is not None):
        return False
    # private of torch; where one is gone, norms run by their formulas
    transformed = getattr(torch._C, "_are_functorch_transforms_active", None)
    level: int | None = getattr(forward_ad, "_current_level", None)
    return transformed is not None and not transformed() and level is not None and level < 0


def can_fuse(x: torch.Tensor, *parameters: torch.Tensor | None) -> bool:
    """Whether a norm may run as a function of this file here: where `runs_eagerly`, and gradients are asked for."""
    return torch.is_grad_enabled() and runs_eagerly(x, *parameters)


def root_scaled(x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, eps: float) -> torch.Tensor:
    """`x / sqrt(mean(x^2) + eps) * weight + bias` over the last axis; all in the dtype of x, float32 or float64.

    The backward keeps x and 1 / root, [..., 1].
    """
    found: torch.Tensor = _RootScaled.apply(x, weight, bias, eps)
    return found


def fused_affine(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, rounds_once: bool = False
) -> torch.Tensor:
    """`x * weight + bias`, an entry of both for each feature of the last axis; all in the dtype of x.

    With `rounds_once` by `torch.addcmul`, whose last bit is another than that of two operations.
    """
    found: torch.Tensor = _Affine.apply(x, weight, bias, rounds_once)
    return found


@dataclass(frozen=True)
class Squash:
    """A function f of each number by itself.

    Args:
        formula (`Callable`): f, which torch can differentiate.
        run (`Callable`): f, which may overwrite what it is given.
        slope (`Callable`): a gradient times the derivative of f, from the gradient, the values of f, and z by a call.
    """

    formula: Callable[[torch.Tensor], torch.Tensor]
    run: Callable[[torch.Tensor], torch.Tensor]
    slope: Callable[[torch.Tensor, torch.Tensor, Callable[[], torch.Tensor]], torch.Tensor]


def squashed(
    x: torch.Tensor, inside: tuple[torch.Tensor, torch.Tensor | None], *gain_and_bias: torch.Tensor, by: Squash
) -> torch.Tensor:
    """`weight * f(alpha * x + shift) + bias`, all in the dtype of x; the backward keeps x and the values of f.

    Args:
        x (`torch.Tensor`): [..., hidden].
        inside (`tuple[torch.Tensor, torch.Tensor]`): alpha [1], and shift [1] or None.
        gain_and_bias (`torch.Tensor`): weight and bias, [hidden] each.
        by (`Squash`): f.
    """
    found: torch.Tensor = _Squashed.apply(x, *inside, *gain_and_bias, by)
    return found


def _root_scaled(x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, eps: float) -> torch.Tensor:
    """The formula, which torch can differentiate as often as asked."""
    y = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
    return _by_formula(y, weight, bias)


def _by_formula(x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None) -> torch.Tensor:
    y = x if weight is None else x * weight
    return y if bias is None else y + bias


def _parameter_gradients(
    gradient: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor | None,
    needed: tuple[bool, bool],
    scale: torch.Tensor | None = None,
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Those of weight and bias of `x * scale * weight + bias`, in one pass, by LayerNorm's kernel."""
    if not any(needed):
        return None, None
    if weight is None:
        return None, gradient.reshape(-1, x.shape[-1]).sum(0)
    rows = (*x.shape[:-1], 1)
    scale = x.new_ones(rows) if scale is None else scale
    _, of_weight, of_bias = torch.ops.aten.native_layer_norm_backward(
        gradient, x, x.shape[-1:], x.new_zeros(rows), scale, weight, weight, [False, *needed]
    )
    return of_weight if needed[0] else None, of_bias if needed[1] else None


def _gradients_of(
    formula: torch.Tensor, inputs: tuple[torch.Tensor | None, ...], needed: tuple[bool, ...], gradient: torch.Tensor
) -> list[torch.Tensor | None]:
    """Gradients that can be differentiated again."""
    asked = [tensor for tensor, is_needed in zip(inputs, needed, strict=True) if is_needed and tensor is not None]
    found = iter(torch.autograd.grad(formula, asked, gradient, create_graph=True))
    is_asked = [is_needed and tensor is not None for tensor, is_needed in zip(inputs, needed, strict=True)]
    return [next(found) if asked_for else None for asked_for in is_asked]


# below it the third power of 1 / root, which LayerNorm's kernel makes, may be beyond the numbers of float32
_LEAST_EPS = 1e-20


def _by_layer_norms_kernel(
    gradient: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, needed: tuple[bool, ...], scale: torch.Tensor
) -> tuple[torch.Tensor | None, ...]:
    """All gradients of `x * scale * weight + bias`: LayerNorm's with a mean of 0, but that no mean is taken out."""
    width, none = x.shape[-1], x.new_zeros(scale.shape)
    of_x, of_weight, of_bias = torch.ops.aten.native_layer_norm_backward(
        gradient, x, (width,), none, scale, weight, weight, [True, *needed[1:]]
    )
    mean = (gradient @ weight).unsqueeze(-1).mul_(scale).div_(width)
    return of_x.add_(mean), of_weight if needed[1] else None, of_bias if needed[2] else None


class _RootScaled(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: AutogradContext, x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, eps: float
    ) -> torch.Tensor:
        scale = torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
        y = x * scale
        # the bits of the formula, which runs where no gradients are asked for
        if weight is not None:
            y.mul_(weight)
        if bias is not None:
            y.add_(bias)
        ctx.save_for_backward(x, weight, bias, scale)
        ctx.eps = eps
        return y

    @staticmethod
    def backward(ctx: AutogradContext, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, bias, scale = ctx.saved_tensors
        needed = ctx.needs_input_grad[:3]
        if torch.is_grad_enabled():
            # to be differentiated again
            inputs = (x, weight, bias)
            return *_gradients_of(_root_scaled(*inputs, ctx.eps), inputs, needed, gradient), None
        if needed[0] and weight is not None and ctx.eps >= _LEAST_EPS:
            return *_by_layer_norms_kernel(gradient, x, weight, needed, scale), None
        of_weight, of_bias = _parameter_gradients(gradient, x, weight, needed[1:], scale)
        if not needed[0]:
            return None, of_weight, of_bias, None
        scaled = gradient if weight is None else gradient * weight
        # in this order: the square of the scale may be beyond the numbers there are
        along_x = (scaled * x).sum(-1, keepdim=True).mul_(scale).mul_(scale).div_(-x.shape[-1])
        return torch.addcmul(scaled, x, along_x).mul_(scale), of_weight, of_bias, None


class _Affine(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: AutogradContext, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, rounds_once: bool
    ) -> torch.Tensor:
        ctx.save_for_backward(x, weight, bias)
        if bias is not None and rounds_once:
            return torch.addcmul(bias, x, weight)
        y = x * weight
        return y if bias is None else y.add_(bias)

    @staticmethod
    def backward(ctx: AutogradContext, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, bias = ctx.saved_tensors
        needed = ctx.needs_input_grad[:3]
        if torch.is_grad_enabled():
            inputs = (x, weight, bias)
            return *_gradients_of(_by_formula(*inputs), inputs, needed, gradient), None
        of_weight, of_bias = _parameter_gradients(gradient, x, weight, needed[1:])
        return gradient * weight if needed[0] else None, of_weight, of_bias, None


class _Squashed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: AutogradContext,
        x: torch.Tensor,
        alpha: torch.Tensor,
        shift: torch.Tensor | None,
        weight: torch.Tensor,
        bias: torch.Tensor,
        by: Squash,
    ) -> torch.Tensor:
        values = by.run(_inside(x, alpha, shift))
        ctx.save_for_backward(x, alpha, shift, weight, bias, values)
        ctx.by = by
        # the bits of the formula
        return (values * weight).add_(bias)

    @staticmethod
    def backward(ctx: AutogradContext, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        *inputs, values = ctx.saved_tensors
        x, alpha, shift, weight, bias = inputs
        needed = ctx.needs_input_grad[:5]
        if torch.is_grad_enabled():
            formula = _by_formula(ctx.by.formula(_inside(x, alpha, shift)), weight, bias)
            return *_gradients_of(formula, tuple(inputs), needed, gradient), None
        of_weight, of_bias = _parameter_gradients(gradient, values, weight, needed[3:])
        inner = ctx.by.slope(gradient, values, lambda: _inside(x, alpha, shift)).mul_(weight)
        of_alpha = (inner * x).sum().unsqueeze(0) if needed[1] else None
        of_shift = inner.sum().unsqueeze(0) if needed[2] else None
        return inner.mul_(alpha) if needed[0] else None, of_alpha, of_shift, of_weight, of_bias, None


def _inside(x: torch.Tensor, alpha: torch.Tensor, shift: torch.Tensor | None) -> torch.Tensor:
    z = x * alpha
    if shift is None:
        return z
    return z + shift if torch.is_grad_enabled() else z.add_(shift)
