"""What a diagnosis keeps while batches run: running sums by place, of a size that does not grow with the texts."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from ..models.base.token_mask import current
from ..models.norms.pointwise_norms import PointwiseNorm


# in which an element-wise norm is called saturated: beyond this share of its bound, which is 1
SATURATED = 0.95
# two vectors whose angle's squared sine is below this are in one direction: no weights of a sum can be read off
_ONE_DIRECTION = 1e-4
# of the fit of a sum, the part that is left over
_FITS = 1e-2


@dataclass(frozen=True)
class Place:
    """Where a figure was taken.

    Args:
        layer (`int`, *optional*): counted from 0; None outside of the layers.
        part (`str`): the sublayer; the sublayer and the slot, or the place, of a norm; empty for a whole layer. In a
            model with encoder and decoder its first word says which.
    """

    layer: int | None
    part: str = ""

    @property
    def title(self) -> str:
        """What it is called in a sentence."""
        return self.part if self.layer is None else f"layer {self.layer} {self.part}".rstrip()


@dataclass
class Sums:
    """Running means of one place: of single numbers by token, and of the squares of each feature.

    Args:
        totals (`dict`): by what is summed, the sum and the number of tokens in it.
        squares (`torch.Tensor`, *optional*): sum over tokens of the stream's squares, [hidden].
        tokens (`int`): that are in `squares`.
    """

    totals: dict[str, tuple[float, float]] = field(default_factory=dict)
    squares: torch.Tensor | None = None
    tokens: int = 0

    def add(self, values: Mapping[str, torch.Tensor]) -> None:
        """Add tensors of one number per token; those that are not finite are left out."""
        stacked = []
        for value in values.values():
            known = value.isfinite()
            stacked += [torch.where(known, value, 0.0).sum(), known.sum().to(value)]
        numbers = torch.stack(stacked).tolist()
        for name, total, count in zip(values, numbers[::2], numbers[1::2], strict=True):
            before = self.totals.get(name, (0.0, 0.0))
            self.totals[name] = before[0] + total, before[1] + count

    def add_squares(self, x: torch.Tensor) -> None:
        """Add tokens, [tokens, hidden], to the squares of each feature."""
        found = x.square().sum(0).double().cpu()
        self.squares = found if self.squares is None else self.squares + found
        self.tokens += len(x)

    def mean(self, name: str) -> float | None:
        """The mean of what was summed under a name; None where there was nothing."""
        total, count = self.totals.get(name, (0.0, 0.0))
        return total / count if count else None

    @property
    def channel_rms(self) -> torch.Tensor | None:
        """The root mean square of each feature, [hidden], float64."""
        return None if self.squares is None or not self.tokens else (self.squares / self.tokens).sqrt()


def rms(x: torch.Tensor) -> torch.Tensor:
    """The root mean square of each token."""
    return x.square().mean(-1).sqrt()


def cosine(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The cosine of each token's two vectors; nan where one of them is 0."""
    return ((x * y).sum(-1) / (x.square().sum(-1) * y.square().sum(-1)).sqrt()).clamp(-1, 1)


