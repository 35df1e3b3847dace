"""XLM-RoBERTa with another add & norm: the base model and its heads."""

from transformers.models.xlm_roberta import modeling_xlm_roberta as stock

from ..core.encoder import AddNormEncoder
from ..core.pretrained import AddNormPreTrainedModel
from .bert_shape import BertShapeAttention, BertShapeIntermediate, BertShapeLayer, bert_layout, bert_sublayers
from .configuration_addnorm_xlm_roberta import AddNormXLMRobertaConfig


class AddNormXLMRobertaSelfAttention(BertShapeAttention, stock.XLMRobertaSelfAttention): ...


class AddNormXLMRobertaCrossAttention(BertShapeAttention, stock.XLMRobertaCrossAttention): ...


class AddNormXLMRobertaIntermediate(BertShapeIntermediate, stock.XLMRobertaIntermediate): ...


class AddNormXLMRobertaLayer(BertShapeLayer, stock.XLMRobertaLayer):
    sublayers = bert_sublayers(
        AddNormXLMRobertaSelfAttention, AddNormXLMRobertaIntermediate, AddNormXLMRobertaCrossAttention
    )


class AddNormXLMRobertaEncoder(AddNormEncoder, stock.XLMRobertaEncoder): ...


class AddNormXLMRobertaPreTrainedModel(AddNormPreTrainedModel, stock.XLMRobertaPreTrainedModel):
    config: AddNormXLMRobertaConfig
    layout = bert_layout(AddNormXLMRobertaLayer, AddNormXLMRobertaEncoder, head_norms=("lm_head.layer_norm",))


class AddNormXLMRobertaModel(AddNormXLMRobertaPreTrainedModel, stock.XLMRobertaModel): ...


class AddNormXLMRobertaForCausalLM(AddNormXLMRobertaPreTrainedModel, stock.XLMRobertaForCausalLM): ...


class AddNormXLMRobertaForMaskedLM(AddNormXLMRobertaPreTrainedModel, stock.XLMRobertaForMaskedLM): ...


class AddNormXLMRobertaForSequenceClassification(
    AddNormXLMRobertaPreTrainedModel, stock.XLMRobertaForSequenceClassification
): ...


class AddNormXLMRobertaForMultipleChoice(AddNormXLMRobertaPreTrainedModel, stock.XLMRobertaForMultipleChoice): ...


class AddNormXLMRobertaForTokenClassification(
    AddNormXLMRobertaPreTrainedModel, stock.XLMRobertaForTokenClassification
): ...


class AddNormXLMRobertaForQuestionAnswering(
    AddNormXLMRobertaPreTrainedModel, stock.XLMRobertaForQuestionAnswering
): ...
