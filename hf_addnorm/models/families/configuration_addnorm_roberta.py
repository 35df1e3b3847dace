"""Config of RoBERTa with another add & norm."""

from typing import ClassVar

from huggingface_hub.dataclasses import strict
from transformers import RobertaConfig

from ..core.addnorm_config import AddNormConfig, AddNormEntry
from ..core.family_facts import FamilyFacts


@strict
class AddNormRobertaConfig(AddNormConfig, RobertaConfig):
    model_type = "addnorm_roberta"
    facts = FamilyFacts(position_table=True)
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "AddNormRobertaModel",
        "AutoModelForTextEncoding": "AddNormRobertaModel",
        "AutoModelForPreTraining": "AddNormRobertaForMaskedLM",
        "AutoModelForCausalLM": "AddNormRobertaForCausalLM",
        "AutoModelForMaskedLM": "AddNormRobertaForMaskedLM",
        "AutoModelForSequenceClassification": "AddNormRobertaForSequenceClassification",
        "AutoModelForMultipleChoice": "AddNormRobertaForMultipleChoice",
        "AutoModelForTokenClassification": "AddNormRobertaForTokenClassification",
        "AutoModelForQuestionAnswering": "AddNormRobertaForQuestionAnswering",
    }

    add_norm: AddNormEntry = None


__all__ = ["AddNormRobertaConfig"]
