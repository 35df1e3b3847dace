"""The README's part on depth, and its figure, from the JSON that `depth.py` wrote.

python recipes/depth_report.py          # writes both anew
python recipes/depth_report.py --check  # says whether the README's part is that of the file
"""

import json
import re
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import matplotlib
from results_table import README, ROOT, spread


matplotlib.use("agg")

from matplotlib import pyplot, ticker


RESULT = ROOT / "recipes" / "results" / "depth.json"
FIGURE = RESULT.with_suffix(".png")
BLOCK = re.compile(r"(<!-- depth:.*?-->\n).*?(<!-- end depth -->)", re.DOTALL)
# A run has learned if its loss is this far below that of a guess from how often each byte stands in the text.
MARGIN = 0.1
# Fewer steps than these are not enough for that, whatever the scheme.
FEW_STEPS = 50
# Okabe and Ito's colours, which the colour-blind tell apart; brown for their yellow, which is too pale for a line.
STYLES = {
    "post_ln": ("#000000", "-"),
    "post_ln_no_warmup": ("#000000", ":"),
    "pre_ln": ("#0072B2", "-"),
    "deepnorm": ("#D55E00", "-"),
    "sub_ln": ("#56B4E9", "--"),
    "rezero": ("#CC79A7", "-"),
    "layer_scale": ("#CC79A7", "--"),
    "residual": ("#8C6D31", "-"),
    "hyper_connections": ("#009E73", "--"),
}
FIRST, LAST = slice(0, 1), slice(-1, None)


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

    def finished(self, scheme: str, depth: int) -> list[dict]:
        """The runs that came to an end; at least one."""
        rows = [row for row in self.runs[scheme, depth] if "error" not in row]
        if not rows:
            raise NotRun
        return rows

    def losses(self, scheme: str, depth: int) -> list[float]:
        """Of each run, at the end; infinite where it is not a number."""
        return [float("inf") if row["loss"] is None else row["loss"] for row in self.finished(scheme, depth)]

    def learned(self, scheme: str, depth: int) -> int:
        """How many runs did."""
        rows = self.finished(scheme, depth)
        return sum(row["loss"] is not None and row["loss"] < row["unigram_loss"] - MARGIN for row in rows)

    def all_learned(self, scheme: str, depth: int) -> bool:
        return self.learned(scheme, depth) == len(self.finished(scheme, depth))

    def layers(self, scheme: str, depth: int, when: str, what: str) -> list[float]:
        """By layer, mean over the runs."""
        curves = [row[when][what] for row in self.finished(scheme, depth)]
        return [
            statistics.mean(float("nan") if v is None else v for v in values) for values in zip(*curves, strict=True)
        ]

    def part(self, scheme: str, depth: int, when: str, what: str, part: slice) -> float:
        """The same, mean over a part of the layers."""
        return statistics.mean(self.layers(scheme, depth, when, what)[part])


class Claim(NamedTuple):
    """What a paper says, and how the study measures it: the numbers as text, and whether they agree."""

    text: str
    source: str
    measure: Callable[[Study], tuple[str, bool]]


def losses(study: Study, scheme: str, *depths: int) -> str:
    """The losses at some depths, as text."""
    return f"`{scheme}` " + ", ".join(
        f"{statistics.mean(study.losses(scheme, depth)):.2f} at {depth}" for depth in depths
    )


def fails_deep(study: Study) -> tuple[str, bool]:
    """It learns where it is shallow, and not where it is deep."""
    name = "post_ln_no_warmup"
    return losses(study, name, 6, 24, 96), study.all_learned(name, 6) and not study.learned(name, 96)


def learn(*schemes: str, depth: int = 96) -> Callable[[Study], tuple[str, bool]]:
    """All runs of the schemes learn."""

    def measure(study: Study) -> tuple[str, bool]:
        return "; ".join(losses(study, name, depth) for name in schemes), all(
            study.all_learned(name, depth) for name in schemes
        )

    return measure


