"""Config of ViT with another add & norm."""

from typing import ClassVar

from huggingface_hub.dataclasses import strict
from transformers import ViTConfig

from ..base.protocols import JsonValue
from ..core.addnorm_config import AddNormConfig, AddNormEntry
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

    add_norm: AddNormEntry = None

    def stock_add_norm(self) -> dict[str, JsonValue]:
        return {"preset": "pre_ln"}


__all__ = ["AddNormViTConfig"]
