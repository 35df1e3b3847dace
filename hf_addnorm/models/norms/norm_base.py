"""The base class of norms, helpers for their formulas, and how a norm is built from its spec.

A norm is a module from `[..., hidden]` to the same shape and dtype. The keyword-only parameters of a registered
factory are the options that `add_norm` accepts for it.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import nn

from ..base.protocols import OptionValue
from ..base.registries import NORMS
from ..base.registry import ComponentSpec
from .fused import can_fuse, fused_affine


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

    def __init__(self, hidden_size: int, gain: bool, bias: bool, zero_centered: bool = False):
        super().__init__()
        self.hidden_size = hidden_size
        self.weight = nn.Parameter(torch.empty(hidden_size)) if gain and not zero_centered else None
        self.zero_centered_weight = nn.Parameter(torch.empty(hidden_size)) if gain and zero_centered else None
        self.bias = nn.Parameter(torch.empty(hidden_size)) if bias else None

    # whether it may run as a function of its own (`fused.py`), whose gradients are those of the formula but for
    # rounding; a model lets it, unless its stock model has this kind of norm
    fuses = False

    @staticmethod
    def mixes_tokens(**options: OptionValue) -> bool:
        """Whether with these options a token's output depends on other tokens; ask `mixes_tokens` about a choice."""
        return False

    def reset_parameters(self) -> None:
        """Write the documented start values."""
        set_gain(self, 1.0)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def normalize(self, x: torch.Tensor) -> torch.Tensor:
        """The function without gain and bias; `x` [..., hidden], float32 or float64."""
        raise NotImplementedError

    def times_gain(self, y: torch.Tensor) -> torch.Tensor:
        """`y` times the gain."""
        if self.weight is not None:
            y = y * self.weight
        elif self.zero_centered_weight is not None:
            # summed in the dtype of y: in half precision 1 + w would lose what w says
            y = y * (1 + self.zero_centered_weight.to(y.dtype))
        return y

    def plus_bias(self, y: torch.Tensor) -> torch.Tensor:
        """`y` plus the bias."""
        return y if self.bias is None else y + self.bias

    def affine(self, y: torch.Tensor) -> torch.Tensor:
        """`y` times the gain, plus the bias."""
        gain = self.gain_as(y)
        if gain is not None and self.fuses and can_fuse(y, gain, self.bias):
            return fused_affine(y, gain, None if self.bias is None else self.bias.to(y.dtype))
        return self.plus_bias(self.times_gain(y))

    def gain_as(self, y: torch.Tensor) -> torch.Tensor | None:
        """The gain of each feature, in the dtype of `y`; None without one, or where it is not what multiplies."""
        if type(self).times_gain is not Norm.times_gain or type(self).plus_bias is not Norm.plus_bias:
            return None
        if self.zero_centered_weight is not None:
            return 1 + self.zero_centered_weight.to(y.dtype)
        return None if self.weight is None else self.weight.to(y.dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.affine(self.normalize(x.to(torch.promote_types(x.dtype, torch.float32)))).to(x.dtype)

    def extra_repr(self) -> str:
        return f"{self.hidden_size}"


# what a gain may be called
GAINS = ("weight", "zero_centered_weight", "scalar_weight")


def set_gain(norm: nn.Module, gain: float) -> None:
    """Start `norm`, ours or torch's, with this gain (through the guarded initialisers: loaded values stay)."""
    for name, parameter in norm.named_parameters(recurse=False):
        if name in GAINS:
            nn.init.constant_(parameter, gain - 1 if name == "zero_centered_weight" else gain)


def has_gain(norm: nn.Module) -> bool:
    """Whether `norm`, ours or torch's, has a gain that can start at another value than 1."""
    return any(name in GAINS for name, _ in norm.named_parameters(recurse=False))


def no_gain_to_center(gain: bool = True, zero_centered: bool = False, **_: OptionValue) -> str | None:
    """Why these options of a norm contradict each other: a zero-centred gain without a gain. None if they do not."""
    return "zero_centered is true but gain is false: there is no gain to centre." if zero_centered > gain else None


def slices(kind: str, groups: int | Literal["heads"], hidden_size: int) -> int:
    """Check `groups`, the number of contiguous, equal slices that the features are cut into, and return it.

    Raises:
        ValueError: if it is left to a model that is not there, or does not divide the width.
    """
    if groups == "heads":
        raise ValueError(f'{kind}: groups is "heads" and there is no model to take the number of heads from.')
    if hidden_size % groups:
        raise ValueError(f"{kind}: groups is {groups}, which does not divide the width {hidden_size}.")
    return groups


def centred(x: torch.Tensor, mean: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """`x - mean(x)`, then less the mean of that.

    A mean of 1000 is off by up to 3e-5 in float32; the second step takes that away, which a small deviation would
    make large. It is 0 but for rounding, so that the gradient needs the first step alone.
    """
    once = x - mean(x)
    return once - mean(once.detach())


def root(square: torch.Tensor, eps: float, eps_place: str) -> torch.Tensor:
    """`sqrt(square + eps)` or `sqrt(square) + eps`.

    Outside the root, the gradient of sqrt at exactly 0 is infinite: there the root is taken as the constant 0,
    so that a zero input gives zero output and a finite gradient.
    """
    if eps_place == "inside":
        return torch.sqrt(square + eps)
    is_zero = square == 0
    return torch.where(is_zero, 0.0, torch.sqrt(torch.where(is_zero, 1.0, square))) + eps


def unit(x: torch.Tensor, eps: float) -> torch.Tensor:
    """`x / max(length, eps)` over the last axis; exactly 0 stays 0 and gets no gradient: there is no direction."""
    square = x.square().sum(-1, keepdim=True)
    length = root(square, 0.0, "outside").clamp(min=eps)
    return x * torch.where(square == 0, 0.0, 1 / length)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _has_autocast(device: str) -> bool:
    """Whether this type of device has autocast; torch.compile takes the answer as a constant (2.9 cannot trace it)."""
    return torch.amp.is_autocast_available(device)


def in_full_precision(x: torch.Tensor) -> AbstractContextManager[object]:
    """A context in which matrix products keep the dtype of `x`, also under autocast."""
    device = x.device.type
    # tensors without numbers (meta) have none, and asking about it is an error
    if _has_autocast(device) and torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()


def mixes_tokens(norm: ComponentSpec) -> bool:
    """Whether with this norm a token's output depends on other tokens: then it must know which are real."""
    factory = NORMS[norm.kind]
    # a function makes torch's own norm, or one that is no more than that
    return isinstance(factory, type) and issubclass(factory, Norm) and factory.mixes_tokens(**norm.options)


def is_a(norm: ComponentSpec, base: type[Norm]) -> bool:
    """Whether this kind of norm is a class derived from `base`."""
    factory = NORMS[norm.kind]
    return isinstance(factory, type) and issubclass(factory, base)


# options that a value leaves to the model
_LEFT_OPEN: dict[str, OptionValue] = {"eps": None, "bias": None, "groups": "heads", "model_width": None}


def build_norm(norm: ComponentSpec, hidden_size: int, **from_model: OptionValue) -> nn.Module:
    """Build the module of a norm; options that are left to the model get the model's values.

    Args:
        norm (`ComponentSpec`): kind and options.
        hidden_size (`int`): width of the slot.
        from_model: the model's own `eps` and `bias`, its `hidden_size` as `model_width`, and for `groups = "heads"`
            its number of heads as `groups`.
    """
    options = {
        key: from_model[key] if key in from_model and value == _LEFT_OPEN[key] else value
        for key, value in norm.options.items()
    }
    return NORMS.build(ComponentSpec(norm.kind, options), hidden_size)
