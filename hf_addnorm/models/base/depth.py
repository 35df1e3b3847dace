"""Numbers that depend on the depth: residual constants, start values, weight scales."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, log, sqrt
from typing import Annotated, Literal

from .protocols import WritesToStream
from .registries import DEPTH_RULES
from .registry import ComponentSpec, Finite, OptionType, number, whole


@dataclass(frozen=True)
class Position:
    """Where a sublayer stands in its stack.

    A layer has two sublayers (attention, feed-forward) or three (with cross-attention), so `sublayers` is 2L in an
    encoder and 3L in a decoder with cross-attention: the constants that papers state for either are one formula.

    Args:
        layer (`int`): index of the layer, from 0.
        layers (`int`): number of layers, L.
        sublayer (`int`): index of the sublayer over the whole stack, from 0.
        sublayers (`int`): number of sublayers of the whole stack.
    """

    layer: int
    layers: int
    sublayer: int
    sublayers: int


class StackPositions:
    """The position of every sublayer of a stack.

    Those that do not write to the stream (`wiring.writes`) have the position of the next one that does.

    Args:
        layers (`int`): number of layers.
        names (`list[str]`): a layer's sublayers, in the order in which they run.
        wiring: how they meet.
    """

    def __init__(self, layers: int, names: Sequence[str], wiring: WritesToStream):
        writes = [bool(wiring.writes(order, len(names))) for order in range(len(names))]
        self.layers, self.written_in_layer = layers, sum(writes)
        self.written_before = {name: sum(writes[:order]) for order, name in enumerate(names)}

    def of_layer(self, layer: int) -> dict[str, Position]:
        """The positions of a layer's sublayers, by name, in the order in which they run."""
        first, total = layer * self.written_in_layer, self.layers * self.written_in_layer
        return {
            name: Position(layer, self.layers, first + before, total) for name, before in self.written_before.items()
        }


@DEPTH_RULES.register("power")
def power(
    position: Position,
    *,
    of: Literal["layer", "layers", "sublayer", "sublayers"],
    exponent: Finite,
    times: Annotated[float, number(above=0)] = 1.0,
    factor: Finite = 1.0,
    log_of: bool = False,
) -> float:
    """`factor * (times * n) ** exponent`, or `factor * ln(times * n) ** exponent` with `log_of`.

    n is the number of layers or sublayers, or the index of this one counted from 1.

    - DeepNorm's init, (8L)^(-1/4): `of="sublayers", times=4, exponent=-0.25`
    - LayerNorm scaling, 1/sqrt(l): `of="layer", exponent=-0.5`
    - sub-LN's init, sqrt(ln 2L): `of="sublayers", exponent=0.5, log_of=true`
    """
    count = {
        "layer": position.layer + 1,
        "layers": position.layers,
        "sublayer": position.sublayer + 1,
        "sublayers": position.sublayers,
    }[of]
    base = times * count
    # complex, of a negative base: `at_depth` refuses it
    value: float = factor * (log(base) if log_of else base) ** exponent
    return value


@DEPTH_RULES.register("linear")
def linear(position: Position, *, first: Finite = 0.0, last: Finite) -> float:
    """From `first` in the first layer to `last` in the last one; a single layer has `last`.

    Source: stochastic depth's schedule, Huang et al., 2016, arXiv 1603.09382, which begins at `last / L` in the first
    layer; later code (timm, torchscale) begins at 0, as here. The same rate in every layer is a plain number.
    """
    if position.layers == 1:
        return last
    return first + (last - first) * position.layer / (position.layers - 1)


@DEPTH_RULES.register("cait")
def cait(position: Position) -> float:
    """LayerScale's start by depth: 0.1 up to 18 layers, 1e-5 up to 24, 1e-6 beyond.

    Source: Touvron et al., "Going deeper with Image Transformers", 2021, arXiv 2103.17239.
    """
    return 0.1 if position.layers <= 18 else 1e-5 if position.layers <= 24 else 1e-6


@DEPTH_RULES.register("admin")
def admin(position: Position) -> float:
    """Admin's start without data, `sqrt((n + 1) / ln(n + 1) - 1)` of n sublayers: the output changes by O(log n).

    Source: the authors' package admin-torch, Liu et al., 2020, arXiv 2004.08249. Its two others are a plain 1, where
    the change is O(n), and the square root of n, where it is O(1): rule "power" of "sublayers".
    """
    count = position.sublayers + 1
    return sqrt(count / log(count) - 1)


@DEPTH_RULES.register("beam")
def beam(position: Position, *, side: Literal["skip", "branch"]) -> float:
    """One side of a running sum that keeps its variance: the skip `sqrt((k - 1) / k)`, the branch `1 / sqrt(k)`.

    k is the number of terms with this one: 2 at the first sublayer, which adds to the embeddings.
    Source: the depth-scaled residual of Beam, as in Transformers' `models/beam`.
    """
    terms = position.sublayer + 2
    return sqrt((terms - 1) / terms) if side == "skip" else 1 / sqrt(terms)


@DEPTH_RULES.register("deepnorm")
def deepnorm(position: Position, *, decoder_layers: Annotated[int, whole(at_least=1)] | None = None) -> float:
    """DeepNorm's skip: (2L)^(1/4), in a decoder with cross-attention (3L)^(1/4).

    The encoder of an encoder-decoder has 0.81 (L^4 M)^(1/16), with M = `decoder_layers`.

    Source: Wang et al., "DeepNet", 2022, arXiv 2203.00555.
    """
    if decoder_layers is None:
        return float(position.sublayers**0.25)
    return float(0.81 * (position.layers**4 * decoder_layers) ** (1 / 16))


def parse_depth_value(value: object, where: str) -> "float | ComponentSpec":
    """Read the value of an option that may depend on the depth: a number, or a depth rule by name or as a dict."""
    if isinstance(value, (int, float)):
        return number()(value, where)
    if isinstance(value, (Mapping, ComponentSpec)) or (isinstance(value, str) and value in DEPTH_RULES):
        return DEPTH_RULES.parse(value, where)
    raise ValueError(f"{where} is {value!r}; allowed is {_DEPTH_VALUE}.")


_DEPTH_VALUE = f"a number or a depth rule ({', '.join(DEPTH_RULES)}), by name or as a dict"

DepthValue = Annotated[float, OptionType(_DEPTH_VALUE, parse_depth_value)]


def at_depth(value: "float | ComponentSpec", position: Position, where: str = "depth rule") -> float:
    """The number that `value` stands for at `position`.

    Raises:
        ValueError: if a rule has no finite value there; the sentence names `where`.
    """
    if not isinstance(value, ComponentSpec):
        return value
    try:
        number_there: float | None = DEPTH_RULES.build(value, position)
    except (ZeroDivisionError, OverflowError):
        number_there = None
    if not isinstance(number_there, float) or not isfinite(number_there):
        raise ValueError(
            f"{where}: {value.to_dict()} has no finite value in layer {position.layer + 1} of {position.layers}."
        )
    return number_there
