"""Config of T5 with another add & norm."""

from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import T5Config

from ..core.family_facts import FamilyFacts
from ..core.several_stacks import EncoderDecoderFamilyConfig


_STACKS = {
    stack: {"num_hidden_layers": depth, "num_attention_heads": "num_heads", "intermediate_size": "d_ff"}
    for stack, depth in {"encoder": "num_layers", "decoder": "num_decoder_layers"}.items()
}


@strict
class AddNormT5Config(EncoderDecoderFamilyConfig, T5Config):
    """T5's scores are not divided by the root of a head's size, which is in the start of its queries instead. Where a
    scheme has a norm of the queries, they are.
    """

    model_type = "addnorm_t5"
    facts = FamilyFacts(norm_eps="layer_norm_epsilon", stacks=_STACKS)
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "AddNormT5Model",
        "AutoModelForTextEncoding": "AddNormT5EncoderModel",
        "AutoModelForPreTraining": "AddNormT5ForConditionalGeneration",
        "AutoModelForSeq2SeqLM": "AddNormT5ForConditionalGeneration",
        "AutoModelForSequenceClassification": "AddNormT5ForSequenceClassification",
        "AutoModelForTokenClassification": "AddNormT5ForTokenClassification",
        "AutoModelForQuestionAnswering": "AddNormT5ForQuestionAnswering",
    }

    add_norm: Any = None
    add_norm_decoder: Any = None

    def stock_add_norm(self) -> dict[str, Any]:
        return {"preset": "pre_rms_norm"}

    def add_norm_head_size(self) -> int:
        return self.d_kv

    def slot_width(self, sublayer: str, slot: str, qkv_width: str) -> int:
        # the heads need not have the width of the stream together
        of_heads = sublayer != "feed_forward" and slot in ("q", "k", "v", "qk", "mid")
        if of_heads and (slot == "mid" or qkv_width == "hidden"):
            return self.num_heads * self.d_kv
        return super().slot_width(sublayer, slot, qkv_width)

    def add_norm_stays_on_sphere(self) -> bool:
        # what a head reads is scaled again, and distances are added to the scores
        return False


__all__ = ["AddNormT5Config"]
