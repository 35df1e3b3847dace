"""Config of XLM-RoBERTa-XL with another add & norm."""

from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import XLMRobertaXLConfig

from hf_addnorm.models.core.addnorm_config import AddNormConfig
from hf_addnorm.models.core.family_facts import FamilyFacts


@strict
class AddNormXLMRobertaXLConfig(AddNormConfig, XLMRobertaXLConfig):
    model_type = "addnorm_xlm_roberta_xl"
    facts = FamilyFacts(position_table=True)
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "AddNormXLMRobertaXLModel",
        "AutoModelForTextEncoding": "AddNormXLMRobertaXLModel",
        "AutoModelForPreTraining": "AddNormXLMRobertaXLForMaskedLM",
        "AutoModelForCausalLM": "AddNormXLMRobertaXLForCausalLM",
        "AutoModelForMaskedLM": "AddNormXLMRobertaXLForMaskedLM",
        "AutoModelForSequenceClassification": "AddNormXLMRobertaXLForSequenceClassification",
        "AutoModelForMultipleChoice": "AddNormXLMRobertaXLForMultipleChoice",
        "AutoModelForTokenClassification": "AddNormXLMRobertaXLForTokenClassification",
        "AutoModelForQuestionAnswering": "AddNormXLMRobertaXLForQuestionAnswering",
    }

    add_norm: Any = None

    def stock_add_norm(self) -> dict[str, Any]:
        return {"preset": "pre_ln"}


__all__ = ["AddNormXLMRobertaXLConfig"]
