"""Config of BERT with another add & norm."""

from typing import ClassVar

from huggingface_hub.dataclasses import strict
from transformers import BertConfig

from ..core.addnorm_config import AddNormConfig, AddNormEntry
from ..core.family_facts import FamilyFacts


@strict
class AddNormBertConfig(AddNormConfig, BertConfig):
    model_type = "addnorm_bert"
    facts = FamilyFacts(position_table=True)
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "AddNormBertModel",
        "AutoModelForTextEncoding": "AddNormBertModel",
        "AutoModelForPreTraining": "AddNormBertForPreTraining",
        "AutoModelForCausalLM": "AddNormBertLMHeadModel",
        "AutoModelForMaskedLM": "AddNormBertForMaskedLM",
        "AutoModelForNextSentencePrediction": "AddNormBertForNextSentencePrediction",
        "AutoModelForSequenceClassification": "AddNormBertForSequenceClassification",
        "AutoModelForMultipleChoice": "AddNormBertForMultipleChoice",
        "AutoModelForTokenClassification": "AddNormBertForTokenClassification",
        "AutoModelForQuestionAnswering": "AddNormBertForQuestionAnswering",
    }

    add_norm: AddNormEntry = None


__all__ = ["AddNormBertConfig"]
