"""Clips of speech: the samples that a column holds, the feature extractor, the frames that a model makes of them."""

import io
import random
import wave
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from datasets import Audio, Dataset
from transformers import AutoFeatureExtractor, PreTrainedModel, PreTrainedTokenizerBase, Wav2Vec2FeatureExtractor

from .config import RunConfig
from .errors import UserError, one_line
from .model import UNLOADABLE, find_checkpoint


Extractor = TypeVar("Extractor")

# Of a wav file's integers, by their bytes; those of one byte have no sign.
INTEGERS = {1: np.uint8, 2: "<i2", 4: "<i4"}


def decode(value: Any) -> tuple[np.ndarray, int]:
    """Samples of one channel between -1 and 1, and their rate.

    PCM wav files need nothing else; other formats go through soundfile.

    Args:
        value: the bytes of a file, its name, or both as ``datasets.Audio`` holds them.
    Raises:
        ValueError: a sentence on what is wrong with it.
    """
    if isinstance(value, dict):
        value = value["bytes"] or value["path"]
    if not value or not isinstance(value, bytes | str):
        raise ValueError("neither a file's bytes nor its name")
    source = io.BytesIO(value) if isinstance(value, bytes) else value
    try:
        with wave.open(source, "rb") as file:
            channels, width, rate = file.getnchannels(), file.getsampwidth(), file.getframerate()
            samples = _from_pcm(file.readframes(file.getnframes()), width)
    except (wave.Error, EOFError) as error:
        samples, channels, rate = _with_soundfile(value, error)
    return samples[: len(samples) // channels * channels].reshape(-1, channels).mean(1, dtype=np.float32), rate


def _from_pcm(data: bytes, width: int) -> np.ndarray:
    if width == 3:
        # moved up by a byte, which makes integers of four
        data, width = np.pad(np.frombuffer(data, np.uint8).reshape(-1, 3), ((0, 0), (1, 0))).tobytes(), 4
    numbers = np.frombuffer(data[: len(data) // width * width], INTEGERS[width])
    middle = 128 if width == 1 else 0
    return (numbers.astype(np.float32) - middle) / 2 ** (8 * width - 1)


def _with_soundfile(value: bytes | str, reason: Exception) -> tuple[np.ndarray, int, int]:
    try:
        import soundfile
    except ImportError as error:
        raise ValueError(
            f"not a wav file of whole numbers ({one_line(reason, 80)}); for other formats pip install soundfile"
        ) from error
    try:
        samples, rate = soundfile.read(
            io.BytesIO(value) if isinstance(value, bytes) else value, dtype="float32", always_2d=True
        )
    except RuntimeError as error:
        raise ValueError(one_line(error, 120)) from error
    return samples.reshape(-1), samples.shape[1], rate


def read(rows: Dataset, split: str, column: str) -> Dataset:
    """The column as ``samples`` (bytes of float32) and ``rate``, in its place.

    Args:
        rows: with ``row``, the number to name.
        split: its name.
        column: what ``decode`` takes.
    Raises:
        UserError: for the first that is broken or empty, naming split, row and value.
    """
    if isinstance(rows.features[column], Audio):
        rows = rows.cast_column(column, Audio(decode=False))

    def read_one(row: dict[str, Any]) -> dict[str, Any]:
        value = row[column]
        try:
            samples, rate = decode(value)
            if len(samples) == 0:
                raise ValueError("no samples")
        except (ValueError, OSError) as error:
            raise UserError(
                f"{split} row {row['row']}: column {column!r} holds {one_line(value, 40)}, which is no clip that can "
                f"be read: {one_line(error, 160)}"
            ) from error
        return {"samples": samples.astype("<f4").tobytes(), "rate": rate}

    return rows.map(read_one, remove_columns=[column], desc=f"read {split}")


def load_extractor(config: RunConfig, rate: int) -> Wav2Vec2FeatureExtractor:
    """The checkpoint's feature extractor; for a new model one for clips of this rate, with a mask of their samples.

    Raises:
        UserError: the checkpoint has none, or one that makes something else of a clip than samples.
    """
    if config.checkpoint is None:
        return Wav2Vec2FeatureExtractor(sampling_rate=rate, return_attention_mask=True)
    return checkpoint_extractor(
        config.checkpoint,
        Wav2Vec2FeatureExtractor,
        "this recipe trains models that take samples, with a Wav2Vec2FeatureExtractor",
    )


def checkpoint_extractor(checkpoint: str, wanted: type[Extractor], trains: str) -> Extractor:
    """A checkpoint's feature extractor.

    Args:
        checkpoint (`str`): a folder, a repository or a package.
        wanted (`type`): what it must be.
        trains (`str`): the end of the sentence that refuses another one.
    Raises:
        UserError: the checkpoint has none, or another one.
    """
    try:
        extractor = AutoFeatureExtractor.from_pretrained(find_checkpoint(checkpoint))
    except UNLOADABLE as error:
        raise UserError(f"cannot load the feature extractor of {checkpoint}: {one_line(error)}") from error
    if not isinstance(extractor, wanted):
        raise UserError(f"the feature extractor of {checkpoint} is a {type(extractor).__name__}; {trains}")
    return extractor


def frame_counter(model: PreTrainedModel) -> Callable[[int], int]:
    """How many frames the model's convolutions make of so many samples."""
    return lambda samples: int(model._get_feat_extract_output_lengths(torch.tensor(samples)))


def measure(rows: Dataset, split: str, rate: int, frames: Callable[[int], int]) -> Dataset:
    """With ``frames``, and the ``least`` of them that its label needs, in place of ``rate``.

    Raises:
        UserError: for the first clip that has another rate than the extractor's, or too few samples for a frame.
    """

    def measure_one(row: dict[str, Any]) -> dict[str, int]:
        place, count = f"{split} row {row['row']}", len(row["samples"]) // 4
        if row["rate"] != rate:
            raise UserError(
                f"{place}: the clip has {row['rate']} samples a second, and the feature extractor takes {rate}"
            )
        if frames(count) < 1:
            raise UserError(f"{place}: the clip has {count} samples, too few for one frame")
        return {"frames": frames(count), "least": 1}

    return rows.map(measure_one, remove_columns=["rate"], desc=f"measure {split}")


def model_entries(config: Any, tokenizer: PreTrainedTokenizerBase | None) -> dict[str, Any]:
    """Entries of the model's config for this run."""
    # a layer that is left out has no gradient, which several processes do not stand
    found: dict[str, Any] = {"layerdrop": 0.0}
    if not config.spec_augment:
        found |= {"mask_time_prob": 0.0, "mask_feature_prob": 0.0}
    if tokenizer is not None:
        found |= {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    return found


def stretching(share: float, frames: Callable[[int], int]) -> Callable[[dict, random.Random], dict] | None:
    """Changes the speed of a training clip at random, see ``stretched``; None where the share is 0."""
    return (lambda row, draw: stretched(row, draw, share, frames)) if share else None


def stretched(row: dict[str, Any], draw: random.Random, share: float, frames: Callable[[int], int]) -> dict[str, Any]:
    """Played slower or faster, pitch and all, by up to this share of its length; unchanged where that is too short."""
    samples = np.frombuffer(row["samples"], "<f4")
    places = np.linspace(0, len(samples) - 1, round(len(samples) * draw.uniform(1 - share, 1 + share)))
    count = frames(len(places))
    if count < row["least"]:
        return row
    changed = np.interp(places, np.arange(len(samples)), samples).astype("<f4")
    return row | {"samples": changed.tobytes(), "frames": count}


def batch(rows: list[dict[str, Any]], extractor: Wav2Vec2FeatureExtractor) -> Any:
    """``input_values``, ``frames``, and ``attention_mask`` where the extractor's model takes one."""
    found = extractor(
        [np.frombuffer(row["samples"], "<f4") for row in rows],
        sampling_rate=extractor.sampling_rate,
        padding=True,
        return_attention_mask=True,
        return_tensors="pt",
    )
    if not extractor.return_attention_mask:
        del found["attention_mask"]
    found["frames"] = torch.tensor([row["frames"] for row in rows])
    return found


def sizes(batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Frames of a batch, and frames with padding."""
    return batch["frames"].sum(), batch["frames"].max() * len(batch["frames"])
