"""Config of mT5 with another add & norm."""

from typing import ClassVar

from huggingface_hub.dataclasses import strict
from transformers import MT5Config

from ..core.addnorm_config import AddNormEntry
from .t5_shape import T5ShapeConfig


@strict
class AddNormMT5Config(T5ShapeConfig, MT5Config):
    """mT5's scores are not divided by the root of a head's size, which is in the start of its queries instead. Where
    a scheme has a norm of the queries, they are.
    """

    model_type = "addnorm_mt5"
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "AddNormMT5Model",
        "AutoModelForTextEncoding": "AddNormMT5EncoderModel",
        "AutoModelForSeq2SeqLM": "AddNormMT5ForConditionalGeneration",
        "AutoModelForSequenceClassification": "AddNormMT5ForSequenceClassification",
        "AutoModelForTokenClassification": "AddNormMT5ForTokenClassification",
        "AutoModelForQuestionAnswering": "AddNormMT5ForQuestionAnswering",
    }

    add_norm: AddNormEntry = None
    add_norm_decoder: AddNormEntry = None


__all__ = ["AddNormMT5Config"]
