"""Config of Megatron-BERT with another add & norm."""

from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import MegatronBertConfig

from ..core.addnorm_config import AddNormConfig
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

    add_norm: Any = None

    def stock_add_norm(self) -> dict[str, Any]:
        return {"preset": "pre_ln"}


__all__ = ["AddNormMegatronBertConfig"]
