"""Norm kinds: what fills a slot. Each is a module from `[..., hidden]` to the same shape and dtype.

The keyword-only parameters of a registered factory are the options that `add_norm` accepts for it.
"""

from typing import Annotated, Any, Literal

import torch
from torch import nn

from .registry import Choice, Positive, Registry, whole


NORMS = Registry("norm")


class Norm(nn.Module):
    """Base of the norms: a function of the input, then `* gain + bias` per feature.

        x [..., hidden] -> float32 -> normalize -> * gain -> + bias -> x.dtype [..., hidden]

    A zero-centred gain is stored as its distance from one (gain = 1 + `zero_centered_weight`); the parameter has a
    name of its own, so that a plain gain of a checkpoint is never read as a distance.

    Args:
        hidden_size (`int`): size of the last axis.
        gain (`bool`): a learned gain per feature.
        bias (`bool`): a learned bias per feature.
        zero_centered (`bool`): store the gain as its distance from one.
    Dtype: computed in float32 (float64 for float64 input), gain and bias included, returned in `x.dtype`.
    Init: gain = 1 (weight = 1, or zero_centered_weight = 0), bias = 0.
    """

    # whether statistics are taken over tokens
    mixes_tokens = False

    def __init__(self, hidden_size: int, gain: bool, bias: bool, zero_centered: bool = False):
        super().__init__()
        self.hidden_size = hidden_size
        self.weight = nn.Parameter(torch.empty(hidden_size)) if gain and not zero_centered else None
        self.zero_centered_weight = nn.Parameter(torch.empty(hidden_size)) if gain and zero_centered else None
        self.bias = nn.Parameter(torch.empty(hidden_size)) if bias else None

    def reset_parameters(self) -> None:
        """Write the documented start values."""
        set_gain(self, 1.0)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def normalize(self, x: torch.Tensor) -> torch.Tensor:
        """The function without gain and bias; `x` [..., hidden], float32 or float64."""
        raise NotImplementedError

    def scale(self, y: torch.Tensor) -> torch.Tensor:
        """`y * gain`."""
        if self.weight is not None:
            y = y * self.weight
        elif self.zero_centered_weight is not None:
            # summed in the dtype of y: in half precision 1 + w would lose what w says
            y = y * (1 + self.zero_centered_weight.to(y.dtype))
        return y

    def shift(self, y: torch.Tensor) -> torch.Tensor:
        """`y + bias`."""
        return y if self.bias is None else y + self.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.normalize(x.to(torch.promote_types(x.dtype, torch.float32)))
        return self.shift(self.scale(y)).to(x.dtype)

    def extra_repr(self) -> str:
        return f"{self.hidden_size}"


def set_gain(norm: Any, gain: float) -> None:
    """Start `norm` with this gain (through the guarded initialisers: loaded values stay)."""
    if getattr(norm, "zero_centered_weight", None) is not None:
        nn.init.constant_(norm.zero_centered_weight, gain - 1)
    elif getattr(norm, "weight", None) is not None:
        nn.init.constant_(norm.weight, gain)


def has_gain(norm: nn.Module) -> bool:
    """Whether `norm` has a gain that can start at another value than 1."""
    return any(getattr(norm, name, None) is not None for name in ("weight", "zero_centered_weight"))


def root(square: torch.Tensor, eps: float, eps_place: str) -> torch.Tensor:
    """`sqrt(square + eps)` or `sqrt(square) + eps`.

    Outside the root, the gradient of sqrt at exactly 0 is infinite: there the root is taken as the constant 0,
    so that a zero input gives zero output and a finite gradient.
    """
    if eps_place == "inside":
        return torch.sqrt(square + eps)
    is_zero = square == 0
    return torch.where(is_zero, 0.0, torch.sqrt(torch.where(is_zero, 1.0, square))) + eps


