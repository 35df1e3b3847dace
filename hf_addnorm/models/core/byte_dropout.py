"""Dropout whose mask is made of random bytes, alone and in the sum behind it: on a CPU in a seventh of torch's time.

There torch draws one number for each element, in one thread, and keeps a mask as large as the tensor. Here one draw of
64 bits is the mask of eight elements, and one byte of each is kept. The numbers are others than those of torch's
dropout, so that a model draws so only where it is told to (`set_fused_add_norm`).
"""

import torch
from torch import nn

from ..base.protocols import AutogradContext
from ..norms.fused import runs_eagerly


# The highest rate that is drawn so: its bound is to fit a byte, one more when it is rounded up.
_HIGHEST = 0.99


def keep_mask(x: torch.Tensor, rate: float) -> torch.Tensor:
    """1 where an element of `x` [..., features] is kept, else 0; uint8, in the shape of `x`.

    An element is kept if its byte is not below `256 * rate`. That bound is rounded at random, up or down, for each row
    of features, so that the rate is exact in expectation. The draws are of torch's generator of the CPU:
    `torch.manual_seed` repeats them, and a checkpoint's recomputation has the same.
    """
    bits = torch.empty((x.numel() + 7) // 8, dtype=torch.int64).random_(-(2**63), None)
    drawn: torch.Tensor = bits.view(torch.uint8)[: x.numel()].view(x.shape)
    bound = torch.rand((*x.shape[:-1], 1)).add_(256 * rate).to(torch.uint8)
    return drawn.ge_(bound)


def byte_dropout(x: torch.Tensor, rate: float) -> torch.Tensor:
    """Dropout in training, `x [..., features]`: 0 with probability `rate`, else divided by `1 - rate`.

    Where operations are compiled, traced or run elsewhere than on a CPU, and at rates above 0.99, it is torch's. It is
    not asked whether gradients are: a checkpoint draws without them first, and has to draw the same again.
    """
    if not _draws_bytes(rate, x):
        return nn.functional.dropout(x, rate)
    dropped: torch.Tensor = _ByteDropout.apply(x, rate)
    return dropped


def dropped_sum(
    x: torch.Tensor, f: torch.Tensor, rate: float, skip_scale: float = 1.0, branch_scale: float = 1.0
) -> torch.Tensor | None:
    """`skip_scale * x + branch_scale * dropout(f)`, both [..., features], in one; None where it cannot run."""
    if x.shape != f.shape or not _draws_bytes(rate, x, f):
        return None
    total: torch.Tensor = _DroppedSum.apply(x, f, rate, skip_scale, branch_scale)
    return total


def _draws_bytes(rate: float, *tensors: torch.Tensor) -> bool:
    return 0 < rate <= _HIGHEST and tensors[0].dim() > 0 and runs_eagerly(*tensors)


def _kept(x: torch.Tensor, mask: torch.Tensor, scale: float) -> torch.Tensor:
    """`x * mask * scale`, rounded once."""
    return torch.addcmul(x.new_zeros(()), x, mask, value=scale)


class _ByteDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: AutogradContext, x: torch.Tensor, rate: float) -> torch.Tensor:
        mask = keep_mask(x, rate)
        ctx.save_for_backward(mask)
        ctx.scale = 1 / (1 - rate)
        return _kept(x, mask, ctx.scale)

    @staticmethod
    def backward(ctx: AutogradContext, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return _kept(gradient, ctx.saved_tensors[0], ctx.scale), None


class _DroppedSum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: AutogradContext, x: torch.Tensor, f: torch.Tensor, rate: float, skip_scale: float, branch_scale: float
    ) -> torch.Tensor:
        mask = keep_mask(f, rate)
        ctx.save_for_backward(mask)
        ctx.skip_scale, ctx.scale = skip_scale, branch_scale / (1 - rate)
        ctx.dtypes = x.dtype, f.dtype
        return torch.addcmul(x if skip_scale == 1.0 else x * skip_scale, f, mask, value=ctx.scale)

    @staticmethod
    def backward(ctx: AutogradContext, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        of_x = of_f = None
        if ctx.needs_input_grad[0]:
            of_x = (gradient if ctx.skip_scale == 1.0 else gradient * ctx.skip_scale).to(ctx.dtypes[0])
        if ctx.needs_input_grad[1]:
            of_f = _kept(gradient, ctx.saved_tensors[0], ctx.scale).to(ctx.dtypes[1])
        return of_x, of_f, None, None, None
