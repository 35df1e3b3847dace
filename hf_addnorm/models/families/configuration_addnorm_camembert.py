"""Config of CamemBERT with another add & norm."""

from typing import ClassVar

from huggingface_hub.dataclasses import strict
from transformers import CamembertConfig

from ..core.addnorm_config import AddNormConfig, AddNormEntry
from ..core.family_facts import FamilyFacts


@strict
class AddNormCamembertConfig(AddNormConfig, CamembertConfig):
    model_type = "addnorm_camembert"
    facts = FamilyFacts(position_table=True)
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "AddNormCamembertModel",
        "AutoModelForPreTraining": "AddNormCamembertForMaskedLM",
        "AutoModelForCausalLM": "AddNormCamembertForCausalLM",
        "AutoModelForMaskedLM": "AddNormCamembertForMaskedLM",
        "AutoModelForSequenceClassification": "AddNormCamembertForSequenceClassification",
        "AutoModelForMultipleChoice": "AddNormCamembertForMultipleChoice",
        "AutoModelForTokenClassification": "AddNormCamembertForTokenClassification",
        "AutoModelForQuestionAnswering": "AddNormCamembertForQuestionAnswering",
    }

    add_norm: AddNormEntry = None


__all__ = ["AddNormCamembertConfig"]
