"""What papers claim about depth, measured on the result of `depth.py`."""

import math
import statistics
from collections import defaultdict
from collections.abc import Callable
from typing import NamedTuple


# A run has learned if its loss is this far below that of a guess from how often each byte stands in the text.
MARGIN = 0.1
ALL, FIRST, LAST = slice(None), slice(0, 1), slice(-1, None)


class NotRun(Exception):
    """The study has no run from which a number could be taken."""


class Study:
    """A result, with its runs by scheme and depth."""

    def __init__(self, result: dict):
        self.config, self.missing = result["config"], result["missing"]
        self.depths = {int(depth): runs for depth, runs in self.config["depths"].items()}
        self.runs = defaultdict(list)
        for row in result["runs"]:
            self.runs[row["settings"]["scheme"], row["settings"]["depth"]].append(row)
        # that of a guess from how often each byte stands in the text, the same for all runs
        self.unigram = next(row["unigram_loss"] for row in result["runs"] if "error" not in row)

    def finished(self, scheme: str, depth: int) -> list[dict]:
        """The runs that came to an end; at least one."""
        rows = [row for row in self.runs[scheme, depth] if "error" not in row]
        if not rows:
            raise NotRun
        return rows

    def losses(self, scheme: str, depth: int) -> list[float]:
        """Of each run, at the end; infinite where it is not a number."""
        return [math.inf if row["loss"] is None else row["loss"] for row in self.finished(scheme, depth)]

    def learned(self, scheme: str, depth: int) -> int:
        """How many runs did."""
        rows = self.finished(scheme, depth)
        return sum(row["loss"] is not None and row["loss"] < self.unigram - MARGIN for row in rows)

    def all_learned(self, scheme: str, depth: int) -> bool:
        return self.learned(scheme, depth) == len(self.finished(scheme, depth))

    def mean_losses(self, scheme: str, depth: int) -> list[float]:
        """Over the steps, mean over the runs."""
        return _means([row["loss_history"] for row in self.finished(scheme, depth)])

    def layers(self, scheme: str, depth: int, when: str, what: str) -> list[float]:
        """By layer, mean over the runs."""
        return _means([row[when][what] for row in self.finished(scheme, depth)])

    def part(self, scheme: str, depth: int, when: str, what: str, part: slice) -> float:
        """The same, mean over a part of the layers."""
        return statistics.mean(self.layers(scheme, depth, when, what)[part])


def _means(curves: list[list[float | None]]) -> list[float]:
    # a run that broke off has a shorter curve
    return [
        statistics.mean(math.nan if value is None else value for value in values)
        for values in zip(*curves, strict=False)
    ]


class Claim(NamedTuple):
    """What a paper says, and how it is measured: the numbers as text, and whether they agree with the paper."""

    text: str
    source: str
    measure: Callable[[Study], tuple[str, bool]]


def losses(study: Study, scheme: str, *depths: int) -> str:
    """The losses at some depths, as text."""
    means = [f"{statistics.mean(study.losses(scheme, depth)):.2f} at {depth}" for depth in depths]
    return f"`{scheme}` {', '.join(means)}"


def left(study: Study, scheme: str, *depths: int) -> str:
    """The gradient that still reaches the first layer after the training, as text."""
    found = [f"{study.part(scheme, depth, 'end', 'gradient', FIRST):.1g} at {depth}" for depth in depths]
    return f"gradient left in the first layer {', '.join(found)}"


def no_warmup(study: Study) -> tuple[str, bool]:
    """Without warm-up no deep run learns."""
    name, depths = "post_ln_no_warmup", (6, 24, 96)
    text = f"{losses(study, name, *depths)}; {left(study, name, *depths)}"
    return text, not study.learned(name, 24) and not study.learned(name, 96)


