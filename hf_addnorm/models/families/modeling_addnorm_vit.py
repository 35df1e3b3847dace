"""ViT with another add & norm: the base model and its heads."""

from transformers.models.vit import modeling_vit as stock

from ..core.pretrained import AddNormPreTrainedModel
from .configuration_addnorm_vit import AddNormViTConfig
from .vit_shape import ViTShapeAttention, ViTShapeLayer, ViTShapeMLP, vit_layout, vit_sublayers


class AddNormViTAttention(ViTShapeAttention, stock.ViTAttention): ...


class AddNormViTMLP(ViTShapeMLP, stock.ViTMLP): ...


class AddNormViTLayer(ViTShapeLayer, stock.ViTLayer):
    sublayers = vit_sublayers(AddNormViTAttention, AddNormViTMLP)


class AddNormViTPreTrainedModel(AddNormPreTrainedModel, stock.ViTPreTrainedModel):
    config: AddNormViTConfig
    layout = vit_layout(AddNormViTLayer)


class AddNormViTModel(AddNormViTPreTrainedModel, stock.ViTModel): ...


class AddNormViTForMaskedImageModeling(AddNormViTPreTrainedModel, stock.ViTForMaskedImageModeling): ...


class AddNormViTForImageClassification(AddNormViTPreTrainedModel, stock.ViTForImageClassification): ...
