"""Rows from the Hub, local files or a builtin set, checked before anything is trained on them."""

import glob
import hashlib
import json
import math
import random
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from accelerate import PartialState
from datasets import ClassLabel, Dataset, List, load_dataset

from . import docstring_match, images, masks
from .config import RunConfig
from .errors import UserError, one_line
from .model import NEW_HEAD, SavedHead


BUILTIN = {"docstring_match": docstring_match.load, "digits": images.digits, "shapes": masks.shapes}
# So many may be named by one number alone.
MOST_CLASSES = 1000
# What the recipes call columns that they make themselves.
OWN_COLUMNS = ("labels", "row", "word_labels", "input_ids", "attention_mask")
# Keys of columns of which nothing is left beside those.
LABEL_KEYS = ("label_column", "labels_column", "answers_column", "mask_column")
READERS = {".parquet": "parquet", ".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".txt": "text"}


def load_splits(config: RunConfig, texts: list[str], *others: str, labels: Sequence[str] = ()) -> dict[str, Dataset]:
    """Load ``train`` and ``validation`` and check that both have the named columns, with text in those of ``texts``.

    Of a saved model, which is not trained, ``validation`` alone: the rows that it is evaluated on or predicts, which
    need no ``labels`` to be predicted.

    Raises:
        UserError: for a missing or unreadable file or dataset, an empty split, a missing column (naming those there
            are), a row without text (naming split, row counted from 0, and value).
    """
    check_names(config)
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
        return read_file(config.file or config.validation_file, config.na_values)
    if config.dataset is None:
        raise UserError(f"no rows to {config.do}: give file, or the dataset whose validation split is meant")
    if config.dataset.startswith("builtin:"):
        return _builtin(config.dataset, [config.validation_split])[0]
    return _read_hub(config, config.validation_split)


def _splits(config: RunConfig) -> dict[str, Dataset]:
    if bool(config.train_file) != bool(config.validation_file):
        raise UserError("train_file and validation_file go together: one of them is missing")
    if config.train_file and config.validation_file:
        files = {"train": config.train_file, "validation": config.validation_file}
        return {split: read_file(name, config.na_values) for split, name in files.items()}
    if config.dataset is None:
        raise UserError("no data: give dataset, or train_file and validation_file")
    names = {"train": config.train_split, "validation": config.validation_split}
    if config.dataset.startswith("builtin:"):
        return dict(zip(names, _builtin(config.dataset, [*names.values()]), strict=True))
    return {split: _read_hub(config, name) for split, name in names.items()}


def _builtin(dataset: str, names: list[str]) -> list[Dataset]:
    name = dataset.removeprefix("builtin:")
    if name not in BUILTIN:
        raise UserError(f"unknown builtin dataset {name!r}: there is {', '.join(BUILTIN)}")
    splits = BUILTIN[name]()
    if unknown := [split for split in names if split not in splits]:
        raise UserError(f"dataset {dataset!r} has no split {unknown[0]!r}; it has {', '.join(splits)}")
    return [splits[split] for split in names]


def check_names(config: RunConfig) -> None:
    """Refuse inputs that are twice the same column, or have a name that the recipe gives a column of its own."""
    keys = [key.name for key in fields(config) if key.name.endswith("_column") and key.name not in LABEL_KEYS]
    seen: dict[str, str] = {}
    for key in keys:
        column = getattr(config, key)
        if column is None:
            continue
        if column in seen:
            raise UserError(f"{seen[column]} and {key} are both {column!r}: they must be two columns")
        seen[column] = key
        if column in OWN_COLUMNS or (key, column) == ("audio_column", "text"):
            raise UserError(f"{key} is {column!r}, a name that the recipe gives to a column of its own: rename it")


def check_columns(split: str, rows: Dataset, texts: list[str], columns: list[str]) -> None:
    """Refuse rows that lack one of the columns, or text in one of ``texts``; see ``load_splits``."""
    for column in columns:
        if column not in rows.column_names:
            raise UserError(f"the {split} split has no column {column!r}; it has {', '.join(rows.column_names)}")
    for column in texts:
        for number, value in enumerate(rows[column]):
            if not isinstance(value, str):
                raise UserError(
                    f"{split} row {number}: column {column!r} holds {value!r}, not text{_why_missing(rows, value)}"
                )


def _why_missing(rows: Dataset, value: Any) -> str:
    if value is not None or rows.info.builder_name != "csv":
        return ""
    return "; an empty cell is read so, and so are words like NA, null and nan: na_values [] keeps the words"


def read_file(name: str, na_values: list[str] | None = None) -> Dataset:
    """All rows of a local file, whose ending says what it is.

    Args:
        name: of the file.
        na_values: cells of a csv or tsv that are read as missing, beside empty ones; default those of pandas.
    Raises:
        UserError: for another ending, a file that is not there, empty, or not what its ending says.
    """
    path = Path(name)
    ending = path.suffix.lower()
    if ending not in READERS:
        raise UserError(f"cannot read {name}: its ending must be one of {', '.join(READERS)}")
    if not path.is_file():
        raise UserError(f"there is no file {name}")
    if path.stat().st_size == 0:
        raise UserError(f"{name} is empty")
    options: dict[str, Any] = {"sep": "\t"} if ending == ".tsv" else {}
    if na_values is not None and READERS[ending] == "csv":
        options |= {"keep_default_na": False, "na_values": ["", *na_values]}
    try:
        return load_dataset(READERS[ending], data_files=glob.escape(str(path)), split="train", **options)
    # The readers raise whatever their parser raises; all of it means that the file is not what its ending says.
    except Exception as error:
        reason = one_line(error.__cause__ or error)
        # what datasets says of a csv with a header alone
        if "corresponds to no data" in reason:
            raise UserError(f"{name} has no rows") from error
        hint = "; a text file must be in UTF-8" if "codec can't decode" in reason else ""
        raise UserError(f"cannot read {name}: {reason}{hint}") from error


def _read_hub(config: RunConfig, split: str) -> Dataset:
    try:
        return load_dataset(config.dataset, config.dataset_config, split=split)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot load split {split!r} of dataset {config.dataset!r}: {one_line(error)}") from error


class Classes:
    """The classes of a label column, by name: those that the dataset declares, else the texts or numbers found.

    A whole number is the class of that name (``"1"`` and 1 are one class); where no class is named by a number, it
    counts the classes from 0.

    Args:
        column: name of the column.
        feature: what the train split declares of its labels.
        values: the labels of the train split, by name where it declares names.
        num_labels: how many classes there must be.
        names: the classes in the order of their numbers. They name those of a column that has numbers alone, and may
            be more than those found.
        head: that of the checkpoint, whose order is kept if its classes are the same.
    Raises:
        UserError: the column has another number of classes than ``num_labels``, or others than ``names`` or the head.
    """

    def __init__(
        self,
        column: str,
        feature: Any,
        values: list,
        num_labels: int | None,
        names: list[str] | None = None,
        head: SavedHead | None = None,
    ):
        self.column, self._fixed = column, num_labels is not None
        self.remarks: list[str] = []
        texts = {value for value in values if isinstance(value, str) and value.strip()}
        whole = {int(value) for value in values if isinstance(value, int)}
        named = feature.names if isinstance(feature, ClassLabel) else sorted(texts)
        found = named or self._numbered(whole, num_labels or (names and len(names)), names or [])
        order = found if names is None else self._ordered(found, names)
        self._check(order, num_labels)
        self.names, places = list(order), list(range(len(order)))
        if head is not None:
            self.names, places = self._as_saved(head, order, nameless=not named and names is None)
        # names in the data that are not among those in order are the numbers which they replace
        self._known = dict(zip(found if set(found) - set(order) else order, places, strict=True))
        self._known |= dict(zip(order, places, strict=True))
        self._places = [] if any(name.isdecimal() for name in self._known) else places
        self._allowed = self._what_is_allowed(bool(named), num_labels or (names and len(names)), order)
        used = {self._find(value) for value in values} - {None}
        if used and (unused := [name for number, name in enumerate(self.names) if number not in used]):
            self.remarks.append(f"no row of the train split has the class {one_line(', '.join(unused))}")

    def _numbered(self, whole: set[int], count: int | None, names: list[str]) -> list[str]:
        found = [str(number) for number in sorted(whole)]
        if found and set(found) <= set(names):
            return found
        if whole and min(whole) > 0 and count in (None, len(whole)):
            self.remarks.append(
                f"column {self.column!r} has no 0: the whole numbers {one_line(', '.join(found), 80)} are taken as "
                f"the names of {len(found)} classes"
            )
            return found
        most = max(whole, default=0)
        if not count and most >= max(MOST_CLASSES, 10 * len(whole)):
            raise UserError(
                f"column {self.column!r} has {len(whole)} whole numbers up to {most}, which would make {most + 1} "
                "classes: num_labels says how many there are"
            )
        return [str(number) for number in range(count or most + 1)]

    def _ordered(self, found: list[str], names: list[str]) -> list[str]:
        if len(set(names)) < len(names):
            raise UserError(f"label_names has a name twice: {one_line(', '.join(names))}")
        # numbers from 0 on, which are given names
        renamed = found == [str(number) for number in range(len(names))] and not set(found) & set(names)
        if not renamed and not set(found) <= set(names):
            raise UserError(
                f"label_names are {one_line(', '.join(names))}, and column {self.column!r} has the classes "
                f"{one_line(', '.join(found))}"
            )
        return names

    def _check(self, order: list[str], num_labels: int | None) -> None:
        listed = one_line(", ".join(order))
        if num_labels is not None and num_labels != len(order):
            raise UserError(
                f"num_labels is {num_labels}, and column {self.column!r} has {len(order)} classes: {listed}"
            )
        bare = {name.strip(): name for name in order}
        if double := next((name for name in order if bare[name.strip()] != name), None):
            raise UserError(
                f"column {self.column!r} has the classes {double!r} and {bare[double.strip()]!r}, "
                "which differ in blanks alone"
            )

    def _as_saved(self, head: SavedHead, order: list[str], nameless: bool) -> tuple[list[str], list[int]]:
        # the names by their numbers in the head, and the number of each of those in order
        own, here = list(range(len(order))), one_line(", ".join(order))
        if head.names is None:
            if head.size == len(order) and not nameless:
                self.remarks.append(f"the checkpoint's head has no names for its classes: they are taken to be {here}")
            return list(order), own
        there = one_line(", ".join(head.names))
        if nameless and len(order) == head.size:
            self.remarks.append(f"the numbers of column {self.column!r} are the checkpoint's classes {there}")
            return list(head.names), own
        numbers = {name.casefold(): number for number, name in enumerate(head.names)}
        if len(numbers) == head.size == len(order) and numbers.keys() == {name.casefold() for name in order}:
            return list(head.names), [numbers[name.casefold()] for name in order]
        if not head.replaceable:
            raise UserError(
                f"the checkpoint's classes are {there}, and column {self.column!r} has {here}: give label_names that "
                f"are the checkpoint's, or start a new head with {NEW_HEAD}"
            )
        self.remarks.append(f"the checkpoint's classes are {there}, and not {here}: the head is a new one")
        return list(order), own

    def _what_is_allowed(self, named: bool, count: int | None, order: list[str]) -> dict[str, str]:
        listed = one_line(", ".join(order))
        numbers = f", or their numbers 0 to {len(order) - 1}" if self._places else ""
        if named:
            # others can only be named where the dataset does not say which there are
            return {"train": f"the names {listed}{numbers}", "validation": f"the names {listed}{numbers}"}
        if count:
            names = "names" if order == [str(number) for number in range(count)] else f"the names {listed}"
            allowed = f"whole numbers from 0 to {count - 1}, or {names}"
            return {"train": allowed, "validation": allowed}
        # the train split says how many there are, and another split may have no more
        ends = f"0 to {len(order) - 1}; num_labels can give more" if order[0] == "0" else f"{listed}"
        return {
            "train": "whole numbers from 0 on, or names",
            "validation": f"those of the train split, {ends}",
        }

    @property
    def head(self) -> dict[str, Any]:
        """The config entries of a model that predicts them."""
        return {
            "id2label": dict(enumerate(self.names)),
            "label2id": {name: number for number, name in enumerate(self.names)},
        }

    def _find(self, value: Any) -> int | None:
        if isinstance(value, str):
            return self._known.get(value)
        if not isinstance(value, int):
            return None
        # True may be named so, or be a 1
        names = [str(value), str(value).lower(), str(int(value))]
        number = next((self._known[name] for name in names if name in self._known), None)
        return self._places[value] if number is None and 0 <= value < len(self._places) else number

    def number(self, value: Any, split: str, row: int, place: str = "") -> int:
        """The number of a label; refuses what is no class, naming split, row (counted from 0), value and place."""
        number = self._find(value)
        if number is None:
            raise UserError(
                f"{split} row {row}: column {self.column!r} holds {value!r}{place}; "
                f"the classes are {self._allowed.get(split, self._allowed['validation'])}"
            )
        return number

    def report(self) -> None:
        """Say on one process what was taken for granted; refuses a single class, unless it was asked for."""
        if len(self.names) == 1 and not self._fixed:
            raise UserError(f"column {self.column!r} has one class alone, {self.names[0]}: there is nothing to learn")
        for remark in self.remarks:
            PartialState().print(remark)


def is_missing(value: Any) -> bool:
    """Whether a cell holds nothing: what a csv's empty cell becomes."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def as_names(values: Any, feature: Any) -> list:
    """Labels, by name where the file has names for its numbers: the model may have them in another order."""
    if isinstance(feature, List):
        return [value and as_names(value, feature.feature) for value in values]
    if not isinstance(feature, ClassLabel):
        return list(values)
    return [feature.names[value] if isinstance(value, int) and value >= 0 else value for value in values]


def class_labels(
    splits: dict[str, Dataset],
    column: str,
    num_labels: int | None,
    names: list[str] | None = None,
    head: SavedHead | None = None,
) -> tuple[dict[str, list[int]], dict[str, Any]]:
    """Turn a label column into class numbers; see ``Classes``.

    Returns:
        the class numbers of each split, and the config entries of a model that predicts them.
    Raises:
        UserError: for the first label that is no class (before all others one that is missing), naming split, row
            (counted from 0), value and what is allowed.
    """
    labels = {split: as_names(rows[column], rows.features[column]) for split, rows in splits.items()}
    classes = Classes(column, splits["train"].features[column], labels["train"], num_labels, names, head)
    for split, values in labels.items():
        for row, value in enumerate(values):
            if is_missing(value):
                classes.number(None, split, row)
    numbers = {
        split: [classes.number(value, split, row) for row, value in enumerate(values)]
        for split, values in labels.items()
    }
    classes.report()
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