def warmup(study: Study) -> tuple[str, bool]:
    """With warm-up every run learns that fails without it."""
    depths = (6, 24, 96)
    failed = [depth for depth in depths if not study.learned("post_ln_no_warmup", depth)]
    text = f"{losses(study, 'post_ln', *depths)}; {left(study, 'post_ln', *depths)}"
    return text, all(study.all_learned("post_ln", depth) for depth in failed)


def learn(*schemes: str) -> Callable[[Study], tuple[str, bool]]:
    """All runs learn, at 24 and 96 layers."""

    def measure(study: Study) -> tuple[str, bool]:
        text = "; ".join(f"{losses(study, scheme, 24, 96)}; {left(study, scheme, 96)}" for scheme in schemes)
        return text, all(study.all_learned(scheme, depth) for scheme in schemes for depth in (24, 96))

    return measure


def falls(study: Study) -> tuple[str, bool]:
    """At 1,000 layers DeepNorm's loss falls from the first step to the end."""
    first, last = {}, {}
    for scheme in ("deepnorm", "post_ln"):
        first[scheme] = statistics.mean(row["loss_history"][0] for row in study.finished(scheme, 1000))
        last[scheme] = statistics.mean(study.losses(scheme, 1000))
    text = ", ".join(f"`{scheme}` {first[scheme]:.2f} to {last[scheme]:.2f}" for scheme in first)
    return f"{text} in {study.depths[1000]['steps']} steps", last["deepnorm"] < first["deepnorm"] - MARGIN


def last_gradient(study: Study) -> tuple[str, bool]:
    """That of post_ln does not depend on the depth, that of pre_ln falls by the root of it."""
    ratio = {
        scheme: study.part(scheme, 96, "start", "gradient", LAST) / study.part(scheme, 6, "start", "gradient", LAST)
        for scheme in ("post_ln", "pre_ln")
    }
    text = f"96 layers over 6: `post_ln` {ratio['post_ln']:.2f}, `pre_ln` {ratio['pre_ln']:.2f}"
    return text, within(ratio["post_ln"], 1) and within(ratio["pre_ln"], 16**-0.5)


def larger_at_the_output(study: Study) -> tuple[str, bool]:
    """Post-norm's gradient in the last quarter of the layers is more than that in the first."""
    parts, agrees = [], True
    for depth in (24, 96, 1000):
        early, late = quarters(study.layers("post_ln", depth, "start", "gradient"))
        parts.append(f"{early:.2g} and {late:.2g} at {depth:,}")
        agrees &= late > early
    return f"first and last quarter: {', '.join(parts)}", agrees


def equal_gradients(study: Study) -> tuple[str, bool]:
    """DeepNorm's gradient is as large in the first layer as in the last."""
    parts, agrees = [], True
    for depth in (96, 1000):
        first, last = (study.part("deepnorm", depth, "start", "gradient", part) for part in (FIRST, LAST))
        parts.append(f"{first:.2g} and {last:.2g} at {depth:,}")
        agrees &= within(first / last, 1)
    return f"first and last layer: {', '.join(parts)}", agrees


def reaches_the_input(study: Study) -> tuple[str, bool]:
    """ResiDual's gradient in the first layer is no small part of that in the last, before and after the training."""
    parts, agrees = [], True
    for when in ("start", "end"):
        first, last = (study.part("residual", 96, when, "gradient", part) for part in (FIRST, LAST))
        parts.append(f"{first:.2g} in the first and {last:.2g} in the last at the {when}")
        agrees &= first > last / 10
    return f"96 layers: {', '.join(parts)}", agrees


def growth(study: Study) -> tuple[str, bool]:
    """From 6 to 96 layers fourfold, and on to 1,000."""
    rms = {depth: study.part("pre_ln", depth, "start", "rms", LAST) for depth in (6, 24, 96, 1000)}
    trained = study.part("pre_ln", 96, "end", "rms", LAST)
    text = "rms after the last layer " + ", ".join(f"{value:.1f} at {depth:,}" for depth, value in rms.items())
    agrees = all(within(rms[depth] / rms[6], (depth / 6) ** 0.5) for depth in rms)
    return f"{text}; trained {trained:.1f} at 96", agrees