def sum_weights(x: torch.Tensor, f: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The a and b of `y = a x + b f`, by least squares in each token; nan where `y` is no such sum."""
    xx, ff, xf = x.square().sum(-1), f.square().sum(-1), (x * f).sum(-1)
    determinant = xx * ff - xf.square()
    yx, yf = (x * y).sum(-1), (f * y).sum(-1)
    a, b = (ff * yx - xf * yf) / determinant, (xx * yf - xf * yx) / determinant
    left = (y - a.unsqueeze(-1) * x - b.unsqueeze(-1) * f).square().sum(-1)
    fits = (determinant > _ONE_DIRECTION * xx * ff) & (left <= _FITS * y.square().sum(-1))
    return torch.where(fits, a, torch.nan), torch.where(fits, b, torch.nan)


class Observation:
    """The sums of one model; told what passes in each forward (see `watching`).

    Args:
        keeps_streams (`bool`): keep the stream of the last forward by layer, for a comparison of two models.
        keeps_branches (`bool`): keep the outputs of the branches of the last forward, for their gradients.
    """

    def __init__(self, keeps_streams: bool = False, keeps_branches: bool = False):
        self.places: defaultdict[Place, Sums] = defaultdict(Sums)
        self.keeps_streams, self.keeps_branches = keeps_streams, keeps_branches
        self.begin()

    def begin(self) -> None:
        """Forget the tensors of the last forward."""
        # by stack: which tokens of it are real, [batch, seq], or None if all are; how many there are
        self.real: dict[str, torch.Tensor | None] = {}
        self.tokens: dict[str, int] = {}
        self.streams: dict[Place, torch.Tensor] = {}
        self.branches: dict[Place, torch.Tensor] = {}
        # of the layer that runs: what its sublayers read, what they gave
        self._layer: Place | None = None
        self._x: torch.Tensor | None = None
        self._f: torch.Tensor | None = None
        self._last: torch.Tensor | None = None

    @torch.no_grad()
    def see(self, stack: str, layer: int, sublayer: str, point: str, x: torch.Tensor) -> None:
        """Take the figures of a tensor at one of the `POINTS`."""
        place, whole = Place(layer, f"{stack} {sublayer}".lstrip()), Place(layer, stack)
        if point == "stream_in":
            self._x = real_tokens(x)
            if whole != self._layer:
                self._at_layer(whole, self._x)
        elif point == "branch_out":
            if self.keeps_branches:
                self.branches[place] = x
            self._f, real = real_tokens(x), current().on(x)
            self.real[stack] = None if real is None else real.squeeze(-1)
            self.tokens[stack] = len(self._f)
            self._at_branch(place, self._f)
        elif point == "after_sum" and x.shape[-1] == self._x_or(x).shape[-1] and x.dim() == 3:
            self._at_sum(place, real_tokens(x))

    def _x_or(self, x: torch.Tensor) -> torch.Tensor:
        return x if self._x is None else self._x

    def _at_branch(self, place: Place, f: torch.Tensor) -> None:
        x, sums = self._x_or(f), self.places[place]
        sums.add_squares(x)
        sums.add(
            {
                "stream": rms(x),
                "branch": rms(f),
                "ratio": rms(f) / rms(x),
                "angle": torch.rad2deg(torch.acos(cosine(x, f))),
            }
        )

    def _at_sum(self, place: Place, y: torch.Tensor) -> None:
        x, f = self._x_or(y), y if self._f is None else self._f
        skip, branch = sum_weights(x, f, y)
        self.places[place].add({"sum": rms(y), "skip_weight": skip, "branch_weight": branch})

    def _at_layer(self, layer: Place, x: torch.Tensor) -> None:
        """Compare the stream before a layer with that before the layer above it in its stack."""
        below, before = self._layer, self._last
        if below is not None and before is not None and below.part == layer.part and before.shape == x.shape:
            self.places[below].add({"change": rms(x - before) / rms(before), "layer_cosine": cosine(before, x)})
        self._layer, self._last = layer, x
        if self.keeps_streams:
            self.streams[layer] = x

    @torch.no_grad()
    def leave(self, last: Place, x: torch.Tensor) -> None:
        """Take the stream behind the last layer of a stack; of a shared layer the earlier calls are none."""
        if self._layer == last:
            self._at_layer(_behind(last), real_tokens(x))

    @torch.no_grad()
    def hand_out(self, last: Place, x: torch.Tensor) -> None:
        """Take the stream behind the final norm of a stack, for a comparison: it is what the model hands out."""
        if self.keeps_streams:
            self.streams[_behind(last)] = real_tokens(x)

    @torch.no_grad()
    def add_attentions(self, attentions: Mapping[Place, torch.Tensor]) -> None:
        """Take the probabilities of each layer's attention, [batch, heads, queries, keys]."""
        for layer, weights in attentions.items():
            self.places[layer].add({"entropy": attention_entropy(weights, self.real[layer.part])})

    @torch.no_grad()
    def add_gradients(self, gradients: Mapping[Place, torch.Tensor | None]) -> None:
        """Take the gradients of a loss for the outputs of the branches."""
        for place, gradient in gradients.items():
            if gradient is not None:
                self.places[place].add({"gradient": gradient.float().norm().view(1)})


def _behind(last: Place) -> Place:
    """The place behind the last layer of a stack."""
    return Place(1 + (last.layer or 0), last.part)


def real_tokens(x: torch.Tensor) -> torch.Tensor:
    """The real tokens of [batch, seq, hidden] while a model's forward runs: [tokens, hidden], float32 or float64."""
    real = current().on(x)
    found = x.flatten(0, 1) if real is None else x[real.squeeze(-1)]
    return found.detach() if found.dtype == torch.float64 else found.detach().float()


def attention_entropy(weights: torch.Tensor, real: torch.Tensor | None) -> torch.Tensor:
    """How evenly each query looks at the keys that it may see: 0 at one key, 1 where all have the same weight.

    The entropy over the logarithm of the number of keys that have any weight, a mean over the heads, [queries].

    Args:
        weights (`torch.Tensor`): probabilities, [batch, heads, queries, keys].
        real (`torch.Tensor`, *optional*): which queries are real, [batch, queries].
    """
    weights = weights.detach().float()
    keys = (weights > 0).any(1).sum(-1)
    entropy = torch.special.entr(weights).sum(-1).mean(1) / keys.log()
    entropy = torch.where(keys > 1, entropy, torch.nan)
    return entropy.flatten() if real is None else entropy[real]


def norm_hooks(
    norms: Mapping[nn.Module, list[Place]], observation: Observation
) -> Iterator[torch.utils.hooks.RemovableHandle]:
    """Hooks that count how much of an element-wise norm's output is saturated; a shared one runs once a place."""
    for norm, places in norms.items():
        if isinstance(norm, PointwiseNorm):
            yield norm.register_forward_pre_hook(_Saturation(places, observation))


class _Saturation:
    def __init__(self, places: list[Place], observation: Observation):
        self.places, self.observation, self.calls = places, observation, 0

    @torch.no_grad()
    def __call__(self, norm: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        place = self.places[self.calls % len(self.places)]
        self.calls += 1
        x = args[0]
        x = real_tokens(x) if x.dim() == 3 else x.detach().float()
        outside: torch.Tensor = norm.normalize(x).abs() > SATURATED  # type: ignore[operator]
        self.observation.places[place].add({"saturated": outside.float().mean(-1).flatten()})
