"""BEiT with another add & norm: the base model, its heads and its backbone."""

import torch
from torch import nn
from transformers.models.beit import modeling_beit as stock

from ..base.protocols import StockValue
from ..core.branch_norms import BranchNorms
from ..core.family_layout import FamilyLayout
from ..core.layer import AddNormLayer
from ..core.pretrained import AddNormPreTrainedModel
from ..streams.streams import LayerState, readable
from .configuration_addnorm_beit import AddNormBeitConfig
from .vit_shape import ViTShapeAttention, ViTShapeMLP, vit_layout, vit_sublayers


class AddNormBeitAttention(ViTShapeAttention, stock.BeitAttention): ...


class AddNormBeitMLP(ViTShapeMLP, stock.BeitMLP): ...


class AddNormBeitLayer(AddNormLayer, stock.BeitLayer):
    """A BEiT layer whose sublayers run through add & norm blocks.

    x -> attention -> feed-forward -> x      each inside its add & norm block

    What its attention adds to the scores for the distances of patches goes with the attention mask.
    """

    patch_size: StockValue
    sublayers = vit_sublayers(
        AddNormBeitAttention, AddNormBeitMLP, factors=("lambda_1", "lambda_2"), drop_path="drop_path"
    )

    def forward(
        self,
        hidden_states: LayerState,
        attention_mask: torch.Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        resolution: tuple[int, int] | None = None,
        **kwargs: StockValue,
    ) -> LayerState:
        if self.relative_position_bias is not None and resolution is not None:
            window = (resolution[0] // self.patch_size, resolution[1] // self.patch_size)
            tokens = readable(hidden_states).shape[1]
            bias = self.relative_position_bias(window, interpolate_pos_encoding, dim_size=tokens)
            attention_mask = bias if attention_mask is None else bias + attention_mask

        def attend(u: torch.Tensor, branch_norms: BranchNorms) -> torch.Tensor:
            return self.attention(u, attention_mask=attention_mask, branch_norms=branch_norms, **kwargs)[0]

        def feed_forward(u: torch.Tensor, branch_norms: BranchNorms) -> torch.Tensor:
            return self.mlp(u, branch_norms=branch_norms)

        return self.run(hidden_states, {"attention": attend, "feed_forward": feed_forward})


class AddNormBeitFinalPlace(nn.Identity):
    """The place behind the last layer where the stock model has no norm: the one of a scheme, as `final_norm`.

    A norm in the place itself would have the name that a head's norm has in a checkpoint.
    """

    final_norm: nn.Module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.final_norm(x)


_HEAD_NORMS = ("layernorm", "beit.pooler.layernorm")


class AddNormBeitPreTrainedModel(AddNormPreTrainedModel, stock.BeitPreTrainedModel):
    config: AddNormBeitConfig
    layout = vit_layout(AddNormBeitLayer, head_norms=_HEAD_NORMS)
    pooled_layout = vit_layout(
        AddNormBeitLayer,
        head_norms=_HEAD_NORMS,
        final_norm="layernorm.final_norm",
        other_parts={"layernorm": AddNormBeitFinalPlace},
    )

    @classmethod
    def layout_of(cls, config: StockValue) -> FamilyLayout:
        # CODEPATH: the classifiers of microsoft/beit-* have their last norm behind the mean, in the pooler
        return cls.pooled_layout if config.use_mean_pooling else cls.layout


class AddNormBeitModel(AddNormBeitPreTrainedModel, stock.BeitModel): ...


class AddNormBeitForMaskedImageModeling(AddNormBeitPreTrainedModel, stock.BeitForMaskedImageModeling): ...


class AddNormBeitForImageClassification(AddNormBeitPreTrainedModel, stock.BeitForImageClassification): ...


class AddNormBeitForSemanticSegmentation(AddNormBeitPreTrainedModel, stock.BeitForSemanticSegmentation): ...


class AddNormBeitBackbone(AddNormBeitPreTrainedModel, stock.BeitBackbone): ...
