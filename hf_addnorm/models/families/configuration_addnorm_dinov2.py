"""Config of DINOv2 with another add & norm."""

from typing import ClassVar

from huggingface_hub.dataclasses import strict
from transformers import Dinov2Config

from ..core.addnorm_config import AddNormEntry
from .dinov2_config import Dinov2ShapeConfig


@strict
class AddNormDinov2Config(Dinov2ShapeConfig, Dinov2Config):
    model_type = "addnorm_dinov2"
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "AddNormDinov2Model",
        "AutoBackbone": "AddNormDinov2Backbone",
        "AutoModelForImageClassification": "AddNormDinov2ForImageClassification",
    }

    add_norm: AddNormEntry = None


__all__ = ["AddNormDinov2Config"]
