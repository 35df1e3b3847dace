"""Answers that stand in a text: their check, windows over the text, the best spans, and SQuAD's metrics.

Rows are those of SQuAD, v1.1 and v2.0 (Rajpurkar et al., 2016, arXiv 1606.05250; 2018, arXiv 1806.03822): a column
holds ``{"text": [...], "answer_start": [...]}``, lists of equal length, empty where the text has no answer.
"""

import re
import string
from collections import Counter
from dataclasses import dataclass
from typing import Any

import datasets
import evaluate
import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .errors import UserError, one_line


PUNCTUATION = str.maketrans("", "", string.punctuation)


def check_answers(split: str, rows: datasets.Dataset, context: str, answers: str) -> None:
    """Refuse a row whose answers are not as SQuAD has them, or do not stand in the context where they say.

    Raises:
        UserError: for the first such row, naming split, row (counted from 0) and value.
    """
    for row, (text, value) in enumerate(zip(rows[context], rows[answers], strict=True)):
        place = f"{split} row {row}: column {answers!r} holds"
        texts, starts = (value.get(key) if isinstance(value, dict) else None for key in ("text", "answer_start"))
        if not (isinstance(texts, list) and isinstance(starts, list) and len(texts) == len(starts)):
            raise UserError(
                f"{place} {one_line(value)}, not the lists 'text' and 'answer_start' with one entry per answer"
            )
        for answer, start in zip(texts, starts, strict=True):
            if not isinstance(answer, str) or not answer.strip() or not isinstance(start, int):
                raise UserError(f"{place} the answer {answer!r} at {start!r}, not a text at a number")
            there = text[start : start + len(answer)] if start >= 0 else ""
            if there != answer:
                raise UserError(
                    f"{place} the answer {one_line(repr(answer), 80)} at {start}, "
                    f"where column {context!r} has {one_line(repr(there), 80)}"
                )


def check_questions(
    split: str, questions: list[str], tokenizer: PreTrainedTokenizerBase, max_length: int, stride: int
) -> None:
    """Refuse a question so long that windows over its text would not move on."""
    special = tokenizer.num_special_tokens_to_add(pair=True)
    for row, tokens in enumerate(tokenizer(questions, add_special_tokens=False)["input_ids"]):
        size = len(tokens)
        if max_length - special - size <= stride:
            raise UserError(
                f"{split} row {row}: the question {one_line(questions[row], 80)!r} has {size} tokens, which leaves "
                f"{max(max_length - special - size, 0)} of max_length {max_length} for the text; it must be more than "
                f"doc_stride {stride}"
            )


