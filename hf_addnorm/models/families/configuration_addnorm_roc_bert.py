"""Config of RoCBert with another add & norm."""

from typing import ClassVar

from huggingface_hub.dataclasses import strict
from transformers import RoCBertConfig

from ..core.addnorm_config import AddNormConfig, AddNormEntry
from ..core.family_facts import FamilyFacts


@strict
class AddNormRoCBertConfig(AddNormConfig, RoCBertConfig):
    model_type = "addnorm_roc_bert"
    facts = FamilyFacts(position_table=True)
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "AddNormRoCBertModel",
        "AutoModelForTextEncoding": "AddNormRoCBertModel",
        "AutoModelForPreTraining": "AddNormRoCBertForPreTraining",
        "AutoModelForCausalLM": "AddNormRoCBertForCausalLM",
        "AutoModelForMaskedLM": "AddNormRoCBertForMaskedLM",
        "AutoModelForSequenceClassification": "AddNormRoCBertForSequenceClassification",
        "AutoModelForMultipleChoice": "AddNormRoCBertForMultipleChoice",
        "AutoModelForTokenClassification": "AddNormRoCBertForTokenClassification",
        "AutoModelForQuestionAnswering": "AddNormRoCBertForQuestionAnswering",
    }

    add_norm: AddNormEntry = None

    def add_norm_stays_on_sphere(self) -> bool:
        # otherwise embeddings of shape and sound are added behind the norm
        return self.concat_input


__all__ = ["AddNormRoCBertConfig"]
