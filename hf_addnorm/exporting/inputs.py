"""What an exported model is given: its inputs by name, which of their axes are free, and small batches of them."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from ..hub.input_kinds import INPUT_KINDS


# of an exported text: no longer than this, and what each family's positions leave
_LONGEST = 48
# samples of sound, frames of a spectrogram; many times the length of a convolution
_SAMPLES = 16_000
# what a model takes in one size alone, but for the batch
_OF_ONE_SIZE = ("image", "spectrogram")
# pairs of a multiple choice
_CHOICES = 2
_CLASSIFIES = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")
# what a text may have beside its ids, and the entry of the config that says how many values it has
_MORE_TEXT = {
    "token_type_ids": "type_vocab_size",
    "input_shape_ids": "shape_vocab_size",
    "input_pronunciation_ids": "pronunciation_vocab_size",
    "task_type_ids": "task_type_vocab_size",
    "bbox": "max_2d_position_embeddings",
}


@dataclass(frozen=True)
class Inputs:
    """The inputs of an exported model.

    Args:
        model: the model.
        names (`tuple[str, ...]`): of the inputs, in order.
        kind (`str`): "text", "image", "sound" or "spectrogram".
    """

    model: PreTrainedModel
    names: tuple[str, ...]
    kind: str

    @property
    def axes(self) -> dict[str, dict[int, str]]:
        """The axes of each input whose size is free, by number, with their names."""
        found = {}
        for name in self.names:
            if name == self.names[0] and self.kind in _OF_ONE_SIZE:
                found[name] = {0: "batch"}
                continue
            length = "decoder_length" if name.startswith("decoder_") else "length"
            last = 2 if self.has_choices else 1
            free = {0: "batch", 1: "choices"} if self.has_choices else {0: "batch"}
            found[name] = free | {last: length}
        return found

    @property
    def has_choices(self) -> bool:
        """Whether a row is several texts."""
        return type(self.model).__name__.endswith(("ForMultipleChoice", "DoubleHeadsModel"))

    def shapes(self) -> list[tuple[int, int]]:
        """Batch and length of the batches that the export is tried with; the first one is exported with."""
        if self.kind in _OF_ONE_SIZE:
            # the length is the decoder's, if there is one
            return [(2, 8), (1, 4), (3, 12)]
        if self.kind != "text":
            return [(2, _SAMPLES), (1, _SAMPLES // 2), (3, _SAMPLES // 4 * 3)]
        # in some families the first two positions are those of padding
        room = getattr(self.model.config, "max_position_embeddings", None) or _LONGEST + 2
        longest = max(4, min(_LONGEST, room - 2))
        return [(2, max(4, longest // 4)), (1, 4), (3, max(4, longest // 2)), (1, longest)]

    def draw(self, batch: int, length: int) -> dict[str, torch.Tensor]:
        """One batch, always the same; its last row is padded."""
        generator = torch.Generator().manual_seed(length)
        rows = (batch, _CHOICES) if self.has_choices else (batch,)
        mask = torch.ones(*rows, length, dtype=torch.long)
        if batch > 1:
            mask[-1, ..., -(length // 3) :] = 0
        decoder_length = length // 2 + 1
        drawn = {}
        for name in self.names:
            if name == self.names[0] and self.kind in _OF_ONE_SIZE:
                shape = (batch, *INPUT_KINDS[self.kind].shape(self.model.config, 0)[1:])
                drawn[name] = torch.randn(shape, generator=generator)
            elif name == "attention_mask":
                drawn[name] = mask
            elif name == "decoder_attention_mask":
                drawn[name] = torch.ones(*rows, decoder_length, dtype=torch.long)
            elif name == "decoder_input_ids":
                drawn[name] = self._ids((*rows, decoder_length), generator)
            elif name in _MORE_TEXT:
                drawn[name] = self._more_text(name, mask.shape, generator)
            elif self.kind == "text":
                drawn[name] = torch.where(mask.bool(), self._ids(mask.shape, generator), self._padding())
            else:
                drawn[name] = torch.randn(mask.shape, generator=generator) * mask
        return drawn

    def _ids(self, shape: Sequence[int], generator: torch.Generator) -> torch.Tensor:
        """Words that are none of the special tokens, as far as the vocabulary has others."""
        config = self.model.config.get_text_config()
        special = {value for name, value in vars(config).items() if name.endswith("token_id")}
        words = [word for word in range(config.vocab_size) if word not in special] or [0]
        return torch.tensor(words)[torch.randint(0, len(words), tuple(shape), generator=generator)]

    def _padding(self) -> int:
        padding = self.model.config.get_text_config().pad_token_id
        return padding if isinstance(padding, int) else 0

    def _more_text(self, name: str, shape: Sequence[int], generator: torch.Generator) -> torch.Tensor:
        values: int = getattr(self.model.config, _MORE_TEXT[name])
        if name != "bbox":
            return torch.randint(0, values, tuple(shape), generator=generator)
        # left, top, right, bottom: the first two are not beyond the others
        corners = torch.randint(0, values // 2, (*shape, 2), generator=generator)
        return torch.cat([corners, corners + values // 2 - 1], dim=-1)


def inputs_of(model: PreTrainedModel, tokenizer_gives: Sequence[str] | None) -> Inputs:
    """The inputs that a model is exported with.

    Args:
        model: the model.
        tokenizer_gives (`Sequence[str]`, *optional*): what its tokenizer makes of a text; without a tokenizer, all
            that the model has a table for.
    Raises:
        ValueError: a model whose inputs, or whose decoder's, are of no known kind, in a sentence.
    """
    kinds = {kind.argument: name for name, kind in INPUT_KINDS.items()}
    main = model.main_input_name
    if main not in kinds:
        raise ValueError(f"{type(model).__name__} reads {main}; allowed are models that read {', '.join(kinds)}.")
    kind, takes = kinds[main], inspect.signature(model.forward).parameters
    if "decoder_input_values" in takes:
        raise ValueError(
            f"{type(model).__name__} reads decoder_input_values, each of which is computed from the one "
            "before; allowed are models whose decoder, if they have one, reads decoder_input_ids."
        )
    names = [main]
    if kind in ("text", "sound") and "attention_mask" in takes:
        names.append("attention_mask")
    if kind == "text":
        names += [name for name in _MORE_TEXT if name in takes and _asked(model, name, tokenizer_gives)]
    # a head that classifies makes the decoder's ids of the text itself
    if "decoder_input_ids" in takes and not type(model).__name__.endswith(_CLASSIFIES):
        names.append("decoder_input_ids")
    return Inputs(model, tuple(names), kind)


def _asked(model: PreTrainedModel, name: str, tokenizer_gives: Sequence[str] | None) -> bool:
    values = getattr(model.config, _MORE_TEXT[name], 0) or 0
    if name == "task_type_ids" and not getattr(model.config, "use_task_id", True):
        return False
    return values > 1 and (tokenizer_gives is None or name in tokenizer_gives)


def of_names(names: Sequence[str], batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Of a batch, what an exported model is given.

    Raises:
        ValueError: if an input is missing.
    """
    missing = [name for name in names if name not in batch]
    if missing:
        raise ValueError(f"a batch of calibration has no {missing[0]}, which the exported model reads.")
    return {name: batch[name] for name in names}
