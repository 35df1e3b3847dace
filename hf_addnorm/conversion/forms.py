"""What norms and residuals are to a conversion: the same few parts, read from a module and written to one.

A norm is `gain * core(x) + bias`, where the core divides by a deviation or is linear, and may take the mean out first.
A residual is `skip * x + branch * f + shift`. Both tables are by class; what is in neither is a function of its own.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import nn

from ..models.norms.layer_norms import CenterNorm, DeviationNorm, FixedSigmaNorm, GroupNorm
from ..models.norms.norm_base import Norm
from ..models.norms.pointwise_norms import Affine
from ..models.norms.rms_norms import L2Norm, RMSNorm, ScaleNorm
from ..models.norms.running_norms import BatchNorm, RepBatchNorm
from ..models.residuals.residuals import (
    Add,
    AdminResidual,
    AffineResidual,
    ConstantResidual,
    GradientPreservingScale,
    ScalarResidual,
    VectorResidual,
)


# an eps at which a norm divides by a constant: published checkpoints without LayerNorm have 1e12
_LINEAR_EPS = 1e6


@dataclass(frozen=True)
class NormForm:
    """A norm as `gain * core(x) + bias`.

    Args:
        core (`str`): "deviation", `x / sqrt(mean(x^2) + eps)`; "linear", x; else the name of a class, a function of
            its own.
        centred (`bool`): whether the core is given `x - mean(x)`.
        eps (`float`): of a deviation.
        gain (`torch.Tensor`, *optional*): [hidden]; constant factors of the norm are in it. None is 1.
        bias (`torch.Tensor`, *optional*): [hidden]; None is 0.
    """

    core: str
    centred: bool
    eps: float = 0.0
    gain: torch.Tensor | None = None
    bias: torch.Tensor | None = None

    @property
    def is_scale_free(self) -> bool:
        """Whether it gives the same for a multiple of its input, but for its eps."""
        return self.core == "deviation"


def _gain(norm: nn.Module) -> torch.Tensor:
    """The gain [hidden] of a norm, ours or torch's; ones where it has none."""
    if isinstance(norm, Norm):
        # in the dtype of the parameters; what has none has no dtype either
        like = next(norm.parameters(), torch.empty(0, dtype=torch.float64))
        return norm.times_gain(torch.ones(norm.hidden_size, dtype=like.dtype, device=like.device)).detach()
    weight = cast(nn.Parameter, norm.weight)
    return torch.ones(cast(nn.LayerNorm, norm).normalized_shape) if weight is None else weight.detach()


def _bias(norm: nn.Module) -> torch.Tensor | None:
    bias: nn.Parameter | None = getattr(norm, "bias", None)
    return None if bias is None else bias.detach()


def _deviation(norm: nn.Module, centred: bool, eps: float, factor: float = 1.0) -> NormForm:
    gain = _gain(norm) * factor
    if eps >= _LINEAR_EPS:
        return NormForm("linear", centred, 0.0, gain / eps**0.5, _bias(norm))
    return NormForm("deviation", centred, eps, gain, _bias(norm))


def _deviation_norm(norm: DeviationNorm) -> NormForm:
    n = norm.hidden_size
    share = (n - norm.correction) / n
    # outside of the root, an eps counts as none: the proof says whether it may
    eps = norm.eps * share if norm.eps_place == "inside" else 0.0
    return _deviation(norm, True, eps, share**0.5)


def _linear(norm: nn.Module, centred: bool, factor: float = 1.0) -> NormForm:
    return NormForm("linear", centred, 0.0, _gain(norm) * factor, _bias(norm))


def _running(norm: BatchNorm) -> NormForm:
    scale, shift = norm.folded()
    return NormForm("linear", False, 0.0, scale.detach(), shift.detach())


