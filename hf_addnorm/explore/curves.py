"""A training of a minute on data that are made up, so that two schemes can be seen to learn.

The task: are words of one kind in the majority? The answer is read at the last word alone, so that attention has to
bring it there. A loss says how a scheme starts and whether it is stable at this depth and rate; it says nothing of its
quality on texts.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn
from transformers import AutoModel

from ..hub.description import facts_of
from ..models.core.addnorm_config import AddNormConfig


# sizes by the names that most families have; a config that has another name for one maps it
SIZES = {
    "hidden_size": 64,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "embedding_size": 64,
    "max_position_embeddings": 64,
    "vocab_size": 64,
}
WORDS, LENGTH, BATCH = 64, 15, 32
_FIRST_WORD = 10


@dataclass(frozen=True)
class Point:
    """One step of a training: its number from 1, the loss, and the seconds since the start."""

    step: int
    loss: float
    seconds: float


def can_train(config: AddNormConfig) -> bool:
    """Whether the task has a meaning: the model reads texts, and is no decoder with an encoder."""
    return facts_of(config).inputs == "text" and not config.is_encoder_decoder


def small(config: AddNormConfig, layers: int) -> AddNormConfig:
    """The same scheme at a size that trains in a minute; without dropout, so that a curve is the scheme's."""
    entries: dict[str, float] = {name: size for name, size in SIZES.items() if hasattr(config, name)}
    entries |= {name: 0.0 for name, value in vars(config).items() if "drop" in name and isinstance(value, float)}
    # a token of its own for padding and the ends of a text: those of the words that no sample has
    ids = (name for name, value in vars(config).items() if name.endswith("_token_id") and isinstance(value, int))
    return type(config)(**entries, **dict.fromkeys(ids, 0), num_hidden_layers=layers, add_norm=config.add_norm)


def samples(generator: torch.Generator, count: int = BATCH) -> tuple[torch.Tensor, torch.Tensor]:
    """Texts [count, LENGTH], and whether words of an even number are in the majority, which 0.5 of them are."""
    texts = torch.randint(_FIRST_WORD, WORDS, (count, LENGTH), generator=generator)
    return texts, (texts % 2 == 0).sum(1).gt(LENGTH // 2).long()


def train(config: AddNormConfig, layers: int, steps: int, rate: float, seed: int = 0) -> Iterator[Point]:
    """Train a small model, a point for each step; it ends early where the loss is no number any more.

    Args:
        config: whose scheme it is.
        layers, steps (`int`): of the model, of the training.
        rate (`float`): of AdamW, the same for all weights, without a warm-up.
        seed (`int`): of weights and data.
    Raises:
        ValueError: if the family reads no texts.
    """
    if not can_train(config):
        raise ValueError(f"{config.model_type!r} reads no plain text; the task is one of texts.")
    torch.manual_seed(seed)
    model = AutoModel.from_config(small(config, layers), attn_implementation="eager").train()
    answer = nn.Linear(SIZES["hidden_size"], 2)
    optimizer = torch.optim.AdamW([*model.parameters(), *answer.parameters()], lr=rate)
    generator, start = torch.Generator().manual_seed(seed), time.monotonic()
    for step in range(1, steps + 1):
        texts, labels = samples(generator)
        hidden = model(input_ids=texts).last_hidden_state
        # a causal model knows all of the text at its end alone
        loss = nn.functional.cross_entropy(answer(hidden[:, -1]), labels)
        yield Point(step, loss.item(), time.monotonic() - start)
        if not torch.isfinite(loss):
            return
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()


def smooth(points: list[Point], window: int = 10) -> list[float]:
    """The mean of each loss and of those before it, over at most `window` steps."""
    losses = [point.loss for point in points]
    return [sum(losses[max(0, at - window + 1) : at + 1]) / min(at + 1, window) for at in range(len(losses))]
