"""DINOv2 with registers with another add & norm: the base model, its head and its backbone."""

from transformers.models.dinov2_with_registers import modeling_dinov2_with_registers as stock

from ..base.protocols import StockValue
from ..core.encoder import AddNormEncoderModel
from ..core.family_layout import FamilyLayout
from ..core.pretrained import AddNormPreTrainedModel
from .configuration_addnorm_dinov2_with_registers import AddNormDinov2WithRegistersConfig
from .dinov2_shape import Dinov2ShapeSwiGLU, dinov2_layout, dinov2_sublayers
from .vit_shape import ViTShapeAttention, ViTShapeLayer, ViTShapeMLP


class AddNormDinov2WithRegistersAttention(ViTShapeAttention, stock.Dinov2WithRegistersAttention): ...


class AddNormDinov2WithRegistersMLP(ViTShapeMLP, stock.Dinov2WithRegistersMLP): ...


class AddNormDinov2WithRegistersSwiGLUFFN(Dinov2ShapeSwiGLU, stock.Dinov2WithRegistersSwiGLUFFN): ...


class AddNormDinov2WithRegistersLayer(ViTShapeLayer, stock.Dinov2WithRegistersLayer):
    sublayers = dinov2_sublayers(AddNormDinov2WithRegistersAttention, AddNormDinov2WithRegistersMLP)


class AddNormDinov2WithRegistersGatedLayer(ViTShapeLayer, stock.Dinov2WithRegistersLayer):
    sublayers = dinov2_sublayers(AddNormDinov2WithRegistersAttention, AddNormDinov2WithRegistersSwiGLUFFN)


class AddNormDinov2WithRegistersEncoder(AddNormEncoderModel, stock.Dinov2WithRegistersEncoder): ...


class AddNormDinov2WithRegistersPreTrainedModel(AddNormPreTrainedModel, stock.Dinov2WithRegistersPreTrainedModel):
    config: AddNormDinov2WithRegistersConfig
    layout = dinov2_layout(AddNormDinov2WithRegistersLayer, AddNormDinov2WithRegistersEncoder)
    gated_layout = dinov2_layout(AddNormDinov2WithRegistersGatedLayer, AddNormDinov2WithRegistersEncoder)

    @classmethod
    def layout_of(cls, config: StockValue) -> FamilyLayout:
        # CODEPATH: facebook/dinov2-with-registers-giant has a gated feed-forward, the smaller ones have not
        return cls.gated_layout if config.use_swiglu_ffn else cls.layout


class AddNormDinov2WithRegistersModel(AddNormDinov2WithRegistersPreTrainedModel, stock.Dinov2WithRegistersModel): ...


class AddNormDinov2WithRegistersForImageClassification(
    AddNormDinov2WithRegistersPreTrainedModel, stock.Dinov2WithRegistersForImageClassification
): ...


class AddNormDinov2WithRegistersBackbone(
    AddNormDinov2WithRegistersPreTrainedModel, stock.Dinov2WithRegistersBackbone
): ...
