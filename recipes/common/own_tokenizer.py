"""A tokenizer of one's own, trained on the rows of a run: byte-level BPE, which can write every text; BPE-dropout."""

import json
import random
from collections.abc import Iterable
from itertools import pairwise

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from .errors import UserError


SPECIAL = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
# one for every byte
ALPHABET = pre_tokenizers.ByteLevel.alphabet()


def train_tokenizer(
    accelerator: Accelerator, texts: Iterable[str], pieces: int, max_length: int
) -> PreTrainedTokenizerBase:
    """Train it on one process, and give it to all.

    Args:
        accelerator: the run's.
        texts: what it is trained on.
        pieces: the size of the vocabulary, with the special tokens; texts that are short may fill less.
        max_length: that of its ``model_max_length``.
    Raises:
        UserError: ``pieces`` has no room for the bytes and the special tokens.
    """
    least = len(ALPHABET) + len(SPECIAL)
    if pieces < least:
        raise UserError(f"new_tokenizer is {pieces}; the bytes and the special tokens alone are {least} pieces")
    found = [None]
    if accelerator.is_main_process:
        bpe = Tokenizer(models.BPE(unk_token=SPECIAL["unk_token"]))
        bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        bpe.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=pieces, special_tokens=[*SPECIAL.values()], initial_alphabet=ALPHABET, show_progress=False
        )
        bpe.train_from_iterator(texts, trainer)
        ends = [(token, bpe.token_to_id(token)) for token in (SPECIAL["cls_token"], SPECIAL["sep_token"])]
        first, last = (token for token, _ in ends)
        bpe.post_processor = processors.TemplateProcessing(
            single=f"{first} $A {last}", pair=f"{first} $A {last} $B:1 {last}:1", special_tokens=ends
        )
        found = [bpe.to_str()]
    (written,) = broadcast_object_list(found)
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(written), model_max_length=max_length, **SPECIAL
    )


class DroppedMerges:
    """BPE whose merges are left out at random, so that a word has other pieces every time it is seen.

    Source: BPE-dropout, Provilkov, Emelianenko & Voita, 2020, arXiv 1910.13267: at each step every merge that could be
    done is left out with some probability, and the first of the others is done. Tokenizers draws by itself, from
    numbers that cannot be repeated.

    Args:
        tokenizer: one with byte-pair encoding.
        rate: the probability.
    Raises:
        UserError: the tokenizer has no merges.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, rate: float):
        model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
        if model["type"] != "BPE":
            raise UserError(f"bpe_dropout is {rate}, and the tokenizer is a {model['type']}: only BPE has merges")
        self.rate, self.vocabulary = rate, model["vocab"]
        self.ranks = {tuple(pair): rank for rank, pair in enumerate(model["merges"])}
        self.words = tokenizer.backend_tokenizer.pre_tokenizer
        self.ends = tokenizer.cls_token_id, tokenizer.sep_token_id

    def __call__(self, text: str, max_length: int, draw: random.Random) -> list[int]:
        """The tokens of a text with both ends, cut to ``max_length``."""
        pieces = [piece for word, _ in self.words.pre_tokenize_str(text) for piece in self._pieces(word, draw)]
        first, last = self.ends
        return [first, *(self.vocabulary[piece] for piece in pieces[: max_length - 2]), last]

    def _pieces(self, word: str, draw: random.Random) -> list[str]:
        pieces = list(word)
        while True:
            kept = [
                (self.ranks[pair], at)
                for at, pair in enumerate(pairwise(pieces))
                if pair in self.ranks and draw.random() >= self.rate
            ]
            if not kept:
                return pieces
            _, at = min(kept)
            pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]
