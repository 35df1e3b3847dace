"""Rows with any number of classes: their labels in any of three forms, their loss, their predictions as columns."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from datasets import Dataset, List
from evaluate import CombinedEvaluations
from torch.nn import functional

from .classes import probabilities
from .config import RunConfig
from .data import Classes, as_names
from .errors import UserError, one_line
from .model import saved_classes, saved_head
from .saved import classes_of


# Of each row a 1.0 or 0.0 for every class.
Marks = dict[str, list[list[float]]]


def summed_loss(logits: torch.Tensor, marks: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy of every class, summed over all that are not nan; both are ``[rows, classes]``."""
    labelled = ~marks.isnan()
    return functional.binary_cross_entropy_with_logits(logits[labelled], marks[labelled].to(logits), reduction="sum")


def above(threshold: float, logits: list[torch.Tensor]) -> torch.Tensor:
    """Logits, moved so that those of a probability above the threshold are above 0; float64 ``[rows, classes]``."""
    return torch.stack(logits).double() - math.log(threshold / (1 - threshold))


@dataclass
class MultiLabelOutputs:
    """Reads the logits of a row as all classes whose probability is above a threshold.

    Args:
        metric: of logits that are above 0 where a class is predicted, and of marks, both ``[rows, classes]``.
        names: of each number the class.
        threshold: of a class's probability.
    """

    metric: CombinedEvaluations
    names: dict[int, str]
    threshold: float

    def score(self, logits: list[torch.Tensor], labels: list[torch.Tensor]) -> dict[str, float]:
        """The figures of the classes above the threshold."""
        predictions, references = above(self.threshold, logits), torch.stack(labels)
        return self.metric.compute(predictions=predictions.tolist(), references=references.tolist())

    def describe(self, logits: list[torch.Tensor], _: object) -> dict[str, list]:
        """The names of the classes above the threshold, and the probability of every class."""
        chosen = above(self.threshold, logits) > 0
        return {
            "prediction": [[self.names[number] for number in row.nonzero().flatten().tolist()] for row in chosen],
            **probabilities(torch.stack(logits).float().sigmoid(), self.names),
        }


def label_columns(config: Any) -> list[str]:
    """The columns that hold the labels."""
    return config.label_columns or [config.label_column]


def marks(config: Any, splits: dict[str, Dataset]) -> tuple[Marks, dict[str, Any]]:
    """The labels of each split, and the config entries of a model that predicts them; nan where none are asked for.

    Args:
        config: with ``label_column`` (a list in each row, or with ``label_separator`` a text), or ``label_columns``,
            one for each class, of 0 and 1.
        splits: the rows.
    Raises:
        UserError: for the first row that holds something else, naming split, row (counted from 0) and value.
    """
    names = None if config.do == "train" else saved_classes(config)
    if names is not None and config.do == "predict":
        found = {split: [[math.nan] * len(names)] * len(rows) for split, rows in splits.items()}
    elif config.label_columns:
        names = names or list(config.label_columns)
        if missing := [name for name in names if name not in config.label_columns]:
            raise UserError(f"label_columns lacks {missing[0]!r}, a class of the saved model: {', '.join(names)}")
        found = {split: _of_columns(split, rows, names) for split, rows in splits.items()}
    else:
        found, names = _of_one_column(config, splits)
    head = {"id2label": dict(enumerate(names)), "label2id": {name: number for number, name in enumerate(names)}}
    return found, head | {"problem_type": "multi_label_classification"}


def _of_columns(split: str, rows: Dataset, names: Sequence[str]) -> list[list[float]]:
    for name in names:
        for row, value in enumerate(rows[name]):
            if value not in (0, 1):
                raise UserError(f"{split} row {row}: column {name!r} holds {value!r}; a column of a class has 0 or 1")
    return [list(map(float, row)) for row in zip(*(rows[name] for name in names), strict=True)]


def _of_one_column(config: Any, splits: dict[str, Dataset]) -> tuple[Marks, list[str]]:
    column = config.label_column
    read = _separated(config.label_separator) if config.label_separator else _listed
    lists = {
        split: [read(f"{split} row {row}: column {column!r} holds", value) for row, value in enumerate(rows[column])]
        for split, rows in splits.items()
    }
    feature = {split: getattr(rows.features[column], "feature", None) for split, rows in splits.items()}
    if config.do == "train":
        train = list(chain.from_iterable(as_names(lists["train"], List(feature["train"]))))
        classes = Classes(column, feature["train"], train, config.num_labels, config.label_names, saved_head(config))
        classes.report()
    else:
        classes = classes_of(config, column)
    lists = {split: as_names(values, List(feature[split])) for split, values in lists.items()}
    found = {
        split: [_marked(row, len(classes.names)) for row in _numbers(classes, split, values)]
        for split, values in lists.items()
    }
    return found, classes.names


def _numbers(classes: Classes, split: str, values: list[list]) -> list[list[int]]:
    return [[classes.number(label, split, row) for label in labels] for row, labels in enumerate(values)]


def _marked(numbers: list[int], size: int) -> list[float]:
    return [float(number in numbers) for number in range(size)]


def _listed(place: str, value: Any) -> list:
    if not isinstance(value, list):
        raise UserError(
            f"{place} {one_line(repr(value), 80)}, not a list of labels; for labels in a text set label_separator, "
            "for a column of 0 and 1 per class label_columns"
        )
    return value


def _separated(separator: str) -> Callable[[str, Any], list[str]]:
    def read(place: str, value: Any) -> list[str]:
        # an empty cell of a csv: no label
        if value is None:
            return []
        if not isinstance(value, str):
            raise UserError(f"{place} {value!r}, not a text with labels between {separator!r}")
        return [label.strip() for label in value.split(separator) if label.strip()]

    return read


def check(config: RunConfig | Any) -> None:
    """Refuse keys of several labels in another task, and both forms at once."""
    for key in ("label_separator", "label_columns"):
        if getattr(config, key) is not None and config.task != "multi_label":
            raise UserError(f"{key} is for task multi_label; task is {config.task}")
    if config.label_separator is not None and config.label_columns is not None:
        raise UserError("label_separator and label_columns are two forms of labels: give one of them")
    if not 0 < config.threshold < 1:
        raise UserError(f"threshold is {config.threshold}; allowed is a number between 0 and 1")
