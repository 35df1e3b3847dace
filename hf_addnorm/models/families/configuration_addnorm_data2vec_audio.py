"""Config of Data2VecAudio with another add & norm."""

from typing import ClassVar

from huggingface_hub.dataclasses import strict
from transformers import Data2VecAudioConfig

from ..core.addnorm_config import AddNormConfig, AddNormEntry
from ..core.family_facts import FamilyFacts


@strict
class AddNormData2VecAudioConfig(AddNormConfig, Data2VecAudioConfig):
    model_type = "addnorm_data2vec_audio"
    facts = FamilyFacts(inputs="sound")
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "AddNormData2VecAudioModel",
        "AutoModelForCTC": "AddNormData2VecAudioForCTC",
        "AutoModelForAudioClassification": "AddNormData2VecAudioForSequenceClassification",
        "AutoModelForAudioFrameClassification": "AddNormData2VecAudioForAudioFrameClassification",
        "AutoModelForAudioXVector": "AddNormData2VecAudioForXVector",
    }

    add_norm: AddNormEntry = None


__all__ = ["AddNormData2VecAudioConfig"]
