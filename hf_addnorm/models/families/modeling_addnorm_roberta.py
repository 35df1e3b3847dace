"""RoBERTa with another add & norm: the base model and its heads."""

from transformers.models.roberta import modeling_roberta as stock

from ..core.encoder import AddNormEncoder
from ..core.pretrained import AddNormPreTrainedModel
from .bert_shape import BertShapeAttention, BertShapeIntermediate, BertShapeLayer, bert_layout, bert_sublayers
from .configuration_addnorm_roberta import AddNormRobertaConfig


class AddNormRobertaSelfAttention(BertShapeAttention, stock.RobertaSelfAttention): ...


class AddNormRobertaCrossAttention(BertShapeAttention, stock.RobertaCrossAttention): ...


class AddNormRobertaIntermediate(BertShapeIntermediate, stock.RobertaIntermediate): ...


class AddNormRobertaLayer(BertShapeLayer, stock.RobertaLayer):
    sublayers = bert_sublayers(AddNormRobertaSelfAttention, AddNormRobertaIntermediate, AddNormRobertaCrossAttention)


class AddNormRobertaEncoder(AddNormEncoder, stock.RobertaEncoder): ...


class AddNormRobertaPreTrainedModel(AddNormPreTrainedModel, stock.RobertaPreTrainedModel):
    config: AddNormRobertaConfig
    layout = bert_layout(AddNormRobertaLayer, AddNormRobertaEncoder, head_norms=("lm_head.layer_norm",))


class AddNormRobertaModel(AddNormRobertaPreTrainedModel, stock.RobertaModel): ...


class AddNormRobertaForCausalLM(AddNormRobertaPreTrainedModel, stock.RobertaForCausalLM): ...


class AddNormRobertaForMaskedLM(AddNormRobertaPreTrainedModel, stock.RobertaForMaskedLM): ...


class AddNormRobertaForSequenceClassification(
    AddNormRobertaPreTrainedModel, stock.RobertaForSequenceClassification
): ...


class AddNormRobertaForMultipleChoice(AddNormRobertaPreTrainedModel, stock.RobertaForMultipleChoice): ...


class AddNormRobertaForTokenClassification(AddNormRobertaPreTrainedModel, stock.RobertaForTokenClassification): ...


class AddNormRobertaForQuestionAnswering(AddNormRobertaPreTrainedModel, stock.RobertaForQuestionAnswering): ...
