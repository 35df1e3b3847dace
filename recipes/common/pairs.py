"""Pairs of texts: as tokens, their loss, the figures of written ones, few pairs made into more by copies and names."""

import random
import re
from collections.abc import Callable, Iterable
from typing import Any

import torch
from evaluate import CombinedEvaluations
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .evaluation import PADDING, Columns
from .own_tokenizer import DroppedMerges


# with an apostrophe of either kind, a hyphen, a dot or a comma inside
WORD = re.compile(r"\w+(?:[.,'\u2019-]\w+)*")


def shared_words(source: str, target: str) -> list[str]:
    """Names and numbers that stand in both texts: words of at least three letters with a capital, or with a digit."""
    both = dict.fromkeys(WORD.findall(source)).keys() & set(WORD.findall(target))
    return sorted(word for word in both if word[0].isdigit() or (word[0].isupper() and len(word) > 2))


class PairChanges:
    """What is done to a pair before it is tokenized, anew in every epoch.

    A model that sees few pairs learns them by heart; one that meets other names in them has to read the names.

    Source: copies of targets, Currey, Miceli Barone & Heafield, "Copied Monolingual Data Improves Low-Resource Neural
    Machine Translation", 2017, https://aclanthology.org/W17-4715; other words in both texts, after Fadaee, Bisazza &
    Monz, "Data Augmentation for Low-Resource Neural Machine Translation", 2017, arXiv 1705.00440, who choose them by a
    language model.

    Args:
        pairs: source and target of all training rows, of which the names are taken.
        copied: share of the rows whose source is their target.
        swapped: share of the names and numbers in both texts that are replaced in both: numbers by other digits, names
            by those of other rows, or by one made of two.
    """

    def __init__(self, pairs: Iterable[tuple[str, str]], copied: float, swapped: float):
        self.copied, self.swapped = copied, swapped
        words = [word for pair in pairs for word in shared_words(*pair)] if swapped else []
        self.names = [word for word in words if not word[0].isdigit()]

    def __call__(self, source: str, target: str, draw: random.Random) -> tuple[str, str]:
        """The pair, changed by the numbers of ``draw``."""
        if draw.random() < self.copied:
            source = target
        for word in shared_words(source, target) if self.swapped else []:
            if draw.random() < self.swapped:
                alone = re.compile(rf"(?<!\w){re.escape(word)}(?!\w)")
                other = self._other(word, draw)
                source, target = (alone.sub(lambda _, other=other: other, text) for text in (source, target))
        return source, target

    def _other(self, word: str, draw: random.Random) -> str:
        if word[0].isdigit():
            return "".join(draw.choice("0123456789") if letter.isdigit() else letter for letter in word)
        first, second = draw.choice(self.names or [word]), draw.choice(self.names or [word])
        if draw.random() < 0.5:
            return first
        return first[: draw.randint(2, len(first))] + second[draw.randint(1, len(second) - 1) :].lower()


def _without_first(tokens: list[int], first: int | None) -> list[int]:
    """The tokens that a decoder is to write: it begins with the first one by itself."""
    return tokens[1:] if tokens[:1] == [first] else tokens


def tokenizing(tokenizer: PreTrainedTokenizerBase, config: Any, first: int | None) -> Callable[[dict], dict]:
    """What makes tokens of the texts of some rows, cut to the lengths of the config.

    Args:
        tokenizer, config: the run's.
        first (`int`): the token that the decoder begins with by itself.
    """

    def tokenize(rows: dict) -> dict:
        read = tokenizer(rows[config.source_column], truncation=True, max_length=config.max_length)
        written = tokenizer(rows[config.target_column], truncation=True, max_length=config.max_target_length)
        return {**read, "labels": [_without_first(tokens, first) for tokens in written["input_ids"]]}

    return tokenize