class DeviationNorm(Norm):
    """The forms of LayerNorm that torch has no kernel for: `(x - mean) / deviation * gain + bias`.

        x [..., hidden] -> - mean -> / deviation -> * gain -> + bias -> [..., hidden]

    deviation is `sqrt(var + eps)` or, with `eps_place="outside"`, `sqrt(var) + eps`; var divides by n or, with
    `variance="unbiased"`, by n - 1. Source, options, init and dtype: see `layer_norm`.
    """

    def __init__(self, hidden_size: int, gain: bool, bias: bool, eps: float, eps_place: str, variance: str):
        super().__init__(hidden_size, gain, bias)
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
    eps: Positive | None = None,
    eps_place: Literal["inside", "outside"] = "inside",
    variance: Literal["biased", "unbiased"] = "biased",
) -> nn.Module:
    """LayerNorm: `(x - mean) / sqrt(var + eps) * gain + bias` over the features of one token.

        x [..., hidden] -> - mean -> / sqrt(var + eps) -> * gain -> + bias -> [..., hidden]

    Source: Ba, Kiros & Hinton, "Layer Normalization", 2016, arXiv 1607.06450. `eps_place="outside"` with
    `variance="unbiased"` is `(x - mean) / (std + eps)`, the form of The Annotated Transformer (Rush, 2018).

    Args:
        hidden_size (`int`): size of the last axis.
        gain (`bool`, *optional*, defaults to `True`): a learned gain per feature.
        bias (`bool`, *optional*): a learned bias per feature; by default as the model's own norms.
        eps (`float`, *optional*): above 0; by default that of the model's own norms.
        eps_place (`str`, *optional*, defaults to `"inside"`): add eps inside the root, or "outside" of it.
        variance (`str`, *optional*, defaults to `"biased"`): divide by n, or with "unbiased" by n - 1.
    Returns:
        `torch.nn.LayerNorm` for the form that torch has a kernel for, else a `DeviationNorm`.
    Raises:
        ValueError: if `eps` or `bias` is not given where there is no model to take it from.
    Dtype: statistics in float32 at least, returned in `x.dtype`. Init: gain = 1, bias = 0.
    """
    if eps is None or bias is None:
        missing = "eps" if eps is None else "bias"
        raise ValueError(f"layer_norm needs {missing}: it is null and there is no model to take it from.")
    if eps_place == "inside" and variance == "biased" and gain >= bias:
        return nn.LayerNorm(hidden_size, eps=eps, elementwise_affine=gain, bias=bias)
    return DeviationNorm(hidden_size, gain, bias, eps, eps_place, variance)


@NORMS.register("rms_norm")
class RMSNorm(Norm):
    """RMSNorm: `x / sqrt(mean(x^2) + eps) * gain`, no mean taken out.

        x [..., hidden] -> / sqrt(mean(x^2) + eps) -> * gain (-> + bias) -> [..., hidden]

    Source: Zhang & Sennrich, "Root Mean Square Layer Normalization", 2019, arXiv 1910.07467. The paper's code adds
    1e-8 outside the root (`eps=1e-8, eps_place="outside"`); T5, LLaMA and their successors add 1e-6 inside, the
    default here. Zero-centred gain: Gemma 2 (2024, arXiv 2408.00118).

    Args:
        hidden_size (`int`): size of the last axis.
        gain (`bool`, *optional*, defaults to `True`): a learned gain per feature.
        bias (`bool`, *optional*, defaults to `False`): a learned bias per feature.
        zero_centered (`bool`, *optional*, defaults to `False`): the gain is `1 + zero_centered_weight`.
        eps (`float`, *optional*, defaults to 1e-6): above 0.
        eps_place (`str`, *optional*, defaults to `"inside"`): add eps inside the root, or "outside" of it.
    Dtype: computed in float32 at least, gain included, returned in `x.dtype`.
    Init: gain = 1 (zero_centered_weight = 0), bias = 0.
    """

    def __init__(
        self,
        hidden_size: int,
        *,
        gain: bool = True,
        bias: bool = False,
        zero_centered: bool = False,
        eps: Positive = 1e-6,
        eps_place: Literal["inside", "outside"] = "inside",
    ):
        super().__init__(hidden_size, gain, bias, zero_centered)
        self.eps, self.eps_place = eps, eps_place

    @staticmethod
    def contradiction(gain: bool, zero_centered: bool, **_: object) -> str | None:
        """The sentence that says which options exclude each other, if any do."""
        return "zero_centered is true but gain is false: there is no gain to centre." if zero_centered > gain else None

    def normalize(self, x: torch.Tensor) -> torch.Tensor:
        return x / root(x.square().mean(-1, keepdim=True), self.eps, self.eps_place)

    def extra_repr(self) -> str:
        return f"{self.hidden_size}, eps={self.eps}, eps_place={self.eps_place}"


