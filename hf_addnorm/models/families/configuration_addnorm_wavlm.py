"""Config of WavLM with another add & norm."""

from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import WavLMConfig

from ..core.addnorm_config import AddNormConfig
from ..core.family_facts import FamilyFacts


@strict
class AddNormWavLMConfig(AddNormConfig, WavLMConfig):
    """`do_stable_layer_norm` says how the checkpoint's weights are laid out, `add_norm` what is done with them.

    In the stable layout the encoder's own norm stands after the layers, in the other one before them.
    """

    model_type = "addnorm_wavlm"
    facts = FamilyFacts(inputs="sound")
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "AddNormWavLMModel",
        "AutoModelForCTC": "AddNormWavLMForCTC",
        "AutoModelForAudioClassification": "AddNormWavLMForSequenceClassification",
        "AutoModelForAudioFrameClassification": "AddNormWavLMForAudioFrameClassification",
        "AutoModelForAudioXVector": "AddNormWavLMForXVector",
    }

    add_norm: Any = None

    def stock_add_norm(self) -> dict[str, Any]:
        return {"preset": "pre_ln" if self.do_stable_layer_norm else "post_ln"}


__all__ = ["AddNormWavLMConfig"]
