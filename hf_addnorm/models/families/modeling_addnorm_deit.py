"""DeiT with another add & norm: the base model and its heads."""

from transformers.models.deit import modeling_deit as stock

from ..core.pretrained import AddNormPreTrainedModel
from .configuration_addnorm_deit import AddNormDeiTConfig
from .vit_shape import ViTShapeAttention, ViTShapeLayer, ViTShapeMLP, vit_layout, vit_sublayers


class AddNormDeiTAttention(ViTShapeAttention, stock.DeiTAttention): ...


class AddNormDeiTMLP(ViTShapeMLP, stock.DeiTMLP): ...


class AddNormDeiTLayer(ViTShapeLayer, stock.DeiTLayer):
    sublayers = vit_sublayers(AddNormDeiTAttention, AddNormDeiTMLP)


class AddNormDeiTPreTrainedModel(AddNormPreTrainedModel, stock.DeiTPreTrainedModel):
    config: AddNormDeiTConfig
    layout = vit_layout(AddNormDeiTLayer)


class AddNormDeiTModel(AddNormDeiTPreTrainedModel, stock.DeiTModel): ...


class AddNormDeiTForMaskedImageModeling(AddNormDeiTPreTrainedModel, stock.DeiTForMaskedImageModeling): ...


class AddNormDeiTForImageClassification(AddNormDeiTPreTrainedModel, stock.DeiTForImageClassification): ...


class AddNormDeiTForImageClassificationWithTeacher(
    AddNormDeiTPreTrainedModel, stock.DeiTForImageClassificationWithTeacher
): ...
