"""The tables of docs/converting.md, from the results of this folder.

python benchmarks/conversion_tables.py          # writes them anew
python benchmarks/conversion_tables.py --check  # says whether they are those of the files
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

from performance_page import table as speed_table

from hf_addnorm.models.base.whole_file import write_whole


HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "converting.md"
BLOCK = re.compile(r"(<!-- (conversions|figures): (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
COLUMNS = ("to", "after", "agreement: validation", "unseen", "KL", "accuracy", "CPU seconds")


def row(title: str, step: str, found: dict[str, Any]) -> tuple[str, ...]:
    """One step of one target."""
    validation, unseen = found["validation"], found["unseen"]
    kl = unseen["kl"]
    seconds = found.get("cpu_seconds")
    name = step if step != "distilled" else f"distilled, {found['steps']} steps"
    return (
        title,
        f"{name} ({found['method']})" if found.get("method") == "exact" else name,
        f"{validation['agreement']:.3f}",
        f"{unseen['agreement']:.3f}",
        f"{kl:.1e}" if abs(kl) >= 1e-8 else "below 1e-8",
        f"{validation['accuracy']:.3f}",
        "" if seconds is None else f"{seconds:.0f}",
    )


def table(name: str) -> str:
    """A row for each target and step."""
    written = json.loads((HERE / "results" / f"{name}.json").read_text())
    rows = [COLUMNS, ("---",) * len(COLUMNS)]
    for title, steps in written["targets"].items():
        if "loaded" not in steps and "calibrated" in steps:
            # on the rows that the conversion held out, where it is measured in passing
            found = steps["calibrated"]["as_loaded"]
            rows.append((title, "loaded", "", f"{found['agreement']:.3f}", f"{found['kl']:.1e}", "", ""))
        for step in ("loaded", "mapped", "calibrated", "distilled"):
            if step in steps:
                rows.append(row(title, step, steps[step]))
    machine, rows_of = written["machine"], written["rows"]
    note = f"; {written['note']}" if written["note"] else ""
    instructions = ", ".join(machine["cpu_bf16"]) or "no instructions for bf16"
    head = (
        f"Task {written['task']}; accuracy of the source {written['source']['validation']['accuracy']:.3f}; "
        f"{rows_of['calibration']} rows to calibrate on, a quarter of them held out; one thread of an "
        f"{machine['cpu']} ({instructions}), one run each{note}."
    )
    return "\n".join([head, "", *("| " + " | ".join(cells) + " |" for cells in rows)]) + "\n"


def made(page: str) -> str:
    """The page with the tables of the results."""
    makers = {"conversions": table, "figures": speed_table}
    return BLOCK.sub(lambda match: f"{match[1]}\n{makers[match[2]](match[3])}\n{match[4]}", page)


def main() -> int:
    before = PAGE.read_text()
    after = made(before)
    if "--check" in sys.argv:
        return int(before != after)
    write_whole(PAGE, after)
    return 0


if __name__ == "__main__":
    sys.exit(main())
