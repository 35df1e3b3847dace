"""Config of MPNet with another add & norm."""

from typing import ClassVar

from huggingface_hub.dataclasses import strict
from transformers import MPNetConfig

from ..core.addnorm_config import AddNormConfig, AddNormEntry
from ..core.family_facts import FamilyFacts


@strict
class AddNormMPNetConfig(AddNormConfig, MPNetConfig):
    model_type = "addnorm_mpnet"
    facts = FamilyFacts(position_table=True)
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "AddNormMPNetModel",
        "AutoModelForPreTraining": "AddNormMPNetForMaskedLM",
        "AutoModelForMaskedLM": "AddNormMPNetForMaskedLM",
        "AutoModelForSequenceClassification": "AddNormMPNetForSequenceClassification",
        "AutoModelForMultipleChoice": "AddNormMPNetForMultipleChoice",
        "AutoModelForTokenClassification": "AddNormMPNetForTokenClassification",
        "AutoModelForQuestionAnswering": "AddNormMPNetForQuestionAnswering",
    }

    add_norm: AddNormEntry = None


__all__ = ["AddNormMPNetConfig"]
