"""Batches of drawn tokens whose lengths are those of real texts, in random order and of like lengths."""

import random

import torch


Batch = dict[str, torch.Tensor]

BATCH = 32
# ids are below this
VOCABULARY = 2000
# batches that a text is sorted among: as many as the recipes sort
_SORTED = 40
# how many of the first 20,000 texts of SST-2's training data have 3, 4, 5, ... word pieces
LENGTH_COUNTS = [
    545, 1555, 1768, 1636, 1381, 1238, 1102, 993, 868, 798, 735, 613, 620, 551, 485, 451, 409, 382, 320, 322, 287, 264,
    255, 234, 232, 201, 192, 151, 161, 134, 138, 115, 88, 87, 93, 71, 58, 64, 50, 51, 46, 47, 27, 28, 21, 28, 20, 13,
    11, 12, 12, 9, 6, 6, 6, 3, 0, 2, 0, 3, 2,
]  # fmt: skip


def batch_of(lengths: list[int]) -> Batch:
    """Texts of these lengths, padded to the longest, with a class for each."""
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)).long()
    return {
        "input_ids": torch.randint(1000, VOCABULARY, mask.shape) * mask,
        "attention_mask": mask,
        "token_type_ids": torch.zeros_like(mask),
        "labels": torch.arange(len(lengths)) % 2,
    }


def sst2(number: int) -> dict[str, list[Batch]]:
    """So many batches, and the same lengths twice: of like lengths ("grouped"), and mixed ("random").

    The grouped ones are every so many of 40 sorted batches: short, middle and long ones as they come in the data.
    """
    lengths = sorted(random.choices(range(3, 3 + len(LENGTH_COUNTS)), LENGTH_COUNTS, k=BATCH * _SORTED))
    step = _SORTED / number
    starts = [BATCH * int(step * (place + 0.5)) for place in range(number)]
    grouped = [lengths[start : start + BATCH] for start in starts]
    mixed = random.sample([length for part in grouped for length in part], BATCH * number)
    parts = {"random": [mixed[start : start + BATCH] for start in range(0, len(mixed), BATCH)], "grouped": grouped}
    return {order: [batch_of(part) for part in found] for order, found in parts.items()}


def full(rows: int, length: int, number: int = 1) -> dict[str, list[Batch]]:
    """Batches without padding."""
    return {"": [batch_of(rows * [length]) for _ in range(number)]}


def with_labelled_tokens(batches: dict[str, list[Batch]]) -> dict[str, list[Batch]]:
    """The same for a masked language model: 15 % of the tokens have a label."""
    for batch in (batch for found in batches.values() for batch in found):
        chosen = (torch.rand(batch["input_ids"].shape) < 0.15) & batch["attention_mask"].bool()
        batch["labels"] = torch.where(chosen, batch["input_ids"], -100)
    return batches
