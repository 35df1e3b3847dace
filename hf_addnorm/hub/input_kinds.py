"""What models read: text, images or sound; what prepares it, what a small input is, which tasks there are.

The process of `fresh_process.py` reads this file, too: it imports nothing of the package.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from transformers import PreTrainedConfig


_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json")
_PREPROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")


@dataclass(frozen=True)
class InputKind:
    """What a model reads.

    Args:
        argument (`str`): the model's `main_input_name`.
        dtype (`str`): of that argument.
        processor (`str`): the Auto class of what prepares it.
        variable (`str`): how a processor is called in an example.
        files (`tuple[str, ...]`): those in which a processor is saved; one of them is enough.
        shape (`Callable`): from a config and a number of tokens to the shape of one small input.
        words (`str`): what that input is, where `{length}` is the last number of the shape.
        targets (`str`): what the decoder of an encoder-decoder is given: numbers of tokens ("decoder_input_ids"), or
            an argument of the same shape and dtype as the input.
        tasks (`dict[str, str]`): the Hub's name for what a model does, by the end of the name of its class, where that
            end means something else for text; "" stands for a model without a head.
    """

    argument: str
    dtype: str
    processor: str
    variable: str
    files: tuple[str, ...]
    shape: "Callable[[PreTrainedConfig, int], tuple[int, ...]]"
    words: str
    targets: str = "decoder_input_ids"
    tasks: Mapping[str, str] = field(default_factory=dict)

    def said(self, shape: tuple[int, ...]) -> str:
        """What an input of this shape is, in words."""
        return self.words.format(length=shape[-1])


def _tokens(config: "PreTrainedConfig", tokens: int) -> tuple[int, ...]:
    # a small model may have fewer positions
    return 1, min(tokens, getattr(config, "max_position_embeddings", tokens))


def _image(config: "PreTrainedConfig", _: int) -> tuple[int, ...]:
    size: int | tuple[int, int] = config.image_size
    return 1, config.num_channels, *((size, size) if isinstance(size, int) else size)


# by the name that a family's facts give it
INPUT_KINDS: dict[str, InputKind] = {
    "text": InputKind(
        "input_ids", "int64", "AutoTokenizer", "tokenizer", _TOKENIZER_FILES, _tokens, words="{length} tokens"
    ),
    "image": InputKind(
        "pixel_values",
        "float32",
        "AutoImageProcessor",
        "image_processor",
        _PREPROCESSOR_FILES,
        _image,
        words="one image",
        tasks={"": "image-feature-extraction"},
    ),
    # of a base model whose heads embed text or sound; it stands before sound, which the same argument means elsewhere
    "states": InputKind(
        "input_values",
        "float32",
        "AutoProcessor",
        "processor",
        _PREPROCESSOR_FILES,
        lambda config, tokens: (1, tokens, config.hidden_size),
        words="hidden states, {length} numbers each",
        targets="decoder_input_values",
    ),
    "sound": InputKind(
        "input_values",
        "float32",
        "AutoFeatureExtractor",
        "feature_extractor",
        _PREPROCESSOR_FILES,
        lambda config, _: (1, 16_000),
        words="{length:,} samples of sound",
        tasks={"ForSequenceClassification": "audio-classification", "ForPreTraining": "feature-extraction"},
    ),
    "spectrogram": InputKind(
        "input_features",
        "float32",
        "AutoFeatureExtractor",
        "feature_extractor",
        _PREPROCESSOR_FILES,
        lambda config, _: (1, config.num_mel_bins, 2 * config.max_source_positions),
        words="a spectrogram of {length} frames",
        tasks={"ForConditionalGeneration": "automatic-speech-recognition"},
    ),
}
