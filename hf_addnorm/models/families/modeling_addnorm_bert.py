"""BERT with another add & norm: the base model and its eight heads."""

from transformers.models.bert import modeling_bert as stock

from ..core.encoder import AddNormEncoder
from ..core.pretrained import AddNormPreTrainedModel
from .bert_shape import BertShapeAttention, BertShapeIntermediate, BertShapeLayer, bert_layout, bert_sublayers
from .configuration_addnorm_bert import AddNormBertConfig


class AddNormBertSelfAttention(BertShapeAttention, stock.BertSelfAttention): ...


class AddNormBertCrossAttention(BertShapeAttention, stock.BertCrossAttention): ...


class AddNormBertIntermediate(BertShapeIntermediate, stock.BertIntermediate): ...


class AddNormBertLayer(BertShapeLayer, stock.BertLayer):
    sublayers = bert_sublayers(AddNormBertSelfAttention, AddNormBertIntermediate, AddNormBertCrossAttention)


class AddNormBertEncoder(AddNormEncoder, stock.BertEncoder): ...


class AddNormBertPreTrainedModel(AddNormPreTrainedModel, stock.BertPreTrainedModel):
    config: AddNormBertConfig
    layout = bert_layout(AddNormBertLayer, AddNormBertEncoder, head_norms=("cls.predictions.transform.LayerNorm",))


class AddNormBertModel(AddNormBertPreTrainedModel, stock.BertModel): ...


class AddNormBertForPreTraining(AddNormBertPreTrainedModel, stock.BertForPreTraining): ...


class AddNormBertLMHeadModel(AddNormBertPreTrainedModel, stock.BertLMHeadModel): ...


class AddNormBertForMaskedLM(AddNormBertPreTrainedModel, stock.BertForMaskedLM): ...


class AddNormBertForNextSentencePrediction(AddNormBertPreTrainedModel, stock.BertForNextSentencePrediction): ...


class AddNormBertForSequenceClassification(AddNormBertPreTrainedModel, stock.BertForSequenceClassification): ...


class AddNormBertForMultipleChoice(AddNormBertPreTrainedModel, stock.BertForMultipleChoice): ...


class AddNormBertForTokenClassification(AddNormBertPreTrainedModel, stock.BertForTokenClassification): ...


class AddNormBertForQuestionAnswering(AddNormBertPreTrainedModel, stock.BertForQuestionAnswering): ...
