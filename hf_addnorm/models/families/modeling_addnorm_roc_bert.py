"""RoCBert with another add & norm: the base model and its heads."""

from transformers.models.roc_bert import modeling_roc_bert as stock

from ..core.encoder import AddNormEncoder
from ..core.pretrained import AddNormPreTrainedModel
from .bert_shape import BertShapeAttention, BertShapeIntermediate, BertShapeLayer, bert_layout, bert_sublayers
from .configuration_addnorm_roc_bert import AddNormRoCBertConfig


class AddNormRoCBertSelfAttention(BertShapeAttention, stock.RoCBertSelfAttention): ...


class AddNormRoCBertCrossAttention(BertShapeAttention, stock.RoCBertCrossAttention): ...


class AddNormRoCBertIntermediate(BertShapeIntermediate, stock.RoCBertIntermediate): ...


class AddNormRoCBertLayer(BertShapeLayer, stock.RoCBertLayer):
    sublayers = bert_sublayers(AddNormRoCBertSelfAttention, AddNormRoCBertIntermediate, AddNormRoCBertCrossAttention)


class AddNormRoCBertEncoder(AddNormEncoder, stock.RoCBertEncoder): ...


class AddNormRoCBertPreTrainedModel(AddNormPreTrainedModel, stock.RoCBertPreTrainedModel):
    config: AddNormRoCBertConfig
    layout = bert_layout(
        AddNormRoCBertLayer, AddNormRoCBertEncoder, head_norms=("cls.predictions.transform.LayerNorm",)
    )


class AddNormRoCBertModel(AddNormRoCBertPreTrainedModel, stock.RoCBertModel): ...


class AddNormRoCBertForPreTraining(AddNormRoCBertPreTrainedModel, stock.RoCBertForPreTraining): ...


class AddNormRoCBertForCausalLM(AddNormRoCBertPreTrainedModel, stock.RoCBertForCausalLM): ...


class AddNormRoCBertForMaskedLM(AddNormRoCBertPreTrainedModel, stock.RoCBertForMaskedLM): ...


class AddNormRoCBertForSequenceClassification(
    AddNormRoCBertPreTrainedModel, stock.RoCBertForSequenceClassification
): ...


class AddNormRoCBertForMultipleChoice(AddNormRoCBertPreTrainedModel, stock.RoCBertForMultipleChoice): ...


class AddNormRoCBertForTokenClassification(AddNormRoCBertPreTrainedModel, stock.RoCBertForTokenClassification): ...


class AddNormRoCBertForQuestionAnswering(AddNormRoCBertPreTrainedModel, stock.RoCBertForQuestionAnswering): ...
