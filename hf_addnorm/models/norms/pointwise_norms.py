"""Element-wise stand-ins for a norm, and gains alone: no statistics, each feature by itself."""

import math
from collections.abc import Callable
from typing import Annotated, ClassVar, Literal

import torch
from torch import nn

from ..base.registries import NORMS
from ..base.registry import Finite, Positive, whole
from .fused import Squash, can_fuse, fused_affine, runs_eagerly, squashed
from .norm_base import Norm, set_gain, slices


class PointwiseNorm(Norm):
    """Base of the bounded stand-ins: `weight * f(alpha * x + shift) + bias`, alpha and shift one scalar each.

        x [..., hidden] -> * alpha (-> + shift) -> f -> * weight -> + bias -> [..., hidden]

    Args:
        hidden_size (`int`): size of the last axis.
        alpha_init (`float`): start value of `alpha`.
        shift_init (`float`, *optional*): start value of `shift`; by default there is none.
    Dtype: computed in float32 at least, returned in `x.dtype`.
    Init: alpha = alpha_init, shift = shift_init, weight = 1, bias = 0.
    """

    def __init__(self, hidden_size: int, alpha_init: float, shift_init: float | None = None):
        super().__init__(hidden_size, gain=True, bias=True)
        self.alpha_init, self.shift_init = alpha_init, shift_init
        self.alpha = nn.Parameter(torch.empty(1))
        self.shift = None if shift_init is None else nn.Parameter(torch.empty(1))

    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.constant_(self.alpha, self.alpha_init)
        if self.shift is not None:
            nn.init.constant_(self.shift, self.shift_init or 0.0)

    # f as it runs on a CPU, where the norm may be a function of its own
    own_function: ClassVar[Squash | None] = None

    def squash(self, z: torch.Tensor) -> torch.Tensor:
        """f, element by element."""
        raise NotImplementedError

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x.to(torch.promote_types(x.dtype, torch.float32))
        parameters = (self.alpha, self.shift, self.weight, self.bias)
        # also without gradients: the values are the same there
        if self.own_function is None or not self.fuses or not runs_eagerly(y, *parameters):
            return super().forward(x)
        alpha, shift, *gain_and_bias = (None if part is None else part.to(y.dtype) for part in parameters)
        return squashed(y, (alpha, shift), *gain_and_bias, by=self.own_function).to(x.dtype)  # type: ignore[arg-type]

    def normalize(self, x: torch.Tensor) -> torch.Tensor:
        z = self.alpha * x
        return self.squash(z if self.shift is None else z + self.shift)


def _tanh_slope(gradient: torch.Tensor, value: torch.Tensor, z: Callable[[], torch.Tensor]) -> torch.Tensor:
    """`gradient * (1 - tanh(z)^2)`."""
    slope: torch.Tensor = torch.ops.aten.tanh_backward(gradient, value)
    return slope


def _erf_slope(gradient: torch.Tensor, value: torch.Tensor, z: Callable[[], torch.Tensor]) -> torch.Tensor:
    """`gradient * 2 / sqrt(pi) * exp(-z^2)`."""
    density = z().square_().neg_().exp_()
    return density.mul_(2 / math.sqrt(math.pi)).mul_(gradient)


@NORMS.register("dyt")
class DynamicTanh(PointwiseNorm):
    """DyT, an element-wise stand-in for a norm: `weight * tanh(alpha * x) + bias`.

        x [..., hidden] -> * alpha -> tanh -> * weight -> + bias -> [..., hidden]

    Source: Zhu et al., "Transformers without Normalization", 2025, arXiv 2503.10622.

    Args:
        hidden_size (`int`): size of the last axis.
        alpha_init (`float`, *optional*, defaults to 0.5): start value of the scalar `alpha`; above 0.
    Dtype: computed in float32 at least, returned in `x.dtype`. Init: alpha = alpha_init, weight = 1, bias = 0.
    """

    def __init__(self, hidden_size: int, *, alpha_init: Positive = 0.5):
        super().__init__(hidden_size, alpha_init)

    own_function = Squash(torch.tanh, torch.tanh_, _tanh_slope)

    def squash(self, z: torch.Tensor) -> torch.Tensor:
        return torch.tanh(z)


