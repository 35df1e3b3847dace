"""ERNIE with another add & norm: the base model and its heads."""

from transformers.models.ernie import modeling_ernie as stock

from ..core.encoder import AddNormEncoder
from ..core.pretrained import AddNormPreTrainedModel
from .bert_shape import BertShapeAttention, BertShapeIntermediate, BertShapeLayer, bert_layout, bert_sublayers
from .configuration_addnorm_ernie import AddNormErnieConfig


class AddNormErnieSelfAttention(BertShapeAttention, stock.ErnieSelfAttention): ...


class AddNormErnieCrossAttention(BertShapeAttention, stock.ErnieCrossAttention): ...


class AddNormErnieIntermediate(BertShapeIntermediate, stock.ErnieIntermediate): ...


class AddNormErnieLayer(BertShapeLayer, stock.ErnieLayer):
    sublayers = bert_sublayers(AddNormErnieSelfAttention, AddNormErnieIntermediate, AddNormErnieCrossAttention)


class AddNormErnieEncoder(AddNormEncoder, stock.ErnieEncoder): ...


class AddNormErniePreTrainedModel(AddNormPreTrainedModel, stock.ErniePreTrainedModel):
    config: AddNormErnieConfig
    layout = bert_layout(AddNormErnieLayer, AddNormErnieEncoder, head_norms=("cls.predictions.transform.LayerNorm",))


class AddNormErnieModel(AddNormErniePreTrainedModel, stock.ErnieModel): ...


class AddNormErnieForPreTraining(AddNormErniePreTrainedModel, stock.ErnieForPreTraining): ...


class AddNormErnieForCausalLM(AddNormErniePreTrainedModel, stock.ErnieForCausalLM): ...


class AddNormErnieForMaskedLM(AddNormErniePreTrainedModel, stock.ErnieForMaskedLM): ...


class AddNormErnieForNextSentencePrediction(AddNormErniePreTrainedModel, stock.ErnieForNextSentencePrediction): ...


class AddNormErnieForSequenceClassification(AddNormErniePreTrainedModel, stock.ErnieForSequenceClassification): ...


class AddNormErnieForMultipleChoice(AddNormErniePreTrainedModel, stock.ErnieForMultipleChoice): ...


class AddNormErnieForTokenClassification(AddNormErniePreTrainedModel, stock.ErnieForTokenClassification): ...


class AddNormErnieForQuestionAnswering(AddNormErniePreTrainedModel, stock.ErnieForQuestionAnswering): ...
