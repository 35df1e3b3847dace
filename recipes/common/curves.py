"""Curves that are short enough for a result JSON: fewer points, fewer digits."""

from collections.abc import Sequence


def rounded(value: float, digits: int = 4) -> float:
    """The value with so many significant digits."""
    return float(f"{value:.{digits}g}")


def picked(count: int, points: int) -> list[int]:
    """At most so many indices of 0 to ``count`` - 1, evenly spread, the first and the last among them."""
    if count <= points:
        return list(range(count))
    return [round(point * (count - 1) / (points - 1)) for point in range(points)]


def binned(values: Sequence[float], points: int) -> tuple[list[int], list[float]]:
    """Means over at most so many stretches, and how many values there are up to the end of each."""
    count = min(points, len(values))
    ends = [len(values) * (point + 1) // count for point in range(count)]
    starts = [0, *ends]
    means = [sum(values[start:end]) / (end - start) for start, end in zip(starts, ends, strict=False)]
    return ends, [rounded(mean) for mean in means]