@NORMS.register("derf")
class DynamicErf(PointwiseNorm):
    """Derf, an element-wise stand-in for a norm: `weight * erf(alpha * x + shift) + bias`.

        x [..., hidden] -> * alpha -> + shift -> erf -> * weight -> + bias -> [..., hidden]

    Source: Chen et al., 2025, arXiv 2512.10938.

    Args:
        hidden_size (`int`): size of the last axis.
        alpha_init (`float`, *optional*, defaults to 0.5): start value of the scalar `alpha`; above 0.
        shift_init (`float`, *optional*, defaults to 0): start value of the scalar `shift`.
    Dtype: computed in float32 at least, returned in `x.dtype`.
    Init: alpha = alpha_init, shift = shift_init, weight = 1, bias = 0.
    """

    def __init__(self, hidden_size: int, *, alpha_init: Positive = 0.5, shift_init: Finite = 0.0):
        super().__init__(hidden_size, alpha_init, shift_init)

    own_function = Squash(torch.erf, torch.erf_, _erf_slope)

    def squash(self, z: torch.Tensor) -> torch.Tensor:
        return torch.erf(z)


@NORMS.register("isru")
class InverseSquareRootUnit(PointwiseNorm):
    """The inverse square root unit: `weight * z / sqrt(1 + z^2) + bias`, `z = alpha * x + shift`.

        x [..., hidden] -> * alpha -> + shift -> z / sqrt(1 + z^2) -> * weight -> + bias -> [..., hidden]

    Source: one of the functions that the authors of Derf tried (Chen et al., 2025, arXiv 2512.10938, their code);
    Stollenwerk, 2025, arXiv 2503.21708, derives this kind of function as LayerNorm's element-wise counterpart, with
    constants that are not those here.

    Args:
        hidden_size (`int`): size of the last axis.
        alpha_init (`float`, *optional*, defaults to 0.5): start value of the scalar `alpha`; above 0.
        shift_init (`float`, *optional*, defaults to 0): start value of the scalar `shift`.
    Dtype: computed in float32 at least, returned in `x.dtype`.
    Init: alpha = alpha_init, shift = shift_init, weight = 1, bias = 0.
    """

    def __init__(self, hidden_size: int, *, alpha_init: Positive = 0.5, shift_init: Finite = 0.0):
        super().__init__(hidden_size, alpha_init, shift_init)

    def squash(self, z: torch.Tensor) -> torch.Tensor:
        # beyond 1 by 1/z: the gradient of z / sqrt(1 + z^2) is a difference of two numbers that become the same
        is_large = z.abs() > 1
        inverse = torch.where(is_large, z, 1.0).reciprocal()
        near = torch.where(is_large, 0.0, z)
        beyond = torch.rsqrt(1 + inverse.square()) * inverse.sign()
        return torch.where(is_large, beyond, near * torch.rsqrt(1 + near.square()))


