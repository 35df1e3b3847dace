"""The figures of a diagnosis: one row each, from which table, JSON, page, pictures and sentences are made."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from .sums import SATURATED, Sums


# a channel of the stream is an outlier where its RMS is this many times the median channel's
OUTLIER = 6.0

# what a figure is of: a sublayer, a whole layer, a norm, a layer of two models
Scope = Literal["sublayer", "layer", "norm", "pair"]


@dataclass(frozen=True)
class Bound:
    """From where on a figure is unusual.

    Args:
        limit (`float`): the bound itself.
        words (`str`): what it means beyond it, as the end of a sentence.
        of_median (`bool`): the limit is a multiple of the median over all places of the figure.
    """

    limit: float
    words: str
    of_median: bool = False


@dataclass(frozen=True)
class Measure:
    """One figure by place.

    Args:
        title (`str`), unit (`str`): of its axis; the unit of a plain number is "1".
        scope (`str`): what it is of.
        compute (`Callable`): from the sums of a place to the number, None where there is none.
        reading (`str`): a sentence: how to read it.
        low, high (`Bound`, *optional*): from where on it is unusual.
        log (`bool`): whether it is drawn on a logarithmic axis, and two models are compared by their ratio.
        idle (`float`, *optional*): the value at which the figure says nothing; where all are, it is not drawn.
        notable (`float`): by how much two models must differ to be named: a ratio where `log`, else a difference.
    """

    title: str
    unit: str
    scope: Scope
    compute: Callable[[Sums], float | None]
    reading: str
    low: Bound | None = None
    high: Bound | None = None
    log: bool = False
    idle: float | None = None
    notable: float = 2.0

    @property
    def axis(self) -> str:
        """The title with the unit."""
        return self.title if self.unit == "1" else f"{self.title} ({self.unit})"


def _mean(name: str) -> Callable[[Sums], float | None]:
    return lambda sums: sums.mean(name)


def kurtosis(sums: Sums) -> float | None:
    """Of the channels' RMS s: mean of s^4 over the square of the mean of s^2; from 1 to the number of channels.

    Source: He et al., "Understanding and Minimising Outlier Features in Neural Network Training", 2024,
    arXiv 2405.19279.
    """
    if (channels := sums.channel_rms) is None:
        return None
    squares = channels.square()
    return float(squares.square().mean() / squares.mean().square()) if squares.any() else None


def largest_share(sums: Sums) -> float | None:
    """The share of the stream's squares that its largest channel has."""
    if sums.squares is None or not sums.squares.any():
        return None
    return float(sums.squares.max() / sums.squares.sum())


def outliers(sums: Sums) -> dict[int, float]:
    """The outlier channels of the stream, the largest first: by number, how many times the median channel's RMS."""
    channels = sums.channel_rms
    median = 0.0 if channels is None else float(channels.median())
    if channels is None or median == 0.0:
        return {}
    ratios = channels / median
    found = [index for index in ratios.argsort(descending=True).tolist() if ratios[index] >= OUTLIER]
    return {index: float(ratios[index]) for index in found}


def _outlier_count(sums: Sums) -> float | None:
    return None if sums.channel_rms is None else float(len(outliers(sums)))


