"""LayoutLM with another add & norm: the base model and its heads."""

from transformers.models.layoutlm import modeling_layoutlm as stock

from ..core.encoder import AddNormEncoder
from ..core.pretrained import AddNormPreTrainedModel
from .bert_shape import BertShapeAttention, BertShapeIntermediate, BertShapeLayer, bert_layout, bert_sublayers
from .configuration_addnorm_layoutlm import AddNormLayoutLMConfig


class AddNormLayoutLMSelfAttention(BertShapeAttention, stock.LayoutLMSelfAttention): ...


class AddNormLayoutLMIntermediate(BertShapeIntermediate, stock.LayoutLMIntermediate): ...


class AddNormLayoutLMLayer(BertShapeLayer, stock.LayoutLMLayer):
    sublayers = bert_sublayers(AddNormLayoutLMSelfAttention, AddNormLayoutLMIntermediate)


class AddNormLayoutLMEncoder(AddNormEncoder, stock.LayoutLMEncoder): ...


class AddNormLayoutLMPreTrainedModel(AddNormPreTrainedModel, stock.LayoutLMPreTrainedModel):
    config: AddNormLayoutLMConfig
    layout = bert_layout(
        AddNormLayoutLMLayer, AddNormLayoutLMEncoder, head_norms=("cls.predictions.transform.LayerNorm",)
    )


class AddNormLayoutLMModel(AddNormLayoutLMPreTrainedModel, stock.LayoutLMModel): ...


class AddNormLayoutLMForMaskedLM(AddNormLayoutLMPreTrainedModel, stock.LayoutLMForMaskedLM): ...


class AddNormLayoutLMForSequenceClassification(
    AddNormLayoutLMPreTrainedModel, stock.LayoutLMForSequenceClassification
): ...


class AddNormLayoutLMForTokenClassification(AddNormLayoutLMPreTrainedModel, stock.LayoutLMForTokenClassification): ...


class AddNormLayoutLMForQuestionAnswering(AddNormLayoutLMPreTrainedModel, stock.LayoutLMForQuestionAnswering): ...
