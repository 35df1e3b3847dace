"""Data2VecText with another add & norm: the base model and its heads."""

from transformers.models.data2vec import modeling_data2vec_text as stock

from ..core.encoder import AddNormEncoder
from ..core.pretrained import AddNormPreTrainedModel
from .bert_shape import BertShapeAttention, BertShapeIntermediate, BertShapeLayer, bert_layout, bert_sublayers
from .configuration_addnorm_data2vec_text import AddNormData2VecTextConfig


class AddNormData2VecTextSelfAttention(BertShapeAttention, stock.Data2VecTextSelfAttention): ...


class AddNormData2VecTextCrossAttention(BertShapeAttention, stock.Data2VecTextCrossAttention): ...


class AddNormData2VecTextIntermediate(BertShapeIntermediate, stock.Data2VecTextIntermediate): ...


class AddNormData2VecTextLayer(BertShapeLayer, stock.Data2VecTextLayer):
    sublayers = bert_sublayers(
        AddNormData2VecTextSelfAttention, AddNormData2VecTextIntermediate, AddNormData2VecTextCrossAttention
    )


class AddNormData2VecTextEncoder(AddNormEncoder, stock.Data2VecTextEncoder): ...


class AddNormData2VecTextPreTrainedModel(AddNormPreTrainedModel, stock.Data2VecTextPreTrainedModel):
    config: AddNormData2VecTextConfig
    layout = bert_layout(AddNormData2VecTextLayer, AddNormData2VecTextEncoder, head_norms=("lm_head.layer_norm",))


class AddNormData2VecTextModel(AddNormData2VecTextPreTrainedModel, stock.Data2VecTextModel): ...


class AddNormData2VecTextForCausalLM(AddNormData2VecTextPreTrainedModel, stock.Data2VecTextForCausalLM): ...


class AddNormData2VecTextForMaskedLM(AddNormData2VecTextPreTrainedModel, stock.Data2VecTextForMaskedLM): ...


class AddNormData2VecTextForSequenceClassification(
    AddNormData2VecTextPreTrainedModel, stock.Data2VecTextForSequenceClassification
): ...


class AddNormData2VecTextForMultipleChoice(
    AddNormData2VecTextPreTrainedModel, stock.Data2VecTextForMultipleChoice
): ...


class AddNormData2VecTextForTokenClassification(
    AddNormData2VecTextPreTrainedModel, stock.Data2VecTextForTokenClassification
): ...


class AddNormData2VecTextForQuestionAnswering(
    AddNormData2VecTextPreTrainedModel, stock.Data2VecTextForQuestionAnswering
): ...
