"""The tables and the plot of docs/performance.md, from the results of this folder.

python benchmarks/performance_page.py          # writes them anew
python benchmarks/performance_page.py --check  # says whether they are those of the files
"""

import hashlib
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from targets import target_table

from hf_addnorm.models.base.whole_file import write_whole


HERE = Path(__file__).parent
RESULTS = HERE / "results"
PAGE = HERE.parent / "docs" / "performance.md"
PLOT = PAGE.with_suffix(".png")
# a file of results, and of its cases those that begin so
BLOCK = re.compile(r"(<!-- figures: (\w+)(?:: ([^>]+?))? -->\n).*?(<!-- end figures -->)", re.DOTALL)
PLOTTED = "speed_texts"
NOT_MEASURED = "Not measured yet: `make benchmark ARGS=--write` does, or `make benchmark-full` with the same.\n"


def results(name: str) -> dict[str, Any]:
    """A file of results."""
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return found


def cell(figure: dict[str, Any] | None, reason: str = "") -> str:
    """A ratio with its quartiles, or why there is none."""
    if figure is None:
        return reason
    low, _, high = figure["quartiles"]
    return f"{figure['median']:.2f} ({low:.2f} to {high:.2f})"


def where(written: dict[str, Any]) -> str:
    """The machine, in a sentence."""
    machine, versions = written["machine"], written["versions"]
    instructions = ", ".join(machine["cpu_bf16"]) or "no instructions for bf16"
    load = f"; load {written['load'][1]} on {machine['cpu_count']} cores" if "load" in written else ""
    note = f"; {written['note']}" if written["note"] else ""
    return (
        f"{machine['cpu']}, {instructions}, {machine['threads']} thread, torch {versions['torch']}, "
        f"transformers {versions['transformers']}{load}{note}."
    )


def table(name: str, begins: str = "") -> str:
    """The table of one benchmark, of the cases whose names begin so: a row for each case or, if more, candidate."""
    if not (RESULTS / f"{name}.json").exists():
        return NOT_MEASURED
    written = results(name)
    figures = {
        case.removeprefix(begins).strip(): found
        for case, found in written["figures"].items()
        if case.startswith(begins)
    }
    if not figures:
        return NOT_MEASURED
    reasons = {case.removeprefix(begins).strip(): found for case, found in written.get("left_out", {}).items()}
    # the base is 1 everywhere
    others = {name for found in figures.values() for name, figure in found.items() if figure["median"] != 1}
    others |= {name for case in figures for name in reasons.get(case, {})}
    cells = {
        (case, name): cell(found.get(name), reasons.get(case, {}).get(name, ""))
        for case, found in figures.items()
        for name in others
    }
    names = sorted(others)
    if len(names) > len(figures):
        rows = [["", *figures], *([name, *(cells[case, name] for case in figures)] for name in names)]
    else:
        rows = [["", *names], *([case, *(cells[case, name] for name in names)] for case in figures)]
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join([where(written), "", *("| " + " | ".join(row) + " |" for row in lines)]) + "\n"


def made(page: str) -> str:
    """The page with the tables of the results."""

    def block(match: re.Match[str]) -> str:
        made_by_itself = {"targets": lambda: target_table(results), "plot": picture}
        of = made_by_itself.get(match[2], lambda: table(match[2], match[3] or ""))()
        return f"{match[1]}\n{of}\n{match[4]}"

    return BLOCK.sub(block, page)


def picture() -> str:
    """The plot on the page."""
    title = "Bars: how many times as fast as the stock model each way to run it is"
    return f"![{title}]({PLOT.name})\n" if (RESULTS / f"{PLOTTED}.json").exists() else NOT_MEASURED


def plotted_results() -> str:
    """What the plot is of, as a hash, which is kept in its file."""
    return hashlib.sha256((RESULTS / f"{PLOTTED}.json").read_bytes()).hexdigest()


def plot() -> None:
    """Bars for the texts in random order and of like lengths, in inference and in training."""
    from matplotlib.figure import Figure

    figures = results(PLOTTED)["figures"]
    drawing = Figure(figsize=(10, 5), layout="constrained")
    for axes, mode in zip(drawing.subplots(1, 2), ("inference", "training"), strict=True):
        by_order = {order: figures[f"MiniLM, {mode}, SST-2 {order}"] for order in ("random", "grouped")}
        names = sorted(by_order["random"], key=lambda name: by_order["grouped"][name]["median"], reverse=True)
        for place, (order, colour) in enumerate((("grouped", "#33658a"), ("random", "#e8a33d"))):
            found = [by_order[order][name] for name in names]
            medians = [figure["median"] for figure in found]
            errors = [
                [figure["median"] - figure["quartiles"][0] for figure in found],
                [figure["quartiles"][2] - figure["median"] for figure in found],
            ]
            places = [row + 0.4 * place for row in range(len(names))]
            axes.barh(places, medians, 0.4, xerr=errors, color=colour, label=order)
        axes.set_yticks([row + 0.2 for row in range(len(names))], names)
        axes.invert_yaxis()
        axes.set_title(f"{mode}, SST-2's lengths")
        axes.set_xlabel("times as fast as stock in random order")
        axes.legend(loc="lower right")
    drawing.savefig(PLOT, dpi=90, metadata={"Description": plotted_results()})


def write_or_check(page: Path, made: Callable[[str], str]) -> int:
    """Write what `made` makes of a page's text; with `--check`, write nothing: 1 if it would be another text."""
    before = page.read_text()
    after = made(before)
    if "--check" in sys.argv:
        return int(before != after)
    write_whole(page, after)
    return 0


def main() -> int:
    if "--check" not in sys.argv and (RESULTS / f"{PLOTTED}.json").exists():
        plot()
    return write_or_check(PAGE, made)


if __name__ == "__main__":
    sys.exit(main())
