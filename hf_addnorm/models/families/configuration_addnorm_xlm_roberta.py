"""Config of XLM-RoBERTa with another add & norm."""

from typing import ClassVar

from huggingface_hub.dataclasses import strict
from transformers import XLMRobertaConfig

from ..core.addnorm_config import AddNormConfig, AddNormEntry
from ..core.family_facts import FamilyFacts


@strict
class AddNormXLMRobertaConfig(AddNormConfig, XLMRobertaConfig):
    model_type = "addnorm_xlm_roberta"
    facts = FamilyFacts(position_table=True)
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "AddNormXLMRobertaModel",
        "AutoModelForTextEncoding": "AddNormXLMRobertaModel",
        "AutoModelForPreTraining": "AddNormXLMRobertaForMaskedLM",
        "AutoModelForCausalLM": "AddNormXLMRobertaForCausalLM",
        "AutoModelForMaskedLM": "AddNormXLMRobertaForMaskedLM",
        "AutoModelForSequenceClassification": "AddNormXLMRobertaForSequenceClassification",
        "AutoModelForMultipleChoice": "AddNormXLMRobertaForMultipleChoice",
        "AutoModelForTokenClassification": "AddNormXLMRobertaForTokenClassification",
        "AutoModelForQuestionAnswering": "AddNormXLMRobertaForQuestionAnswering",
    }

    add_norm: AddNormEntry = None


__all__ = ["AddNormXLMRobertaConfig"]
