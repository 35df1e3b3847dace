"""What a model makes of a clip: its class, its characters frame by frame (CTC), or a text that it writes (seq2seq)."""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import torch
from accelerate import Accelerator
from datasets import Dataset
from transformers import (
    AutoModelForAudioClassification,
    AutoModelForCTC,
    AutoModelForSpeechSeq2Seq,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Wav2Vec2Processor,
    WhisperProcessor,
)

from . import clips, dictation
from .classes import ClassOutputs, summed_loss
from .metrics import CLASSIFICATION, TRANSCRIPTION
from .spelling import CharacterOutputs, collating, ctc_loss, load_speller, spell


class Hearing:
    """One of the tasks: what prepares its clips, its loss, what reads its outputs.

    Args:
        config: the run's config.
        rate: samples a second of the clips.
        texts: what is said in them; None where their class is asked for.
    """

    # those that a run may report
    metrics: ClassVar[dict[str, Any]]
    auto_class: ClassVar[Any]
    # whether a clip's target is a text
    spelled: ClassVar[bool] = True
    tokenizer: PreTrainedTokenizerBase | None = None
    # from a number of samples to that of frames
    frames: Callable[[int], int]

    def __init__(self, config: Any, rate: int, texts: list[str] | None):
        self.config = config
        self.extractor = clips.load_extractor(config, rate)

    def model_entries(self) -> dict[str, Any]:
        """Entries of the model's config for this run."""
        return clips.model_entries(self.config, self.tokenizer)

    def use(self, model: PreTrainedModel) -> None:
        """Take from the model what only it knows."""
        self.frames = clips.frame_counter(model)

    def encode(self, rows: Dataset, split: str) -> Dataset:
        """The clips with their ``frames``, and their targets as ``labels``."""
        return clips.measure(rows, split, self.extractor.sampling_rate, self.frames)

    def collate(self) -> Callable[[list], Any]:
        """What makes a batch of rows."""
        return collating(self.extractor, self.spelled)

    def loss(self, weights: torch.Tensor | None) -> Callable[[Any, Any], torch.Tensor]:
        """The loss of a batch, summed over its labels."""
        raise NotImplementedError

    def outputs(self, accelerator: Accelerator) -> Callable[[Any, Any], tuple[torch.Tensor, ...]]:
        """What an evaluation takes of a model and a batch."""
        return _frame_outputs

    def reader(self, metric: Any, model: PreTrainedModel, rows: Dataset) -> Any:
        """What reads these outputs."""
        raise NotImplementedError

    def processor(self) -> Any:
        """What is saved beside the model."""
        return self.extractor


def _frame_outputs(model: Any, batch: Any) -> tuple[torch.Tensor, ...]:
    inputs = {name: batch[name] for name in ("input_values", "attention_mask") if name in batch}
    return model(**inputs).logits, batch["labels"], batch["frames"]


class Classes(Hearing):
    """The class of a clip."""

    metrics, auto_class, spelled = CLASSIFICATION, AutoModelForAudioClassification, False

    def loss(self, weights: torch.Tensor | None) -> Callable[[Any, Any], torch.Tensor]:
        """Summed over the clips that have a label, each by the weight of its class."""
        return lambda model, batch: summed_loss(*_frame_outputs(model, batch)[:2], weights)

    def reader(self, metric: Any, model: PreTrainedModel, rows: Dataset) -> ClassOutputs:
        """Reads the likeliest class."""
        return ClassOutputs(metric, model.config.id2label)


class Characters(Hearing):
    """A character for each frame, or none: connectionist temporal classification."""

    metrics, auto_class = TRANSCRIPTION, AutoModelForCTC

    def __init__(self, config: Any, rate: int, texts: list[str] | None):
        super().__init__(config, rate, texts)
        self.tokenizer = load_speller(config, texts or [])

    def encode(self, rows: Dataset, split: str) -> Dataset:
        return spell(super().encode(rows, split), split, self.tokenizer)

    def loss(self, weights: torch.Tensor | None) -> Callable[[Any, Any], torch.Tensor]:
        """Summed over the clips that have a text."""
        return lambda model, batch: ctc_loss(*_frame_outputs(model, batch), self.tokenizer.pad_token_id)

    def reader(self, metric: Any, model: PreTrainedModel, rows: Dataset) -> CharacterOutputs:
        """Reads the likeliest characters."""
        return CharacterOutputs(metric, self.tokenizer, rows["text"][:])

    def processor(self) -> Wav2Vec2Processor:
        return Wav2Vec2Processor(self.extractor, self.tokenizer)


class Texts(Hearing):
    """A text that a decoder writes for the clip's spectrogram."""

    metrics, auto_class = TRANSCRIPTION, AutoModelForSpeechSeq2Seq

    def __init__(self, config: Any, rate: int, texts: list[str] | None):
        self.config = config
        self.extractor = dictation.load_extractor(config, rate)
        self.tokenizer = dictation.load_writer(config, texts or [])
        self.frames = dictation.frame_counter(self.extractor)
        self.longest = max(len(self.tokenizer(text).input_ids) for text in texts or [""])

    def model_entries(self) -> dict[str, Any]:
        return dictation.model_entries(self.config, self.tokenizer)

    def use(self, model: PreTrainedModel) -> None:
        self.positions = model.config.max_target_positions
        if self.config.do == "train":
            dictation.let_write(model, self.config, self.longest)

    def encode(self, rows: Dataset, split: str) -> Dataset:
        rows = dictation.measure(rows, split, self.extractor, self.config.stretch if split == "train" else 0.0)
        return dictation.write(rows, split, self.tokenizer, self.positions)

    def collate(self) -> Callable[[list], Any]:
        return dictation.collating(self.extractor)

    def loss(self, weights: torch.Tensor | None) -> Callable[[Any, Any], torch.Tensor]:
        return dictation.loss

    def outputs(self, accelerator: Accelerator) -> Callable[[Any, Any], tuple[torch.Tensor, ...]]:
        return partial(dictation.written, accelerator)

    def reader(self, metric: Any, model: PreTrainedModel, rows: Dataset) -> dictation.WrittenTexts:
        """Reads what was written."""
        return dictation.WrittenTexts(metric, self.tokenizer, rows["text"][:])

    def processor(self) -> WhisperProcessor:
        return WhisperProcessor(self.extractor, self.tokenizer)


HEARINGS: dict[str, type[Hearing]] = {"classification": Classes, "ctc": Characters, "seq2seq": Texts}
