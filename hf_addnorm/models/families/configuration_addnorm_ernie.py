"""Config of ERNIE with another add & norm."""

from typing import ClassVar

from huggingface_hub.dataclasses import strict
from transformers import ErnieConfig

from ..core.addnorm_config import AddNormConfig, AddNormEntry
from ..core.family_facts import FamilyFacts


@strict
class AddNormErnieConfig(AddNormConfig, ErnieConfig):
    model_type = "addnorm_ernie"
    facts = FamilyFacts(position_table=True)
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "AddNormErnieModel",
        "AutoModelForPreTraining": "AddNormErnieForPreTraining",
        "AutoModelForCausalLM": "AddNormErnieForCausalLM",
        "AutoModelForMaskedLM": "AddNormErnieForMaskedLM",
        "AutoModelForNextSentencePrediction": "AddNormErnieForNextSentencePrediction",
        "AutoModelForSequenceClassification": "AddNormErnieForSequenceClassification",
        "AutoModelForMultipleChoice": "AddNormErnieForMultipleChoice",
        "AutoModelForTokenClassification": "AddNormErnieForTokenClassification",
        "AutoModelForQuestionAnswering": "AddNormErnieForQuestionAnswering",
    }

    add_norm: AddNormEntry = None


__all__ = ["AddNormErnieConfig"]
