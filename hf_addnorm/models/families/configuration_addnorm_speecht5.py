"""Config of SpeechT5 with another add & norm."""

from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import SpeechT5Config

from ..core.family_facts import FamilyFacts
from ..core.several_stacks import EncoderDecoderFamilyConfig
from .bart_shape import BART_STACKS


@strict
class AddNormSpeechT5Config(EncoderDecoderFamilyConfig, SpeechT5Config):
    """The stacks of layers are the same whether a model reads text or sound, and writes text or spectrograms."""

    model_type = "addnorm_speecht5"
    facts = FamilyFacts(
        inputs="states",
        stacks=BART_STACKS,
        no_positions="sines and cosines are added where text or sound is embedded, before the stacks of layers, and "
        "the attention of the encoder adds terms for the distances of tokens",
        no_tables="text is embedded before the stacks of layers, in some of this family's models, and sound has none",
    )
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "AddNormSpeechT5Model",
        "AutoModelForSpeechSeq2Seq": "AddNormSpeechT5ForSpeechToText",
        "AutoModelForTextToSpectrogram": "AddNormSpeechT5ForTextToSpeech",
    }

    add_norm: Any = None
    add_norm_decoder: Any = None


__all__ = ["AddNormSpeechT5Config"]
