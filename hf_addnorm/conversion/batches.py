"""Calibration data: texts, a dataset or batches, as batches of a model's inputs, a part of them held out."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from transformers import PreTrainedTokenizerBase

from ..models.base.protocols import StockValue


# inputs of a model, as its forward takes them
Batch = dict[str, StockValue]

# the least number of rows of which a part can be held out
LEAST_ROWS = 8


class HasColumns(Protocol):
    """A `datasets.Dataset`, as far as it is needed here."""

    @property
    def column_names(self) -> list[str]: ...

    def __getitem__(self, key: str) -> Iterable[StockValue]: ...

    def __len__(self) -> int: ...


@dataclass(frozen=True)
class Calibration:
    """What a conversion looks at.

    Args:
        fitted, held_out (`list[Batch]`): batches to fit on; batches to measure on.
    """

    fitted: list[Batch]
    held_out: list[Batch]

    @property
    def rows(self) -> tuple[int, int]:
        """The number of rows in both."""
        return rows_of(self.fitted), rows_of(self.held_out)


def rows_of(batches: Sequence[Batch]) -> int:
    """The number of rows in all batches."""
    return sum(len(next(iter(batch.values()))) for batch in batches)


def read_calibration(
    data: StockValue,
    tokenizer: PreTrainedTokenizerBase | None,
    batch_size: int = 32,
    max_length: int = 128,
    holdout: float = 0.25,
) -> Calibration:
    """Batches from what a caller gives as `calibration`.

    Args:
        data: texts; a `datasets.Dataset` with a column of texts, or with the model's inputs as columns; or batches, an
            iterable of dicts of tensors. Labels are left out.
        tokenizer (*optional*): for texts.
        batch_size, max_length (`int`): of texts and datasets: rows of a batch, tokens after which a text is cut.
        holdout (`float`): the share of the rows that is held out.
    Raises:
        ValueError: too few rows, an empty text, texts without a tokenizer, or something else, in a sentence.
    """
    if not 0 < holdout < 1:
        raise ValueError(f"holdout is {holdout!r}; allowed is a number above 0 and below 1.")
    batches, texts = _batches_or_texts(data, batch_size)
    if texts is not None:
        batches = _of_texts(texts, tokenizer, batch_size, max_length)
    rows = rows_of(batches)
    if rows < LEAST_ROWS:
        raise ValueError(
            f"calibration has {rows} rows; allowed are at least {LEAST_ROWS}, of which some are held out."
        )
    if len(batches) == 1:
        batches = _split(batches[0], max(1, rows // 4))
    held_out: list[Batch] = []
    fitted = [batches[index] for index in torch.randperm(len(batches), generator=torch.Generator().manual_seed(0))]
    while len(fitted) > 1 and rows_of(held_out) < holdout * rows:
        held_out.append(fitted.pop())
    return Calibration(fitted, held_out)


def _batches_or_texts(data: StockValue, batch_size: int) -> tuple[list[Batch], list[str] | None]:
    if data is None or isinstance(data, (str, bytes, Mapping)):
        raise ValueError(
            f"calibration is {type(data).__name__}; allowed are texts, a datasets.Dataset or batches, which are dicts."
        )
    if hasattr(data, "column_names"):
        return _of_dataset(data, batch_size)
    items = list(data)
    if not items:
        raise ValueError(f"calibration is empty; allowed are at least {LEAST_ROWS} rows.")
    if all(isinstance(item, str) for item in items):
        return [], items
    if all(isinstance(item, Mapping) for item in items):
        return [_inputs(dict(item)) for item in items], None
    raise ValueError(
        f"calibration holds {type(items[0]).__name__}; allowed are texts, or batches: dicts of tensors, one a forward."
    )


def _inputs(batch: Batch) -> Batch:
    """A batch without its labels."""
    found = {key: value for key, value in batch.items() if "label" not in key and value is not None}
    if not found or not any(isinstance(value, torch.Tensor) for value in found.values()):
        raise ValueError("a batch of calibration holds no tensor; allowed are the inputs of the model's forward.")
    if _holds_several_texts(found):
        raise ValueError("a row of calibration holds several texts, one behind the other; allowed is one text a row.")
    return found


def _holds_several_texts(batch: Batch) -> bool:
    """Whether the batch says that its rows are packed: by their bounds, or by positions that begin anew."""
    positions = batch.get("position_ids")
    if isinstance(positions, torch.Tensor) and batch.get("attention_mask") is None:
        return bool((positions.diff(dim=-1) != 1).any())
    return any(key.startswith("cu_seq_lens") for key in batch)


def _of_dataset(data: HasColumns, batch_size: int) -> tuple[list[Batch], list[str] | None]:
    first = {name: next(iter(data[name]), None) for name in data.column_names}
    texts = [name for name, value in first.items() if isinstance(value, str)]
    if texts:
        return [], list(data[texts[0]])
    names = [name for name in first if "label" not in name]
    columns = {name: [torch.as_tensor(value) for value in data[name]] for name in names}
    batches = []
    for start in range(0, len(data), batch_size):
        part = {name: values[start : start + batch_size] for name, values in columns.items()}
        shapes = {value.shape for values in part.values() for value in values}
        if any(len({value.shape for value in values}) > 1 for values in part.values()):
            raise ValueError(f"rows of calibration have several shapes ({sorted(map(tuple, shapes))[:2]}): pad them.")
        batches.append({name: torch.stack(values) for name, values in part.items()})
    return batches, None


def _of_texts(
    texts: list[str], tokenizer: PreTrainedTokenizerBase | None, batch_size: int, max_length: int
) -> list[Batch]:
    if tokenizer is None:
        raise ValueError("calibration holds texts, and there is no tokenizer to read them: pass tokenizer=...")
    empty = [index for index, text in enumerate(texts) if not text.strip()]
    if empty:
        raise ValueError(f"text {empty[0] + 1} of calibration is empty; allowed are texts with words.")
    encode: Callable[..., StockValue] = tokenizer
    rows = [encode(text, truncation=True, max_length=max_length) for text in texts]
    # of similar length, in an order that has all lengths in what is held out
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]["input_ids"]))
    if tokenizer.pad_token is None:
        # of one length each, so that nothing is padded
        return _equally_long([rows[index] for index in order], batch_size)
    parts = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    return [dict(tokenizer.pad([rows[index] for index in part], return_tensors="pt")) for part in parts]


def _equally_long(rows: list[Batch], batch_size: int) -> list[Batch]:
    by_length: dict[int, list[Batch]] = {}
    for row in rows:
        by_length.setdefault(len(row["input_ids"]), []).append(row)
    batches = []
    for group in by_length.values():
        for start in range(0, len(group), batch_size):
            part = group[start : start + batch_size]
            batches.append({key: torch.tensor([row[key] for row in part]) for key in part[0]})
    return batches


def _split(batch: Batch, rows: int) -> list[Batch]:
    """One batch as several."""
    count = len(next(iter(batch.values())))
    return [
        {
            key: value[start : start + rows] if isinstance(value, torch.Tensor) and len(value) == count else value
            for key, value in batch.items()
        }
        for start in range(0, count, rows)
    ]
