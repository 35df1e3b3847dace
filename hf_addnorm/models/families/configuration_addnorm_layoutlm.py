"""Config of LayoutLM with another add & norm."""

from typing import ClassVar

from huggingface_hub.dataclasses import strict
from transformers import LayoutLMConfig

from ..core.addnorm_config import AddNormConfig, AddNormEntry
from ..core.family_facts import FamilyFacts


@strict
class AddNormLayoutLMConfig(AddNormConfig, LayoutLMConfig):
    model_type = "addnorm_layoutlm"
    facts = FamilyFacts(position_table=True, tasks={"ForQuestionAnswering": "document-question-answering"})
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "AddNormLayoutLMModel",
        "AutoModelForPreTraining": "AddNormLayoutLMForMaskedLM",
        "AutoModelForMaskedLM": "AddNormLayoutLMForMaskedLM",
        "AutoModelForSequenceClassification": "AddNormLayoutLMForSequenceClassification",
        "AutoModelForTokenClassification": "AddNormLayoutLMForTokenClassification",
        "AutoModelForDocumentQuestionAnswering": "AddNormLayoutLMForQuestionAnswering",
    }

    add_norm: AddNormEntry = None


__all__ = ["AddNormLayoutLMConfig"]
