"""Config of DistilBERT with another add & norm."""

from typing import ClassVar

from huggingface_hub.dataclasses import strict
from transformers import DistilBertConfig

from ..core.addnorm_config import AddNormConfig, AddNormEntry
from ..core.family_facts import FamilyFacts


@strict
class AddNormDistilBertConfig(AddNormConfig, DistilBertConfig):
    model_type = "addnorm_distilbert"
    facts = FamilyFacts(position_table=True)
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "AddNormDistilBertModel",
        "AutoModelForTextEncoding": "AddNormDistilBertModel",
        "AutoModelForPreTraining": "AddNormDistilBertForMaskedLM",
        "AutoModelForMaskedLM": "AddNormDistilBertForMaskedLM",
        "AutoModelForSequenceClassification": "AddNormDistilBertForSequenceClassification",
        "AutoModelForMultipleChoice": "AddNormDistilBertForMultipleChoice",
        "AutoModelForTokenClassification": "AddNormDistilBertForTokenClassification",
        "AutoModelForQuestionAnswering": "AddNormDistilBertForQuestionAnswering",
    }

    add_norm: AddNormEntry = None

    def add_norm_eps(self) -> float:
        # the stock model has no entry for it
        return 1e-12

    def slot_width(self, sublayer: str, slot: str, qkv_width: str) -> int:
        if sublayer == "feed_forward" and slot in ("up", "mid"):
            return self.hidden_dim
        return super().slot_width(sublayer, slot, qkv_width)


__all__ = ["AddNormDistilBertConfig"]
