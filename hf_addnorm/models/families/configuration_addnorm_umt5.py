"""Config of UMT5 with another add & norm."""

from typing import ClassVar

from huggingface_hub.dataclasses import strict
from transformers import UMT5Config

from ..core.addnorm_config import AddNormEntry
from .t5_shape import T5ShapeConfig


@strict
class AddNormUMT5Config(T5ShapeConfig, UMT5Config):
    """UMT5's scores are not divided by the root of a head's size, which is in the start of its queries instead. Where
    a scheme has a norm of the queries, they are.
    """

    model_type = "addnorm_umt5"
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "AddNormUMT5Model",
        "AutoModelForTextEncoding": "AddNormUMT5EncoderModel",
        "AutoModelForSeq2SeqLM": "AddNormUMT5ForConditionalGeneration",
        "AutoModelForSequenceClassification": "AddNormUMT5ForSequenceClassification",
        "AutoModelForTokenClassification": "AddNormUMT5ForTokenClassification",
        "AutoModelForQuestionAnswering": "AddNormUMT5ForQuestionAnswering",
    }

    add_norm: AddNormEntry = None
    add_norm_decoder: AddNormEntry = None


__all__ = ["AddNormUMT5Config"]