def windows(
    questions: list[str], contexts: list[str], tokenizer: PreTrainedTokenizerBase, max_length: int, stride: int
) -> dict[str, list]:
    """Tokenize each question with as many windows over its text as that takes.

    Returns:
        what the tokenizer gives, one entry per window; ``of``, the number of its question; ``spans``, for each token
        where its characters begin and end in the text, 0 and 0 for those that are not of the text.
    """
    found = tokenizer(
        questions,
        contexts,
        truncation="only_second",
        max_length=max_length,
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    offsets, of = found.pop("offset_mapping"), found.pop("overflow_to_sample_mapping")
    spans = [
        [list(span) if part == 1 else [0, 0] for part, span in zip(found.sequence_ids(window), row, strict=True)]
        for window, row in enumerate(offsets)
    ]
    return {**found, "of": of, "spans": spans}


def tokens_of(spans: list[list[int]], answers: dict[str, list]) -> list[int]:
    """First and last token of the first answer; 0 and 0 where there is none, or not all of it in this window."""
    if not answers["text"]:
        return [0, 0]
    answer, start = answers["text"][0], answers["answer_start"][0]
    # blanks at the ends may belong to no token
    begin, end = start + len(answer) - len(answer.lstrip()), start + len(answer.rstrip())
    inside = [place for place, (first, last) in enumerate(spans) if first < last]
    if not inside or spans[inside[0]][0] > begin or spans[inside[-1]][1] < end:
        return [0, 0]
    touched = [place for place in inside if spans[place][0] < end and spans[place][1] > begin]
    return [touched[0], touched[-1]] if touched else [0, 0]


def best_spans(
    start: np.ndarray, end: np.ndarray, spans: list[list[int]], n_best: int, max_length: int
) -> list[tuple[float, int, int]]:
    """The likeliest answers of one window: score, and where it begins and ends in the text; the best first.

    Args:
        start: logits of the first token of the answer (at least as many as spans).
        end: logits of its last token.
        spans: of the window's tokens, see ``windows``.
        n_best: so many first and so many last tokens are combined, and as many answers given at most.
        max_length: most tokens of an answer.
    """
    inside = np.array([place for place, (first, last) in enumerate(spans) if first < last], dtype=int)
    firsts, lasts = (inside[np.argsort(-scores[inside], kind="stable")[:n_best]] for scores in (start, end))
    found = [
        (float(start[first]) + float(end[last]), spans[first][0], spans[last][1])
        for first in firsts
        for last in lasts
        if first <= last < first + max_length
    ]
    return sorted(found, key=lambda answer: -answer[0])[:n_best]


def counts(found: list[dict[str, list]], windows: datasets.Dataset) -> dict[str, int]:
    """How many windows there are, rows without an answer, and answers that no window holds whole."""
    answered = {row for row, answer in enumerate(found) if answer["text"]}
    held = {row for row, (_, last) in zip(windows["row"], windows["labels"], strict=True) if last}
    return {
        "windows": len(windows),
        "without_answer": len(found) - len(answered),
        # longer than windows overlap, and so cut by each of them
        "answer_in_no_window": len(answered - held),
    }


def without_answers(rows: datasets.Dataset, column: str) -> datasets.Dataset:
    """With a column of answers that is empty, for questions whose answers are not known."""
    return rows.add_column(column, [{"text": [], "answer_start": []}] * len(rows))


@dataclass(frozen=True)
class Answer:
    """What was found for a question.

    Args:
        text: empty for no answer.
        start: where it begins in the text, in characters; None for no answer.
        score: logits of its first and last token, added; of one question they can be compared.
    """

    text: str
    start: int | None
    score: float


def columns(found: list[Answer]) -> dict[str, list]:
    """Answers as columns of a table."""
    return {
        "prediction": [answer.text for answer in found],
        "prediction_start": [answer.start for answer in found],
        "prediction_score": [answer.score for answer in found],
    }


@dataclass
class SpanOutputs:
    """Reads the logits of first and last tokens, of each window, as one answer to each question.

    Args:
        config: names the columns, and how many and how long answers are looked at.
        metric: of answers.
        model: its config says whether a question may have no answer.
        rows: questions with their texts and answers.
        windows: of the texts, in the order of the logits.
    """

    config: Any
    metric: evaluate.CombinedEvaluations
    model: PreTrainedModel
    rows: datasets.Dataset
    windows: datasets.Dataset

    def score(self, starts: list[torch.Tensor], ends: list[torch.Tensor]) -> dict[str, float]:
        """The figures of the answers."""
        found = [answer.text for answer in self._find(starts, ends)]
        references = [known["text"] for known in self.rows[self.config.answers_column]]
        return self.metric.compute(predictions=found, references=references)

    def describe(self, starts: list[torch.Tensor], ends: list[torch.Tensor]) -> dict[str, list]:
        """The answers, where they stand, and their scores."""
        return columns(self._find(starts, ends))

    def _find(self, starts: list[torch.Tensor], ends: list[torch.Tensor]) -> list[Answer]:
        return find_answers(
            self.rows[self.config.context_column][:],
            self.windows["row"],
            self.windows["spans"],
            *([row.numpy() for row in rows] for rows in (starts, ends)),
            n_best=self.config.n_best,
            max_length=self.config.max_answer_length,
            may_be_none=getattr(self.model.config, "may_have_no_answer", False),
        )


def find_answers(
    contexts: list[str],
    of: list[int],
    spans: list[list[list[int]]],
    starts: list[np.ndarray],
    ends: list[np.ndarray],
    n_best: int,
    max_length: int,
    may_be_none: bool,
) -> list[Answer]:
    """The best answer to every question, over all windows of its text.

    Args:
        contexts: the text of every question.
        of: the question of every window.
        spans: of every window, see ``windows``.
        starts: logits of every window.
        ends: logits of every window.
        n_best: see ``best_spans``.
        max_length: see ``best_spans``.
        may_be_none: the answer is empty where token 0 gets more than the best answer in each of the windows.
    """
    best = [Answer("", None, -np.inf)] * len(contexts)
    nothing = [np.inf] * len(contexts)
    for question, window, start, end in zip(of, spans, starts, ends, strict=True):
        nothing[question] = min(nothing[question], float(start[0]) + float(end[0]))
        for score, begin, stop in best_spans(start, end, window, n_best, max_length)[:1]:
            if score > best[question].score:
                text = contexts[question][begin:stop]
                best[question] = Answer(text.strip(), begin + len(text) - len(text.lstrip()), score)
    return [
        Answer("", None, none) if may_be_none and none > answer.score else answer
        for answer, none in zip(best, nothing, strict=True)
    ]


def normalized(answer: str) -> str:
    """An answer as SQuAD compares it: in lower case, without punctuation and articles, single blanks."""
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", answer.lower().translate(PUNCTUATION)).split())


def overlap(found: str, true: str) -> float:
    """F1 over the words of two answers; an empty one is right only if both are."""
    first, second = (normalized(answer).split() for answer in (found, true))
    if not first or not second:
        return float(first == second)
    return 2 * (Counter(first) & Counter(second)).total() / (len(first) + len(second))


class _AnswerMetric(evaluate.Metric):
    """Mean over the questions, in percent, of the best figure among a question's true answers, "" if it has none.

    Args:
        figure: its name in the result.
    """

    description: str
    figure: str

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        columns = datasets.Features({"predictions": text, "references": datasets.Sequence(text)})
        return evaluate.MetricInfo(description=self.description, citation="", features=columns)

    def score(self, found: str, true: str) -> Any:
        """Of one answer, 0 to 1."""
        raise NotImplementedError

    def _compute(self, predictions, references):
        best = [
            max(self.score(found, answer) for answer in true or [""])
            for found, true in zip(predictions, references, strict=True)
        ]
        return {self.figure: 100 * float(np.mean(best))}


class ExactMatch(_AnswerMetric):
    """Share of answers that equal a true one, normalized."""

    description, figure = "share of answers equal to a true one", "exact_match"

    def score(self, found, true):
        return normalized(found) == normalized(true)


class AnswerF1(_AnswerMetric):
    """Mean F1 over the words of answers, normalized."""

    description, figure = "mean F1 over the words of answers", "f1"

    def score(self, found, true):
        return overlap(found, true)


ANSWERS = {"f1": AnswerF1, "exact_match": ExactMatch}