@NORMS.register("dyt")
class DynamicTanh(Norm):
    """DyT, an element-wise stand-in for a norm: `weight * tanh(alpha * x) + bias`.

        x [..., hidden] -> * alpha -> tanh -> * weight -> + bias -> [..., hidden]

    Source: Zhu et al., "Transformers without Normalization", 2025, arXiv 2503.10622.

    Args:
        hidden_size (`int`): size of the last axis.
        alpha_init (`float`, *optional*, defaults to 0.5): start value of the scalar `alpha`; above 0.
    Dtype: computed in float32 at least, returned in `x.dtype`. Init: alpha = alpha_init, weight = 1, bias = 0.
    """

    def __init__(self, hidden_size: int, *, alpha_init: Positive = 0.5):
        super().__init__(hidden_size, gain=True, bias=True)
        self.alpha_init = alpha_init
        self.alpha = nn.Parameter(torch.empty(1))

    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.constant_(self.alpha, self.alpha_init)

    def normalize(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.alpha * x)


@NORMS.register("affine")
class Affine(Norm):
    """An affine map without statistics: `weight * x + bias`.

        x [..., hidden] -> * weight -> + bias -> [..., hidden]

    Source: Touvron et al., "ResMLP", 2021, arXiv 2105.03404; "NoNorm" of Sun et al., "MobileBERT", 2020,
    arXiv 2004.02984. With `groups="heads"` and no bias, in the slot `mid` of attention, it is NormFormer's
    head scaling (Shleifer et al., 2021, arXiv 2110.09456): one gain per head, before the output projection.

    Args:
        hidden_size (`int`): size of the last axis.
        bias (`bool`, *optional*, defaults to `True`): a learned bias per feature.
        groups (`int` or `"heads"`, *optional*): this many gains, each for one of as many contiguous, equal slices of
            the features; "heads" means the number of attention heads. By default one gain per feature.
    Raises:
        ValueError: if `groups` does not divide `hidden_size`.
    Dtype: computed in float32 at least, returned in `x.dtype`. Init: weight = 1, bias = 0.
    """

    def __init__(
        self,
        hidden_size: int,
        *,
        bias: bool = True,
        groups: Annotated[int, whole(at_least=1)] | Literal["heads"] | None = None,
    ):
        super().__init__(hidden_size, gain=False, bias=bias)
        if groups == "heads":
            raise ValueError('affine: groups is "heads" and there is no model to take the number of heads from.')
        count = hidden_size if groups is None else groups
        if hidden_size % count:
            raise ValueError(f"affine: groups is {count}, which does not divide the width {hidden_size}.")
        self.groups = count
        self.weight: nn.Parameter = nn.Parameter(torch.empty(count))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x.to(torch.promote_types(x.dtype, torch.float32))
        y = (y.unflatten(-1, (self.groups, -1)) * self.weight.unsqueeze(-1)).flatten(-2)
        if self.bias is not None:
            y = y + self.bias
        return y.to(x.dtype)


@NORMS.register("none")
def none(hidden_size: int) -> nn.Module:
    """No norm: the identity. It fills a slot that a preset names while the norm itself is taken away.

    x [..., hidden] -> x
    """
    return nn.Identity()


# options that a value leaves to the model
_LEFT_OPEN = {"eps": None, "bias": None, "groups": "heads"}


def build_norm(norm: Choice, hidden_size: int, **from_model: Any) -> nn.Module:
    """The module of `norm`, with what its options leave to the model filled in.

    Args:
        norm (`Choice`): kind and options.
        hidden_size (`int`): width of the slot.
        from_model: the model's own `eps` and `bias`, and for `groups = "heads"` its number of heads as `groups`.
    """
    options = {
        key: from_model[key] if key in from_model and value == _LEFT_OPEN[key] else value
        for key, value in norm.options.items()
    }
    return NORMS.build(Choice(norm.kind, options), hidden_size)
