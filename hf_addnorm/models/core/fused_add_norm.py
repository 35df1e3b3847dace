"""Dropout, sum and norm of a sublayer by functions of their own, in training, where a model is told to.

    x -------------------------+-> sum -> norm in post -> y
    f -> dropout -> residual --^

On a CPU dropout's mask is made of random bytes, and dropout and the sum are one function (`byte_dropout.py`). On a GPU
all three are one kernel (`triton_add_norm.py`). Either draws other numbers than torch's dropout.
"""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from ..residuals.residuals import Residual
from ..streams.streams import Function
from .byte_dropout import byte_dropout, dropped_sum
from .triton_add_norm import triton_add_norm
from .untouched import is_untouched


@runtime_checkable
class MayFuse(Protocol):
    """A layer, an encoder or an attention, which runs so in training where this is true."""

    fused_add_norm: bool


class FusedDropout:
    """A sublayer's dropout in training, in the place of torch's: `f` [..., hidden] to the same shape and dtype.

    Args:
        rate (`float`): the probability with which an element is 0.
    """

    def __init__(self, rate: float):
        self.rate = rate

    def __call__(self, f: torch.Tensor) -> torch.Tensor:
        return byte_dropout(f, self.rate)


class FusedAddNorm:
    """`norm(residual(x, dropout(f)))`, in the place of a residual, from `x` and `f` [..., hidden] to the same shape.

    Args:
        dropout (`FusedDropout`): that on the sublayer's output.
        residual (`Residual`): one with constant factors (`Residual.scales`).
        norm (`Callable`, *optional*): that in the slot `post`.
    """

    def __init__(self, dropout: FusedDropout, residual: Residual, norm: Function | None):
        self.dropout, self.residual, self.norm = dropout, residual, norm

    def __call__(self, x: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
        rate, scales = self.dropout.rate, self.residual.scales()
        if scales is not None and (found := triton_add_norm(x, f, rate, scales, self.norm)) is not None:
            return found
        total = None if scales is None else dropped_sum(x, f, rate, *scales)
        if total is None:
            total = self.residual(x, self.dropout(f))
        return total if self.norm is None else self.norm(total)


def fused_dropout(dropout: Callable[..., torch.Tensor] | float | None) -> FusedDropout | None:
    """What stands for a stock layer's dropout; None where a tool has put something else in its place."""
    if dropout is None or isinstance(dropout, float):
        return FusedDropout(dropout or 0.0)
    if type(dropout) is nn.Identity:
        return FusedDropout(0.0)
    return FusedDropout(dropout.p) if type(dropout) is nn.Dropout and is_untouched(dropout) else None


class FusesAddNorm:
    """Mixin for a model whose layers may run dropout, sum and norm by functions of their own in training."""

    def set_fused_add_norm(self, fused: bool = True) -> None:
        """Let dropout, sum and norm of each sublayer run by fused functions in training, or not (any more).

        On a CPU dropout takes a fraction of its time and a quarter of its memory; on a GPU all three are one Triton
        kernel, if the package triton is there. Either draws other random numbers than torch's dropout: with the same
        seed the model trains as well, but not to the same weights as the stock model. It is a way to run a model: what
        is saved of it says nothing of it. Compiled models run as without it.

        Args:
            fused (`bool`, *optional*, defaults to `True`): False runs them by torch again.
        """
        for module in self.modules():  # type: ignore[attr-defined]
            if isinstance(module, MayFuse):
                module.fused_add_norm = fused
