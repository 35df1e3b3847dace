"""What a sweep found: a table over the seeds, and a figure of the losses."""

import itertools
import math
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from common.curves import binned, rounded
from matplotlib.figure import Figure
from results_table import spread

from hf_addnorm.models.base.whole_file import whole_file


# Points of a curve in the result.
POINTS = 30
# What a row of the result has of the run's own.
KEPT = (
    *("add_norm", "model", "parameters", "processes", "steps", "metrics", "metrics_over_time", "tokens"),
    *("tokens_per_second", "padding_share", "peak_memory_mb", "train_seconds", "wall_seconds", "resumed_at"),
    *("data", "reload", "versions", "machine"),
)
# Okabe and Ito's colours, which the colour-blind tell apart, without their yellow, too pale for a line.
COLORS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
LINES = ("-", (0, (5, 3)), (0, (1, 1.5)))


def row(result: dict[str, Any]) -> dict[str, Any]:
    """A run's row, from its result JSON: without its keys, and with a short curve of the loss."""
    losses = result["loss_history"]
    ends, means = binned(losses, POINTS)
    last = losses[-max(1, len(losses) // 10) :]
    return {
        **{key: result[key] for key in KEPT},
        "loss": rounded(statistics.mean(last), 6),
        "loss_steps": ends,
        "loss_history": means,
    }


def finite(values: Iterable[float | None]) -> list[float]:
    """Figures, with nan for those that were not finite and are null in a result."""
    return [math.nan if value is None else value for value in values]


def by_scheme(result: dict[str, Any]) -> dict[str, tuple[list[dict], list[dict]]]:
    """The runs of every scheme that were finished, and those that failed."""
    found: dict[str, tuple[list[dict], list[dict]]] = {name: ([], []) for name in result["config"]["add_norms"]}
    for run in result["runs"]:
        found[run["settings"]["scheme"]]["error" in run].append(run)
    return found


def table(result: dict[str, Any]) -> str:
    """A row per scheme as markdown: mean (smallest to largest) over the seeds; below it why runs failed."""
    schemes = by_scheme(result)
    finished = [run for runs, _ in schemes.values() for run in runs]
    names = [name for name in (finished[0]["metrics"] if finished else ()) if name not in ("step", "epoch")]
    heads = (
        "`add_norm`",
        "runs",
        *(name.replace("_", " ") for name in names),
        "training loss, last tenth",
        "tokens/s",
    )
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for scheme, (runs, failed) in schemes.items():
        count = f"{len(runs)} of {len(runs) + len(failed)}" if failed else str(len(runs))
        cells = [
            *(spread(finite(run["metrics"][name] for run in runs), 3) if runs else "" for name in names),
            spread([run["loss"] for run in runs], 3) if runs else "",
            spread([run["tokens_per_second"] for run in runs], 0) if runs else "",
        ]
        lines.append(f"| `{scheme}` | {count} | {' | '.join(cells)} |")
    broken = [f"- `{run['name']}` failed: {run['error']}" for _, failed in schemes.values() for run in failed]
    broken += [f"- `{name}` is still to be done" for name in result["missing"]]
    return "\n".join([*lines, *([""] if broken else []), *broken]) + "\n"


def draw(result: dict[str, Any], path: Path) -> None:
    """The training loss over the steps: a thin line per run, a thick one for the mean over a scheme's seeds."""
    figure = Figure(figsize=(8, 5))
    axis = figure.subplots()
    styles = itertools.cycle(itertools.product(LINES, COLORS))
    for (scheme, (runs, failed)), (line, color) in zip(by_scheme(result).items(), styles, strict=False):
        label = f"{scheme} ({len(failed)} of {len(runs) + len(failed)} failed)" if failed else scheme
        curves = [run["loss_history"] for run in runs]
        for run, curve in zip(runs, curves, strict=True) if len(runs) > 1 else ():
            axis.plot(run["loss_steps"], curve, color=color, linestyle=line, linewidth=0.7, alpha=0.45)
        means = [statistics.mean(losses) for losses in zip(*curves, strict=False)]
        steps = runs[0]["loss_steps"] if runs else []
        axis.plot(steps[: len(means)], means, color=color, linestyle=line, linewidth=1.8, label=label)
    axis.set(xlabel="step", ylabel="training loss", title=result["config"]["recipe"])
    axis.grid(alpha=0.25)
    axis.legend(frameon=False)
    figure.tight_layout()
    with whole_file(path) as partial:
        figure.savefig(partial, dpi=100, format="png")
