"""Texts as characters, for connectionist temporal classification (CTC)."""

import json
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, Value
from evaluate import CombinedEvaluations
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from transformers import Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor
from transformers.utils import cached_file

from .clips import batch
from .config import RunConfig
from .data import check_columns, class_labels
from .errors import UserError, one_line
from .model import UNLOADABLE, find_checkpoint


def load_texts(splits: dict[str, Dataset], column: str, names: list[str] | None) -> dict[str, list[str]]:
    """The texts of each split, words apart by one space: those of the column, or the names of its classes.

    Raises:
        UserError: for the first row that has neither, naming split, row and value.
    """
    # of a saved model that is evaluated there is one split alone
    first = next(iter(splits.values()))
    if first.features[column] not in (Value("string"), Value("large_string")):
        numbers, head = class_labels({"train": first, **splits}, column, None, names)
        return {split: [head["id2label"][number] for number in numbers[split]] for split in splits}
    for split, rows in splits.items():
        check_columns(split, rows, [column], [])
    texts = {split: [" ".join(text.split()) for text in rows[column]] for split, rows in splits.items()}
    if "train" in texts and not any(texts["train"]):
        raise UserError(f"no row of the train split has a text in column {column!r}")
    return texts


def load_speller(config: RunConfig, texts: Iterable[str]) -> Wav2Vec2CTCTokenizer:
    """The checkpoint's tokenizer where it has one, else one of the characters in ``texts``.

    Raises:
        UserError: the checkpoint has a tokenizer that cannot be loaded.
    """
    if config.checkpoint is not None:
        checkpoint = find_checkpoint(config.checkpoint)
        try:
            if cached_file(checkpoint, "vocab.json", _raise_exceptions_for_missing_entries=False):
                return Wav2Vec2CTCTokenizer.from_pretrained(checkpoint)
        except UNLOADABLE as error:
            raise UserError(f"cannot load the tokenizer of {config.checkpoint}: {one_line(error)}") from error
    # the blank of CTC, what is not known, the end of a word
    tokens = ["<pad>", "<unk>", "|", *sorted(set("".join(texts)) - {" ", "|"})]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vocab.json"
        path.write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
        return Wav2Vec2CTCTokenizer(str(path), bos_token=None, eos_token=None)


def spell(rows: Dataset, split: str, tokenizer: Wav2Vec2CTCTokenizer) -> Dataset:
    """With ``labels``, the characters of ``text``, and ``least``, the frames that they need.

    Raises:
        UserError: for the first text to train on that has a character which the tokenizer lacks, or more characters
            than its clip has frames for: one each, and one between two that are the same.
    """

    def spell_one(row: dict[str, Any]) -> dict[str, Any]:
        labels = tokenizer(row["text"]).input_ids
        least = len(labels) + sum(first == second for first, second in pairwise(labels))
        if split == "train":
            place, text = f"{split} row {row['row']}", one_line(row["text"], 80)
            if tokenizer.unk_token_id in labels:
                lacking = "".join(sorted({char for char in row["text"] if not _known(char, tokenizer)}))
                raise UserError(f"{place}: {text!r} has characters that the tokenizer lacks: {lacking}")
            if least > row["frames"]:
                raise UserError(f"{place}: the clip has {row['frames']} frames, and {text!r} needs {least}")
        return {"labels": labels, "least": max(least, 1)}

    return rows.map(spell_one, desc=f"spell {split}")


def _known(char: str, tokenizer: Wav2Vec2CTCTokenizer) -> bool:
    return tokenizer.unk_token_id not in tokenizer(char).input_ids


def collating(extractor: Wav2Vec2FeatureExtractor, ctc: bool) -> Callable[[list], Any]:
    """Makes a batch of clips; texts of several lengths are filled up with -100."""

    def collate(rows: list[dict[str, Any]]) -> Any:
        labels = [torch.tensor(row["labels"], dtype=torch.long) for row in rows]
        labels = pad_sequence(labels, batch_first=True, padding_value=-100) if ctc else torch.stack(labels)
        return batch(rows, extractor) | {"labels": labels}

    return collate


@dataclass
class CharacterOutputs:
    """Reads the logits of a clip as the text of its likeliest characters.

    Args:
        metric: of texts.
        tokenizer: has the characters.
        texts: what is said in each clip.
    """

    metric: CombinedEvaluations
    tokenizer: Wav2Vec2CTCTokenizer
    texts: list[str]

    def score(self, logits: list[torch.Tensor], _: object, ends: list[torch.Tensor]) -> dict[str, float]:
        """The figures of the texts; ``ends`` are the frames of each clip without padding."""
        return self.metric.compute(predictions=self._read(logits, ends), references=self.texts)

    def describe(self, logits: list[torch.Tensor], _: object, ends: list[torch.Tensor]) -> dict[str, list]:
        """The text of each clip."""
        return {"prediction": self._read(logits, ends)}

    def _read(self, logits: list[torch.Tensor], ends: list[torch.Tensor]) -> list[str]:
        return [self.tokenizer.decode(row[:end].argmax(-1)) for row, end in zip(logits, ends, strict=True)]


def ctc_loss(logits: torch.Tensor, labels: torch.Tensor, frames: torch.Tensor, blank: int) -> torch.Tensor:
    """Minus the log-probability of each row's characters over all their alignments, summed; no characters, no loss.

    Args:
        logits: ``[batch, frames, characters]``.
        labels: ``[batch, characters]``, filled up with -100.
        frames: of each row, without padding.
        blank: the token that stands for no character.
    """
    lengths = (labels != -100).sum(1)
    log_probs = logits.float().log_softmax(-1).transpose(0, 1)
    losses = functional.ctc_loss(log_probs, labels.clamp(min=0), frames, lengths, blank=blank, reduction="none")
    return losses[lengths > 0].sum()
