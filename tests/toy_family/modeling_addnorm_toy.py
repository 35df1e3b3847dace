"""XLM-RoBERTa-XL with another add & norm: the base model and its six heads."""

from transformers.models.xlm_roberta_xl import modeling_xlm_roberta_xl as stock

from hf_addnorm.models.core.encoder import AddNormEncoder
from hf_addnorm.models.core.pretrained import AddNormPreTrainedModel
from hf_addnorm.models.families.bert_shape import (
    BertShapeAttention,
    BertShapeIntermediate,
    BertShapeLayer,
    bert_layout,
    bert_sublayers,
)

from .configuration_addnorm_toy import AddNormXLMRobertaXLConfig


class AddNormXLMRobertaXLSelfAttention(BertShapeAttention, stock.XLMRobertaXLSelfAttention): ...


class AddNormXLMRobertaXLCrossAttention(BertShapeAttention, stock.XLMRobertaXLCrossAttention): ...


class AddNormXLMRobertaXLIntermediate(BertShapeIntermediate, stock.XLMRobertaXLIntermediate): ...


class AddNormXLMRobertaXLLayer(BertShapeLayer, stock.XLMRobertaXLLayer):
    sublayers = bert_sublayers(
        AddNormXLMRobertaXLSelfAttention,
        AddNormXLMRobertaXLIntermediate,
        AddNormXLMRobertaXLCrossAttention,
        slot="pre",
        attention_norm="self_attn_layer_norm",
        feed_forward_norm="LayerNorm",
        feed_forward_dropout=None,
    )


class AddNormXLMRobertaXLEncoder(AddNormEncoder, stock.XLMRobertaXLEncoder): ...


class AddNormXLMRobertaXLPreTrainedModel(AddNormPreTrainedModel, stock.XLMRobertaXLPreTrainedModel):
    config: AddNormXLMRobertaXLConfig
    layout = bert_layout(
        AddNormXLMRobertaXLLayer,
        AddNormXLMRobertaXLEncoder,
        head_norms=("lm_head.layer_norm",),
        embed_dropout="embeddings.dropout",
        final_norm="encoder.LayerNorm",
    )


class AddNormXLMRobertaXLModel(AddNormXLMRobertaXLPreTrainedModel, stock.XLMRobertaXLModel): ...


class AddNormXLMRobertaXLForCausalLM(AddNormXLMRobertaXLPreTrainedModel, stock.XLMRobertaXLForCausalLM): ...


class AddNormXLMRobertaXLForMaskedLM(AddNormXLMRobertaXLPreTrainedModel, stock.XLMRobertaXLForMaskedLM): ...


class AddNormXLMRobertaXLForSequenceClassification(
    AddNormXLMRobertaXLPreTrainedModel, stock.XLMRobertaXLForSequenceClassification
): ...


class AddNormXLMRobertaXLForMultipleChoice(
    AddNormXLMRobertaXLPreTrainedModel, stock.XLMRobertaXLForMultipleChoice
): ...


class AddNormXLMRobertaXLForTokenClassification(
    AddNormXLMRobertaXLPreTrainedModel, stock.XLMRobertaXLForTokenClassification
): ...


class AddNormXLMRobertaXLForQuestionAnswering(
    AddNormXLMRobertaXLPreTrainedModel, stock.XLMRobertaXLForQuestionAnswering
): ...
