"""Config of BEiT with another add & norm."""

from typing import ClassVar

from huggingface_hub.dataclasses import strict
from transformers import BeitConfig

from ..base.protocols import JsonValue
from ..core.addnorm_config import AddNormConfig, AddNormEntry
from ..core.family_facts import FamilyFacts, stage_names


@strict
class AddNormBeitConfig(AddNormConfig, BeitConfig):
    """The stock scheme is pre-norm with a learned factor for each feature of a branch (LayerScale) that starts at
    `layer_scale_init_value`, and stochastic depth that grows to the rate `drop_path_rate`. Another `add_norm` says its
    own. With `use_mean_pooling` the stock model has its last norm behind the mean, in the pooler, and none in `final`.
    """

    model_type = "addnorm_beit"
    facts = FamilyFacts(inputs="image", of_depth={"stage_names": stage_names})
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "AddNormBeitModel",
        "AutoBackbone": "AddNormBeitBackbone",
        "AutoModelForImageClassification": "AddNormBeitForImageClassification",
        "AutoModelForSemanticSegmentation": "AddNormBeitForSemanticSegmentation",
    }

    add_norm: AddNormEntry = None

    def stock_add_norm(self) -> dict[str, JsonValue]:
        spec: dict[str, JsonValue] = {"preset": "pre_ln", "final": not self.use_mean_pooling}
        if self.layer_scale_init_value > 0:
            spec["residual"] = {"kind": "vector", "start": self.layer_scale_init_value}
        # of a single layer it is 0
        if self.num_hidden_layers > 1:
            spec["drop_path"] = {"kind": "linear", "last": self.drop_path_rate}
        return spec

    def add_norm_is_normed_behind(self) -> bool:
        return self.use_mean_pooling


__all__ = ["AddNormBeitConfig"]
