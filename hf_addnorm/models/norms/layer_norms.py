"""Norms that take a token's mean out: LayerNorm and what is made of it."""

from functools import partial
from typing import Annotated, Literal

import torch
from torch import nn

from ..base.registries import NORMS
from ..base.registry import Finite, Positive, whole
from .norm_base import Norm, centred, no_gain_to_center, root, slices


class DeviationNorm(Norm):
    """The forms of LayerNorm that torch has no kernel for: `(x - mean) / deviation * gain + bias`.

        x [..., hidden] -> - mean -> / deviation -> * gain -> + bias -> [..., hidden]

    deviation is `sqrt(var + eps)` or, with `eps_place="outside"`, `sqrt(var) + eps`; var divides by n or, with
    `variance="unbiased"`, by n - 1. Source, options, init and dtype: see `layer_norm`.
    """

    def __init__(
        self,
        hidden_size: int,
        gain: bool,
        bias: bool,
        eps: float,
        eps_place: str,
        variance: str,
        zero_centered: bool = False,
    ):
        super().__init__(hidden_size, gain, bias, zero_centered)
        self.eps, self.eps_place, self.correction = eps, eps_place, int(variance == "unbiased")

    def normalize(self, x: torch.Tensor) -> torch.Tensor:
        centred = x - x.mean(-1, keepdim=True)
        variance = centred.square().sum(-1, keepdim=True) / (self.hidden_size - self.correction)
        return centred / root(variance, self.eps, self.eps_place)

    def extra_repr(self) -> str:
        return f"{self.hidden_size}, eps={self.eps}, eps_place={self.eps_place}, correction={self.correction}"


@NORMS.register("layer_norm")
def layer_norm(
    hidden_size: int,
    *,
    gain: bool = True,
    bias: bool | None = None,
    zero_centered: bool = False,
    eps: Positive | None = None,
    eps_place: Literal["inside", "outside"] = "inside",
    variance: Literal["biased", "unbiased"] = "biased",
) -> nn.Module:
    """LayerNorm: `(x - mean) / sqrt(var + eps) * gain + bias` over the features of one token.

        x [..., hidden] -> - mean -> / sqrt(var + eps) -> * gain -> + bias -> [..., hidden]

    Source: Ba, Kiros & Hinton, "Layer Normalization", 2016, arXiv 1607.06450. `eps_place="outside"` with
    `variance="unbiased"` is `(x - mean) / (std + eps)`, the form of The Annotated Transformer (Rush, 2018).
    `zero_centered=True` is LayerNorm-1P, whose gain is `1 + zero_centered_weight` (NVIDIA Megatron-LM; Nemotron-4,
    Parmar et al., 2024, arXiv 2402.16819).

    Args:
        hidden_size (`int`): size of the last axis.
        gain (`bool`, *optional*, defaults to `True`): a learned gain per feature.
        bias (`bool`, *optional*): a learned bias per feature; by default as the model's own norms.
        zero_centered (`bool`, *optional*, defaults to `False`): the gain is `1 + zero_centered_weight`.
        eps (`float`, *optional*): above 0; by default that of the model's own norms.
        eps_place (`str`, *optional*, defaults to `"inside"`): add eps inside the root, or "outside" of it.
        variance (`str`, *optional*, defaults to `"biased"`): divide by n, or with "unbiased" by n - 1.
    Returns:
        `torch.nn.LayerNorm` for the form that torch has a kernel for, else a `DeviationNorm`.
    Raises:
        ValueError: if `eps` or `bias` is not given where there is no model to take it from.
    Dtype: statistics in float32 at least, returned in `x.dtype`.
    Init: gain = 1 (zero_centered_weight = 0), bias = 0.
    """
    if eps is None or bias is None:
        missing = "eps" if eps is None else "bias"
        raise ValueError(f"layer_norm needs {missing}: it is null and there is no model to take it from.")
    if eps_place == "inside" and variance == "biased" and gain >= bias and not zero_centered:
        return nn.LayerNorm(hidden_size, eps=eps, elementwise_affine=gain, bias=bias)
    return DeviationNorm(hidden_size, gain, bias, eps, eps_place, variance, zero_centered)


layer_norm.contradiction = no_gain_to_center  # type: ignore[attr-defined]


