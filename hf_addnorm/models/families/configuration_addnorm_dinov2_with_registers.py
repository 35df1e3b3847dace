"""Config of DINOv2 with registers with another add & norm."""

from typing import ClassVar

from huggingface_hub.dataclasses import strict
from transformers import Dinov2WithRegistersConfig

from ..core.addnorm_config import AddNormEntry
from .dinov2_config import Dinov2ShapeConfig


@strict
class AddNormDinov2WithRegistersConfig(Dinov2ShapeConfig, Dinov2WithRegistersConfig):
    model_type = "addnorm_dinov2_with_registers"
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "AddNormDinov2WithRegistersModel",
        "AutoBackbone": "AddNormDinov2WithRegistersBackbone",
        "AutoModelForImageClassification": "AddNormDinov2WithRegistersForImageClassification",
    }

    add_norm: AddNormEntry = None


__all__ = ["AddNormDinov2WithRegistersConfig"]
