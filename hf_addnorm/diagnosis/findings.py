"""Sentences about a diagnosis, made of its numbers: what is unusual, in which layers, what two models differ in."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from .measures import MEASURES, Bound, Measure


@dataclass(frozen=True)
class Row:
    """One figure of a diagnosis.

    Args:
        model (`str`): which model; of a figure of two, both.
        measure (`str`): its key in `MEASURES`.
        layer (`int`, *optional*): counted from 0; None outside of the layers.
        part (`str`): the sublayer, the norm's place, or nothing for a whole layer.
        value (`float`): the figure.
    """

    model: str
    measure: str
    layer: int | None
    part: str
    value: float


@dataclass(frozen=True)
class Finding:
    """One sentence.

    Args:
        measure (`str`): the figure that it is about.
        text (`str`): the sentence.
        is_change (`bool`): whether it is about what differs between two models.
    """

    measure: str
    text: str
    is_change: bool = False

    def __str__(self) -> str:
        return self.text


def number(value: float) -> str:
    """A figure in a sentence."""
    return f"{value:.3g}" if 1e-3 <= abs(value) < 1e5 or value == 0 else f"{value:.1e}"


def find(rows: Sequence[Row], pairs: Sequence[tuple[str, str]]) -> list[Finding]:
    """What is unusual in each model, then what changes from the first to the second model of each pair."""
    found = []
    for key, measure in MEASURES.items():
        of_measure = [row for row in rows if row.measure == key]
        for model in dict.fromkeys(row.model for row in of_measure):
            found += _unusual(key, measure, [row for row in of_measure if row.model == model])
        for pair in pairs:
            found += _changed(key, measure, of_measure, pair)
    return found


def _unusual(key: str, measure: Measure, rows: Sequence[Row]) -> list[Finding]:
    found = []
    for bound, side in ((measure.low, "below"), (measure.high, "above")):
        if bound is None or (limit := _limit(bound, rows)) is None:
            continue
        beyond = [row for row in rows if (row.value < limit if side == "below" else row.value > limit)]
        if beyond:
            values = sorted(row.value for row in beyond)
            said = " to ".join(dict.fromkeys((number(values[0]), number(values[-1]))))
            usual = f"{bound.limit:g} times the median, {number(limit)}" if bound.of_median else number(limit)
            where = in_words(beyond, rows)
            found.append(
                Finding(
                    key,
                    f"{rows[0].model}, {where}: {bound.words}. {measure.title}: {said}; unusual is {side} {usual}.",
                )
            )
    return found


def _limit(bound: Bound, rows: Sequence[Row]) -> float | None:
    if not bound.of_median:
        return bound.limit
    # a median of two is one of them
    median = statistics.median(row.value for row in rows) if len(rows) > 2 else 0.0
    return bound.limit * median if median > 0 else None


def in_words(rows: Iterable[Row], of: Sequence[Row] = ()) -> str:
    """The places of some rows: runs of layers, by part; "every layer" where these are all of `of`."""
    by_part: dict[str, list[int]] = {}
    outside = []
    for row in rows:
        if row.layer is None:
            outside.append(row.part)
        else:
            by_part.setdefault(row.part, []).append(row.layer)
    said: dict[str, list[str]] = {}
    for part, layers in by_part.items():
        every = [row.layer for row in of if row.part == part and row.layer is not None]
        words = "every layer" if len(layers) == len(every) > 1 else _runs(sorted(layers))
        said.setdefault(words, []).append(part.replace("_", "-"))
    named = []
    for words, parts in said.items():
        named.append(" and ".join(filter(None, parts)) + " of " + words if any(parts) else words)
    return ", ".join([*named, *(f"the norm {part!r}" for part in dict.fromkeys(outside))])


def _runs(layers: Sequence[int]) -> str:
    runs = []
    for _, group in groupby(enumerate(layers), lambda pair: pair[1] - pair[0]):
        run = [layer for _, layer in group]
        runs.append(str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}")
    return f"layer{'s' * (len(layers) > 1)} {', '.join(runs)}"


def _changed(key: str, measure: Measure, rows: Sequence[Row], pair: tuple[str, str]) -> list[Finding]:
    """The place where the second model differs the most from the first, if that is notable."""
    first, second = ({(row.layer, row.part): row for row in rows if row.model == name} for name in pair)
    both = [(first[place], second[place]) for place in first if place in second]
    distances = [_distance(measure, a.value, b.value) for a, b in both]
    if not distances or max(distances) < (math.log(measure.notable) if measure.log else measure.notable):
        return []
    a, b = both[distances.index(max(distances))]
    times = f", {number(b.value / a.value)} times as much" if measure.log else ""
    text = f"{measure.title}: from {pair[0]} to {pair[1]} it changes the most at {in_words([a])}: "
    return [Finding(key, f"{text}{number(a.value)} to {number(b.value)}{times}.", is_change=True)]


def _distance(measure: Measure, a: float, b: float) -> float:
    if not measure.log:
        return abs(b - a)
    return abs(math.log(b / a)) if a > 0 and b > 0 else 0.0
