"""What families whose layers are ViT's share: where a layer's parts are, and how they are called.

Their stock layers have ViT's paths, and differ in nothing but their names: DeiT, ...
"""

from typing import ClassVar

import torch

from ..base.protocols import OptionValue, StockModule, StockValue
from ..core.branch_norms import BranchNorms, WithBranchNorms
from ..core.family_layout import FamilyLayout, SublayerLayout, numbered
from ..core.layer import AddNormLayer
from ..streams.streams import LayerState


class ViTShapeAttention(WithBranchNorms):
    """Mixin for a stock attention with its output projection."""

    linear_roles: ClassVar = {"q_proj": "q", "k_proj": "k", "v_proj": "v", "o_proj": "o"}


class ViTShapeMLP(WithBranchNorms):
    """Mixin for a stock feed-forward of two Linear layers."""

    linear_roles: ClassVar = {"fc1": "w1", "fc2": "w2"}


def vit_sublayers(
    attention: type[WithBranchNorms],
    mlp: type[WithBranchNorms],
    norms: tuple[str, str] = ("layernorm_before", "layernorm_after"),
    dropout: str | None = "dropout",
    factors: tuple[str | None, str | None] = (None, None),
    drop_path: str | None = None,
) -> dict[str, SublayerLayout]:
    """The sublayers of ViT's layer, attention and feed-forward.

    Args:
        attention, mlp: the classes that recast their parts.
        norms, factors: of each, as in `SublayerLayout`.
        dropout, drop_path: of both.
    """
    parts: tuple[dict[str, type[WithBranchNorms]], ...] = ({"attention": attention}, {"mlp": mlp})
    return {
        name: SublayerLayout(norms={"pre": norm}, dropout=dropout, parts=part, factor=factor, drop_path=drop_path)
        for name, norm, part, factor in zip(("attention", "feed_forward"), norms, parts, factors, strict=True)
    }


def vit_layout(layer: type[AddNormLayer], **others: OptionValue) -> FamilyLayout:
    """ViT's layout; the base model runs the layers itself.

    Args:
        layer: the class that recasts a layer.
        others: as in `FamilyLayout`.
    """
    vit: dict[str, OptionValue] = {
        "layers": numbered("layers"),
        "embed_dropout": "embeddings.dropout",
        "final_norm": "layernorm",
    }
    return FamilyLayout(cannot_pack="an image has no padding", layer=layer, **(vit | others))


class ViTShapeLayer(AddNormLayer):
    """Mixin for a stock layer of ViT's shape, whose sublayers run through add & norm blocks.

    x -> attention -> feed-forward -> x      each inside its add & norm block
    """

    attention: StockModule
    mlp: StockModule

    def forward(
        self, hidden_states: LayerState, attention_mask: torch.Tensor | None = None, **kwargs: StockValue
    ) -> LayerState:
        def attend(u: torch.Tensor, branch_norms: BranchNorms) -> torch.Tensor:
            return self.attention(u, attention_mask, branch_norms=branch_norms, **kwargs)[0]

        def feed_forward(u: torch.Tensor, branch_norms: BranchNorms) -> torch.Tensor:
            return self.mlp(u, branch_norms=branch_norms)

        return self.run(hidden_states, {"attention": attend, "feed_forward": feed_forward})
