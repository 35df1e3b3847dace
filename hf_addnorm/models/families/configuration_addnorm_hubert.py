"""Config of HuBERT with another add & norm."""

from typing import ClassVar

from huggingface_hub.dataclasses import strict
from transformers import HubertConfig

from ..base.protocols import JsonValue
from ..core.addnorm_config import AddNormConfig, AddNormEntry
from ..core.family_facts import FamilyFacts


@strict
class AddNormHubertConfig(AddNormConfig, HubertConfig):
    """`do_stable_layer_norm` says how the checkpoint's weights are laid out, `add_norm` what is done with them.

    In the stable layout the encoder's own norm stands after the layers, in the other one before them.
    """

    model_type = "addnorm_hubert"
    facts = FamilyFacts(inputs="sound")
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "AddNormHubertModel",
        "AutoModelForCTC": "AddNormHubertForCTC",
        "AutoModelForAudioClassification": "AddNormHubertForSequenceClassification",
    }

    add_norm: AddNormEntry = None

    def add_norm_stays_on_sphere(self) -> bool:
        # a language's adapter adds to the stream by itself
        return getattr(self, "adapter_attn_dim", None) is None

    def stock_add_norm(self) -> dict[str, JsonValue]:
        return {"preset": "pre_ln" if self.do_stable_layer_norm else "post_ln"}


__all__ = ["AddNormHubertConfig"]
