"""RoBERTa-PreLayerNorm with another add & norm: the base model and its six heads."""

from typing import ClassVar

from transformers.models.roberta_prelayernorm import modeling_roberta_prelayernorm as stock

from ..core.encoder import AddNormEncoder
from ..core.pretrained import AddNormPreTrainedModel
from .bert_shape import BertShapeAttention, BertShapeIntermediate, BertShapeLayer, bert_layout, bert_sublayers
from .configuration_addnorm_roberta_prelayernorm import AddNormRobertaPreLayerNormConfig


class AddNormRobertaPreLayerNormSelfAttention(BertShapeAttention, stock.RobertaPreLayerNormSelfAttention): ...


class AddNormRobertaPreLayerNormCrossAttention(BertShapeAttention, stock.RobertaPreLayerNormCrossAttention): ...


class AddNormRobertaPreLayerNormIntermediate(BertShapeIntermediate, stock.RobertaPreLayerNormIntermediate):
    left_to_block: ClassVar = ("LayerNorm",)


class AddNormRobertaPreLayerNormLayer(BertShapeLayer, stock.RobertaPreLayerNormLayer):
    sublayers = bert_sublayers(
        AddNormRobertaPreLayerNormSelfAttention,
        AddNormRobertaPreLayerNormIntermediate,
        AddNormRobertaPreLayerNormCrossAttention,
        slot="pre",
        attention_norm="LayerNorm",
        feed_forward_norm="intermediate.LayerNorm",
    )


class AddNormRobertaPreLayerNormEncoder(AddNormEncoder, stock.RobertaPreLayerNormEncoder): ...


class AddNormRobertaPreLayerNormPreTrainedModel(AddNormPreTrainedModel, stock.RobertaPreLayerNormPreTrainedModel):
    config: AddNormRobertaPreLayerNormConfig
    layout = bert_layout(
        AddNormRobertaPreLayerNormLayer,
        AddNormRobertaPreLayerNormEncoder,
        head_norms=("lm_head.layer_norm",),
        final_norm="LayerNorm",
    )


class AddNormRobertaPreLayerNormModel(AddNormRobertaPreLayerNormPreTrainedModel, stock.RobertaPreLayerNormModel): ...


class AddNormRobertaPreLayerNormForCausalLM(
    AddNormRobertaPreLayerNormPreTrainedModel, stock.RobertaPreLayerNormForCausalLM
): ...


class AddNormRobertaPreLayerNormForMaskedLM(
    AddNormRobertaPreLayerNormPreTrainedModel, stock.RobertaPreLayerNormForMaskedLM
): ...


class AddNormRobertaPreLayerNormForSequenceClassification(
    AddNormRobertaPreLayerNormPreTrainedModel, stock.RobertaPreLayerNormForSequenceClassification
): ...


class AddNormRobertaPreLayerNormForMultipleChoice(
    AddNormRobertaPreLayerNormPreTrainedModel, stock.RobertaPreLayerNormForMultipleChoice
): ...


class AddNormRobertaPreLayerNormForTokenClassification(
    AddNormRobertaPreLayerNormPreTrainedModel, stock.RobertaPreLayerNormForTokenClassification
): ...


class AddNormRobertaPreLayerNormForQuestionAnswering(
    AddNormRobertaPreLayerNormPreTrainedModel, stock.RobertaPreLayerNormForQuestionAnswering
): ...
