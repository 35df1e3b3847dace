"""Config of OPT with another add & norm."""

from typing import ClassVar

from huggingface_hub.dataclasses import strict
from transformers import OPTConfig

from ..base.protocols import JsonValue
from ..core.addnorm_config import AddNormConfig, AddNormEntry
from ..core.family_facts import FamilyFacts


@strict
class AddNormOPTConfig(AddNormConfig, OPTConfig):
    """`do_layer_norm_before` says how the checkpoint's weights are laid out, `add_norm` what is done with them.

    The stock scheme is `pre_ln`; without `do_layer_norm_before` (opt-350m) `post_ln`. `_remove_final_layer_norm` and
    `layer_norm_elementwise_affine=False` are `final: False` and norms without gain and bias.
    """

    model_type = "addnorm_opt"
    facts = FamilyFacts(position_table=True)
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "AddNormOPTModel",
        "AutoModelForCausalLM": "AddNormOPTForCausalLM",
        "AutoModelForSequenceClassification": "AddNormOPTForSequenceClassification",
        "AutoModelForQuestionAnswering": "AddNormOPTForQuestionAnswering",
    }

    add_norm: AddNormEntry = None

    def stock_add_norm(self) -> dict[str, JsonValue]:
        spec: dict[str, JsonValue] = {"preset": "pre_ln" if self.do_layer_norm_before else "post_ln"}
        if self.do_layer_norm_before and self._remove_final_layer_norm:
            spec["final"] = False
        if not self.layer_norm_elementwise_affine:
            spec["norm"] = {"kind": "layer_norm", "gain": False, "bias": False}
        return spec

    def add_norm_stays_on_sphere(self) -> bool:
        # the states that the output layer reads may be projected again
        return self.word_embed_proj_dim == self.hidden_size

    def add_norm_eps(self) -> float:
        # that of torch.nn.LayerNorm, which the stock model leaves as it is
        return 1e-5

    def add_norm_is_causal(self) -> bool:
        return True

    def slot_width(self, sublayer: str, slot: str, qkv_width: str) -> int:
        if sublayer == "feed_forward" and slot in ("up", "mid"):
            return self.ffn_dim
        return super().slot_width(sublayer, slot, qkv_width)


__all__ = ["AddNormOPTConfig"]
