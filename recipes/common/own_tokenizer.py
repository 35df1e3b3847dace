"""A tokenizer of one's own, trained on the rows of a run: byte-level BPE, which can write every text."""

from collections.abc import Iterable

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