def changing(
    config: Any, rows: Any, tokenizer: PreTrainedTokenizerBase, first: int | None
) -> Callable[[dict, random.Random], dict] | None:
    """What changes a training row as the config says and tokenizes it again; None where it changes nothing."""
    if rows is None or not (config.copied_targets or config.swapped_names or config.bpe_dropout):
        return None
    encode = DroppedMerges(tokenizer, config.bpe_dropout) if config.bpe_dropout else None
    tokenize = tokenizing(tokenizer, config, first)
    columns = (config.source_column, config.target_column)
    pairs = zip(*(rows[column] for column in columns), strict=True)
    changes = PairChanges(pairs, config.copied_targets, config.swapped_names)

    def augment(row: dict, draw: random.Random) -> dict:
        texts = changes(*(row[column] for column in columns), draw)
        if encode is not None:
            read = encode(texts[0], config.max_length, draw)
            written = encode(texts[1], config.max_target_length, draw)
            return row | {
                "input_ids": read,
                "attention_mask": [1] * len(read),
                "labels": _without_first(written, first),
            }
        parts = tokenize({column: [text] for column, text in zip(columns, texts, strict=True)})
        return row | {key: values[0] for key, values in parts.items()}

    return augment


def summed_loss(label_smoothing: float) -> Callable[[Any, dict], torch.Tensor]:
    """The loss of a batch, summed over the tokens of the targets."""

    def loss(model: Any, batch: dict) -> torch.Tensor:
        # not the model's own loss, which some families divide by the number of tokens
        logits = model(**batch).logits.float()
        return cross_entropy(logits.mT, batch["labels"], reduction="sum", label_smoothing=label_smoothing)

    return loss


class Comparison:
    """Texts that were written, beside those of the held-out rows.

    Args:
        metric: of texts.
        sources: the texts that are read.
        targets: the texts as they are to be written.
        tokenizer: of the model.
    """

    def __init__(
        self,
        metric: CombinedEvaluations,
        sources: list[str],
        targets: list[str],
        tokenizer: PreTrainedTokenizerBase,
    ):
        self.metric, self.sources, self.targets, self.tokenizer = metric, sources, targets, tokenizer

    def texts(self, rows: list[torch.Tensor]) -> list[str]:
        """Generated tokens as texts."""
        rows = [torch.where(row == PADDING, self.tokenizer.pad_token_id, row) for row in rows]
        return [text.strip() for text in self.tokenizer.batch_decode(rows, skip_special_tokens=True)]

    def score(self, rows: list[torch.Tensor]) -> dict[str, float]:
        """The figures of the generated texts, as they are and as the tokenizer writes them."""
        return self._score_texts(self.texts(rows))

    def describe(self, rows: list[torch.Tensor]) -> dict[str, list]:
        """The generated texts."""
        return {"prediction": self.texts(rows)}

    def _score_texts(self, texts: list[str]) -> dict[str, float]:
        tokenized = self.metric.compute(
            predictions=self._as_tokenized(texts), references=self._as_tokenized(self.targets)
        )
        return {
            **self.metric.compute(predictions=texts, references=self.targets),
            **{f"tokenized_{name}": score for name, score in tokenized.items()},
        }

    def _as_tokenized(self, texts: list[str]) -> list[str]:
        return self.tokenizer.batch_decode(self.tokenizer(texts).input_ids, skip_special_tokens=True)

    def more(self, trained: PreTrainedModel, predictions: Columns) -> dict[str, Any]:
        """What the result has beside that of other recipes: both add & norms, copying the source, some examples."""
        if hasattr(trained.config, "encoder"):
            # two models in one, each with a config of its own
            specs = {name: getattr(trained.config, name).add_norm for name in ("encoder", "decoder")}
        else:
            stacks = getattr(trained.config, "add_norm_stacks", dict)()
            specs = {name: part.add_norm for name, part in stacks.items()}
        schemes = {name: spec.to_dict() for name, spec in specs.items()} or None
        shown = zip(self.sources, self.targets, self.texts(predictions[0]), strict=True)
        shown = list(shown)[:: len(self.targets) // 4 or 1]
        return {
            "add_norm": schemes,
            "copied_source": self._score_texts(self.sources),
            "examples": [dict(zip(("source", "target", "written"), texts, strict=True)) for texts in shown],
        }
