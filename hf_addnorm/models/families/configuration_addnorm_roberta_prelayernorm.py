"""Config of RoBERTa-PreLayerNorm with another add & norm."""

from typing import ClassVar

from huggingface_hub.dataclasses import strict
from transformers import RobertaPreLayerNormConfig

from ..base.protocols import JsonValue
from ..core.addnorm_config import AddNormConfig, AddNormEntry
from ..core.family_facts import FamilyFacts


@strict
class AddNormRobertaPreLayerNormConfig(AddNormConfig, RobertaPreLayerNormConfig):
    model_type = "addnorm_roberta_prelayernorm"
    facts = FamilyFacts(position_table=True)
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "AddNormRobertaPreLayerNormModel",
        "AutoModelForTextEncoding": "AddNormRobertaPreLayerNormModel",
        "AutoModelForPreTraining": "AddNormRobertaPreLayerNormForMaskedLM",
        "AutoModelForCausalLM": "AddNormRobertaPreLayerNormForCausalLM",
        "AutoModelForMaskedLM": "AddNormRobertaPreLayerNormForMaskedLM",
        "AutoModelForSequenceClassification": "AddNormRobertaPreLayerNormForSequenceClassification",
        "AutoModelForMultipleChoice": "AddNormRobertaPreLayerNormForMultipleChoice",
        "AutoModelForTokenClassification": "AddNormRobertaPreLayerNormForTokenClassification",
        "AutoModelForQuestionAnswering": "AddNormRobertaPreLayerNormForQuestionAnswering",
    }

    add_norm: AddNormEntry = None

    def stock_add_norm(self) -> dict[str, JsonValue]:
        return {"preset": "pre_ln"}


__all__ = ["AddNormRobertaPreLayerNormConfig"]