@NORMS.register("zero_mean_layer_norm")
class ZeroMeanLayerNorm(DeviationNorm):
    """LayerNorm whose output's mean is taken out: `y - mean(y)`, `y = LayerNorm(x)` with its gain and bias.

        x [..., hidden] -> LayerNorm -> - mean -> [..., hidden]

    For the place `embed` of a trained pre-norm model that has a norm there and goes on with RMSNorm: what enters the
    stream has no mean then, as the paper wants it. Behind it nothing else sees the difference but what reads the
    stream without a norm.

    Source: the mean subtraction on the main path of Jiang, Gu, Zhu & Pan, "Pre-RMSNorm and Pre-CRMSNorm Transformers",
    2023, arXiv 2305.14858, joined with the norm before it.

    Args:
        hidden_size (`int`): size of the last axis.
        bias (`bool`, *optional*): a learned bias per feature; by default as the model's own norms.
        eps (`float`, *optional*): above 0, inside the root; by default that of the model's own norms.
    Raises:
        ValueError: if `eps` or `bias` is not given where there is no model to take it from.
    Dtype: computed in float32 at least, returned in `x.dtype`. Init: weight = 1, bias = 0.
    """

    def __init__(self, hidden_size: int, *, bias: bool | None = None, eps: Positive | None = None):
        if eps is None or bias is None:
            missing = "eps" if eps is None else "bias"
            raise ValueError(f"zero_mean_layer_norm needs {missing}: there is no model to take it from.")
        super().__init__(hidden_size, True, bias, eps, "inside", "biased")

    def affine(self, y: torch.Tensor) -> torch.Tensor:
        return centred(super().affine(y), partial(torch.mean, dim=-1, keepdim=True))


@NORMS.register("input_scaled_layer_norm")
class InputScaledLayerNorm(DeviationNorm):
    """LayerNorm of an input that has gains of its own: `LayerNorm(input_weight * x)`.

        x [..., hidden] -> * input_weight -> - mean -> / sqrt(var + eps) -> * weight -> + bias -> [..., hidden]

    Source: NormFormer, Shleifer et al., 2021, arXiv 2110.09456, as in the authors' code: behind the output projection
    of attention, its features cut into as many slices as there are heads, with a gain for each.

    Args:
        hidden_size (`int`): size of the last axis.
        groups (`int` or `"heads"`, *optional*): this many gains of the input, each for one of as many contiguous,
            equal slices of the features; "heads" means the number of attention heads. By default one per feature.
        bias (`bool`, *optional*): a learned bias per feature; by default as the model's own norms.
        eps (`float`, *optional*): above 0, inside the root; by default that of the model's own norms.
    Raises:
        ValueError: if `groups` does not divide `hidden_size`, or `eps` or `bias` is not given where there is no model.
    Dtype: computed in float32 at least, returned in `x.dtype`. Init: input_weight = 1, weight = 1, bias = 0.
    """

    def __init__(
        self,
        hidden_size: int,
        *,
        groups: Annotated[int, whole(at_least=1)] | Literal["heads"] | None = None,
        bias: bool | None = None,
        eps: Positive | None = None,
    ):
        if eps is None or bias is None:
            missing = "eps" if eps is None else "bias"
            raise ValueError(f"input_scaled_layer_norm needs {missing}: there is no model to take it from.")
        super().__init__(hidden_size, True, bias, eps, "inside", "biased")
        self.groups = hidden_size if groups is None else slices("input_scaled_layer_norm", groups, hidden_size)
        self.input_weight = nn.Parameter(torch.empty(self.groups))

    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.ones_(self.input_weight)

    def normalize(self, x: torch.Tensor) -> torch.Tensor:
        scaled = x.unflatten(-1, (self.groups, -1)) * self.input_weight.unsqueeze(-1)
        return super().normalize(scaled.flatten(-2))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, groups={self.groups}"


@NORMS.register("group_norm")
class GroupNorm(Norm):
    """GroupNorm of one token: LayerNorm inside each group of features, `(x - mean) / sqrt(var + eps) * gain + bias`.

        x [..., hidden] -> [..., groups, size] -> - mean -> / sqrt(var + eps) -> * gain -> + bias -> [..., hidden]

    Statistics never cross tokens: no padding and no later token is seen. One group is LayerNorm.

    Source: Wu & He, "Group Normalization", 2018, arXiv 1803.08494; of one token, with as many groups as heads, in Shen
    et al., "PowerNorm", 2020, arXiv 2003.07845.

    Args:
        hidden_size (`int`): size of the last axis.
        groups (`int` or `"heads"`, *optional*, defaults to `"heads"`): the number of contiguous, equal slices of the
            features; "heads" means the number of attention heads.
        gain, bias (`bool`, *optional*, default to `True`): learned, per feature.
        eps (`float`, *optional*, defaults to 1e-5): above 0, inside the root.
    Raises:
        ValueError: if `groups` does not divide `hidden_size`.
    Dtype: computed in float32 at least, returned in `x.dtype`. Init: gain = 1, bias = 0.
    """

    def __init__(
        self,
        hidden_size: int,
        *,
        groups: Annotated[int, whole(at_least=1)] | Literal["heads"] = "heads",
        gain: bool = True,
        bias: bool = True,
        eps: Positive = 1e-5,
    ):
        super().__init__(hidden_size, gain, bias)
        self.groups, self.eps = slices("group_norm", groups, hidden_size), eps

    def normalize(self, x: torch.Tensor) -> torch.Tensor:
        # Torch's LayerNorm of each group is one operation, forward and backward. Its backward is inexact where the
        # mean is far from 0; a shift changes no output and no gradient.
        parts = x.unflatten(-1, (self.groups, -1))
        parts = parts - parts.mean(-1, keepdim=True).detach()
        normalized: torch.Tensor = nn.functional.layer_norm(parts, parts.shape[-1:], eps=self.eps)
        return normalized.flatten(-2)

    def extra_repr(self) -> str:
        return f"{self.hidden_size}, groups={self.groups}, eps={self.eps}"


