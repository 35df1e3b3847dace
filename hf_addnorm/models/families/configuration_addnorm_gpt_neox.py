"""Config of GPT-NeoX with another add & norm."""

from typing import ClassVar

from huggingface_hub.dataclasses import strict
from transformers import GPTNeoXConfig

from ..base.protocols import JsonValue
from ..core.addnorm_config import AddNormConfig, AddNormEntry


@strict
class AddNormGPTNeoXConfig(AddNormConfig, GPTNeoXConfig):
    """With `use_parallel_residual`, the default, the stock scheme is `pre_ln` with the wiring `parallel` and a norm
    for each branch; without, it is `pre_ln`. An `add_norm` that begins with a preset says its own wiring.
    """

    model_type = "addnorm_gpt_neox"
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "AddNormGPTNeoXModel",
        "AutoModelForCausalLM": "AddNormGPTNeoXForCausalLM",
        "AutoModelForSequenceClassification": "AddNormGPTNeoXForSequenceClassification",
        "AutoModelForTokenClassification": "AddNormGPTNeoXForTokenClassification",
        "AutoModelForQuestionAnswering": "AddNormGPTNeoXForQuestionAnswering",
    }

    add_norm: AddNormEntry = None

    def stock_add_norm(self) -> dict[str, JsonValue]:
        in_parallel = {"wiring": {"kind": "parallel", "shared_norm": False}}
        return {"preset": "pre_ln", **(in_parallel if self.use_parallel_residual else {})}

    def add_norm_stays_on_sphere(self) -> bool:
        # q and k are rotated behind their norms, and a gain per feature does not commute with that
        return False

    def add_norm_is_causal(self) -> bool:
        return True


__all__ = ["AddNormGPTNeoXConfig"]
