"""Config of DeiT with another add & norm."""

from typing import ClassVar

from huggingface_hub.dataclasses import strict
from transformers import DeiTConfig

from ..base.protocols import JsonValue
from ..core.addnorm_config import AddNormConfig, AddNormEntry
from ..core.family_facts import FamilyFacts


@strict
class AddNormDeiTConfig(AddNormConfig, DeiTConfig):
    model_type = "addnorm_deit"
    facts = FamilyFacts(inputs="image")
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "AddNormDeiTModel",
        "AutoModelForImageClassification": "AddNormDeiTForImageClassification",
        "AutoModelForMaskedImageModeling": "AddNormDeiTForMaskedImageModeling",
    }

    add_norm: AddNormEntry = None

    def stock_add_norm(self) -> dict[str, JsonValue]:
        return {"preset": "pre_ln"}


__all__ = ["AddNormDeiTConfig"]