# how a norm of each class is read
_READ: dict[type[nn.Module], Callable[..., NormForm]] = {
    nn.Identity: lambda norm: NormForm("linear", False),
    nn.LayerNorm: lambda norm: _deviation(norm, True, norm.eps),
    DeviationNorm: _deviation_norm,
    GroupNorm: lambda norm: _deviation(norm, True, norm.eps) if norm.groups == 1 else NormForm("GroupNorm", False),
    RMSNorm: lambda norm: _deviation(norm, False, norm.eps if norm.eps_place == "inside" else 0.0),
    ScaleNorm: lambda norm: NormForm(
        "deviation", False, 0.0, (norm.scalar_weight.detach() / norm.hidden_size**0.5).expand(norm.hidden_size)
    ),
    L2Norm: lambda norm: _deviation(norm, False, 0.0, norm.hidden_size**-0.5),
    FixedSigmaNorm: lambda norm: _linear(norm, True, 1 / norm.sigma),
    CenterNorm: lambda norm: _linear(norm, True, norm.hidden_size / (norm.hidden_size - 1)),
    Affine: lambda norm: NormForm(
        "linear",
        False,
        0.0,
        norm.weight.detach().repeat_interleave(norm.hidden_size // norm.groups),
        _bias(norm),
    ),
    BatchNorm: _running,
    RepBatchNorm: _running,
}


def read_norm(norm: nn.Module) -> NormForm:
    """A norm's form; of a class that is in no table, one whose core is the name of the class.

    Raises:
        ValueError: never; what is not known is a core of its own.
    """
    read = _READ.get(type(norm))
    if read is None:
        own = type(norm).__name__
        return NormForm(own, False, 0.0, None, _bias(norm))
    return read(norm)


def unit_form(norm: nn.Module) -> NormForm:
    """The form of a norm whose own gain is 1 and bias 0: what is left of it are its constants."""
    form = read_norm(norm)
    if form.gain is None:
        return form
    own = own_gain(norm)
    gain = form.gain if own is None else form.gain / own
    return replace(form, gain=torch.ones_like(gain) if isinstance(norm, BatchNorm) else gain, bias=None)


def own_gain(norm: nn.Module) -> torch.Tensor | None:
    """The gain [hidden] that a norm's parameter is, or None where it has none."""
    for name in ("weight", "zero_centered_weight", "scalar_weight"):
        parameter: torch.Tensor | None = getattr(norm, name, None)
        if parameter is not None:
            value = parameter.detach() + int(name == "zero_centered_weight")
            width: int = getattr(norm, "hidden_size", value.numel())
            return value.repeat_interleave(width // value.numel())
    return None


def gain_size(norm: nn.Module) -> int:
    """The number of entries of its gain; 0 where it has none."""
    found = (getattr(norm, name, None) for name in ("weight", "zero_centered_weight", "scalar_weight"))
    return next((parameter.numel() for parameter in found if parameter is not None), 0)


@torch.no_grad()
def write_norm(norm: nn.Module, gain: torch.Tensor, bias: torch.Tensor | None) -> None:
    """Write a gain [hidden] and a bias [hidden] into the parameters that a norm has for them.

    A gain that is one number for several features gets their mean. Running statistics become those of an affine map.
    """
    if isinstance(norm, BatchNorm):
        norm.get_buffer("running_mean").zero_()
        norm.get_buffer("running_var").fill_(1 - norm.eps)
        if isinstance(norm, RepBatchNorm):
            norm.alpha.zero_()
    for name in ("weight", "zero_centered_weight", "scalar_weight"):
        parameter: nn.Parameter | None = getattr(norm, name, None)
        if parameter is not None:
            whole = gain.expand(parameter.numel()) if gain.numel() == 1 else gain
            value = whole.unflatten(-1, (parameter.numel(), -1)).mean(-1)
            parameter.copy_(value - int(name == "zero_centered_weight"))
    own: nn.Parameter | None = getattr(norm, "bias", None)
    if own is not None:
        own.copy_(torch.zeros_like(own) if bias is None else bias)


# --- residuals ---


@dataclass(frozen=True)
class ResidualForm:
    """A residual as `skip * x + branch * f + shift`, each [hidden] or [1]."""

    skip: torch.Tensor
    branch: torch.Tensor
    shift: torch.Tensor


def _residual(skip: object = 1.0, branch: object = 1.0, shift: object = 0.0) -> ResidualForm:
    parts = [
        part.detach().double() if isinstance(part, torch.Tensor) else torch.tensor([part], dtype=torch.float64)
        for part in (skip, branch, shift)
    ]
    return ResidualForm(*parts)


def _learned(residual: ScalarResidual | VectorResidual | AdminResidual) -> ResidualForm:
    factor = residual.get_parameter(residual.name)
    return _residual(branch=factor) if residual.side == "branch" else _residual(skip=factor)


def _gpas(residual: GradientPreservingScale) -> ResidualForm:
    scale = (1 - nn.functional.silu(residual.gate.double())).detach()
    branch = torch.ones_like(scale) if residual.place == "on_skip" else scale
    return _residual(residual.skip_scale * scale, branch)


_READ_RESIDUAL: dict[type[nn.Module], Callable[..., ResidualForm]] = {
    Add: lambda residual: _residual(),
    ConstantResidual: lambda residual: _residual(residual.skip_scale, residual.branch_scale),
    ScalarResidual: _learned,
    VectorResidual: _learned,
    AdminResidual: _learned,
    AffineResidual: lambda residual: _residual(
        residual.skip_weight,
        residual.branch_weight,
        residual.skip_weight * residual.skip_bias + residual.branch_weight * residual.branch_bias,
    ),
    GradientPreservingScale: _gpas,
}


def read_residual(residual: nn.Module | None) -> ResidualForm | None:
    """A residual's form, or None where it has none."""
    if residual is None:
        return _residual()
    read = _READ_RESIDUAL.get(type(residual))
    return None if read is None else read(residual)


def free_factor(residual: nn.Module) -> tuple[str, nn.Parameter] | None:
    """The side on which a residual has a factor of its own, and that factor; None where it has none."""
    if isinstance(residual, (ScalarResidual, VectorResidual, AdminResidual)):
        return residual.side, residual.get_parameter(residual.name)
    return None
