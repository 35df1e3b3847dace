"""Clips as spectrograms, and the texts that an encoder-decoder writes for them, character by character: Whisper."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from evaluate import CombinedEvaluations
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    AutoConfig,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    WhisperFeatureExtractor,
    WhisperTokenizer,
)

from .clips import checkpoint_extractor
from .config import RunConfig
from .errors import UserError, one_line
from .evaluation import PADDING
from .model import UNLOADABLE, find_checkpoint


# the ends of a text, as Whisper's own tokenizers write them
END, START = "<|endoftext|>", "<|startoftranscript|>"
# a spectrum every 10 ms, of 25 ms each, as in Whisper
SPECTRA_A_SECOND, SPECTRA_OF = 100, 40


def load_extractor(config: RunConfig, rate: int) -> WhisperFeatureExtractor:
    """The checkpoint's feature extractor; for a new model one for clips of this rate, as its config says.

    Raises:
        UserError: the checkpoint has none, or one that makes something else of a clip; or the new model would read no
            whole number of seconds.
    """
    if config.checkpoint is None:
        entries = config.model_config
        sizes = AutoConfig.for_model(**entries)
        spectra = 2 * sizes.max_source_positions
        if spectra % SPECTRA_A_SECOND or rate % SPECTRA_A_SECOND:
            raise UserError(
                f"model_config max_source_positions is {sizes.max_source_positions}, which is {spectra} spectra of 10 "
                f"ms: a model reads a whole number of seconds, for which it is a multiple of {SPECTRA_A_SECOND // 2}"
            )
        return WhisperFeatureExtractor(
            feature_size=sizes.num_mel_bins,
            sampling_rate=rate,
            hop_length=rate // SPECTRA_A_SECOND,
            chunk_length=spectra // SPECTRA_A_SECOND,
            n_fft=rate // SPECTRA_OF,
        )
    return checkpoint_extractor(
        config.checkpoint,
        WhisperFeatureExtractor,
        "task seq2seq trains models that take spectrograms, with a WhisperFeatureExtractor",
    )


def load_writer(config: RunConfig, texts: list[str]) -> PreTrainedTokenizerBase:
    """The checkpoint's tokenizer; for a new model one of the characters in ``texts``.

    Raises:
        UserError: the checkpoint's cannot be loaded.
    """
    if config.checkpoint is not None:
        try:
            return AutoTokenizer.from_pretrained(find_checkpoint(config.checkpoint))
        except UNLOADABLE as error:
            raise UserError(f"cannot load the tokenizer of {config.checkpoint}: {one_line(error)}") from error
    # its letters are bytes, which is the same for those of English
    words = WhisperTokenizer(vocab={END: 0}, merges=[]).backend_tokenizer.pre_tokenizer
    pieces = sorted({letter for text in texts for word, _ in words.pre_tokenize_str(text) for letter in word})
    return WhisperTokenizer(
        vocab={token: number for number, token in enumerate([END, START, *pieces])},
        merges=[],
        pad_token=END,
        additional_special_tokens=[START],
        # without marks of time, which would be tokens too
        predict_timestamps=True,
    )


def model_entries(config: Any, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Entries of the model's config for this run."""
    found: dict[str, Any] = {"apply_spec_augment": config.spec_augment}
    # a layer that is left out has no gradient, which several processes do not stand
    found |= {"encoder_layerdrop": 0.0, "decoder_layerdrop": 0.0}
    if config.checkpoint is None:
        ends = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), tokenizer.eos_token_id)
        found |= {**ends, "decoder_start_token_id": tokenizer.convert_tokens_to_ids(START)}
        found |= {"vocab_size": len(tokenizer), "begin_suppress_tokens": None}
    return found


def let_write(model: PreTrainedModel, config: RunConfig, longest: int) -> None:
    """Let the model write as many tokens as the longest text has, or as it has positions; likeliest next token."""
    own = model.config
    if config.checkpoint is None:
        names = ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id")
        model.generation_config = GenerationConfig(**{name: getattr(own, name) for name in names})
    model.generation_config.max_length = min(longest + 2, own.max_target_positions)


