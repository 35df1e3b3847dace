"""Rows from the Hub, local files or a builtin set, checked before anything is trained on them."""

import hashlib
import json
import math
import random
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, load_dataset

from . import docstring_match
from .config import RunConfig
from .errors import UserError, one_line


BUILTIN = {"docstring_match": docstring_match.load}
READERS = {".parquet": "parquet", ".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".txt": "text"}


def load_splits(config: RunConfig, texts: list[str], label: str) -> dict[str, Dataset]:
    """Load ``train`` and ``validation`` and check that both have the named columns, with text in those of ``texts``.

    Raises:
        UserError: for a missing or unreadable file or dataset, an empty split, a missing column (naming those there
            are), a row without text (naming split, row counted from 0, and value).
    """
    if bool(config.train_file) != bool(config.validation_file):
        raise UserError("train_file and validation_file go together: one of them is missing")
    if config.train_file and config.validation_file:
        splits = {"train": read_file(config.train_file), "validation": read_file(config.validation_file)}
    elif config.dataset is None:
        raise UserError("no data: give dataset, or train_file and validation_file")
    elif config.dataset.startswith("builtin:"):
        name = config.dataset.removeprefix("builtin:")
        if name not in BUILTIN:
            raise UserError(f"unknown builtin dataset {name!r}: there is {', '.join(BUILTIN)}")
        splits = BUILTIN[name]()
    else:
        names = {"train": config.train_split, "validation": config.validation_split}
        splits = {split: _read_hub(config, name) for split, name in names.items()}
    for name, rows in splits.items():
        if len(rows) == 0:
            raise UserError(f"the {name} split has no rows")
        check_columns(name, rows, texts, [*texts, label])
    return dict(splits)


def check_columns(split: str, rows: Dataset, texts: list[str], columns: list[str]) -> None:
    """Refuse rows that lack one of the columns, or text in one of ``texts``; see ``load_splits``."""
    for column in columns:
        if column not in rows.column_names:
            raise UserError(f"the {split} split has no column {column!r}; it has {', '.join(rows.column_names)}")
    for column in texts:
        for number, value in enumerate(rows[column]):
            if not isinstance(value, str):
                raise UserError(f"{split} row {number}: column {column!r} holds {value!r}, not text")


def read_file(name: str) -> Dataset:
    """All rows of a local file, whose ending says what it is.

    Raises:
        UserError: for another ending, a file that is not there, empty, or not what its ending says.
    """
    path = Path(name)
    if path.suffix not in READERS:
        raise UserError(f"cannot read {name}: its ending must be one of {', '.join(READERS)}")
    if not path.is_file():
        raise UserError(f"there is no file {name}")
    if path.stat().st_size == 0:
        raise UserError(f"{name} is empty")
    options = {"sep": "\t"} if path.suffix == ".tsv" else {}
    try:
        return load_dataset(READERS[path.suffix], data_files=str(path), split="train", **options)
    # The readers raise whatever their parser raises; all of it means that the file is not what its ending says.
    except Exception as error:
        raise UserError(f"cannot read {name}: {one_line(error.__cause__ or error)}") from error


def _read_hub(config: RunConfig, split: str) -> Dataset:
    try:
        return load_dataset(config.dataset, config.dataset_config, split=split)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot load split {split!r} of dataset {config.dataset!r}: {one_line(error)}") from error


def class_labels(
    splits: dict[str, Dataset], column: str, num_labels: int | None
) -> tuple[dict[str, list[int]], dict[str, Any]]:
    """Turn a label column into class numbers.

    The classes are those that the dataset declares, else ``num_labels`` of them, else those found in the train split.

    Returns:
        the class numbers of each split, and the config entries of a model that predicts them.
    Raises:
        UserError: for the first label that is no class, naming split, row (counted from 0), value and what is allowed.
    """
    feature, values = splits["train"].features[column], splits["train"][column]
    texts = {value for value in values if isinstance(value, str)}
    if isinstance(feature, ClassLabel):
        names = feature.names
    elif texts:
        names = sorted(texts)
    else:
        count = num_labels or max((value for value in values if isinstance(value, int)), default=0) + 1
        names = [str(number) for number in range(count)]
    if num_labels is not None and num_labels != len(names):
        listed = one_line(", ".join(names))
        raise UserError(f"num_labels is {num_labels}, and column {column!r} has {len(names)} classes: {listed}")
    if isinstance(feature, ClassLabel) or texts:
        allowed = dict.fromkeys(
            splits, f"the names {one_line(', '.join(names))}, or their numbers 0 to {len(names) - 1}"
        )
    elif num_labels:
        allowed = dict.fromkeys(splits, f"whole numbers from 0 to {num_labels - 1}, or names")
    else:
        # the train split says how many there are, and another split may have no more
        allowed = dict.fromkeys(splits, f"those of the train split, 0 to {len(names) - 1}; num_labels can give more")
        allowed["train"] = "whole numbers from 0 on, or names"
    known = {name: number for number, name in enumerate(names)}
    numbers: dict[str, list[int]] = {}
    for split, rows in splits.items():
        numbers[split] = []
        for row, value in enumerate(rows[column]):
            number = known.get(value) if isinstance(value, str) else value
            if not isinstance(number, int) or not 0 <= number < len(names):
                raise UserError(
                    f"{split} row {row}: column {column!r} holds {value!r}; the classes are {allowed[split]}"
                )
            numbers[split].append(int(number))
    return numbers, {"id2label": dict(enumerate(names)), "label2id": known}


def number_labels(splits: dict[str, Dataset], column: str) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """The same for a regression; refuses what is not a finite number, naming split, row and value."""
    for split, rows in splits.items():
        for row, value in enumerate(rows[column]):
            if not isinstance(value, int | float) or not math.isfinite(value):
                raise UserError(f"{split} row {row}: column {column!r} holds {value!r}, which is not a finite number")
    numbers = {split: [float(value) for value in rows[column]] for split, rows in splits.items()}
    return numbers, {"num_labels": 1, "problem_type": "regression"}


def subset(rows: Dataset, size: int | None, seed: int) -> Dataset:
    """Draw ``size`` rows with the seed, in their old order; all of them where ``size`` is None or too big."""
    if size is None or size >= len(rows):
        return rows
    return rows.select(sorted(random.Random(seed).sample(range(len(rows)), size)))


def fingerprint(rows: Dataset) -> str:
    """Sha256 over all rows, column by column in the order of the columns: the same rows give the same everywhere."""
    digest = hashlib.sha256()
    for column in rows.column_names:
        digest.update(json.dumps([column, *rows[column]]).encode())
    return digest.hexdigest()


def source(rows: Dataset) -> dict[str, Any]:
    """What a result says of a split: how many rows, and which."""
    return {"rows": len(rows), "sha256": fingerprint(rows)}