MEASURES: dict[str, Measure] = {
    "stream_rms": Measure(
        "RMS of the stream",
        "activation",
        "sublayer",
        _mean("stream"),
        "The size of what a sublayer reads from the residual stream, before any norm: the mean over tokens of the "
        "root mean square over features. In post-norm models it stays level, in pre-norm models it grows with depth.",
        high=Bound(8.0, "the stream is far larger here than elsewhere", of_median=True),
        low=Bound(0.125, "the stream is far smaller here than elsewhere", of_median=True),
        log=True,
    ),
    "branch_rms": Measure(
        "RMS of the branch",
        "activation",
        "sublayer",
        _mean("branch"),
        "The size of what a sublayer adds to the stream (attention's or the feed-forward's output).",
        high=Bound(8.0, "the branch is far larger here than elsewhere", of_median=True),
        log=True,
    ),
    "branch_ratio": Measure(
        "Branch over stream",
        "ratio of RMS",
        "sublayer",
        _mean("ratio"),
        "How large the branch is beside the stream that it is added to. At 1 both are of the same size; far below it "
        "the sublayer changes little; far above it the sublayer replaces the stream.",
        low=Bound(0.05, "the sublayer adds almost nothing"),
        high=Bound(4.0, "the sublayer overwrites the stream"),
        log=True,
        notable=1.5,
    ),
    "branch_angle": Measure(
        "Angle of the branch to the stream",
        "degrees",
        "sublayer",
        _mean("angle"),
        "The direction of the branch beside that of the stream. 90 degrees: it adds something new; below: it "
        "amplifies what is there; above: it takes away what is there.",
        low=Bound(60.0, "the branch amplifies what the stream holds already"),
        high=Bound(110.0, "the branch takes away what the stream holds"),
        notable=15.0,
    ),
    "sum_rms": Measure(
        "RMS after the sum",
        "activation",
        "sublayer",
        _mean("sum"),
        "The size of the stream after the branch was added, before a norm behind the sum.",
        high=Bound(8.0, "the sum is far larger here than elsewhere", of_median=True),
        log=True,
    ),
    "stream_kurtosis": Measure(
        "Kurtosis of the stream's channels",
        "1",
        "sublayer",
        kurtosis,
        "How unevenly the stream's size is spread over its channels (features): 1 if all have the same RMS, the "
        "number of channels if one has everything. Large values make low-precision numbers and quantisation harder.",
        high=Bound(20.0, "few channels hold most of the stream"),
        log=True,
    ),
    "outlier_channels": Measure(
        "Outlier channels",
        "number of channels",
        "sublayer",
        _outlier_count,
        f"How many channels of the stream have an RMS of at least {OUTLIER:g} times the median channel's.",
        high=Bound(0.0, "some channels are far larger than the others"),
        idle=0.0,
        notable=1.0,
    ),
    "largest_channel": Measure(
        "Largest channel of the stream",
        "share of its squares",
        "sublayer",
        largest_share,
        "How much of the stream's energy (the sum of its squares) is in one channel: 1 / width if all are alike. A "
        "norm in front of a sublayer divides all channels by a size that is then this channel's.",
        high=Bound(0.25, "one channel holds a large part of the stream"),
        notable=0.1,
    ),
    "skip_weight": Measure(
        "Weight of the stream in the sum",
        "1",
        "sublayer",
        _mean("skip_weight"),
        "The a of y = a x + b f, measured by least squares in each token: constants, gates and learned scales all "
        "show here. In a plain sum it is 1.",
        low=Bound(0.5, "the sum forgets most of the stream"),
        idle=1.0,
        notable=0.1,
    ),
    "branch_weight": Measure(
        "Weight of the branch in the sum",
        "1",
        "sublayer",
        _mean("branch_weight"),
        "The b of the same y = a x + b f. In a plain sum it is 1; at 0 the sublayer is switched off.",
        low=Bound(0.05, "the gate is shut: the sublayer is left out"),
        idle=1.0,
        notable=0.1,
    ),
    "gradient_norm": Measure(
        "Gradient of the branch's output",
        "loss per activation",
        "sublayer",
        _mean("gradient"),
        "The norm of the gradient of a batch's loss for what the sublayer adds: how much the loss depends on it. "
        "Values that fall by orders of magnitude along the depth are vanishing gradients.",
        low=Bound(0.05, "the gradient is far smaller here than elsewhere", of_median=True),
        high=Bound(20.0, "the gradient is far larger here than elsewhere", of_median=True),
        log=True,
    ),
    "relative_change": Measure(
        "Change of the stream by the layer",
        "ratio of RMS",
        "layer",
        _mean("change"),
        "How far a layer moves the stream, beside the stream's own size. A layer far below the others does little: "
        "the effective depth is less than the number of layers.",
        low=Bound(0.1, "the layer changes almost nothing"),
        log=True,
        notable=1.5,
    ),
    "layer_cosine": Measure(
        "Cosine of the stream before and after the layer",
        "1",
        "layer",
        _mean("layer_cosine"),
        "1 if the layer leaves the stream's direction as it is, 0 if it turns it to something unrelated.",
        high=Bound(0.99, "the layer leaves the direction of the stream as it was"),
        low=Bound(0.2, "the layer turns the stream to something almost unrelated"),
        notable=0.15,
    ),
    "attention_entropy": Measure(
        "Entropy of attention",
        "share of the largest possible",
        "layer",
        _mean("entropy"),
        "How evenly tokens look at all tokens that they may see, a mean over heads: 0 if each looks at one token, "
        "1 if at all alike. A collapse to 0 makes training unstable; near 1 attention selects nothing.",
        low=Bound(0.1, "attention looks at single tokens"),
        high=Bound(0.97, "attention looks at all tokens alike"),
        notable=0.1,
    ),
    "stream_similarity": Measure(
        "Cosine of the two models' streams",
        "1",
        "pair",
        _mean("similarity"),
        "How alike the streams of both models are before the layer, on the same tokens: 1 if they have the same "
        "direction. The last value is that behind the last layer and the final norm.",
        low=Bound(0.5, "the second model computes something else here"),
        notable=9.0,
    ),
    "gain_median": Measure(
        "Median gain of the norm",
        "1",
        "norm",
        _mean("gain_median"),
        "The median over features of the norm's gain, without its sign.",
        notable=0.25,
        idle=1.0,
    ),
    "gain_spread": Measure(
        "Spread of the norm's gains",
        "1",
        "norm",
        _mean("gain_spread"),
        "The distance between the 5th and the 95th percentile of the gains, over their median: 0 if all features have "
        "the same gain.",
        high=Bound(2.0, "the norm weighs its features very unevenly"),
        idle=0.0,
        notable=0.25,
    ),
    "gain_small": Measure(
        "Gains near zero",
        "share of features",
        "norm",
        _mean("gain_small"),
        "The share of features whose gain is below a hundredth of the median gain: the norm switches them off.",
        high=Bound(0.01, "the norm switches features off"),
        idle=0.0,
        notable=0.01,
    ),
    "bias_rms": Measure(
        "RMS of the norm's bias",
        "activation",
        "norm",
        _mean("bias"),
        "The root mean square of the norm's bias. A bias that is large beside the gain adds the same vector to every "
        "token.",
        high=Bound(1.0, "the same large vector is added to every token"),
        idle=0.0,
        notable=0.25,
    ),
    "saturation": Measure(
        "Saturated share of the norm",
        "share of entries",
        "norm",
        _mean("saturated"),
        f"Of an element-wise norm (DyT, Derf, ISRU), the share of entries beyond {SATURATED:.0%} of its bound, where "
        "its slope is almost 0 and little gradient passes.",
        high=Bound(0.2, "the norm is saturated: little gradient passes"),
        notable=0.1,
    ),
}


def gain_figures(gain: torch.Tensor, centre: float) -> dict[str, torch.Tensor]:
    """The figures of a norm's gains, each as a tensor of one number; `centre` is added to what is stored."""
    sizes = (gain.detach().float().flatten() + centre).abs()
    low, median, high = torch.quantile(sizes, torch.tensor([0.05, 0.5, 0.95], device=sizes.device))
    spread = (high - low) / median if median > 0 else torch.full_like(median, torch.nan)
    small = (sizes < 0.01 * median).float().mean()
    return {"gain_median": median.view(1), "gain_spread": spread.view(1), "gain_small": small.view(1)}
