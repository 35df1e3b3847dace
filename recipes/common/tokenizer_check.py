"""Whether a tokenizer and a model belong together, before anything is trained: positions, tokens, padding."""

import json
from typing import Any

from datasets import Dataset
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .errors import UserError


# What learned tables of positions are called in Transformers.
POSITIONS = ("position_embeddings", "wpe", "embed_positions")


def check_tokenizer(
    tokenizer: PreTrainedTokenizerBase,
    model: PreTrainedModel,
    rows: dict[str, Dataset],
    max_length: int,
    all_tokens: bool = False,
    column: str = "input_ids",
    key: str = "max_length",
) -> None:
    """Refuse rows that the model cannot read; a tokenizer without a pad token gets that of the model.

    Args:
        tokenizer: what made the rows.
        model: what will read them.
        rows: of each split.
        max_length: the most tokens of a row.
        all_tokens: the rows change in training, so that every token of the tokenizer may come.
        column: where the rows have their tokens.
        key: that of ``max_length``.
    Raises:
        UserError: the model has fewer positions or a smaller table, or the two disagree on padding; with the remedy.
    """
    _check_positions(model, max_length, key)
    _check_padding(tokenizer, model)
    _check_tokens(tokenizer, model, rows, all_tokens, column)
    _check_segments(model, rows)


def check_marks(tokenizer: PreTrainedTokenizerBase, names: tuple[str, ...], task: str) -> None:
    """Refuse a tokenizer without one of the special tokens (``cls``, ``sep``, ...) that the task needs."""
    if missing := [name for name in names if getattr(tokenizer, f"{name}_token_id") is None]:
        raise UserError(f"the tokenizer has no {missing[0]}_token, which {task} needs")


def positions(model: nn.Module) -> int | None:
    """How many tokens the model's tables of positions are for; None where it has no such table."""
    found = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and name.rpartition(".")[2] in POSITIONS:
            # RoBERTa's begin behind the padding's, BART's behind two that are never used
            unused = getattr(module, "offset", 0) if module.padding_idx is None else module.padding_idx + 1
            found.append(module.num_embeddings - unused)
    return min(found, default=None)


def _check_positions(model: nn.Module, max_length: int, key: str) -> None:
    there = positions(model)
    if there is not None and max_length > there:
        raise UserError(f"{key} is {max_length}, and the model has {there} positions: set {key} to {there} or less")


def _check_padding(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> None:
    config = model.config.get_text_config()
    there, here = getattr(config, "pad_token_id", None), tokenizer.pad_token_id
    if here is None and there is not None:
        token = tokenizer.convert_ids_to_tokens(there) if 0 <= there < len(tokenizer) else None
        if token is None:
            raise UserError(
                f"the model's pad_token_id is {there}, and the tokenizer has the tokens up to {len(tokenizer)}"
            )
        tokenizer.pad_token = token
    elif here is None:
        end = tokenizer.eos_token_id
        example = f", as model_config {_entry('pad_token_id', end)} ({tokenizer.eos_token})" if end is not None else ""
        raise UserError(
            "the tokenizer has no pad token and the model no pad_token_id, which fill up the rows of a batch: name a "
            f"token for it{example}"
        )
    elif there != here:
        raise UserError(
            f"the tokenizer fills up rows with token {here} ({tokenizer.pad_token}), and the model's pad_token_id is "
            f"{there}: set model_config {_entry('pad_token_id', here)}"
        )


def _check_tokens(
    tokenizer: PreTrainedTokenizerBase, model: nn.Module, rows: dict[str, Dataset], all_tokens: bool, column: str
) -> None:
    table: Any = model.get_input_embeddings()
    last = max(tokenizer.get_vocab().values()) if all_tokens else (tokenizer.pad_token_id or 0)
    last = max([last, *(max(tokens, default=0) for part in rows.values() for tokens in part[column])])
    if last >= table.num_embeddings:
        raise UserError(
            f"the tokenizer has {tokenizer.convert_ids_to_tokens(last)!r} as token {last}, and the model's table has "
            f"{table.num_embeddings} rows: take the tokenizer that belongs to the weights, or with new_weights set "
            f"model_config {_entry('vocab_size', max(tokenizer.get_vocab().values()) + 1)}"
        )


def _check_segments(model: nn.Module, rows: dict[str, Dataset]) -> None:
    tables = [module for name, module in model.named_modules() if name.endswith("token_type_embeddings")]
    sizes = [table.num_embeddings for table in tables if isinstance(table, nn.Embedding)]
    parts = [part["token_type_ids"] for part in rows.values() if "token_type_ids" in part.column_names]
    last = max((max(numbers, default=0) for part in parts for numbers in part), default=0)
    if sizes and last >= min(sizes):
        raise UserError(
            f"the tokenizer numbers the texts of a row 0 to {last}, and the model's type_vocab_size is {min(sizes)}: "
            "take the tokenizer that belongs to the weights"
        )


def _entry(key: str, value: int) -> str:
    return f"'{json.dumps({key: value})}'"