def falls(scheme: str, depth: int) -> Callable[[Study], tuple[str, bool]]:
    """The loss falls in few steps."""

    def measure(study: Study) -> tuple[str, bool]:
        first = statistics.mean(row["loss_history"][0] for row in study.finished(scheme, depth))
        last, steps = statistics.mean(study.losses(scheme, depth)), study.depths[depth]["steps"]
        return f"`{scheme}` {first:.2f} to {last:.2f} in {steps} steps at {depth:,}", last < first - MARGIN

    return measure


def last_gradients(study: Study) -> tuple[str, bool]:
    """From 6 to 96 layers that of post_ln stays, that of pre_ln goes down by sqrt(16)."""
    shallow, deep = (
        [study.part(name, depth, "start", "gradient", LAST) for name in ("post_ln", "pre_ln")] for depth in (6, 96)
    )
    post, pre = (after / before for after, before in zip(deep, shallow, strict=True))
    text = f"gradient of the last layer, 96 layers over 6: `post_ln` {post:.2f}, `pre_ln` {pre:.2f}"
    return text, 1 / 1.5 < post < 1.5 and 0.25 / 1.5 < pre < 0.25 * 1.5


def across(scheme: str, within: float, depth: int = 96) -> Callable[[Study], tuple[str, bool]]:
    """The first layer's gradient is as large as the last layer's, within a factor."""

    def measure(study: Study) -> tuple[str, bool]:
        ratio = study.part(scheme, depth, "start", "gradient", FIRST) / study.part(
            scheme, depth, "start", "gradient", LAST
        )
        return f"gradient of the first layer over the last's at {depth}: {ratio:.2g}", 1 / within < ratio < within

    return measure


def grows(study: Study) -> tuple[str, bool]:
    """From layer to layer as the root of the depth: fourfold from layer 6 to layer 96."""
    rms = {depth: study.part("pre_ln", depth, "start", "rms", LAST) for depth in (6, 24, 96)}
    trained = study.part("pre_ln", 96, "end", "rms", LAST)
    text = "rms after the last layer: " + ", ".join(f"{value:.1f} at {depth}" for depth, value in rms.items())
    return f"{text}; {trained:.1f} after training", 4 / 1.5 < rms[96] / rms[6] < 4 * 1.5


def late_layers(study: Study) -> tuple[str, bool]:
    """The last quarter of the layers against the first."""
    curve = study.layers("pre_ln", 96, "end", "change")
    early, late = (statistics.mean(part) for part in (curve[: len(curve) // 4], curve[-(len(curve) // 4) :]))
    return (
        f"change by a layer at 96, trained: {early:.3f} in the first quarter, {late:.3f} in the last",
        late < early / 2,
    )


def less_alike(study: Study) -> tuple[str, bool]:
    """Cosine of what goes into a layer and what comes out, second half of the layers."""
    curves = {name: study.layers(name, 96, "end", "cosine") for name in ("hyper_connections", "pre_ln")}
    halves = {name: statistics.mean(curve[len(curve) // 2 : -1]) for name, curve in curves.items()}
    text = "cosine of a layer's input and output at 96, trained, second half: "
    return text + ", ".join(f"`{name}` {value:.4f}" for name, value in halves.items()), (
        halves["hyper_connections"] < halves["pre_ln"]
    )


def identity(scheme: str) -> Callable[[Study], tuple[str, bool]]:
    """Layers start as the identity."""

    def measure(study: Study) -> tuple[str, bool]:
        change = study.part(scheme, 96, "start", "change", slice(None))
        return f"mean change by a layer at the start, 96 layers: {change:.2g}", change < 1e-2

    return measure


def both(*measures: Callable[[Study], tuple[str, bool]]) -> Callable[[Study], tuple[str, bool]]:
    """All of them agree."""

    def measure(study: Study) -> tuple[str, bool]:
        found = [part(study) for part in measures]
        return "; ".join(text for text, _ in found), all(agrees for _, agrees in found)

    return measure


CLAIMS = (
    Claim("post-norm without warm-up fails where it is deep", "Xiong et al., arXiv 2002.04745", fails_deep),
    Claim("warm-up mends it", "Xiong et al., arXiv 2002.04745", learn("post_ln", depth=24)),
    Claim("even with warm-up, post-norm cannot be made very deep", "Wang et al., arXiv 1906.01787", too_deep),
)
