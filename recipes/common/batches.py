"""Which rows make up each optimizer step, and each process's share of them."""

import math
import random
from collections.abc import Sequence

from datasets import Dataset


# Rows are sorted by length within so many batches at a time: big enough to save padding, small enough to stay random.
BATCHES_PER_GROUP = 50


class BatchOrder:
    """The order of rows: a function of seed, epoch and batch size alone, the same for any number of processes.

    Every row comes once per epoch; the one batch of an epoch that may be short is not dropped.

    Args:
        lengths: length of every row.
        batch_size: rows per optimizer step, over all processes.
        seed: another seed gives another order, and so does every epoch.
        group_by_length: put rows of similar length into one batch.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int, group_by_length: bool = True):
        self.lengths = lengths
        self.batch_size = batch_size
        self.seed = seed
        self.group_by_length = group_by_length
        self.steps_per_epoch = math.ceil(len(lengths) / batch_size)
        self._epoch: tuple[int, list[list[int]]] | None = None

    def rows(self, step: int) -> list[int]:
        """Row numbers of optimizer step ``step``, counted from 0 over all epochs."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = epoch, self._batches(random.Random(f"{self.seed}/{epoch}"))
        return self._epoch[1][position]

    def _batches(self, draw: random.Random) -> list[list[int]]:
        order = list(range(len(self.lengths)))
        draw.shuffle(order)
        if self.group_by_length:
            size = self.batch_size * BATCHES_PER_GROUP
            groups = [order[start : start + size] for start in range(0, len(order), size)]
            order = [row for group in groups for row in sorted(group, key=lambda row: -self.lengths[row])]
        batches = [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]
        draw.shuffle(batches)
        return batches

    def share(self, step: int, accumulation: int, process: int, processes: int) -> list[list[int]]:
        """One process's micro-batches of a step: ``accumulation`` of them, empty where the rows run out."""
        rows, size = self.rows(step), self.batch_size // accumulation
        return [rows[start : start + size][process::processes] for start in range(0, self.batch_size, size)]


def lengths(rows: Dataset) -> list[int]:
    """Tokens of every row."""
    return [len(tokens) for tokens in rows["input_ids"]]


def longest_first(lengths: Sequence[int]) -> list[int]:
    """Row numbers, the longest row first: rows of like length come together, and memory runs out at once or never."""
    return sorted(range(len(lengths)), key=lambda row: -lengths[row])
