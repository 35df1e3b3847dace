"""Config of YOLOS with another add & norm."""

from typing import ClassVar

from huggingface_hub.dataclasses import strict
from transformers import YolosConfig

from ..base.protocols import JsonValue
from ..core.addnorm_config import AddNormConfig, AddNormEntry
from ..core.family_facts import FamilyFacts


@strict
class AddNormYolosConfig(AddNormConfig, YolosConfig):
    model_type = "addnorm_yolos"
    facts = FamilyFacts(inputs="image", behind_patches="num_detection_tokens")
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "AddNormYolosModel",
        "AutoModelForObjectDetection": "AddNormYolosForObjectDetection",
    }

    add_norm: AddNormEntry = None

    def stock_add_norm(self) -> dict[str, JsonValue]:
        return {"preset": "pre_ln"}

    def add_norm_stays_on_sphere(self) -> bool:
        # positions are added between the layers too
        return not self.use_mid_position_embeddings


__all__ = ["AddNormYolosConfig"]
