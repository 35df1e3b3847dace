"""Masked-LM over the bytes of a local text file: no tokenizer to train or to fetch, and a vocabulary that is small."""

import math
from dataclasses import dataclass

import torch
from torch import nn

from . import data
from .errors import UserError


MASK, VOCABULARY = 256, 257
# Blocks in one forward pass of an evaluation.
AT_ONCE = 256


@dataclass(frozen=True)
class ByteBlocks:
    """Blocks of a text, `[blocks, length]`, to train on and to evaluate on.

    Args:
        train: the first 95 % of the blocks.
        validation: the rest.
        source: what a result says about the file: its bytes, and sha256 of its rows.
    """

    train: torch.Tensor
    validation: torch.Tensor
    source: dict[str, int | str]


def load(name: str, column: str, length: int) -> ByteBlocks:
    """Read a text column and cut its UTF-8 bytes, rows joined by line breaks, into blocks.

    Raises:
        UserError: for a file that cannot be read, a missing column, a row without text, less text than 40 blocks.
    """
    rows = data.read_file(name)
    data.check_columns("train", rows, [column], [column])
    text = "\n".join(rows[column]).encode()
    count = len(text) // length
    if count < 40:
        raise UserError(f"{name} holds {len(text)} bytes of text; at least 40 blocks of {length} are needed")
    blocks = torch.frombuffer(bytearray(text[: count * length]), dtype=torch.uint8).long().view(count, length)
    source = {"bytes": len(text), "sha256": data.fingerprint(rows.select_columns(column))}
    return ByteBlocks(blocks[: count * 19 // 20], blocks[count * 19 // 20 :], source)


def mask(blocks: torch.Tensor, share: float, seed: int) -> dict[str, torch.Tensor]:
    """Inputs and labels: of every block a share of the bytes, rounded up, drawn with the seed, is to be predicted."""
    draw = torch.rand(blocks.shape, generator=torch.Generator().manual_seed(seed))
    chosen = draw.argsort(dim=-1).argsort(dim=-1) < math.ceil(share * blocks.shape[-1])
    return {"input_ids": blocks.masked_fill(chosen, MASK), "labels": blocks.masked_fill(~chosen, -100)}


def unigram_loss(train: torch.Tensor, labels: torch.Tensor) -> float:
    """Cross-entropy of the labels under how often each byte stands in `train`, each counted once more than it does."""
    counts = torch.bincount(train.flatten(), minlength=VOCABULARY).double() + 1
    return -(counts / counts.sum()).log()[labels[labels != -100]].mean().item()


@torch.no_grad()
def evaluate(model: nn.Module, batch: dict[str, torch.Tensor]) -> float:
    """Loss over a large batch, in evaluation mode; every block has as many labels as any other."""
    model.eval()
    parts = zip(batch["input_ids"].split(AT_ONCE), batch["labels"].split(AT_ONCE), strict=True)
    total = sum(model(input_ids=inputs, labels=labels).loss.item() * len(inputs) for inputs, labels in parts)
    model.train()
    return total / len(batch["labels"])
