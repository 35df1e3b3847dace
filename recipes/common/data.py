"""Rows from the Hub, local files or a builtin set, checked before anything is trained on them."""

import hashlib
import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, List, load_dataset

from . import docstring_match, images
from .config import RunConfig
from .errors import UserError, one_line


BUILTIN = {"docstring_match": docstring_match.load, "digits": images.digits}
READERS = {".parquet": "parquet", ".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".txt": "text"}


def load_splits(config: RunConfig, texts: list[str], *others: str, labels: Sequence[str] = ()) -> dict[str, Dataset]:
    """Load ``train`` and ``validation`` and check that both have the named columns, with text in those of ``texts``.

    Of a saved model, which is not trained, ``validation`` alone: the rows that it is evaluated on or predicts, which
    need no ``labels`` to be predicted.

    Raises:
        UserError: for a missing or unreadable file or dataset, an empty split, a missing column (naming those there
            are), a row without text (naming split, row counted from 0, and value).
    """
    splits = _splits(config) if config.do == "train" else {"validation": held_out(config)}
    needed = [*texts, *others, *(() if config.do == "predict" else labels)]
    for name, rows in splits.items():
        if len(rows) == 0:
            raise UserError(f"the {name} split has no rows")
        check_columns(name, rows, texts, needed)
    return dict(splits)


def held_out(config: RunConfig) -> Dataset:
    """The rows that a saved model is evaluated on or predicts: of the config's ``file``, else its validation split."""
    if config.file or config.validation_file:
        return read_file(config.file or config.validation_file)
    if config.dataset is None:
        raise UserError(f"no rows to {config.do}: give file, or the dataset whose validation split is meant")
    if config.dataset.startswith("builtin:"):
        return _builtin(config.dataset)["validation"]
    return _read_hub(config, config.validation_split)


def _splits(config: RunConfig) -> dict[str, Dataset]:
    if bool(config.train_file) != bool(config.validation_file):
        raise UserError("train_file and validation_file go together: one of them is missing")
    if config.train_file and config.validation_file:
        return {"train": read_file(config.train_file), "validation": read_file(config.validation_file)}
    if config.dataset is None:
        raise UserError("no data: give dataset, or train_file and validation_file")
    if config.dataset.startswith("builtin:"):
        return _builtin(config.dataset)
    names = {"train": config.train_split, "validation": config.validation_split}
    return {split: _read_hub(config, name) for split, name in names.items()}


def _builtin(dataset: str) -> dict[str, Dataset]:
    name = dataset.removeprefix("builtin:")
    if name not in BUILTIN:
        raise UserError(f"unknown builtin dataset {name!r}: there is {', '.join(BUILTIN)}")
    return BUILTIN[name]()


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


class Classes:
    """The classes of a label column: those that the dataset declares, else ``num_labels`` of them, else those found.

    Args:
        column: name of the column.
        feature: what the train split declares of its labels.
        values: the labels of the train split.
        num_labels: how many classes there must be.
    Raises:
        UserError: the column has another number of classes than ``num_labels``.
    """

    def __init__(self, column: str, feature: Any, values: list, num_labels: int | None):
        self.column = column
        texts = {value for value in values if isinstance(value, str)}
        if isinstance(feature, ClassLabel):
            self.names = feature.names
        elif texts:
            self.names = sorted(texts)
        else:
            count = num_labels or max((value for value in values if isinstance(value, int)), default=0) + 1
            self.names = [str(number) for number in range(count)]
        if num_labels is not None and num_labels != len(self.names):
            listed = one_line(", ".join(self.names))
            raise UserError(
                f"num_labels is {num_labels}, and column {column!r} has {len(self.names)} classes: {listed}"
            )
        self.known = {name: number for number, name in enumerate(self.names)}
        if isinstance(feature, ClassLabel) or texts:
            allowed = f"the names {one_line(', '.join(self.names))}, or their numbers 0 to {len(self.names) - 1}"
            self._allowed = {"train": allowed, "validation": allowed}
        elif num_labels:
            allowed = f"whole numbers from 0 to {num_labels - 1}, or names"
            self._allowed = {"train": allowed, "validation": allowed}
        else:
            # the train split says how many there are, and another split may have no more
            self._allowed = {
                "train": "whole numbers from 0 on, or names",
                "validation": f"those of the train split, 0 to {len(self.names) - 1}; num_labels can give more",
            }

    @property
    def head(self) -> dict[str, Any]:
        """The config entries of a model that predicts them."""
        return {"id2label": dict(enumerate(self.names)), "label2id": self.known}

    def number(self, value: Any, split: str, row: int, place: str = "") -> int:
        """The number of a label; refuses what is no class, naming split, row (counted from 0), value and place."""
        number = self.known.get(value) if isinstance(value, str) else value
        if not isinstance(number, int) or not 0 <= number < len(self.names):
            raise UserError(
                f"{split} row {row}: column {self.column!r} holds {value!r}{place}; "
                f"the classes are {self._allowed[split]}"
            )
        return int(number)


def as_names(values: Any, feature: Any) -> list:
    """Labels, by name where the file has names for its numbers: the model may have them in another order."""
    if isinstance(feature, List):
        return [value and as_names(value, feature.feature) for value in values]
    if not isinstance(feature, ClassLabel):
        return list(values)
    return [feature.names[value] if isinstance(value, int) and value >= 0 else value for value in values]


def class_labels(
    splits: dict[str, Dataset], column: str, num_labels: int | None
) -> tuple[dict[str, list[int]], dict[str, Any]]:
    """Turn a label column into class numbers; see ``Classes``.

    Returns:
        the class numbers of each split, and the config entries of a model that predicts them.
    Raises:
        UserError: for the first label that is no class, naming split, row (counted from 0), value and what is allowed.
    """
    train = splits["train"]
    classes = Classes(column, train.features[column], train[column], num_labels)
    numbers = {
        split: [classes.number(value, split, row) for row, value in enumerate(rows[column])]
        for split, rows in splits.items()
    }
    return numbers, classes.head


def number_labels(
    splits: dict[str, Dataset], column: str, asked: bool = True
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """The same for a regression; refuses what is not a finite number, naming split, row and value.

    Where labels are not ``asked`` for, all of them are nan.
    """
    head = {"num_labels": 1, "problem_type": "regression"}
    if not asked:
        return {split: [math.nan] * len(rows) for split, rows in splits.items()}, head
    for split, rows in splits.items():
        for row, value in enumerate(rows[column]):
            if not isinstance(value, int | float) or not math.isfinite(value):
                raise UserError(f"{split} row {row}: column {column!r} holds {value!r}, which is not a finite number")
    numbers = {split: [float(value) for value in rows[column]] for split, rows in splits.items()}
    return numbers, head


def named_labels(
    splits: dict[str, Dataset], column: str, num_labels: int | None, names: list[str] | None
) -> tuple[dict[str, list[int]], dict[str, Any]]:
    """``class_labels``, where ``names`` may name the classes of a column that has numbers alone."""
    numbers, head = class_labels(splits, column, num_labels or (names and len(names)))
    found = list(head["id2label"].values())
    if names is None or names == found:
        return numbers, head
    if found != [str(number) for number in range(len(names))]:
        raise UserError(
            f"label_names are {', '.join(names)}, and column {column!r} has the classes {', '.join(found)}"
        )
    return numbers, {"id2label": dict(enumerate(names)), "label2id": {name: n for n, name in enumerate(names)}}


def subset(rows: Dataset, size: int | None, seed: int) -> Dataset:
    """Draw ``size`` rows with the seed, in their old order; all of them where ``size`` is None or too big."""
    if size is None or size >= len(rows):
        return rows
    return rows.select(sorted(random.Random(seed).sample(range(len(rows)), size)))


def fingerprint(rows: Dataset) -> str:
    """Sha256 over all rows, column by column in the order of the columns: the same rows give the same everywhere."""
    digest = hashlib.sha256()
    for column in rows.column_names:
        digest.update(json.dumps([column, *map(_short, rows[column])]).encode())
    return digest.hexdigest()


def _short(value: Any) -> Any:
    # images and clips are bytes, which JSON does not have
    return hashlib.sha256(value).hexdigest() if isinstance(value, bytes) else value


def source(rows: Dataset) -> dict[str, Any]:
    """What a result says of a split: how many rows, and which."""
    return {"rows": len(rows), "sha256": fingerprint(rows)}
