"""The tables of docs/converting.md, from the results of this folder.

python benchmarks/conversion_tables.py          # writes them anew
python benchmarks/conversion_tables.py --check  # says whether they are those of the files
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from performance_page import table as speed_table
from performance_page import write_or_check


HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "converting.md"
BLOCK = re.compile(r"(<!-- (conversions|figures): (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
COLUMNS = ("to", "after", "agreement: validation", "unseen", "KL", "accuracy", "CPU seconds")


def by_step(found: dict[str, Any]) -> dict[str, Any]:
    """A target's steps; an earlier form of the file has one of them, and what was loaded on the validation split."""
    if "method" not in found:
        return found
    return {"loaded": {"validation": found["loaded"]}, "calibrated": found}


def row(title: str, step: str, found: dict[str, Any]) -> tuple[str, ...]:
    """One step of one target."""
    parts = {split: found.get(split, {}) for split in ("validation", "unseen")}
    agreements = [f"{part['agreement']:.3f}" if part else "" for part in parts.values()]
    kl = parts["unseen"].get("kl")
    name = step if step != "distilled" else f"distilled, {found['steps']} steps"
    return (
        title,
        f"{name} ({found['method']})" if found.get("method") == "exact" else name,
        *agreements,
        "" if kl is None else f"{kl:.1e}" if abs(kl) >= 1e-8 else "below 1e-8",
        f"{parts['validation']['accuracy']:.3f}" if parts["validation"].get("accuracy") is not None else "",
        f"{found['cpu_seconds']:.0f}" if "cpu_seconds" in found else "",
    )


def rows_of(targets: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """A row for each target and step."""
    for title, found in targets.items():
        steps = by_step(found)
        if "loaded" not in steps and "as_loaded" in steps.get("calibrated", {}):
            # on the rows that the conversion held out, where it is measured in passing
            steps = {"loaded": {"unseen": steps["calibrated"]["as_loaded"]}, **steps}
        for step in ("loaded", "mapped", "calibrated", "distilled"):
            if step in steps:
                yield row(title, step, steps[step])


def table(name: str) -> str:
    """What a file of results says."""
    written = json.loads((HERE / "results" / f"{name}.json").read_text())
    cells = [COLUMNS, ("---",) * len(COLUMNS), *rows_of(written["targets"])]
    machine, count = written["machine"], written["rows"]
    count = count["calibration"] if isinstance(count, dict) else count
    note = f"; {written['note']}" if written.get("note") else ""
    instructions = ", ".join(machine["cpu_bf16"]) or "no instructions for bf16"
    head = (
        f"Accuracy of the source {written['source']['validation']['accuracy']:.3f}; {count} rows to calibrate on, a "
        f"quarter of them held out; one thread of an {machine['cpu']} ({instructions}), one run each{note}."
    )
    return "\n".join([head, "", *("| " + " | ".join(row) + " |" for row in cells)]) + "\n"


def made(page: str) -> str:
    """The page with the tables of the results."""
    makers = {"conversions": table, "figures": speed_table}
    return BLOCK.sub(lambda match: f"{match[1]}\n{makers[match[2]](match[3])}\n{match[4]}", page)


def main() -> int:
    return write_or_check(PAGE, made)


if __name__ == "__main__":
    sys.exit(main())
