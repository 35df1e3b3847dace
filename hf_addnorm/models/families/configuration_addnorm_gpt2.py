"""Config of GPT-2 with another add & norm."""

from typing import ClassVar

from huggingface_hub.dataclasses import strict
from transformers import GPT2Config

from ..base.protocols import JsonValue
from ..core.addnorm_config import AddNormConfig, AddNormEntry
from ..core.family_facts import FamilyFacts


@strict
class AddNormGPT2Config(AddNormConfig, GPT2Config):
    model_type = "addnorm_gpt2"
    facts = FamilyFacts(norm_eps="layer_norm_epsilon", position_table=True)
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "AddNormGPT2Model",
        "AutoModelForPreTraining": "AddNormGPT2LMHeadModel",
        "AutoModelForCausalLM": "AddNormGPT2LMHeadModel",
        "AutoModelForSequenceClassification": "AddNormGPT2ForSequenceClassification",
        "AutoModelForTokenClassification": "AddNormGPT2ForTokenClassification",
        "AutoModelForQuestionAnswering": "AddNormGPT2ForQuestionAnswering",
    }

    add_norm: AddNormEntry = None

    def stock_add_norm(self) -> dict[str, JsonValue]:
        return {"preset": "pre_ln"}

    def add_norm_stays_on_sphere(self) -> bool:
        # it may have other scores
        return self.scale_attn_weights and not self.scale_attn_by_inverse_layer_idx

    def add_norm_is_causal(self) -> bool:
        return True

    def slot_width(self, sublayer: str, slot: str, qkv_width: str) -> int:
        if sublayer == "feed_forward" and slot in ("up", "mid"):
            return self.n_inner or 4 * self.hidden_size
        return super().slot_width(sublayer, slot, qkv_width)


__all__ = ["AddNormGPT2Config"]
