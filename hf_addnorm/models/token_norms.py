"""Norms over tokens, of the real ones only. Those that keep running statistics are in running_norms."""

from typing import Literal

import torch

from .norms import NORMS, Norm
from .registry import Positive
from .token_mask import current


class TokenNorm(Norm):
    """Base of the norms whose statistics are taken over tokens: padding counts nowhere.

    Padded places are taken to hold 0 and then normalised like the rest: whatever they hold, infinities too, the output
    is finite there, and no gradient comes from them.
    """

    mixes_tokens = True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x.to(torch.promote_types(x.dtype, torch.float32))
        real = current().on(x)
        if real is None:
            real = torch.ones([*x.shape[:-1], 1], dtype=torch.bool, device=x.device)
        else:
            real = real.expand(*x.shape[:-1], 1)
            y = torch.where(real, y, 0.0)
        return self.transform(y, real).to(x.dtype)

    def transform(self, x: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        """The whole function, of `x` [batch, seq, ..., hidden], 0 where `real` [..., 1] is false."""
        return self.shift(self.scale(self.normalize_tokens(x, real)))

    def normalize_tokens(self, x: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        """The function without gain and bias, of the same."""
        raise NotImplementedError


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
