"""Config of ViT with another add & norm."""

from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import ViTConfig

from ..core.addnorm_config import AddNormConfig
from ..core.family_facts import FamilyFacts


@strict
class AddNormViTConfig(AddNormConfig, ViTConfig):
    model_type = "addnorm_vit"
    facts = FamilyFacts(inputs="image")
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "AddNormViTModel",
        "AutoModelForImageClassification": "AddNormViTForImageClassification",
        "AutoModelForMaskedImageModeling": "AddNormViTForMaskedImageModeling",
    }

    add_norm: Any = None

    def stock_add_norm(self) -> dict[str, Any]:
        return {"preset": "pre_ln"}


__all__ = ["AddNormViTConfig"]
