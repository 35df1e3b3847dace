"""How JSON files and tables are written."""

import csv
import json
import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from datasets import Dataset

from hf_addnorm.models.base.whole_file import whole_file, write_whole


def write_json(path: Path, content: dict[str, Any]) -> None:
    """A file that is never half there, with one line per key; NaN becomes null."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{json.dumps(key)}: {json.dumps(_finite(value), allow_nan=False)}" for key, value in content.items()]
    write_whole(path, "{\n" + ",\n".join(lines) + "\n}\n")


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """An empty folder to write to, which takes the place of ``path`` when the block ends without an error."""
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    yield partial
    shutil.rmtree(path, ignore_errors=True)
    partial.rename(path)


def write_table(path: Path, columns: dict[str, list]) -> None:
    """Write columns as the path's ending says, never half a file. In a csv a list becomes JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial:
        WRITERS[path.suffix](Dataset.from_dict(columns), partial)


def _write_csv(rows: Dataset, path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t" if ".tsv" in path.suffixes else ",", lineterminator="\n")
        writer.writerow(rows.column_names)
        for row in rows:
            writer.writerow([_cell(value) for value in row.values()])


def _cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, list | dict) else value


# By a file's ending.
WRITERS: dict[str, Callable[[Dataset, Path], Any]] = {
    ".parquet": lambda rows, path: rows.to_parquet(path),
    ".csv": _write_csv,
    ".tsv": _write_csv,
    ".json": lambda rows, path: rows.to_json(path),
    ".jsonl": lambda rows, path: rows.to_json(path),
}


def _finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
