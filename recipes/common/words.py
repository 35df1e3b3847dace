"""Labels of words: their check, the tokens that carry them, and `evaluate` metrics over words and entities."""

from dataclasses import dataclass
from itertools import chain
from typing import Any

import datasets
import evaluate
import numpy as np
import torch
from seqeval.metrics import f1_score, precision_score, recall_score

from .data import Classes, as_names
from .errors import UserError, one_line
from .model import SavedHead


# What is predicted for a word without a token.
NOTHING = ""
# The last word of an entity, and the only one, in BILOU and in IOBES.
ENDS = {"L-": "E-", "U-": "S-"}
MARKS = {"B-", "I-", *ENDS, *ENDS.values()}


def word_labels(
    splits: dict[str, datasets.Dataset],
    words: str,
    labels: str | None,
    num_labels: int | None,
    names: list[str] | None = None,
    head: SavedHead | None = None,
    classes: Classes | None = None,
) -> tuple[dict[str, list[list[int]]], dict[str, Any]]:
    """Turn a column with a list of labels per row into class numbers; see ``data.Classes``.

    Args:
        splits: the rows of each.
        words: column of the words.
        labels: column of the labels; None where they are not asked for, and every word's is -100.
        num_labels: how many classes there must be.
        names: see ``data.Classes``.
        head: see ``data.Classes``.
        classes: those of a saved model; default those of the train split.
    Returns:
        the class numbers of each split, and the config entries of a model that predicts them.
    Raises:
        UserError: for the first row that does not hold a list of words and as many labels, or a label that is no
            class, naming split, row and word (counted from 0) and value.
    """
    if labels is None:
        assert classes is not None
        for split, rows in splits.items():
            for row, texts in enumerate(rows[words]):
                _check_words(f"{split} row {row}", words, texts)
        return {split: [[-100] * len(texts) for texts in rows[words]] for split, rows in splits.items()}, classes.head
    for split, rows in splits.items():
        for row, (texts, tags) in enumerate(zip(rows[words], rows[labels], strict=True)):
            _check_row(f"{split} row {row}", {words: texts, labels: tags})
    tags_of = {split: as_names(rows[labels], rows.features[labels]) for split, rows in splits.items()}
    if classes is None:
        feature, found = splits["train"].features[labels].feature, list(chain.from_iterable(tags_of["train"]))
        classes = Classes(labels, feature, found, num_labels, names, head)
    numbers = {
        split: [
            [classes.number(tag, split, row, f" at word {number}") for number, tag in enumerate(tags)]
            for row, tags in enumerate(rows)
        ]
        for split, rows in tags_of.items()
    }
    if not are_entities(classes.names) and any(name.startswith(("B-", "I-")) for name in classes.names):
        others = one_line(", ".join(name for name in classes.names if name != "O" and name[:2] not in MARKS), 80)
        classes.remarks.append(f"beside labels of entities there are {others}: words are measured, and no entities")
    classes.report()
    return numbers, classes.head


def _check_row(place: str, columns: dict[str, Any]) -> None:
    (words, texts), (labels, tags) = columns.items()
    _check_words(place, words, texts)
    _check_list(place, labels, tags)
    if len(texts) != len(tags):
        raise UserError(f"{place}: column {words!r} holds {len(texts)} words and column {labels!r} {len(tags)} labels")


def _check_list(place: str, column: str, value: Any) -> None:
    if not isinstance(value, list):
        raise UserError(f"{place}: column {column!r} holds {one_line(repr(value))}, not a list with one per word")


def _check_words(place: str, column: str, texts: Any) -> None:
    _check_list(place, column, texts)
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise UserError(f"{place}: column {column!r} holds {text!r} at word {number}, not text")


def of_words(shares: list[Any], first_tokens: list[list[int]], names: list[str]) -> dict[str, list[list]]:
    """Of every row what is predicted for each word, and its probability; ``NOTHING`` and 0 for one without a token.

    Args:
        shares: of every row the probabilities, ``[tokens, classes]``.
        first_tokens: of every row, see ``first_tokens``.
        names: of the classes.
    """
    best = [row.max(-1) for row in shares]
    return {
        "prediction": [
            [names[tokens[place]] if place >= 0 else NOTHING for place in places]
            for tokens, places in zip((row.indices.tolist() for row in best), first_tokens, strict=True)
        ],
        "probability": [
            [round(tokens[place], 6) if place >= 0 else 0.0 for place in places]
            for tokens, places in zip((row.values.tolist() for row in best), first_tokens, strict=True)
        ],
    }


