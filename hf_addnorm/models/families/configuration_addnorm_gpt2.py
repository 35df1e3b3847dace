"""Config of GPT-2 with another add & norm."""

from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import GPT2Config

from ..core.addnorm_config import AddNormConfig


@strict
class AddNormGPT2Config(AddNormConfig, GPT2Config):
    r"""
    `GPT2Config` with one more entry, `add_norm`.

    Args:
        add_norm (`str`, `dict` or `AddNormSpec`, *optional*):
            The add & norm scheme, see [`AddNormSpec`]. By default `"pre_ln"`, stock GPT-2.

    Raises:
        ValueError: if `add_norm` names something unknown or contradicts itself.

    Examples:

    ```python
    >>> from hf_addnorm import AddNormGPT2Config

    >>> AddNormGPT2Config(add_norm="rezero").add_norm.residual.kind
    'scalar'
    ```"""

    model_type = "addnorm_gpt2"
    stock_model_type: ClassVar[str] = "gpt2"
    norm_eps_key: ClassVar[str] = "layer_norm_epsilon"
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "AddNormGPT2Model",
        "AutoModelForPreTraining": "AddNormGPT2LMHeadModel",
        "AutoModelForCausalLM": "AddNormGPT2LMHeadModel",
        "AutoModelForSequenceClassification": "AddNormGPT2ForSequenceClassification",
        "AutoModelForTokenClassification": "AddNormGPT2ForTokenClassification",
        "AutoModelForQuestionAnswering": "AddNormGPT2ForQuestionAnswering",
    }

    # parsed on assignment, whatever it is set with
    add_norm: Any = None

    def add_norm_has_position_table(self) -> bool:
        return True

    def stock_add_norm(self) -> dict[str, Any]:
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