def late_layers(study: Study) -> tuple[str, bool]:
    """The last quarter changes the stream less than half as much as the first."""
    parts, agrees = [], True
    for when in ("start", "end"):
        early, late = quarters(study.layers("pre_ln", 96, when, "change"))
        parts.append(f"{early:.3f} in the first quarter, {late:.3f} in the last at the {when}")
        agrees &= late < early / 2
    return f"relative change by a layer, 96 layers: {'; '.join(parts)}", agrees


def identity(study: Study) -> tuple[str, bool]:
    """Layers that start as the identity, or nearly."""
    changes = {scheme: study.part(scheme, 96, "start", "change", ALL) for scheme in ("rezero", "layer_scale")}
    text = ", ".join(f"`{scheme}` {change:.2g}" for scheme, change in changes.items())
    return f"relative change by a layer at the start, 96 layers: {text}", max(changes.values()) < 0.01


def less_alike(study: Study) -> tuple[str, bool]:
    """Input and output of the second half of the layers."""
    curves = {scheme: study.layers(scheme, 96, "end", "cosine") for scheme in ("hyper_connections", "pre_ln")}
    halves = {scheme: statistics.mean(curve[len(curve) // 2 : -1]) for scheme, curve in curves.items()}
    text = ", ".join(f"`{scheme}` {cosine:.4f}" for scheme, cosine in halves.items())
    return f"cosine in the second half of 96 layers, trained: {text}", halves["hyper_connections"] < halves["pre_ln"]


def quarters(curve: list[float]) -> tuple[float, float]:
    """Means over the first and the last quarter."""
    size = len(curve) // 4
    return statistics.mean(curve[:size]), statistics.mean(curve[-size:])


def within(value: float, expected: float, factor: float = 1.5) -> bool:
    """Whether they differ by less than a factor."""
    return expected / factor < value < expected * factor


CLAIMS = (
    Claim("post-norm without warm-up fails where it is deep", "Xiong, 2002.04745", no_warmup),
    Claim("warm-up mends that", "Xiong, 2002.04745", warmup),
    Claim("pre-norm can be trained where it is deep", "Wang, 1906.01787", learn("pre_ln")),
    Claim("DeepNorm can be trained where it is deep", "DeepNet, 2203.00555", learn("deepnorm")),
    Claim("its loss falls at 1,000 layers too", "DeepNet, 2203.00555", falls),
    Claim("sub-LN can be trained where it is deep", "Magneto, 2210.06423", learn("sub_ln")),
    Claim("so can ReZero and LayerScale", "2003.04887; 2103.17239", learn("rezero", "layer_scale")),
    Claim("so can ResiDual", "2304.14802", learn("residual")),
    Claim("so can hyper-connections", "2409.19606", learn("hyper_connections")),
    Claim("post-norm's gradient at the start is larger near the output", "Xiong, 2002.04745", larger_at_the_output),
    Claim(
        "the last layer's gradient at the start: as large in a deep post-norm as in a shallow one, in pre-norm "
        "smaller by the root of the depth",
        "Xiong, 2002.04745",
        last_gradient,
    ),
    Claim(
        "DeepNorm's gradient at the start is about the same in all layers",
        "DeepNet, 2203.00555",
        equal_gradients,
    ),
    Claim("ResiDual's gradient does not vanish on its way to the first layer", "2304.14802", reaches_the_input),
    Claim("pre-norm's stream grows, at the start by the root of the depth", "Xiong, 2002.04745", growth),
    Claim("pre-norm's late layers change little", "Curse of Depth, 2502.05795", late_layers),
    Claim("ReZero's and LayerScale's layers start as the identity", "2003.04887; 2103.17239", identity),
    Claim("layers are less alike with hyper-connections than with pre-norm", "2409.19606", less_alike),
)
