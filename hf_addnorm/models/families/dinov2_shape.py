"""What DINOv2 without and with registers share: where a layer's parts are. They are called as ViT's."""

from typing import ClassVar

from ..core.branch_norms import WithBranchNorms
from ..core.encoder import AddNormEncoder
from ..core.family_layout import FamilyLayout, SublayerLayout, numbered
from ..core.layer import AddNormLayer
from .vit_shape import vit_layout, vit_sublayers


class Dinov2ShapeSwiGLU(WithBranchNorms):
    """Mixin for a stock gated feed-forward; `up` is one norm for both first projections."""

    linear_roles: ClassVar = {"gate_proj": "w1", "up_proj": "w1", "down_proj": "w2"}


def dinov2_sublayers(
    attention: type[WithBranchNorms], feed_forward: type[WithBranchNorms]
) -> dict[str, SublayerLayout]:
    """The sublayers of DINOv2's layer, and the classes that recast their parts."""
    return vit_sublayers(
        attention,
        feed_forward,
        norms=("norm1", "norm2"),
        dropout=None,
        factors=("layer_scale1", "layer_scale2"),
        drop_path="drop_path",
    )


def dinov2_layout(layer: type[AddNormLayer], encoder: type[AddNormEncoder]) -> FamilyLayout:
    """DINOv2's layout.

    Args:
        layer, encoder: the classes that recast a layer and the encoder.
    """
    return vit_layout(layer, layers=numbered("encoder.layer"), encoder="encoder", encoder_class=encoder)
