"""DINOv2 with another add & norm: the base model, its head and its backbone."""

from transformers.models.dinov2 import modeling_dinov2 as stock

from ..base.protocols import StockValue
from ..core.encoder import AddNormEncoderModel
from ..core.family_layout import FamilyLayout
from ..core.pretrained import AddNormPreTrainedModel
from .configuration_addnorm_dinov2 import AddNormDinov2Config
from .dinov2_shape import Dinov2ShapeSwiGLU, dinov2_layout, dinov2_sublayers
from .vit_shape import ViTShapeAttention, ViTShapeLayer, ViTShapeMLP


class AddNormDinov2Attention(ViTShapeAttention, stock.Dinov2Attention): ...


class AddNormDinov2MLP(ViTShapeMLP, stock.Dinov2MLP): ...


class AddNormDinov2SwiGLUFFN(Dinov2ShapeSwiGLU, stock.Dinov2SwiGLUFFN): ...


class AddNormDinov2Layer(ViTShapeLayer, stock.Dinov2Layer):
    sublayers = dinov2_sublayers(AddNormDinov2Attention, AddNormDinov2MLP)


class AddNormDinov2GatedLayer(ViTShapeLayer, stock.Dinov2Layer):
    sublayers = dinov2_sublayers(AddNormDinov2Attention, AddNormDinov2SwiGLUFFN)


class AddNormDinov2Encoder(AddNormEncoderModel, stock.Dinov2Encoder): ...


class AddNormDinov2PreTrainedModel(AddNormPreTrainedModel, stock.Dinov2PreTrainedModel):
    config: AddNormDinov2Config
    layout = dinov2_layout(AddNormDinov2Layer, AddNormDinov2Encoder)
    gated_layout = dinov2_layout(AddNormDinov2GatedLayer, AddNormDinov2Encoder)

    @classmethod
    def layout_of(cls, config: StockValue) -> FamilyLayout:
        # CODEPATH: facebook/dinov2-giant has a gated feed-forward, the smaller ones have not
        return cls.gated_layout if config.use_swiglu_ffn else cls.layout


class AddNormDinov2Model(AddNormDinov2PreTrainedModel, stock.Dinov2Model): ...


class AddNormDinov2ForImageClassification(AddNormDinov2PreTrainedModel, stock.Dinov2ForImageClassification): ...


class AddNormDinov2Backbone(AddNormDinov2PreTrainedModel, stock.Dinov2Backbone): ...
