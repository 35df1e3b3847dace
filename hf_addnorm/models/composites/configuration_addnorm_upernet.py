"""Config of UperNet over an AddNorm backbone."""

from collections.abc import Mapping
from typing import ClassVar

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig, UperNetConfig

from ..base.protocols import JsonValue, OptionValue, StockValue
from ..core.addnorm_config import AddNormConfig, CodeCarryingConfig, refuse_near_miss
from .composite_config import as_dict, parse_part
from .part_families import BACKBONE_CONFIGS


_KEYS = ["backbone_config", "pool_scales", "use_auxiliary_head", "auxiliary_loss_weight", "loss_ignore_index"]
# the auxiliary head reads this map, counted from 0
_AUXILIARY_MAP = 2


@strict
class AddNormUperNetConfig(CodeCarryingConfig, UperNetConfig):
    r"""
    `UperNetConfig` whose backbone is an AddNorm model: a class for every pixel of an image.

        image -> backbone -> maps of features of several layers -> UperNet's head -> class of each pixel
                                                              +--> auxiliary head (its loss, in training alone)

    `image_size`, `patch_size`, `num_channels` and `num_hidden_layers` are the backbone's; `hidden_size` is the width
    of UperNet's head, as in the stock config.

    Source: UPerNet, Xiao et al., 2018, arXiv 1807.10221.

    Args:
        backbone_config (*optional*, defaults to `"dinov2"`): a config of one of the backbones in `part_families.py`
            (ours or stock), its dict (with `model_type`, and `add_norm` if wanted), the name of a family (with its
            default sizes), or a checkpoint's folder or Hub name, of which the config alone is taken. Where it says
            neither `out_features` nor `out_indices`, the maps are those after each quarter of the layers.
        hidden_size, pool_scales, use_auxiliary_head, auxiliary_loss_weight, ...: as in the stock config.

    Raises:
        ValueError: in one sentence, for a family that is not in the list, an auxiliary head without its map, and
            whatever the backbone's config refuses; the sentence names the entry.

    Examples:

    ```python
    >>> from hf_addnorm import AddNormUperNetConfig

    >>> config = AddNormUperNetConfig(backbone_config={"model_type": "dinov2", "add_norm": "pre_rms_norm"})
    >>> config.backbone_config.out_features
    ['stage3', 'stage6', 'stage9', 'stage12']
    ```"""

    model_type = "addnorm_upernet"
    stock_model_type: ClassVar[str] = "upernet"
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "AddNormUperNetForSemanticSegmentation",
        "AutoModelForSemanticSegmentation": "AddNormUperNetForSemanticSegmentation",
    }
    # the stock one is of any model type that is registered
    sub_configs_defaults: ClassVar[dict[str, JsonValue]] = {}

    # parsed on assignment, whatever it is set with
    backbone_config: OptionValue = None

    def __post_init__(self, **kwargs: StockValue) -> None:
        super().__post_init__(**kwargs)
        self.refuse()

    def __setattr__(self, key: str, value: StockValue) -> None:
        if key == "backbone_config":
            value = _parse_backbone(value or "dinov2")
        elif not hasattr(type(self), key):
            refuse_near_miss(key, _KEYS)
        super().__setattr__(key, value)

    @property
    def sub_configs(self) -> dict[str, type[PreTrainedConfig]]:
        """The backbone's config class: attention and dtype are set through it."""
        return {"backbone_config": type(self.backbone_config)}

    @classmethod
    def from_dict(cls, config_dict: dict[str, JsonValue], **kwargs: StockValue) -> StockValue:
        """As in Transformers; overrides are checked like the config's keys, a dict changes entries of the backbone."""
        for key in kwargs:
            refuse_near_miss(key, _KEYS)
        if isinstance(kwargs.get("backbone_config"), Mapping):
            changed = {**(config_dict.get("backbone_config") or {}), **kwargs.pop("backbone_config")}
            config_dict = config_dict | {"backbone_config": changed}
        result = super().from_dict(config_dict, **kwargs)
        (result[0] if isinstance(result, tuple) else result).refuse()
        return result

    def parts(self) -> dict[str, PreTrainedConfig]:
        return {"backbone": self.backbone_config}

    @property
    def image_size(self) -> StockValue:
        """The backbone's: a number, or height and width."""
        return self.backbone_config.image_size

    @property
    def patch_size(self) -> StockValue:
        """The backbone's."""
        return self.backbone_config.patch_size

    @property
    def num_channels(self) -> int:
        """The backbone's."""
        value: int = self.backbone_config.num_channels
        return value

    @property
    def num_hidden_layers(self) -> int:
        """The backbone's."""
        value: int = self.backbone_config.num_hidden_layers
        return value

    def refuse(self) -> None:
        """Refuse what does not fit together.

        Raises:
            ValueError: in one sentence.
        """
        maps = self.backbone_config.out_features
        if self.use_auxiliary_head and len(maps) <= _AUXILIARY_MAP:
            raise ValueError(
                f"use_auxiliary_head is true, and its head reads the map of number {_AUXILIARY_MAP + 1}, of "
                f"{', '.join(maps)}; allowed is false, or a backbone_config with more out_indices."
            )


def _parse_backbone(value: StockValue) -> AddNormConfig:
    entries = as_dict(value, "backbone_config", BACKBONE_CONFIGS)
    config = parse_part(entries, "backbone_config", BACKBONE_CONFIGS)
    if entries.get("out_features") is None and entries.get("out_indices") is None:
        layers = config.num_hidden_layers
        quarters: StockValue = sorted({max(1, layers * quarter // 4) for quarter in (1, 2, 3, 4)})
        config.out_indices = quarters
    return config


__all__ = ["AddNormUperNetConfig"]
