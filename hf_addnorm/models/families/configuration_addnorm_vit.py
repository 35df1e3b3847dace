"""Config of ViT with another add & norm."""

from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import ViTConfig

from ..core.addnorm_config import AddNormConfig


@strict
class AddNormViTConfig(AddNormConfig, ViTConfig):
    r"""
    `ViTConfig` with one more entry, `add_norm`.

    Args:
        add_norm (`str`, `dict` or `AddNormSpec`, *optional*):
            The add & norm scheme, see [`AddNormSpec`]. By default `"pre_ln"`, stock ViT.

    Raises:
        ValueError: if `add_norm` names something unknown or contradicts itself.

    Examples:

    ```python
    >>> from hf_addnorm import AddNormViTConfig

    >>> AddNormViTConfig(add_norm="post_ln").add_norm.final
    False
    ```"""

    model_type = "addnorm_vit"
    stock_model_type: ClassVar[str] = "vit"
    has_tables = False
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "AddNormViTModel",
        "AutoModelForImageClassification": "AddNormViTForImageClassification",
        "AutoModelForMaskedImageModeling": "AddNormViTForMaskedImageModeling",
    }

    # parsed on assignment, whatever it is set with
    add_norm: Any = None

    def stock_add_norm(self) -> dict[str, Any]:
        return {"preset": "pre_ln"}


__all__ = ["AddNormViTConfig"]
