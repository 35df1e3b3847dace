"""Config of BERT with another add & norm."""

from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import BertConfig

from ..core.addnorm_config import AddNormConfig


@strict
class AddNormBertConfig(AddNormConfig, BertConfig):
    r"""
    `BertConfig` with one more entry, `add_norm`.

    Args:
        add_norm (`str`, `dict` or `AddNormSpec`, *optional*):
            The add & norm scheme: a preset's name (`"pre_ln"`, `"deepnorm"`, ...) or a dict of axes over one
            (`{"preset": "post_ln", "norm": "rms_norm"}`). By default `"post_ln"`, stock BERT. Always read back as a
            resolved [`AddNormSpec`].

    Raises:
        ValueError: if `add_norm` names something unknown or contradicts itself.

    Examples:

    ```python
    >>> from hf_addnorm import AddNormBertConfig

    >>> config = AddNormBertConfig(add_norm={"preset": "pre_ln", "norm": "rms_norm"})
    >>> config.add_norm.norm.kind
    'rms_norm'
    ```"""

    model_type = "addnorm_bert"
    stock_model_type: ClassVar[str] = "bert"
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "AddNormBertModel",
        "AutoModelForTextEncoding": "AddNormBertModel",
        "AutoModelForPreTraining": "AddNormBertForPreTraining",
        "AutoModelForCausalLM": "AddNormBertLMHeadModel",
        "AutoModelForMaskedLM": "AddNormBertForMaskedLM",
        "AutoModelForNextSentencePrediction": "AddNormBertForNextSentencePrediction",
        "AutoModelForSequenceClassification": "AddNormBertForSequenceClassification",
        "AutoModelForMultipleChoice": "AddNormBertForMultipleChoice",
        "AutoModelForTokenClassification": "AddNormBertForTokenClassification",
        "AutoModelForQuestionAnswering": "AddNormBertForQuestionAnswering",
    }

    # parsed on assignment, whatever it is set with
    add_norm: Any = None

    def add_norm_has_position_table(self) -> bool:
        return True


__all__ = ["AddNormBertConfig"]
