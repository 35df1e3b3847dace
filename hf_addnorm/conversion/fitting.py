"""Closed-form fits over streams of tokens: a norm's own parameters, and a Linear layer by ridge regression.

Every sum is kept, no token: memory does not depend on how many there are.
"""

from collections.abc import Callable, Iterable

import torch
from torch import nn

from ..models.norms.pointwise_norms import PointwiseNorm
from ..models.norms.running_norms import BatchNorm
from .forms import gain_size, own_gain, write_norm


# from each batch: tokens that a norm is given, and those that it should give, both [tokens, hidden]
PairsOfTokens = Callable[[], Iterable[tuple[torch.Tensor, torch.Tensor]]]

# how many tokens a search over one number looks at
_SAMPLE = 2500


class Moments:
    """Means over tokens, feature by feature, of u, y, u^2, y^2 and u y."""

    def __init__(self) -> None:
        self.count = 0
        self.sums = torch.zeros(0)

    def add(self, u: torch.Tensor, y: torch.Tensor) -> None:
        """Take tokens in, both [tokens, hidden]."""
        u, y = u.double(), y.double()
        new = torch.stack([u.sum(0), y.sum(0), (u * u).sum(0), (y * y).sum(0), (u * y).sum(0)])
        self.sums = new if self.count == 0 else self.sums + new
        self.count += len(u)

    def means(self) -> torch.Tensor:
        """The five means, [5, hidden]."""
        return self.sums / max(1, self.count)

    def affine(self, has_bias: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The gain and bias of the least squares fit `y = gain * u + bias`, feature by feature."""
        u, y, uu, _, uy = self.means()
        if not has_bias:
            return uy / (uu + 1e-12), None
        variance = uu - u * u
        gain = torch.where(variance > 1e-12, (uy - u * y) / variance.clamp(min=1e-12), torch.zeros_like(u))
        return gain, y - gain * u

    def one_gain(self) -> torch.Tensor:
        """The one number of the least squares fit `y = gain * u`, for all features."""
        _, _, uu, _, uy = self.means()
        one: torch.Tensor = uy.sum() / uu.sum().clamp(min=1e-12)
        return one.expand(len(uu))


def relative_error(norm: Callable[[torch.Tensor], torch.Tensor], pairs: PairsOfTokens) -> float:
    """The squared distance of what a norm gives from what it should give, in parts of the variance of that."""
    error, moments = torch.zeros((), dtype=torch.float64), Moments()
    for z, y in pairs():
        error += (norm(z.unsqueeze(0)).squeeze(0) - y).double().square().sum()
        moments.add(y, y)
    _, mean, _, square, _ = moments.means()
    variance = (square - mean * mean).sum() * moments.count
    return float(error / variance.clamp(min=1e-30))


@torch.no_grad()
def fit_norm(norm: nn.Module, pairs: PairsOfTokens) -> None:
    """Set a norm's own parameters and statistics so that it gives what it should, as far as it can."""
    if isinstance(norm, BatchNorm):
        _fit_statistics(norm, pairs)
    if isinstance(norm, PointwiseNorm):
        _fit_alpha(norm, pairs)
    if not gain_size(norm) and getattr(norm, "bias", None) is None:
        return
    kept = {name: value.clone() for name, value in norm.state_dict().items()}
    _set_unit(norm)
    moments = Moments()
    for z, y in pairs():
        moments.add(norm(z.unsqueeze(0)).squeeze(0), y)
    if not moments.sums.isfinite().all():
        norm.load_state_dict(kept)
        return
    _write_fit(norm, moments)


def _write_fit(norm: nn.Module, moments: Moments) -> None:
    bias: nn.Parameter | None = getattr(norm, "bias", None)
    unit = own_gain(norm)
    if gain_size(norm) == len(moments.means()[0]):
        gain, shift = moments.affine(bias is not None)
    else:
        gain = moments.one_gain() if gain_size(norm) else torch.ones_like(moments.means()[0])
        u, y, *_ = moments.means()
        shift = None if bias is None else y - gain * u
    if unit is not None:
        gain = gain * unit.to(gain.dtype)
    _set_gain_and_bias(norm, gain, shift)


def _set_gain_and_bias(norm: nn.Module, gain: torch.Tensor, bias: torch.Tensor | None) -> None:
    for name in ("weight", "zero_centered_weight", "scalar_weight"):
        parameter: nn.Parameter | None = getattr(norm, name, None)
        if parameter is not None:
            value = gain.unflatten(-1, (parameter.numel(), -1)).mean(-1)
            parameter.data.copy_(value - int(name == "zero_centered_weight"))
    own: nn.Parameter | None = getattr(norm, "bias", None)
    if own is not None:
        own.data.copy_(torch.zeros_like(own) if bias is None else bias)


def _set_unit(norm: nn.Module) -> None:
    gain = own_gain(norm)
    if gain is not None:
        _set_gain_and_bias(norm, torch.ones_like(gain), None)
    elif not isinstance(norm, BatchNorm):
        write_norm(norm, torch.ones(1), None)


def _fit_statistics(norm: BatchNorm, pairs: PairsOfTokens) -> None:
    moments = Moments()
    for z, _ in pairs():
        moments.add(z, z)
    mean, _, square, _, _ = moments.means()
    norm.get_buffer("running_mean").copy_(mean)
    norm.get_buffer("running_var").copy_((square - mean * mean).clamp(min=0))
    if isinstance(alpha := getattr(norm, "alpha", None), nn.Parameter):
        alpha.data.zero_()


def _fit_alpha(norm: PointwiseNorm, pairs: PairsOfTokens) -> None:
    """The slope of the least error on a sample of tokens: a grid, then a golden section."""
    zs: list[torch.Tensor] = []
    ys: list[torch.Tensor] = []
    held = 0
    for z, y in pairs():
        zs, ys, held = [*zs, z[:_SAMPLE]], [*ys, y[:_SAMPLE]], held + len(z)
        if held >= 4 * _SAMPLE:
            break
    z, y = torch.cat(zs), torch.cat(ys)
    chosen = torch.randperm(len(z), generator=torch.Generator().manual_seed(0))[:_SAMPLE]
    z, y, size = z[chosen], y[chosen], z.std().clamp(min=1e-6).item()

    def error(alpha: float) -> float:
        moments, u = Moments(), norm.squash(alpha * z)
        moments.add(u, y)
        gain, bias = moments.affine(True)
        rest = y - (gain * u + (0 if bias is None else bias))
        return rest.square().mean().item()

    grid = [part / size for part in (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.45, 0.7, 1.0)]
    errors = [error(alpha) for alpha in grid]
    best = min(range(len(grid)), key=errors.__getitem__)
    low, high = grid[max(0, best - 1)], grid[min(len(grid) - 1, best + 1)]
    for _ in range(8):
        left, right = low + (high - low) * 0.382, low + (high - low) * 0.618
        low, high = (low, right) if error(left) < error(right) else (left, high)
    norm.alpha.data.fill_((low + high) / 2)
    if norm.shift is not None:
        norm.shift.data.zero_()


class Ridge:
    """Weighted ridge regression of what a Linear layer lacks: `delta c + shift = rest`, from sums alone.

    Args:
        inputs, outputs (`int`): of the layer.
    """

    def __init__(self, inputs: int, outputs: int):
        self.gram = torch.zeros(inputs, inputs, dtype=torch.float64)
        self.cross = torch.zeros(inputs, outputs, dtype=torch.float64)
        self.c, self.r = torch.zeros(inputs, dtype=torch.float64), torch.zeros(outputs, dtype=torch.float64)
        self.weight = 0.0
        self.knows_inputs = False

    def forget_rest(self) -> None:
        """Begin again with what the layer lacks; what was added so far of what it is given stays, and counts once."""
        self.knows_inputs = self.weight > 0
        self.cross.zero_()
        self.r.zero_()

    def add(self, c: torch.Tensor, rest: torch.Tensor, weight: torch.Tensor) -> None:
        """Take tokens in: what the layer is given, what its output lacks, how much each counts, [tokens, 1]."""
        weighted = c * weight
        self.cross += (weighted.T @ rest).double()
        self.r += (rest * weight).sum(0).double()
        if self.knows_inputs:
            return
        self.gram += (weighted.T @ c).double()
        self.c += weighted.sum(0).double()
        self.weight += weight.sum().item()

    def solve(self, rho: float) -> tuple[torch.Tensor, torch.Tensor]:
        """The change of the weight [out, in], damped by rho times a mean variance, and of the bias [out]."""
        c, r = self.c / self.weight, self.r / self.weight
        gram = self.gram / self.weight - torch.outer(c, c)
        cross = self.cross / self.weight - torch.outer(c, r)
        damping = rho * gram.diagonal().mean().clamp(min=1e-12)
        delta = torch.linalg.solve(gram + damping * torch.eye(len(gram), dtype=gram.dtype), cross).T
        return delta, r - delta @ c