@NORMS.register("ada_norm")
class AdaNorm(Norm):
    """AdaNorm: `scale * (1 - k * n) * n` with `n = (x - mean) / (std + eps)`, the factor's n without a gradient.

        x [..., hidden] -> - mean -> / (std + eps) -> n -+-> * ------------> * scale -> [..., hidden]
                                                         +-> 1 - k n (const) -^

    Without parameters. Two more forms of the paper are options: `k=0` is LayerNorm-simple, `n` alone, and `k=0,
    detach=True` is DetachNorm, whose mean and standard deviation are constants to the gradient.

    Source: Xu et al., "Understanding and Improving Layer Normalization", 2019, arXiv 1911.07013; the standard
    deviation divides by n - 1 and eps is added to it, as in the authors' code.

    Args:
        hidden_size (`int`): size of the last axis.
        scale (`float`, *optional*, defaults to 1): the paper's C, which it tunes by task; above 0.
        k (`float`, *optional*, defaults to 0.1): 1/10 in the paper.
        detach (`bool`, *optional*, defaults to `False`): no gradient through mean and standard deviation.
        eps (`float`, *optional*, defaults to 1e-5): above 0, outside of the root.
    Dtype: computed in float32 at least, returned in `x.dtype`. No parameters.
    """

    def __init__(
        self, hidden_size: int, *, scale: Positive = 1.0, k: Finite = 0.1, detach: bool = False, eps: Positive = 1e-5
    ):
        super().__init__(hidden_size, gain=False, bias=False)
        self.scale, self.k, self.detach, self.eps = scale, k, detach, eps

    def normalize(self, x: torch.Tensor) -> torch.Tensor:
        mean = x.mean(-1, keepdim=True)
        square = (x - mean).square().sum(-1, keepdim=True) / (self.hidden_size - 1)
        deviation = root(square, self.eps, "outside")
        if self.detach:
            mean, deviation = mean.detach(), deviation.detach()
        n = (x - mean) / deviation
        return self.scale * (1 - self.k * n.detach()) * n

    def extra_repr(self) -> str:
        return f"{self.hidden_size}, scale={self.scale}, k={self.k}, detach={self.detach}, eps={self.eps}"


@NORMS.register("center_norm")
class CenterNorm(Norm):
    """CenterNorm: `d / (d - 1) * (x - mean) * gain + bias` with d features; nothing is divided by a deviation.

        x [..., hidden] -> - mean -> * d / (d - 1) -> * gain -> + bias -> [..., hidden]

    It is linear: what the sublayers add is not held back. The paper has it in `post`, with a learned factor on the
    branch that starts at 1/L.

    Source: LipsFormer, Qi et al., 2023, arXiv 2304.09856.

    Args:
        hidden_size (`int`): size of the last axis.
        gain, bias (`bool`, *optional*, default to `True`): learned, per feature.
    Dtype: computed in float32 at least, returned in `x.dtype`. Init: gain = 1, bias = 0.
    """

    def __init__(self, hidden_size: int, *, gain: bool = True, bias: bool = True):
        super().__init__(hidden_size, gain, bias)

    def normalize(self, x: torch.Tensor) -> torch.Tensor:
        return (x - x.mean(-1, keepdim=True)) * (self.hidden_size / (self.hidden_size - 1))


@NORMS.register("fixed_sigma")
class FixedSigmaNorm(Norm):
    """The removed LayerNorm: `(x - mean) / sigma * gain + bias`, sigma a constant instead of the standard deviation.

        x [..., hidden] -> - mean -> / sigma -> * gain -> + bias -> [..., hidden]

    It is linear, so that it can be folded into the neighbouring weights. A trained LayerNorm's weights load into it.

    Source: Heimersheim, "You can remove GPT2's LayerNorm by fine-tuning", 2024, arXiv 2409.13710, which takes for
    sigma the average standard deviation that the model had at that place, and removes one LayerNorm after the other.

    Args:
        hidden_size (`int`): size of the last axis.
        sigma (`float`, *optional*, defaults to 1): the constant; above 0. The paper measures it, place by place.
        gain, bias (`bool`, *optional*, default to `True`): learned, per feature.
    Dtype: computed in float32 at least, returned in `x.dtype`. Init: gain = 1, bias = 0.
    """

    def __init__(self, hidden_size: int, *, sigma: Positive = 1.0, gain: bool = True, bias: bool = True):
        super().__init__(hidden_size, gain, bias)
        self.sigma = sigma

    def normalize(self, x: torch.Tensor) -> torch.Tensor:
        return (x - x.mean(-1, keepdim=True)) / self.sigma

    def extra_repr(self) -> str:
        return f"{self.hidden_size}, sigma={self.sigma}"
