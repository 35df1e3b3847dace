"""The tables of docs/performance.md, from the results of this folder.

python benchmarks/performance_page.py          # writes them anew
python benchmarks/performance_page.py --check  # says whether they are those of the files
"""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hf_addnorm.models.base.whole_file import write_whole


HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "performance.md"
BLOCK = re.compile(r"(<!-- figures: (\w+) -->\n).*?(<!-- end figures -->)", re.DOTALL)


def cell(figure: dict[str, Any] | None) -> str:
    """A ratio with its quartiles."""
    if figure is None:
        return ""
    low, _, high = figure["quartiles"]
    return f"{figure['median']:.2f} ({low:.2f} to {high:.2f})"


def table(name: str) -> str:
    """The table of one benchmark: a row for each case, a column for each candidate."""
    written = json.loads((HERE / "results" / f"{name}.json").read_text())
    figures, machine = written["figures"], written["machine"]
    # in the order of the first case that has it; the base is 1 everywhere
    columns = sorted({candidate for found in figures.values() for candidate in found})
    others = {name for found in figures.values() for name, figure in found.items() if figure["median"] != 1}
    columns = [column for column in columns if column in others]
    rows = [["", *columns], ["---"] * (len(columns) + 1)]
    rows += [[case, *(cell(found.get(column)) for column in columns)] for case, found in figures.items()]
    instructions = ", ".join(machine["cpu_bf16"]) or "no instructions for bf16"
    versions = written["versions"]
    note = f"; {written['note']}" if written["note"] else ""
    where = (
        f"{machine['cpu']}, {instructions}, {machine['threads']} thread, torch {versions['torch']}, "
        f"transformers {versions['transformers']}{note}."
    )
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([where, "", *lines]) + "\n"


def made(page: str) -> str:
    """The page with the tables of the results."""
    return BLOCK.sub(lambda match: f"{match[1]}\n{table(match[2])}\n{match[3]}", page)


def write_or_check(page: Path, made: Callable[[str], str]) -> int:
    """Write what `made` makes of a page's text; with `--check`, write nothing: 1 if it would be another text."""
    before = page.read_text()
    after = made(before)
    if "--check" in sys.argv:
        return int(before != after)
    write_whole(page, after)
    return 0


def main() -> int:
    return write_or_check(PAGE, made)


if __name__ == "__main__":
    sys.exit(main())
