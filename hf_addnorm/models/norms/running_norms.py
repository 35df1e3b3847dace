"""Norms over tokens that keep running statistics: batch norm and those made of it.

Those without a mean, with statistics of gradients too, are in quadratic_norms.
"""

from collections.abc import Callable
from functools import partial
from typing import Annotated, Self

import torch
import torch.distributed as dist
from torch import nn

from ..base.auxiliary_loss import contribute
from ..base.forward_context import put_buffer
from ..base.protocols import AutogradContext
from ..base.registries import NORMS
from ..base.registry import Finite, Fraction, Positive, number, whole
from ..base.token_mask import current
from .layer_norms import DeviationNorm
from .token_norms import TokenNorm, mask_of


NonNegative = Annotated[float, number(at_least=0)]


class _SumOverProcesses(torch.autograd.Function):
    """The sum of a tensor over all processes; its gradient is the sum of their gradients."""

    @staticmethod
    def forward(ctx: AutogradContext, x: torch.Tensor) -> torch.Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: AutogradContext, grad: torch.Tensor) -> torch.Tensor:
        total = grad.clone()
        dist.all_reduce(total)
        return total


def processes() -> int:
    """The number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def over_processes(x: torch.Tensor) -> torch.Tensor:
    """The sum of `x` over all processes, where there are several."""
    total: torch.Tensor = _SumOverProcesses.apply(x) if processes() > 1 else x
    return total


def over_tokens(x: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
    """The mean per feature of `x` [..., hidden] over the `count` tokens of all processes; 0 if there are none."""
    return over_processes(x.sum(tuple(range(x.dim() - 1)))) / count.clamp(min=1.0)


class RunningNorm(TokenNorm):
    """Base of the norms that keep running statistics, which are those of the real tokens of all processes.

    Each training forward counts once in them. A checkpoint's recomputation counts no more, and works with the
    statistics that the forward worked with, though they have changed since. Floating-point statistics stay in float32
    at least; all of them are buffers, saved and loaded with the weights.

    In evaluation such a norm is one multiply-add per feature, `folded`, of what `prepare` makes of a token.

    Args:
        hidden_size, gain, bias: see `Norm`.
    """

    of_sequences = False
    keep_in_float32: tuple[str, ...] = ()
    # whether a training forward works with statistics of those before it
    looks_back = True

    def __init__(self, hidden_size: int, gain: bool, bias: bool):
        super().__init__(hidden_size, gain, bias)
        self._starts: dict[str, float] = {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            return super().forward(x)
        # padding counts as 0, as in training; it reaches no other token
        real = mask_of(x)
        x = x if real is None else torch.where(real, x, 0.0)
        wide = self.prepare(x.to(torch.promote_types(x.dtype, torch.float32)))
        scale, shift = self.folded()
        return torch.addcmul(shift.to(wide.dtype), wide, scale.to(wide.dtype)).to(x.dtype)

    def prepare(self, x: torch.Tensor) -> torch.Tensor:
        """What is done to each token by itself before its features are normalised, in training too."""
        return x

    def folded(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The function of evaluation as scale and shift of what is prepared, both [hidden], in float32 at least."""
        raise NotImplementedError

    def keep(self, name: str, start: float, *shape: int, dtype: torch.dtype | None = None) -> None:
        """Add a running statistic [*shape], a buffer, with its start value."""
        self.register_buffer(name, torch.empty(shape, dtype=dtype))
        self._starts[name] = start

    def reset_parameters(self) -> None:
        super().reset_parameters()
        for name, start in self._starts.items():
            nn.init.constant_(self.get_buffer(name), start)

    def blend(self, name: str, new: torch.Tensor, weight: float | torch.Tensor, counts: torch.Tensor) -> None:
        """Move a running statistic towards `new` by `weight`, where `counts` is true."""
        running = self.get_buffer(name)
        put_buffer(self, name, torch.where(counts, running + weight * (new - running), running))

    def take_in(self, *batch: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Let the running statistics take in those of a batch.

        Returns what else this forward needs of them; never the buffers themselves, which change.
        """
        raise NotImplementedError

    @torch.no_grad()
    def counted(self, *batch: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Call `take_in` once per forward; a checkpoint's recomputation gets the result of the forward."""
        taken = current().once(self, partial(self.take_in, *batch))
        if taken is not None:
            return taken
        if self.looks_back:
            raise RuntimeError(
                f"{type(self).__name__} needs the statistics that it had in the forward, which a checkpoint around a "
                "layer or a model does not keep; checkpoint with the model's gradient_checkpointing_enable()."
            )
        before = {name: buffer.clone() for name, buffer in self.named_buffers(recurse=False)}
        taken = self.take_in(*batch)
        for name, value in before.items():
            put_buffer(self, name, value)
        return taken

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        # a change of the model's dtype to a half one leaves the running statistics as they are
        kept = {name: self.get_buffer(name) for name in self.keep_in_float32}
        super()._apply(fn, recurse)
        for name, before in kept.items():
            after = self.get_buffer(name)
            if after.dtype in (torch.float16, torch.bfloat16):
                setattr(self, name, before.to(after.device))
        return self


@NORMS.register("batch_norm")
class BatchNorm(RunningNorm):
    """BatchNorm over the real tokens of the batch: `(x - mean) / sqrt(var + eps) * gain + bias` per feature.

        x [batch, seq, hidden] -> - mean over tokens -> / sqrt(var + eps) -> * gain -> + bias -> [batch, seq, hidden]

    In training the statistics are those of the real tokens of all processes; in evaluation the running ones. Each
    training forward counts once in these, also under gradient checkpointing; one of fewer than two tokens does not
    count. A single token has variance 0, so that its output is the bias.

    Source: Ioffe & Szegedy, 2015, arXiv 1502.03167; in transformers Shen et al., "PowerNorm", 2020, arXiv 2003.07845.

    Args:
        hidden_size (`int`): size of the last axis.
        gain, bias (`bool`, *optional*, default to `True`): learned, per feature.
        eps (`float`, *optional*, defaults to 1e-5): above 0, inside the root.
        momentum (`float`, *optional*, defaults to 0.1): the weight of the newest batch in the running statistics; its
            variance counts there with n - 1.
    Dtype: computed in float32 at least, returned in `x.dtype`; running statistics stay in float32.
    Init: gain = 1, bias = 0, running_mean = 0, running_var = 1.
    """

    keep_in_float32 = ("running_mean", "running_var")
    looks_back = False

    def __init__(
        self, hidden_size: int, *, gain: bool = True, bias: bool = True, eps: Positive = 1e-5, momentum: Fraction = 0.1
    ):
        super().__init__(hidden_size, gain, bias)
        self.eps, self.momentum = eps, momentum
        self.keep("running_mean", 0.0, hidden_size)
        self.keep("running_var", 1.0, hidden_size)

    def folded(self) -> tuple[torch.Tensor, torch.Tensor]:
        mean, var = self.get_buffer("running_mean"), self.get_buffer("running_var")
        scale = self.times_gain(torch.rsqrt(var + self.eps))
        return scale, self.plus_bias(-mean * scale)

    def normalize_tokens(self, x: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        count = over_processes(real.sum().to(x.dtype))
        mean = over_tokens(x, count)
        centred = x - mean
        var = over_tokens(torch.where(real, centred, 0.0).square(), count)
        self.compare(mean, var, count, *self.counted(mean, var, count))
        return centred / torch.sqrt(var + self.eps)

    def take_in(self, *batch: torch.Tensor) -> tuple[torch.Tensor, ...]:
        mean, var, count = batch
        before = self.get_buffer("running_mean").clone(), self.get_buffer("running_var").clone()
        self.blend("running_mean", mean, self.momentum, count > 1)
        self.blend("running_var", var * count / (count - 1).clamp(min=1.0), self.momentum, count > 1)
        return before

    def compare(
        self,
        mean: torch.Tensor,
        var: torch.Tensor,
        count: torch.Tensor,
        running_mean: torch.Tensor,
        running_var: torch.Tensor,
    ) -> None:
        """Hook for subclasses: called with a training batch's statistics and the running ones before it."""

    def extra_repr(self) -> str:
        return f"{self.hidden_size}, eps={self.eps}, momentum={self.momentum}"


@NORMS.register("regularized_bn")
class RegularizedBatchNorm(BatchNorm):
    """RegularizedBN: BatchNorm with a loss on the gap between the batch's and the running statistics.

        x -> batch_norm -> [batch, seq, hidden]
        loss += mean_penalty * |mean - running_mean|^2 + deviation_penalty * |deviation - running_deviation|^2

    deviation is `sqrt(var + eps)`, |.|^2 the sum of the squares over the features, the running statistics are those
    before this batch. In training a model with a head adds the penalties of all its norms to its loss. A base model
    has no loss: `outputs, losses = hf_addnorm.collect_losses(model, **inputs)` gives them beside its outputs. A
    forward of fewer than two tokens has no penalty. Every process adds the whole of it, and every micro-batch: it is
    right where gradients are averaged over them; where Trainer has a head divide its loss by the labels of a whole
    step, the penalty has the same share of it. A loss that is computed outside of the model (label smoothing and
    `compute_loss_func` of Trainer) misses it, which a warning says: `hf_addnorm.trainer.AddNormTrainer` adds it there.
    Reentrant checkpointing would lose its gradient and is refused.

    Source: Wang et al., "Understanding the Failure of Batch Normalization for Transformers in NLP", 2022,
    arXiv 2210.05153. The penalty is documented there; it was not checked against a run of the authors' code, whose
    variants (such as one on the variances' absolute difference, and with the running statistics after the batch) are
    not offered. The default weights are those of the authors' pre-norm configuration, the momentum is their code's.

    Args:
        mean_penalty (`float`, *optional*, defaults to 0.1): at least 0.
        deviation_penalty (`float`, *optional*, defaults to 0.01): at least 0.
        hidden_size, gain, bias, eps, momentum: as in `batch_norm`; momentum defaults to 0.05.
    Dtype, init: as `batch_norm`; the penalty is in float32 at least.
    """

    adds_loss = True
    looks_back = True

    def __init__(
        self,
        hidden_size: int,
        *,
        gain: bool = True,
        bias: bool = True,
        eps: Positive = 1e-5,
        momentum: Fraction = 0.05,
        mean_penalty: NonNegative = 0.1,
        deviation_penalty: NonNegative = 0.01,
    ):
        super().__init__(hidden_size, gain=gain, bias=bias, eps=eps, momentum=momentum)
        self.mean_penalty, self.deviation_penalty = mean_penalty, deviation_penalty

    def compare(
        self,
        mean: torch.Tensor,
        var: torch.Tensor,
        count: torch.Tensor,
        running_mean: torch.Tensor,
        running_var: torch.Tensor,
    ) -> None:
        deviation, running_deviation = torch.sqrt(var + self.eps), torch.sqrt(running_var + self.eps)
        penalty = self.mean_penalty * (mean - running_mean).square().sum()
        penalty = penalty + self.deviation_penalty * (deviation - running_deviation).square().sum()
        contribute(torch.where(count > 1, penalty, 0.0))

    def extra_repr(self) -> str:
        penalties = f"mean_penalty={self.mean_penalty}, deviation_penalty={self.deviation_penalty}"
        return f"{super().extra_repr()}, {penalties}"


@NORMS.register("rep_bn")
class RepBatchNorm(BatchNorm):
    """RepBN: `batch_norm(x) + alpha * x`, alpha a learned scalar.

        x -+-> batch_norm -> + -> [batch, seq, hidden]
           +-> * alpha ------^

    In evaluation it is one affine map per feature. A single token's output in training is its bias + alpha x.

    Source: SLAB, Guo et al., 2024, arXiv 2405.11582. The authors' code knows no padding; here only real tokens count.

    Args:
        alpha_init (`float`, *optional*, defaults to 1): start value of alpha.
        hidden_size, gain, bias, eps, momentum: as in `batch_norm`.
    Dtype: as `batch_norm`. Init: alpha = alpha_init, the rest as `batch_norm`.
    """

    def __init__(
        self,
        hidden_size: int,
        *,
        gain: bool = True,
        bias: bool = True,
        eps: Positive = 1e-5,
        momentum: Fraction = 0.1,
        alpha_init: Finite = 1.0,
    ):
        super().__init__(hidden_size, gain=gain, bias=bias, eps=eps, momentum=momentum)
        self.alpha_init = alpha_init
        self.alpha = nn.Parameter(torch.empty(1))

    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.constant_(self.alpha, self.alpha_init)

    def transform(self, x: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        return super().transform(x, real) + self.alpha * x

    def folded(self) -> tuple[torch.Tensor, torch.Tensor]:
        scale, shift = super().folded()
        return scale + self.alpha, shift


@NORMS.register("progressive_rep_bn")
class ProgressiveRepBatchNorm(RunningNorm):
    """Progressive RepBN: from LayerNorm to RepBN, `share * layer_norm(x) + (1 - share) * rep_bn(x)`.

        x -+-> layer_norm -> * share -----> + -> [batch, seq, hidden]
           +-> rep_bn ----> * (1 - share) -^

    share falls linearly from 1 to 0 over `iterations` training forwards. In evaluation it is RepBN alone, as in the
    authors' code: before the schedule has ended, that is not the function that is being trained. Every micro-batch of
    a gradient accumulation is a forward; a checkpoint's recomputation is none (in the authors' code it is).

    Source: SLAB, Guo et al., 2024, arXiv 2405.11582.

    Args:
        hidden_size (`int`): size of the last axis.
        eps (`float`, *optional*, defaults to 1e-5): above 0, inside the root, of both.
        momentum (`float`, *optional*, defaults to 0.1): as in `batch_norm`.
        alpha_init (`float`, *optional*, defaults to 1): as in `rep_bn`.
        iterations (`int`, *optional*, defaults to 300,000): training forwards until share is 0; the authors' code.
    Dtype: as `batch_norm`. Init: as `rep_bn`; LayerNorm's gain = 1, bias = 0; no iteration done.
    """

    def __init__(
        self,
        hidden_size: int,
        *,
        eps: Positive = 1e-5,
        momentum: Fraction = 0.1,
        alpha_init: Finite = 1.0,
        iterations: Annotated[int, whole(at_least=1)] = 300_000,
    ):
        super().__init__(hidden_size, gain=False, bias=False)
        self.eps, self.iterations = eps, iterations
        self.layer_norm = DeviationNorm(hidden_size, True, True, eps, "inside", "biased")
        self.rep_bn = RepBatchNorm(hidden_size, eps=eps, momentum=momentum, alpha_init=alpha_init)
        self.keep("iterations_done", 0, dtype=torch.long)

    def reset_parameters(self) -> None:
        super().reset_parameters()
        self.layer_norm.reset_parameters()
        self.rep_bn.reset_parameters()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = super().forward(x) if self.training else self.rep_bn(x)
        return y

    def transform(self, x: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        (done,) = self.counted()
        share = (1 - done.to(x.dtype) / self.iterations).clamp(min=0)
        layer_normed: torch.Tensor = self.layer_norm(x)
        rep_normed: torch.Tensor = self.rep_bn(x)
        return share * layer_normed + (1 - share) * rep_normed

    def take_in(self, *batch: torch.Tensor) -> tuple[torch.Tensor, ...]:
        before = self.get_buffer("iterations_done").clone()
        put_buffer(self, "iterations_done", before + 1)
        return (before,)

    def extra_repr(self) -> str:
        return f"{self.hidden_size}, iterations={self.iterations}"
