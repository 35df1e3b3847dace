"""Megatron-BERT with another add & norm: the base model and its eight heads."""

from typing import Any

import torch
from transformers.models.megatron_bert import modeling_megatron_bert as stock

from ..core.encoder import AddNormEncoder
from ..core.pretrained import AddNormPreTrainedModel
from ..streams.streams import LayerState
from .bert_shape import BertShapeAttention, BertShapeIntermediate, BertShapeLayer, bert_layout, bert_sublayers
from .configuration_addnorm_megatron_bert import AddNormMegatronBertConfig


class AddNormMegatronBertSelfAttention(BertShapeAttention, stock.MegatronBertSelfAttention):
    """`MegatronBertSelfAttention` with norms behind q, k and v; it also hands its weights to the layer.

    The stock class is the cross-attention too.
    """

    def forward(self, *args: Any, seen_weights: Any = None, **kwargs: Any) -> Any:
        output, weights = super().forward(*args, **kwargs)
        if seen_weights is not None:
            seen_weights.append(weights)
        return output, weights


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

    def forward(
        self,
        hidden_states: LayerState,
        attention_mask: torch.Tensor | None = None,
        encoder_hidden_states: torch.Tensor | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
        past_key_values: Any = None,
        *_: Any,
        **kwargs: Any,
    ) -> tuple[Any, ...]:
        # the stock encoder also says whether it wants the weights
        seen_weights: list[torch.Tensor] = []
        hidden_states = super().forward(
            hidden_states,
            attention_mask,
            encoder_hidden_states,
            encoder_attention_mask,
            past_key_values,
            seen_weights=seen_weights,
            **kwargs,
        )
        return hidden_states, *seen_weights


class AddNormMegatronBertEncoder(AddNormEncoder, stock.MegatronBertEncoder): ...


class AddNormMegatronBertPreTrainedModel(AddNormPreTrainedModel, stock.MegatronBertPreTrainedModel):
    config: AddNormMegatronBertConfig
    layout = bert_layout(
        AddNormMegatronBertLayer,
        AddNormMegatronBertEncoder,
        head_norms=("cls.predictions.transform.LayerNorm",),
        embed_dropout="embeddings.dropout",
        final_norm="encoder.ln",
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