@NORMS.register("affine")
class Affine(Norm):
    """An affine map without statistics: `weight * x + bias`.

        x [..., hidden] -> * weight -> + bias -> [..., hidden]

    Source: Touvron et al., "ResMLP", 2021, arXiv 2105.03404; "NoNorm" of Sun et al., "MobileBERT", 2020,
    arXiv 2004.02984. With `groups="heads"` and no bias, in the slot `mid` of attention, it is NormFormer's
    head scaling (Shleifer et al., 2021, arXiv 2110.09456): one gain per head, before the output projection. With
    `groups=1, start="root_of_width"` and no bias, in the place `embed`, it is the learned scalar of DyT's LLaMA.

    Args:
        hidden_size (`int`): size of the last axis.
        bias (`bool`, *optional*, defaults to `True`): a learned bias per feature.
        groups (`int` or `"heads"`, *optional*): this many gains, each for one of as many contiguous, equal slices of
            the features; "heads" means the number of attention heads. By default one gain per feature.
        start (`float` or `"root_of_width"`, *optional*, defaults to 1): start value of the gains; "root_of_width"
            means sqrt(hidden_size).
    Raises:
        ValueError: if `groups` does not divide `hidden_size`.
    Dtype: computed in float32 at least, returned in `x.dtype`. Init: weight = start, bias = 0.
    """

    def __init__(
        self,
        hidden_size: int,
        *,
        bias: bool = True,
        groups: Annotated[int, whole(at_least=1)] | Literal["heads"] | None = None,
        start: Finite | Literal["root_of_width"] = 1.0,
    ):
        super().__init__(hidden_size, gain=False, bias=bias)
        self.start = hidden_size**0.5 if isinstance(start, str) else start
        self.groups = hidden_size if groups is None else slices("affine", groups, hidden_size)
        self.weight: nn.Parameter = nn.Parameter(torch.empty(self.groups))

    def reset_parameters(self) -> None:
        super().reset_parameters()
        set_gain(self, self.start)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x.to(torch.promote_types(x.dtype, torch.float32))
        if self.bias is not None and self.groups == self.hidden_size:
            weight, bias = self.weight.to(y.dtype), self.bias.to(y.dtype)
            if self.fuses and can_fuse(y, weight, bias):
                return fused_affine(y, weight, bias, rounds_once=True).to(x.dtype)
            # one operation
            return torch.addcmul(bias, y, weight).to(x.dtype)
        parts: torch.Tensor = y.unflatten(-1, (self.groups, -1))
        y = (parts * self.weight.unsqueeze(-1)).flatten(-2)
        if self.bias is not None:
            y = y + self.bias
        return y.to(x.dtype)


@NORMS.register("learned_scale")
class LearnedScale(Norm):
    """A gain alone, which is stored at another scale than it has: `factor * weight / stored * x`.

        x [..., hidden] -> * factor * weight / stored -> [..., hidden]

    It begins at `factor`, with the parameter at `stored`: an optimiser whose steps have one size for all parameters,
    such as Adam, changes the gain by as much more as `stored` is smaller.

    Source: the scaling factors of nGPT, Loshchilov et al., 2024, arXiv 2410.01131: in the slot `up`, before the
    activation, `factor="sqrt_width"`; on the logits `stored="rsqrt_width"`.

    Args:
        hidden_size (`int`): size of the last axis.
        factor (`float` or `"sqrt_width"`, *optional*, defaults to 1): start value of the gain, above 0.
        stored (`float` or `"rsqrt_width"`, *optional*, defaults to 1): start value of the parameter, above 0.
        model_width (`int`, *optional*): what "sqrt_width" is the root of, and "rsqrt_width" one over the root of; by
            default the model's hidden size.
    Dtype: computed in float32 at least, returned in `x.dtype`. Init: weight = stored.
    """

    def __init__(
        self,
        hidden_size: int,
        *,
        factor: Positive | Literal["sqrt_width"] = 1.0,
        stored: Positive | Literal["rsqrt_width"] = 1.0,
        model_width: Annotated[int, whole(at_least=1)] | None = None,
    ):
        super().__init__(hidden_size, gain=True, bias=False)
        root = (model_width or hidden_size) ** 0.5
        self.factor = root if isinstance(factor, str) else factor
        self.stored = 1 / root if isinstance(stored, str) else stored

    def reset_parameters(self) -> None:
        set_gain(self, self.stored)

    def normalize(self, x: torch.Tensor) -> torch.Tensor:
        return x * (self.factor / self.stored)

    def extra_repr(self) -> str:
        return f"{self.hidden_size}, factor={self.factor:.6g}, stored={self.stored:.6g}"


@NORMS.register("none")
def none(hidden_size: int) -> nn.Module:
    """No norm: the identity. It fills a slot that a preset names while the norm itself is taken away.

    x [..., hidden] -> x
    """
    return nn.Identity()