def measure(rows: Dataset, split: str, extractor: WhisperFeatureExtractor, stretch: float = 0.0) -> Dataset:
    """With ``frames``, the spectra of a clip, and ``least`` of them, in place of ``rate``.

    Raises:
        UserError: for the first clip that has another rate than the extractor's, or is longer than what the model
            reads, as it may be when it is played slower by ``stretch``.
    """

    def measure_one(row: dict[str, Any]) -> dict[str, int]:
        place, count = f"{split} row {row['row']}", len(row["samples"]) // 4
        if row["rate"] != extractor.sampling_rate:
            raise UserError(
                f"{place}: the clip has {row['rate']} samples a second, and the feature extractor takes "
                f"{extractor.sampling_rate}"
            )
        longest = round(count * (1 + stretch))
        if longest > extractor.n_samples:
            raise UserError(
                f"{place}: the clip has {longest} samples{' when stretched' if stretch else ''}, and the model reads "
                f"at most {extractor.n_samples}: give it more positions (max_source_positions), or leave the clip out"
            )
        return {"frames": frame_counter(extractor)(count), "least": 1}

    return rows.map(measure_one, remove_columns=["rate"], desc=f"measure {split}")


def frame_counter(extractor: WhisperFeatureExtractor) -> Callable[[int], int]:
    """How many spectra the extractor makes of so many samples."""
    return lambda samples: max(samples // extractor.hop_length, 1)


def write(rows: Dataset, split: str, tokenizer: PreTrainedTokenizerBase, positions: int) -> Dataset:
    """With ``labels``, the tokens of ``text`` and the end.

    Raises:
        UserError: for the first text to train on that has a character which the tokenizer lacks, or more tokens than
            the decoder has positions.
    """

    def write_one(row: dict[str, Any]) -> dict[str, Any]:
        # the model begins by itself
        labels = tokenizer(row["text"]).input_ids[1:]
        if split == "train":
            place, text = f"{split} row {row['row']}", one_line(row["text"], 80)
            if tokenizer.decode(labels, skip_special_tokens=True) != row["text"]:
                raise UserError(f"{place}: {text!r} has characters that the tokenizer lacks")
            if len(labels) > positions:
                raise UserError(
                    f"{place}: {text!r} has {len(labels)} tokens, and the decoder {positions} positions: give it more "
                    "(max_target_positions)"
                )
        return {"labels": labels}

    return rows.map(write_one, desc=f"write {split}")


def collating(extractor: WhisperFeatureExtractor) -> Callable[[list], Any]:
    """Makes ``input_features``, ``frames`` and ``labels`` of clips; texts are filled up with -100."""

    def collate(rows: list[dict[str, Any]]) -> Any:
        samples = [np.frombuffer(row["samples"], "<f4") for row in rows]
        batch = extractor(samples, sampling_rate=extractor.sampling_rate, return_tensors="pt")
        batch["frames"] = torch.tensor([row["frames"] for row in rows])
        labels = [torch.tensor(row["labels"], dtype=torch.long) for row in rows]
        return batch | {"labels": pad_sequence(labels, batch_first=True, padding_value=-100)}

    return collate


def loss(model: Any, batch: Any) -> torch.Tensor:
    """Summed over the tokens of the texts."""
    labels = batch["labels"]
    # tokens are shifted by the model, which needs labels for that
    logits = model(input_features=batch["input_features"], labels=labels).logits
    return cross_entropy(logits.float().mT, labels, reduction="sum")


def written(accelerator: Any, model: Any, batch: Any) -> tuple[torch.Tensor]:
    """The tokens that a model writes for a batch."""
    return (accelerator.unwrap_model(model).generate(batch["input_features"]),)


@dataclass
class WrittenTexts:
    """Reads the tokens that were written for a clip.

    Args:
        metric: of texts.
        tokenizer: has the characters.
        texts: what is said in each clip.
    """

    metric: CombinedEvaluations
    tokenizer: PreTrainedTokenizerBase
    texts: list[str]

    def score(self, rows: list[torch.Tensor]) -> dict[str, float]:
        """The figures of the texts."""
        return self.metric.compute(predictions=self._read(rows), references=self.texts)

    def describe(self, rows: list[torch.Tensor]) -> dict[str, list]:
        """The text of each clip."""
        return {"prediction": self._read(rows)}

    def _read(self, rows: list[torch.Tensor]) -> list[str]:
        rows = [row[row != PADDING].tolist() for row in rows]
        return [text.strip() for text in self.tokenizer.batch_decode(rows, skip_special_tokens=True)]
