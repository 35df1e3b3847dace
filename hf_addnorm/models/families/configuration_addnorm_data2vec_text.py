"""Config of Data2VecText with another add & norm."""

from typing import ClassVar

from huggingface_hub.dataclasses import strict
from transformers import Data2VecTextConfig

from ..core.addnorm_config import AddNormConfig, AddNormEntry
from ..core.family_facts import FamilyFacts


@strict
class AddNormData2VecTextConfig(AddNormConfig, Data2VecTextConfig):
    model_type = "addnorm_data2vec_text"
    facts = FamilyFacts(position_table=True)
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "AddNormData2VecTextModel",
        "AutoModelForTextEncoding": "AddNormData2VecTextModel",
        "AutoModelForPreTraining": "AddNormData2VecTextForMaskedLM",
        "AutoModelForCausalLM": "AddNormData2VecTextForCausalLM",
        "AutoModelForMaskedLM": "AddNormData2VecTextForMaskedLM",
        "AutoModelForSequenceClassification": "AddNormData2VecTextForSequenceClassification",
        "AutoModelForMultipleChoice": "AddNormData2VecTextForMultipleChoice",
        "AutoModelForTokenClassification": "AddNormData2VecTextForTokenClassification",
        "AutoModelForQuestionAnswering": "AddNormData2VecTextForQuestionAnswering",
    }

    add_norm: AddNormEntry = None


__all__ = ["AddNormData2VecTextConfig"]
