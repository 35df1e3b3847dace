"""Config of Megatron-BERT with another add & norm."""

from typing import ClassVar

from huggingface_hub.dataclasses import strict
from transformers import MegatronBertConfig

from ..base.protocols import JsonValue
from ..core.addnorm_config import AddNormConfig, AddNormEntry
from ..core.family_facts import FamilyFacts


@strict
class AddNormMegatronBertConfig(AddNormConfig, MegatronBertConfig):
    model_type = "addnorm_megatron_bert"
    facts = FamilyFacts(position_table=True)
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "AddNormMegatronBertModel",
        "AutoModelForPreTraining": "AddNormMegatronBertForPreTraining",
        "AutoModelForCausalLM": "AddNormMegatronBertForCausalLM",
        "AutoModelForMaskedLM": "AddNormMegatronBertForMaskedLM",
        "AutoModelForNextSentencePrediction": "AddNormMegatronBertForNextSentencePrediction",
        "AutoModelForSequenceClassification": "AddNormMegatronBertForSequenceClassification",
        "AutoModelForMultipleChoice": "AddNormMegatronBertForMultipleChoice",
        "AutoModelForTokenClassification": "AddNormMegatronBertForTokenClassification",
        "AutoModelForQuestionAnswering": "AddNormMegatronBertForQuestionAnswering",
    }

    add_norm: AddNormEntry = None

    def stock_add_norm(self) -> dict[str, JsonValue]:
        return {"preset": "pre_ln"}


__all__ = ["AddNormMegatronBertConfig"]
