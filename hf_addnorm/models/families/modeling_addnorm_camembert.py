"""CamemBERT with another add & norm: the base model and its heads."""

from transformers.models.camembert import modeling_camembert as stock

from ..core.encoder import AddNormEncoder
from ..core.pretrained import AddNormPreTrainedModel
from .bert_shape import BertShapeAttention, BertShapeIntermediate, BertShapeLayer, bert_layout, bert_sublayers
from .configuration_addnorm_camembert import AddNormCamembertConfig


class AddNormCamembertSelfAttention(BertShapeAttention, stock.CamembertSelfAttention): ...


class AddNormCamembertCrossAttention(BertShapeAttention, stock.CamembertCrossAttention): ...


class AddNormCamembertIntermediate(BertShapeIntermediate, stock.CamembertIntermediate): ...


class AddNormCamembertLayer(BertShapeLayer, stock.CamembertLayer):
    sublayers = bert_sublayers(
        AddNormCamembertSelfAttention, AddNormCamembertIntermediate, AddNormCamembertCrossAttention
    )


class AddNormCamembertEncoder(AddNormEncoder, stock.CamembertEncoder): ...


class AddNormCamembertPreTrainedModel(AddNormPreTrainedModel, stock.CamembertPreTrainedModel):
    config: AddNormCamembertConfig
    layout = bert_layout(AddNormCamembertLayer, AddNormCamembertEncoder, head_norms=("lm_head.layer_norm",))


class AddNormCamembertModel(AddNormCamembertPreTrainedModel, stock.CamembertModel): ...


class AddNormCamembertForCausalLM(AddNormCamembertPreTrainedModel, stock.CamembertForCausalLM): ...


class AddNormCamembertForMaskedLM(AddNormCamembertPreTrainedModel, stock.CamembertForMaskedLM): ...


class AddNormCamembertForSequenceClassification(
    AddNormCamembertPreTrainedModel, stock.CamembertForSequenceClassification
): ...


class AddNormCamembertForMultipleChoice(AddNormCamembertPreTrainedModel, stock.CamembertForMultipleChoice): ...


class AddNormCamembertForTokenClassification(
    AddNormCamembertPreTrainedModel, stock.CamembertForTokenClassification
): ...


class AddNormCamembertForQuestionAnswering(AddNormCamembertPreTrainedModel, stock.CamembertForQuestionAnswering): ...