@dataclass
class WordOutputs:
    """Reads the logits of tokens as one class for each word.

    Args:
        metric: of lists of names.
        names: of the classes.
        words: of every row its ``first_tokens`` and ``word_labels``, in the order of the logits.
    """

    metric: evaluate.CombinedEvaluations
    names: list[str]
    words: datasets.Dataset

    def score(self, logits: list[torch.Tensor], labels: object) -> dict[str, float]:
        """The figures of the words."""
        predictions = self.describe(logits, labels)["prediction"]
        references = [[self.names[number] for number in row] for row in self.words["word_labels"]]
        return self.metric.compute(predictions=predictions, references=references)

    def describe(self, logits: list[torch.Tensor], _: object) -> dict[str, list]:
        """The class of each word, and its probability."""
        return of_words([row.float().softmax(-1) for row in logits], self.words["first_tokens"], self.names)


def first_tokens(words: list[str], offsets: list[tuple[int, int]]) -> list[int]:
    """Position of the first token of every word; -1 for a word without one.

    Args:
        words: joined by single blanks they are the text.
        offsets: of every token, where its characters begin and end in the text; (0, 0) for special tokens.
    """
    places, token, begin = [], 0, 0
    for word in words:
        end = begin + len(word)
        while token < len(offsets) and offsets[token][1] <= begin:
            token += 1
        if token < len(offsets) and offsets[token][0] < end:
            places.append(token)
            # no token is the first one of two words
            token += 1
        else:
            places.append(-1)
        begin = end + 1
    return places


def are_entities(names: list[str]) -> bool:
    """Whether labels mark entities: O and B-, I- (IOB1, IOB2), with E-, S- (IOBES) or L-, U- (BILOU)."""
    marks = {name[:2] for name in names if name != "O"}
    return bool(marks & {"B-", "I-"}) and marks <= MARKS


class _WordMetric(evaluate.Metric):
    """A figure from the labels of all words, row by row, as names; a word without a prediction has ``NOTHING``."""

    description: str

    def _info(self) -> evaluate.MetricInfo:
        names = datasets.Sequence(datasets.Value("string"))
        columns = datasets.Features({"predictions": names, "references": names})
        return evaluate.MetricInfo(description=self.description, citation="", features=columns)


class WordAccuracy(_WordMetric):
    """Share of words with the right label; a word without a prediction is a wrong one."""

    description = "share of words with the right label"

    def _compute(self, predictions, references):
        pairs = chain.from_iterable(zip(*rows, strict=True) for rows in zip(predictions, references, strict=True))
        return {"accuracy": float(np.mean([found == true for found, true in pairs]))}


def as_iobes(label: str) -> str:
    """A label as seqeval reads it, which does not know BILOU; a word without a prediction is in no entity."""
    return ENDS.get(label[:2], label[:2]) + label[2:] if label else "O"


class _EntityMetric(_WordMetric):
    """A figure over whole entities, of all types together: one is right if its type and all its words are.

    Args:
        figure: its name in the result.
        score: seqeval's function.
    """

    figure: str
    score: Any

    def _compute(self, predictions, references):
        rows = [[[as_iobes(label) for label in row] for row in part] for part in (references, predictions)]
        return {self.figure: float(type(self).score(*rows, zero_division=0))}


class EntityF1(_EntityMetric):
    """Harmonic mean of precision and recall."""

    description, figure, score = "F1 of entities", "f1", staticmethod(f1_score)


class EntityPrecision(_EntityMetric):
    """Share of the predicted entities that are right."""

    description, figure, score = "precision of entities", "precision", staticmethod(precision_score)


class EntityRecall(_EntityMetric):
    """Share of the true entities that were found."""

    description, figure, score = "recall of entities", "recall", staticmethod(recall_score)


LABELS = {"accuracy": WordAccuracy}
ENTITIES = {"f1": EntityF1, "precision": EntityPrecision, "recall": EntityRecall, **LABELS}
