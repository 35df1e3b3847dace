"""Norms over tokens that divide by running quadratic means, and whose gradient is made of running statistics too."""

from typing import Annotated, Literal

import torch
from torch.autograd.function import once_differentiable

from ..base.forward_context import put_buffer
from ..base.protocols import AutogradContext
from ..base.registries import NORMS
from ..base.registry import Fraction, Positive, whole
from .running_norms import RunningNorm, over_processes, over_tokens, processes


class _ApproximateDivision(torch.autograd.Function):
    """`x / sqrt(square)`, whose gradient is what the norm makes of it from statistics of gradients that it keeps."""

    @staticmethod
    def forward(
        ctx: AutogradContext, x: torch.Tensor, square: torch.Tensor, norm: "QuadraticNorm", *taken: torch.Tensor
    ) -> torch.Tensor:
        z = x / torch.sqrt(square)
        ctx.norm = norm
        ctx.save_for_backward(z, *taken)
        return z

    @staticmethod
    @once_differentiable
    def backward(ctx: AutogradContext, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        z, *taken = ctx.saved_tensors
        # as each process's share in the mean of their losses: statistics of gradients are those of the whole batch
        grad = ctx.norm.input_gradient(grad / processes(), z, *taken) * processes()
        return grad, None, None, *[None] * len(taken)


class QuadraticNorm(RunningNorm):
    """Base of the norms that divide by a root of quadratic means and keep statistics of gradients too.

    In training `take_in` returns the quadratic mean to divide by, the one to divide by in the backward, and what else
    the backward needs. Statistics of gradients move in the backward. Their unit is the loss (with several processes,
    the mean of theirs): a loss scale that changes, as in float16 training, changes it under them. torch.compile leaves
    these norms out in training (a break of the graph); there is no second derivative.

    Where `keeps_padding` is true, the means of the backward are those over all places, padded ones too.
    """

    running_square: torch.Tensor
    running_gradient: torch.Tensor
    iterations_done: torch.Tensor

    def __init__(self, hidden_size: int, gain: bool, bias: bool, eps: float, momentum: float):
        super().__init__(hidden_size, gain, bias)
        self.eps, self.momentum = eps, momentum
        self.keep("running_square", 1.0, hidden_size)
        self.keep("running_gradient", 0.0, hidden_size)
        self.keep("iterations_done", 0, dtype=torch.long)

    def folded(self) -> tuple[torch.Tensor, torch.Tensor]:
        scale = self.times_gain(torch.rsqrt(self.running_square + self.eps))
        return scale, self.plus_bias(torch.zeros_like(scale))

    def normalize_tokens(self, x: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        quotient: torch.Tensor = self.divide(self.prepare(x), real)[0]
        return quotient

    # what a backward writes to buffers cannot be traced
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def divide(self, x: torch.Tensor, real: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The quotient of training, and what `take_in` gave beside the divisor."""
        count = over_processes(real.sum().to(x.dtype))
        # what the means of the backward are over; 0 if this forward does not count
        places = count
        if self.keeps_padding:
            places = torch.where(count > 0, over_processes(count.new_tensor(real.numel())), 0.0)
        square, *taken = self.counted(over_tokens(torch.where(real, x.detach(), 0.0).square(), count), count)
        return _ApproximateDivision.apply(x, square + self.eps, self, places, *taken), *taken

    def input_gradient(
        self, grad: torch.Tensor, z: torch.Tensor, places: torch.Tensor, square: torch.Tensor, *taken: torch.Tensor
    ) -> torch.Tensor:
        """The gradient for x from that for the quotient z. It moves the statistics of gradients."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        return f"{self.hidden_size}, eps={self.eps}, momentum={self.momentum}"


@NORMS.register("power_norm")
class PowerNorm(QuadraticNorm):
    """PowerNorm: `x / sqrt(running_square + eps) * gain + bias`, in training too, with no mean taken out.

        x [batch, seq, hidden] -> / sqrt(running_square + eps) -> * gain -> + bias -> [batch, seq, hidden]

    With z the quotient, g its gradient, [.] the mean over the real tokens of all processes, a = 1 - momentum:

        forward:   z = x / root, with the running_square before this batch;
                   then running_square <- a * running_square + (1 - a) * [x^2]
        backward:  dL/dx = (g - running_gradient * z) / root;
                   then running_gradient <- running_gradient * (1 - (1 - a) * [z^2]) + (1 - a) * [g * z]

    This backward is the paper's, an approximation by design and not the derivative of the forward: the statistics of
    the batch do not enter the forward, and their effect on the gradient is estimated by a running one. A forward
    without real tokens does not count, nor does its backward.

    `variant="official"` is the authors' code. There each token is first divided by the root mean square of each of
    `groups` slices of its features (`sqrt(mean(x^2) + eps)`, differentiated exactly); the first `warmup` training
    forwards divide by the batch's own [x^2]; in those before number `warmup`, running_square first takes the batch
    into a cumulative average, and then again by momentum, as always; the backward divides by the root of the
    batch's [x^2] even where the forward divided by the running one; and the means of the backward are over all places,
    the padded ones included, with what they hold and their gradients: running_gradient depends on how much padding
    there is, and padded places get a gradient. The code's `ema_gz` is running_gradient / momentum.

    Source: Shen et al., "PowerNorm: Rethinking Batch Normalization in Transformers", 2020, arXiv 2003.07845. eps is
    the authors' code's, which divides so.

    Args:
        hidden_size (`int`): size of the last axis.
        gain, bias (`bool`, *optional*, default to `True`): learned, per feature.
        eps (`float`, *optional*, defaults to 1e-5): above 0, inside the root.
        momentum (`float`, *optional*, defaults to 0.1): the weight of the newest batch, forward and backward.
        variant (`str`, *optional*, defaults to `"paper"`): or "official".
        groups (`int` or `"heads"`, *optional*): slices of the features for the first division; "heads" means the
            number of attention heads, as in the authors' encoder. By default no such division; 1 if official.
        warmup (`int`, *optional*): training forwards by the batch's own [x^2]; by default 0, 10,000 if official.
    Raises:
        ValueError: if `groups` does not divide `hidden_size`.
    Dtype: computed in float32 at least, returned in `x.dtype`; running statistics stay in float32.
    Init: gain = 1, bias = 0, running_square = 1, running_gradient = 0, no iteration done.
    """

    keep_in_float32 = ("running_square", "running_gradient")

    def __init__(
        self,
        hidden_size: int,
        *,
        gain: bool = True,
        bias: bool = True,
        eps: Positive = 1e-5,
        momentum: Fraction = 0.1,
        variant: Literal["paper", "official"] = "paper",
        groups: Annotated[int, whole(at_least=1)] | Literal["heads"] | None = None,
        warmup: Annotated[int, whole(at_least=0)] | None = None,
    ):
        super().__init__(hidden_size, gain, bias, eps, momentum)
        if groups == "heads":
            raise ValueError('power_norm: groups is "heads" and there is no model to take the number of heads from.')
        self.official = self.keeps_padding = variant == "official"
        self.groups = 1 if groups is None and self.official else groups
        if warmup is None:
            warmup = 10_000 if self.official else 0
        self.warmup = warmup
        if hidden_size % (self.groups or 1):
            raise ValueError(f"power_norm: groups is {groups}, which does not divide the width {hidden_size}.")

    def prepare(self, x: torch.Tensor) -> torch.Tensor:
        if self.groups is None:
            return x
        slices = x.unflatten(-1, (self.groups, -1))
        scaled: torch.Tensor = slices / torch.sqrt(slices.square().mean(-1, keepdim=True) + self.eps)
        return scaled.flatten(-2)

    def take_in(self, *batch: torch.Tensor) -> tuple[torch.Tensor, ...]:
        square, count = batch
        counts, before = count > 0, self.running_square.clone()
        number = self.iterations_done + counts
        put_buffer(self, "iterations_done", number)
        share = torch.ones_like(count) / number.clamp(min=1)
        self.blend("running_square", square, share, counts & (number < self.warmup))
        self.blend("running_square", square, self.momentum, counts)
        used = torch.where(counts & (number <= self.warmup), square, before)
        return used, torch.where(counts, square, before) if self.official else used

    def input_gradient(
        self, grad: torch.Tensor, z: torch.Tensor, places: torch.Tensor, square: torch.Tensor, *taken: torch.Tensor
    ) -> torch.Tensor:
        left = grad - self.running_gradient * z
        # [left * z] is [g * z] - running_gradient * [z^2]
        moved = self.running_gradient + self.momentum * over_tokens(left * z, places)
        put_buffer(self, "running_gradient", torch.where(places > 0, moved, self.running_gradient))
        return left / torch.sqrt(square + self.eps)

    def extra_repr(self) -> str:
        variant = "official" if self.official else "paper"
        return f"{super().extra_repr()}, variant={variant}, groups={self.groups}, warmup={self.warmup}"


class _ScaledGradient(torch.autograd.Function):
    """The identity, whose gradient is multiplied by a factor."""

    @staticmethod
    def forward(ctx: AutogradContext, y: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(factor)
        return y.view_as(y)

    @staticmethod
    def backward(ctx: AutogradContext, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        (factor,) = ctx.saved_tensors
        return grad * factor, None


@NORMS.register("unified_norm")
class UnifiedNorm(QuadraticNorm):
    """Unified Normalization: `x / sqrt(square + eps) * gain + bias`, square from the quadratic means of some batches.

        x [batch, seq, hidden] -> / sqrt(square + eps) -> * gain -> + bias -> [batch, seq, hidden]

    With z the quotient, [.] the mean over the real tokens of all processes, k the number of this training forward from
    1, a = 1 - momentum:

        forward:   square is the geometric mean of the [x^2] of the last `window` batches, this one included; it is
                   this batch's own while k < warmup or k <= window, and for an outlier;
                   then running_square <- a * running_square + (1 - a) * square
        backward:  g = gain * dL/dy * ratio, and the gain's gradient times ratio too: the compensation for a square
                   that differs from the running one. ratio is the one's root over the other's, between 1/5 and 5; it
                   is 1 while k <= max(1000, warmup), and for an outlier.
                   mean_gz is the mean of the [g * z] of the last `window` batches, or this batch's own, as above;
                   running_gradient <- a * running_gradient + (1 - a) * mean_gz
                   dL/dx = (g - running_gradient * z) / sqrt(square + eps), for an outlier with mean_gz instead

    With `outlier_filtration` a batch after the warm-up is an outlier if, in any feature, the arithmetic mean of the
    window exceeds the geometric one by more than `window` times the variance (n - 1, over window and features) of the
    window's roots before it. The running statistics then take its place in the window. In evaluation square is the
    running one. A forward without real tokens does not count, nor does its backward.

    This is the authors' code but for two things, which `variant="official"` has as they have them: the means of the
    backward are over all places, the padded ones included, with what they hold and their gradients, so that the
    statistics of gradients depend on how much padding there is; and a batch may be an outlier before the window is
    full.

    Source: Yang et al., "Unified Normalization for Accelerating and Stabilizing Transformers", 2022,
    arXiv 2208.01313.

    Args:
        hidden_size (`int`): size of the last axis.
        gain, bias (`bool`, *optional*, default to `True`): learned, per feature.
        eps (`float`, *optional*, defaults to 1e-5): above 0, inside the roots.
        momentum (`float`, *optional*, defaults to 0.1): the weight of the newest batch.
        window (`int`, *optional*, defaults to 4): batches; with 1, each is treated like an outlier.
        warmup (`int`, *optional*, defaults to 4000): training forwards.
        outlier_filtration (`bool`, *optional*, defaults to `False`): the authors suggest it for images, not for text.
        variant (`str`, *optional*, defaults to `"paper"`): or "official".
    Dtype: computed in float32 at least, returned in `x.dtype`; running statistics stay in float32.
    Init: gain = 1, bias = 0, running_square = 1, all other statistics 0, no iteration done.
    """

    keep_in_float32 = ("running_square", "running_gradient", "window_squares", "window_gradients")

    window_squares: torch.Tensor
    window_gradients: torch.Tensor

    def __init__(
        self,
        hidden_size: int,
        *,
        gain: bool = True,
        bias: bool = True,
        eps: Positive = 1e-5,
        momentum: Fraction = 0.1,
        window: Annotated[int, whole(at_least=1)] = 4,
        warmup: Annotated[int, whole(at_least=0)] = 4000,
        outlier_filtration: bool = False,
        variant: Literal["paper", "official"] = "paper",
    ):
        super().__init__(hidden_size, gain, bias, eps, momentum)
        self.keeps_padding = variant == "official"
        self.window, self.warmup, self.outlier_filtration = window, warmup, outlier_filtration
        self.keep("window_squares", 0.0, window, hidden_size)
        self.keep("window_gradients", 0.0, window, hidden_size)

    def transform(self, x: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        z, *_, ratio = self.divide(x, real)
        return self.plus_bias(_ScaledGradient.apply(self.times_gain(z), ratio))

    def _with(self, windows: torch.Tensor, number: torch.Tensor, newest: torch.Tensor) -> torch.Tensor:
        """The window with the newest statistic of training forward `number` in the oldest one's place."""
        return windows.index_copy(0, (number % self.window).view(1), newest.to(windows.dtype).unsqueeze(0))

    def _settled(self, number: torch.Tensor) -> torch.Tensor:
        return (number > self.window) & (number >= self.warmup)

    def take_in(self, *batch: torch.Tensor) -> tuple[torch.Tensor, ...]:
        square, count = batch
        counts, before = count > 0, self.running_square.clone()
        number = self.iterations_done + counts
        put_buffer(self, "iterations_done", number)
        window = self._with(self.window_squares, number, square)
        geometric = window.log().mean(0).exp()
        outlier = counts & (self.window == 1)
        if self.outlier_filtration:
            spread = self.window * self.window_squares.sqrt().var()
            # while the window has an empty place, its geometric mean is 0
            judged = number >= self.warmup if self.keeps_padding else self._settled(number)
            outlier = outlier | (counts & judged & (window.mean(0) - geometric > spread).any())
            window = torch.where(outlier, self._with(self.window_squares, number, before), window)
        used = torch.where(self._settled(number) & ~outlier, geometric, square)
        put_buffer(self, "window_squares", torch.where(counts, window, self.window_squares))
        self.blend("running_square", used, self.momentum, counts)
        used = torch.where(counts, used, before)
        ratio = torch.sqrt((used + self.eps) / (before + self.eps)).clamp(1 / 5, 5)
        ratio = torch.where((number > max(1000, self.warmup)) & ~outlier, ratio, 1.0)
        return used, used, number, outlier, ratio

    def input_gradient(
        self, grad: torch.Tensor, z: torch.Tensor, places: torch.Tensor, square: torch.Tensor, *taken: torch.Tensor
    ) -> torch.Tensor:
        number, outlier, _ = taken
        counts, before = places > 0, self.running_gradient.clone()
        newest = over_tokens(grad * z, places)
        window = self._with(self.window_gradients, number, torch.where(outlier, before, newest))
        mean = torch.where(self._settled(number) & ~outlier, window.mean(0), newest)
        put_buffer(self, "window_gradients", torch.where(counts, window, self.window_gradients))
        self.blend("running_gradient", mean, self.momentum, counts)
        known = torch.where(outlier, mean, self.running_gradient)
        return (grad - known * z) / torch.sqrt(square + self.eps)

    def extra_repr(self) -> str:
        variant = "official" if self.keeps_padding else "paper"
        return f"{super().extra_repr()}, variant={variant}, window={self.window}, warmup={self.warmup}"
