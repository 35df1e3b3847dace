"""Config of BART with another add & norm."""

from typing import ClassVar

from huggingface_hub.dataclasses import strict
from transformers import BartConfig

from ..core.addnorm_config import AddNormEntry
from .bart_shape import BartShapeConfig


@strict
class AddNormBartConfig(BartShapeConfig, BartConfig):
    model_type = "addnorm_bart"
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "AddNormBartModel",
        "AutoModelForPreTraining": "AddNormBartForConditionalGeneration",
        "AutoModelForMaskedLM": "AddNormBartForConditionalGeneration",
        "AutoModelForSeq2SeqLM": "AddNormBartForConditionalGeneration",
        "AutoModelForCausalLM": "AddNormBartForCausalLM",
        "AutoModelForSequenceClassification": "AddNormBartForSequenceClassification",
        "AutoModelForQuestionAnswering": "AddNormBartForQuestionAnswering",
    }

    add_norm: AddNormEntry = None
    add_norm_decoder: AddNormEntry = None


__all__ = ["AddNormBartConfig"]
