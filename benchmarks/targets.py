"""What the project wants to reach, and whether the results of this folder reach it."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


Results = Callable[[str], dict[str, Any]]


@dataclass(frozen=True)
class Target:
    """One thing to reach: how many times as fast a candidate is as the fastest of some others, round by round.

    Args:
        title (`str`): what is to be reached.
        file (`str`): of results.
        cases (`Sequence[str]`): the worst of them counts.
        of (`Sequence[str]`): the candidates, the fastest of which counts.
        than (`Sequence[str]`): the others.
        least (`float`): the ratio that is to be reached.
        most (`float`, *optional*): the ratio that is not to be passed, either.
    """

    title: str
    file: str
    cases: Sequence[str]
    of: Sequence[str]
    than: Sequence[str]
    least: float
    most: float = float("inf")

    def ratios(self, results: Results) -> list[float]:
        """The median of each case."""
        figures = results(self.file)["figures"]
        return [self._ratio(figures[case]) for case in self.cases]

    def _ratio(self, found: dict[str, Any]) -> float:
        rounds = zip(self._fastest(found, self.than), self._fastest(found, self.of), strict=True)
        return statistics.median(base / ours for base, ours in rounds)

    def _fastest(self, found: dict[str, Any], names: Sequence[str]) -> list[float]:
        times: list[list[float]] = [found[name]["seconds"] for name in names if name in found]
        return min(times, key=statistics.median)

    def row(self, results: Results) -> list[str]:
        """Its row of the table."""
        bounds = f"at least {self.least}" if self.most == float("inf") else f"{self.least} to {self.most}"
        try:
            ratios = self.ratios(results)
        except FileNotFoundError:
            return [self.title, bounds, "", "not measured yet"]
        met = all(self.least <= round(ratio, 2) <= self.most for ratio in ratios)
        return [self.title, bounds, ", ".join(f"{ratio:.2f}" for ratio in ratios), "met" if met else "not met"]


_MODES = ("inference", "training")
_RANDOM = "MiniLM, inference, SST-2 random"
_GROUPED = "MiniLM, inference, SST-2 grouped"
TARGETS = (
    Target(
        "the default spec beside stock: 32 x 128 and 1 x 8, inference and training",
        "speed_default",
        [f"MiniLM, {mode}, {size}" for size in ("32 x 128", "1 x 8") for mode in _MODES],
        ["ours, padded"],
        ["stock"],
        0.98,
        1.02,
    ),
    Target(
        "packed beside padded stock, SST-2's lengths in random order: inference, training",
        "speed_texts",
        [f"MiniLM, {mode}, SST-2 random" for mode in _MODES],
        ["ours, packed"],
        ["stock"],
        1.8,
    ),
    Target(
        "packed beside stock where nothing is padded: 128 and 512 tokens, inference and training",
        "speed_texts",
        [f"MiniLM, {mode}, {size}" for size in ("8 x 128", "2 x 512") for mode in _MODES],
        ["ours, packed"],
        ["stock"],
        0.97,
    ),
    Target(
        "float32: packed beside the best exported runtime, lengths grouped",
        "speed_texts",
        [_GROUPED],
        ["ours, packed"],
        ["ONNX Runtime", "OpenVINO"],
        1.15,
    ),
    Target(
        "bf16: packed beside OpenVINO, lengths grouped",
        "speed_texts",
        [_GROUPED],
        ["ours, packed, bf16"],
        ["OpenVINO, bf16"],
        1.15,
    ),
    Target(
        "int8: OpenVINO of ours beside OpenVINO of stock, lengths grouped",
        "speed_texts",
        [_GROUPED],
        ["OpenVINO of ours, int8"],
        ["OpenVINO, int8"],
        1.0,
    ),
    Target(
        "construction and from_pretrained at 24 layers of 1,024, beside stock",
        "speed_building",
        ["24 layers of 1,024", "24 layers of 1,024, from_pretrained"],
        ["ours"],
        ["stock"],
        0.91,
    ),
)


def target_table(results: Results) -> str:
    """The table of all of them."""
    rows = [["to reach", "times as fast", "measured", ""], 4 * ["---"], *(target.row(results) for target in TARGETS)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"
