"""Config of Whisper with another add & norm."""

from typing import ClassVar

from huggingface_hub.dataclasses import strict
from transformers import WhisperConfig

from ..base.protocols import JsonValue
from ..core.addnorm_config import AddNormEntry
from ..core.family_facts import FamilyFacts
from .bart_shape import BART_STACKS, BartShapeConfig


@strict
class AddNormWhisperConfig(BartShapeConfig, WhisperConfig):
    """Without `is_encoder_decoder` it is the config of an encoder, or with `is_decoder` that of a decoder, which reads
    the encoder of another model.
    """

    model_type = "addnorm_whisper"
    facts = FamilyFacts(
        inputs="spectrogram",
        stacks=BART_STACKS,
        no_positions="the encoder adds a fixed table of sines and cosines to its frames, which a checkpoint contains, "
        "and always reads as many frames as the table has rows; only the decoder has a learned table",
    )
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "AddNormWhisperModel",
        "AutoModelForSpeechSeq2Seq": "AddNormWhisperForConditionalGeneration",
        "AutoModelForAudioClassification": "AddNormWhisperForAudioClassification",
        "AutoModelForCausalLM": "AddNormWhisperForCausalLM",
    }

    # which stack a model with one has; the stock config cannot say it
    is_decoder: bool = False
    add_norm: AddNormEntry = None
    add_norm_decoder: AddNormEntry = None

    def stock_add_norm(self) -> dict[str, JsonValue]:
        return {"preset": "pre_ln"}

    def add_norm_sublayers(self) -> list[str]:
        # a decoder alone reads the encoder of another model
        cross = ["cross_attention"] if self.stack_name == "decoder" else []
        return ["attention", *cross, "feed_forward"]

    def add_norm_has_position_table(self) -> bool:
        return self.stack_name == "decoder"

    def add_norm_has_tables(self) -> bool:
        return self.stack_name == "decoder"


__all__ = ["AddNormWhisperConfig"]
