"""Config of T5 with another add & norm."""

from typing import ClassVar

from huggingface_hub.dataclasses import strict
from transformers import T5Config

from ..core.addnorm_config import AddNormEntry
from .t5_shape import T5ShapeConfig


@strict
class AddNormT5Config(T5ShapeConfig, T5Config):
    """T5's scores are not divided by the root of a head's size, which is in the start of its queries instead. Where
    a scheme has a norm of the queries, they are.
    """

    model_type = "addnorm_t5"
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "AddNormT5Model",
        "AutoModelForTextEncoding": "AddNormT5EncoderModel",
        "AutoModelForPreTraining": "AddNormT5ForConditionalGeneration",
        "AutoModelForSeq2SeqLM": "AddNormT5ForConditionalGeneration",
        "AutoModelForSequenceClassification": "AddNormT5ForSequenceClassification",
        "AutoModelForTokenClassification": "AddNormT5ForTokenClassification",
        "AutoModelForQuestionAnswering": "AddNormT5ForQuestionAnswering",
    }

    add_norm: AddNormEntry = None
    add_norm_decoder: AddNormEntry = None


__all__ = ["AddNormT5Config"]
