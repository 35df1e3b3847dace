"""Config of ESM with another add & norm."""

from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import EsmConfig

from ..core.addnorm_config import AddNormConfig
from ..core.family_facts import FamilyFacts


@strict
class AddNormEsmConfig(AddNormConfig, EsmConfig):
    """`emb_layer_norm_before` says whether there is a stock norm after the embeddings: in ESM-1b, not in ESM-2."""

    model_type = "addnorm_esm"
    facts = FamilyFacts(position_table=True)
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "AddNormEsmModel",
        "AutoModelForMaskedLM": "AddNormEsmForMaskedLM",
        "AutoModelForSequenceClassification": "AddNormEsmForSequenceClassification",
        "AutoModelForTokenClassification": "AddNormEsmForTokenClassification",
    }

    add_norm: Any = None

    def add_norm_has_position_table(self) -> bool:
        return self.position_embedding_type == "absolute"

    def stock_add_norm(self) -> dict[str, Any]:
        return {"preset": "pre_ln"}


__all__ = ["AddNormEsmConfig"]
