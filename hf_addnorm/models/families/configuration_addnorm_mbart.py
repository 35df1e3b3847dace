"""Config of mBART with another add & norm."""

from typing import ClassVar

from huggingface_hub.dataclasses import strict
from transformers import MBartConfig

from ..base.protocols import JsonValue
from ..core.addnorm_config import AddNormEntry
from .bart_shape import BartShapeConfig


@strict
class AddNormMBartConfig(BartShapeConfig, MBartConfig):
    model_type = "addnorm_mbart"
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "AddNormMBartModel",
        "AutoModelForMaskedLM": "AddNormMBartForConditionalGeneration",
        "AutoModelForSeq2SeqLM": "AddNormMBartForConditionalGeneration",
        "AutoModelForCausalLM": "AddNormMBartForCausalLM",
        "AutoModelForSequenceClassification": "AddNormMBartForSequenceClassification",
        "AutoModelForQuestionAnswering": "AddNormMBartForQuestionAnswering",
    }

    add_norm: AddNormEntry = None
    add_norm_decoder: AddNormEntry = None

    def stock_add_norm(self) -> dict[str, JsonValue]:
        return {"preset": "pre_ln"}


__all__ = ["AddNormMBartConfig"]
