"""Config of ModernBERT with another add & norm."""

from typing import ClassVar

from huggingface_hub.dataclasses import strict
from transformers import ModernBertConfig

from ..base.protocols import JsonValue
from ..core.addnorm_config import AddNormConfig, AddNormEntry
from ..core.family_facts import FamilyFacts


@strict
class AddNormModernBertConfig(AddNormConfig, ModernBertConfig):
    model_type = "addnorm_modernbert"
    facts = FamilyFacts(norm_eps="norm_eps", per_layer=("layer_types",))
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "AddNormModernBertModel",
        "AutoModelForMaskedLM": "AddNormModernBertForMaskedLM",
        "AutoModelForSequenceClassification": "AddNormModernBertForSequenceClassification",
        "AutoModelForMultipleChoice": "AddNormModernBertForMultipleChoice",
        "AutoModelForTokenClassification": "AddNormModernBertForTokenClassification",
        "AutoModelForQuestionAnswering": "AddNormModernBertForQuestionAnswering",
    }

    add_norm: AddNormEntry = None

    def slot_width(self, sublayer: str, slot: str, qkv_width: str) -> int:
        # with the gate beside it
        width = super().slot_width(sublayer, slot, qkv_width)
        return 2 * width if (sublayer, slot) == ("feed_forward", "up") else width

    def add_norm_stays_on_sphere(self) -> bool:
        # q and k are rotated behind their norms, and a gain per feature does not commute with that
        return False

    def stock_add_norm(self) -> dict[str, JsonValue]:
        # the first layer reads the embeddings, which are normed
        return {"preset": "pre_ln", "layers": [{"index": 0, "attention": []}]}


__all__ = ["AddNormModernBertConfig"]
