"""Norms over tokens: batch and instance norm, of the real tokens only."""

from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import nn

from .norms import NORMS, Norm
from .registry import Fraction, Positive
from .token_mask import current


class TokenNorm(Norm):
    """Base of the norms whose statistics are taken over tokens: padding counts nowhere.

    Padded places are taken to hold 0 and then normalised like the rest: whatever they hold, infinities too, the output
    is finite there, and no gradient comes from them.
    """

    mixes_tokens = True

    def normalize(self, x: torch.Tensor) -> torch.Tensor:
        if x.dim() < 3:
            raise ValueError(
                f"a norm that takes statistics over tokens needs [batch, seq, ..., features] and was given "
                f"{list(x.shape)}: a head that pools its tokens cannot have one."
            )
        real = current().on(x)
        if real is None:
            real = torch.ones([*x.shape[:-1], 1], dtype=torch.bool, device=x.device)
        else:
            real = real.expand(*x.shape[:-1], 1)
            x = torch.where(real, x, 0.0)
        return self.normalize_tokens(x, real)

    def normalize_tokens(self, x: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        """The function without gain and bias, of `x` [batch, seq, ..., hidden], 0 where `real` [..., 1] is false."""
        raise NotImplementedError


class _SumOverProcesses(torch.autograd.Function):
    """The sum of a tensor over all processes; its gradient is the sum of their gradients."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        total = grad.clone()
        dist.all_reduce(total)
        return total


def over_processes(x: torch.Tensor) -> torch.Tensor:
    """The sum of `x` over all processes, where there are several."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        return _SumOverProcesses.apply(x)
    return x


@NORMS.register("batch_norm")
class BatchNorm(TokenNorm):
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

    def __init__(
        self, hidden_size: int, *, gain: bool = True, bias: bool = True, eps: Positive = 1e-5, momentum: Fraction = 0.1
    ):
        super().__init__(hidden_size, gain, bias)
        self.eps, self.momentum = eps, momentum
        self.register_buffer("running_mean", torch.empty(hidden_size))
        self.register_buffer("running_var", torch.empty(hidden_size))

    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.zeros_(self.get_buffer("running_mean"))
        nn.init.ones_(self.get_buffer("running_var"))

    def normalize_tokens(self, x: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        if not self.training:
            mean, var = self.get_buffer("running_mean"), self.get_buffer("running_var")
            return (x - mean) / torch.sqrt(var + self.eps)
        dims = tuple(range(x.dim() - 1))
        count = over_processes(real.sum().to(x.dtype))
        mean = over_processes(x.sum(dims)) / count.clamp(min=1.0)
        centred = x - mean
        var = over_processes(torch.where(real, centred, 0.0).square().sum(dims)) / count.clamp(min=1.0)
        if not _recomputing():
            self._count(mean.detach(), var.detach(), count)
        return centred / torch.sqrt(var + self.eps)

    @torch.no_grad()
    def _count(self, mean: torch.Tensor, var: torch.Tensor, count: torch.Tensor) -> None:
        unbiased = var * count / (count - 1).clamp(min=1.0)
        for running, new in (("running_mean", mean), ("running_var", unbiased)):
            buffer = self.get_buffer(running)
            buffer.copy_(torch.where(count > 1, buffer + self.momentum * (new - buffer), buffer))

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        # a change of the model's dtype to a half one leaves the running statistics as they are
        kept = {name: self.get_buffer(name) for name in self.keep_in_float32}
        super()._apply(fn, recurse)
        for name, before in kept.items():
            after = self.get_buffer(name)
            if after.dtype in (torch.float16, torch.bfloat16):
                setattr(self, name, before.to(after.device))
        return self

    def extra_repr(self) -> str:
        return f"{self.hidden_size}, eps={self.eps}, momentum={self.momentum}"


def _recomputing() -> bool:
    """Whether this forward is a checkpoint's recomputation, which runs within a backward."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


@NORMS.register("instance_norm")
class InstanceNorm(TokenNorm):
    """InstanceNorm over the real tokens of each sequence: `(x - mean) / sqrt(var + eps) * gain + bias` per feature.

        x [batch, seq, hidden] -> - mean over tokens -> / sqrt(var + eps) -> * gain -> + bias -> [batch, seq, hidden]

    A sequence with a single real token has variance 0, so that its output is the bias; one without any is taken to
    have mean and variance 0.

    Source: Ulyanov et al., 2016, arXiv 1607.08022.

    Args:
        hidden_size (`int`): size of the last axis.
        gain, bias (`bool`, *optional*, default to `True`): learned, per feature.
        eps (`float`, *optional*, defaults to 1e-5): above 0, inside the root.
        variance (`str`, *optional*, defaults to `"biased"`): divide by n, or with "unbiased" by n - 1.
    Dtype: computed in float32 at least, returned in `x.dtype`. Init: gain = 1, bias = 0.
    """

    def __init__(
        self,
        hidden_size: int,
        *,
        gain: bool = True,
        bias: bool = True,
        eps: Positive = 1e-5,
        variance: Literal["biased", "unbiased"] = "biased",
    ):
        super().__init__(hidden_size, gain, bias)
        self.eps, self.correction = eps, int(variance == "unbiased")

    def normalize_tokens(self, x: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        count = real.sum(1, keepdim=True).to(x.dtype)
        centred = x - x.sum(1, keepdim=True) / count.clamp(min=1.0)
        squares = torch.where(real, centred, 0.0).square().sum(1, keepdim=True)
        return centred / torch.sqrt(squares / (count - self.correction).clamp(min=1.0) + self.eps)

    def extra_repr(self) -> str:
        return f"{self.hidden_size}, eps={self.eps}, correction={self.correction}"
