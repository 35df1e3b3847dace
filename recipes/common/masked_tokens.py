"""Masked-LM over the tokens of texts: rows that are packed full, and which of their tokens are to be predicted."""

from collections.abc import Iterator
from random import Random
from typing import Any

from datasets import Dataset, Features, List, Value
from transformers import PreTrainedTokenizerBase

from .errors import UserError
from .tokenizer_check import check_marks


# Texts that are tokenized at a time.
AT_ONCE = 1000
# Special tokens that the rows need.
MARKS = ("cls", "sep", "mask", "pad")


class Masking:
    """Chooses a share of a row's tokens to be predicted (at least one) and hides them.

    Of the chosen ones 80 % become the mask token, 10 % any token, 10 % stay; the tokenizer's own marks that stand
    between texts are never chosen.

    Source: Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers", 2018, arXiv 1810.04805.

    Args:
        tokenizer: of the rows.
        share: of the tokens that is to be predicted.
    Raises:
        UserError: the tokenizer has no mask token, or nothing to put before and between texts.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, share: float):
        check_marks(tokenizer, MARKS, "a masked LM")
        self.share, self.size = share, len(tokenizer)
        self.mask = tokenizer.mask_token_id
        self.spared = {getattr(tokenizer, f"{name}_token_id") for name in MARKS}

    def __call__(self, row: dict[str, Any], draw: Random) -> dict[str, Any]:
        """Inputs and labels of a row, -100 where nothing is to be predicted."""
        tokens = list(row["input_ids"])
        labels = [-100] * len(tokens)
        free = [place for place, token in enumerate(tokens) if token not in self.spared]
        for place in draw.sample(free, min(len(free), max(1, round(self.share * len(free))))):
            labels[place] = tokens[place]
            fate = draw.random()
            if fate < 0.8:
                tokens[place] = self.mask
            elif fate < 0.9:
                tokens[place] = draw.randrange(self.size)
        return {"input_ids": tokens, "labels": labels}

    def fixed(self, rows: Dataset, draws: str) -> Dataset:
        """All rows, masked once."""
        return Dataset.from_list([self(row, Random(f"{draws}/{number}")) for number, row in enumerate(rows)])


def pack(split: str, texts: Dataset, column: str, tokenizer: PreTrainedTokenizerBase, length: int) -> Dataset:
    """Join the texts by the separator and cut what comes out into rows of ``length`` tokens; the last may be shorter.

        [CLS] a text [SEP] the next one [SEP] a long [SEP]
        [CLS] one that goes on in another row [SEP]

    Texts without a token, such as blank lines, are left out.

    Raises:
        UserError: no text of the split has a token, or a row has no room for any.
    """
    if length < 4:
        raise UserError(f"max_length is {length}; a packed row has at least 4 tokens")
    features = Features({"input_ids": List(Value("int32"))})
    keys = {"texts": texts, "column": column, "tokenizer": tokenizer, "length": length}
    if next(_packed(**keys), None) is None:
        raise UserError(f"the {split} split has no text with a token in column {column!r}")
    return Dataset.from_generator(_packed, features=features, gen_kwargs=keys)


def _packed(
    texts: Dataset, column: str, tokenizer: PreTrainedTokenizerBase, length: int
) -> Iterator[dict[str, list[int]]]:
    room, rest = length - 2, []
    first, separator = tokenizer.cls_token_id, tokenizer.sep_token_id

    def row(tokens: list[int]) -> dict[str, list[int]]:
        return {"input_ids": [first, *tokens, separator]}

    for batch in texts.iter(AT_ONCE):
        for tokens in tokenizer(batch[column], add_special_tokens=False, verbose=False)["input_ids"]:
            if tokens:
                rest += [*tokens, separator]
            full = (len(rest) - 1) // room * room
            for start in range(0, full, room):
                yield row(rest[start : start + room])
            rest = rest[full:]
    # the row has a separator of its own at its end
    if rest[:-1]:
        yield row(rest[:-1])
