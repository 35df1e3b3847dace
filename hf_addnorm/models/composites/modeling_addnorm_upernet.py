"""UperNet over an AddNorm backbone."""

import os

from transformers import PreTrainedModel, UperNetForSemanticSegmentation
from transformers.models.upernet.modeling_upernet import UperNetFCNHead, UperNetHead

from ..base.protocols import JsonValue, StockValue
from ..base.registry import one_of
from ..core.pretrained import AddNormPreTrainedModel
from .composite import CompositeModel, share_config
from .composite_config import family_of
from .configuration_addnorm_upernet import AddNormUperNetConfig
from .part_families import BACKBONE_CONFIGS, BACKBONES


class AddNormUperNetForSemanticSegmentation(CompositeModel, UperNetForSemanticSegmentation):
    """`UperNetForSemanticSegmentation` over an AddNorm backbone; same arguments, same outputs, same keys.

        image -> backbone -> maps of features of several layers -> UperNet's head -> class of each pixel
                                                              +--> auxiliary head (its loss, in training alone)

    What differs from the stock class: its folder loads without this package installed; the backbone's mask token,
    which nothing reads, is there and frozen (with a parameter without a gradient DDP stops).

    Its head has BatchNorm over maps as small as one point: a training batch has at least two images.

    Args:
        config (`AddNormUperNetConfig`): with that of the backbone.
        backbone (`PreTrainedModel`, *optional*): an AddNorm backbone to use, in place of a new one.
    """

    config: AddNormUperNetConfig
    config_class = AddNormUperNetConfig

    def __init__(self, config: AddNormUperNetConfig, backbone: PreTrainedModel | None = None):
        # not the stock class's own, which knows backbones by the Auto class alone
        super(UperNetForSemanticSegmentation, self).__init__(config)
        part_config = config.backbone_config
        if backbone is None:
            self.backbone: StockValue = BACKBONES[part_config.model_type](part_config)
        else:
            _refuse_model(backbone)
            self.backbone = backbone
        share_config(self.backbone, part_config)
        self.decode_head = UperNetHead(config, in_channels=self.backbone.channels)
        # CODEPATH: openmmlab/upernet-* have this head, which is for training alone; a new model may leave it out
        self.auxiliary_head = UperNetFCNHead(config, self.backbone.channels) if config.use_auxiliary_head else None
        for name, parameter in self.backbone.named_parameters():
            if name.endswith("mask_token"):
                parameter.requires_grad_(False)
        self.post_init()

    @property
    def parts(self) -> list[AddNormPreTrainedModel]:
        return [self.backbone]

    @classmethod
    def from_pretrained_backbone(
        cls,
        checkpoint: str | os.PathLike[str],
        add_norm: JsonValue = None,
        loading: dict[str, StockValue] | None = None,
        **kwargs: StockValue,
    ) -> "AddNormUperNetForSemanticSegmentation":
        """UperNet over the backbone of a checkpoint, a stock one or ours; the heads have their start values.

        Args:
            checkpoint (`str`): a folder or a Hub name, of a model with or without a head.
            add_norm (`str`, `dict` or `AddNormSpec`, *optional*): the scheme to load into; by default its own.
            loading (`dict`, *optional*): goes to the backbone's `from_pretrained` (`dtype`, `revision`, ...); also
                entries of its config (`out_indices`, ...).
            kwargs: the other entries of [`AddNormUperNetConfig`].
        Returns:
            The model, in evaluation mode.
        Raises:
            ValueError: a family that is not in the list, or as [`AddNormUperNetConfig`].
        """
        config_class = family_of(checkpoint, BACKBONE_CONFIGS, "a backbone is one of")
        entries = config_class.get_config_dict(checkpoint)[0]
        given = {"add_norm": add_norm, **(loading or {})}
        if not {"out_features", "out_indices"} & given.keys():
            # of a model that is no backbone
            plain = {key: entry for key, entry in entries.items() if key not in ("out_features", "out_indices")}
            given["out_indices"] = cls.config_class(backbone_config=plain).backbone_config.out_indices
        backbone = BACKBONES[config_class.model_type].from_pretrained(checkpoint, **given)
        model = cls(cls.config_class(backbone_config=backbone.config, **kwargs), backbone)
        model.eval()
        return model


def _refuse_model(backbone: PreTrainedModel) -> None:
    """Refuse models of other families, and stock ones: their configs would be saved as ours."""
    names = [known.__name__ for known in BACKBONES.values()]
    if type(backbone).__name__ not in names:
        raise ValueError(f"the backbone is a {type(backbone).__name__}; allowed is {one_of(names)}.")


__all__ = ["AddNormUperNetForSemanticSegmentation"]
