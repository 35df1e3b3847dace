"""Megatron-BERT with another add & norm: the base model and its eight heads."""

from transformers.models.megatron_bert import modeling_megatron_bert as stock

from ..base.protocols import StockValue
from ..core.encoder import AddNormEncoder
from ..core.pretrained import AddNormPreTrainedModel
from .bert_shape import BertShapeAttention, BertShapeIntermediate, BertShapeLayer, bert_layout, bert_sublayers
from .configuration_addnorm_megatron_bert import AddNormMegatronBertConfig


class AddNormMegatronBertSelfAttention(BertShapeAttention, stock.MegatronBertSelfAttention):
    """`MegatronBertSelfAttention` with norms behind q, k and v; the stock class is the cross-attention too."""


class AddNormMegatronBertIntermediate(BertShapeIntermediate, stock.MegatronBertIntermediate): ...


class AddNormMegatronBertLayer(BertShapeLayer, stock.MegatronBertLayer):
    """`MegatronBertLayer` whose sublayers run through add & norm blocks.

    It returns the hidden states and the weights of its attentions, as its stock encoder expects.
    """

    sublayers = bert_sublayers(
        AddNormMegatronBertSelfAttention,
        AddNormMegatronBertIntermediate,
        AddNormMegatronBertSelfAttention,
        slot="pre",
        attention_norm="ln",
        feed_forward_norm="ln",
    )

    returns_tuple = True

    def forward(self, *args: StockValue, **kwargs: StockValue) -> StockValue:
        # behind these five, the stock encoder says whether it wants the weights
        return super().forward(*args[:5], **kwargs)


class AddNormMegatronBertEncoder(AddNormEncoder, stock.MegatronBertEncoder): ...


class AddNormMegatronBertPreTrainedModel(AddNormPreTrainedModel, stock.MegatronBertPreTrainedModel):
    config: AddNormMegatronBertConfig
    layout = bert_layout(
        AddNormMegatronBertLayer,
        AddNormMegatronBertEncoder,
        head_norms=("cls.predictions.transform.LayerNorm",),
        embed_dropout="embeddings.dropout",
        final_norm="encoder.ln",
        cannot_pack="its attention is code of its own, for which Transformers knows no other implementation",
    )


class AddNormMegatronBertModel(AddNormMegatronBertPreTrainedModel, stock.MegatronBertModel): ...


class AddNormMegatronBertForPreTraining(AddNormMegatronBertPreTrainedModel, stock.MegatronBertForPreTraining): ...


class AddNormMegatronBertForCausalLM(AddNormMegatronBertPreTrainedModel, stock.MegatronBertForCausalLM): ...


class AddNormMegatronBertForMaskedLM(AddNormMegatronBertPreTrainedModel, stock.MegatronBertForMaskedLM): ...


class AddNormMegatronBertForNextSentencePrediction(
    AddNormMegatronBertPreTrainedModel, stock.MegatronBertForNextSentencePrediction
): ...


class AddNormMegatronBertForSequenceClassification(
    AddNormMegatronBertPreTrainedModel, stock.MegatronBertForSequenceClassification
): ...


class AddNormMegatronBertForMultipleChoice(
    AddNormMegatronBertPreTrainedModel, stock.MegatronBertForMultipleChoice
): ...


class AddNormMegatronBertForTokenClassification(
    AddNormMegatronBertPreTrainedModel, stock.MegatronBertForTokenClassification
): ...


class AddNormMegatronBertForQuestionAnswering(
    AddNormMegatronBertPreTrainedModel, stock.MegatronBertForQuestionAnswering
): ...
