"""T5 with another add & norm: encoder-decoder, encoder and heads; v1.0, and v1.1 with its gated feed-forward."""

from typing import ClassVar

from transformers.models.t5 import modeling_t5 as stock
from transformers.utils.output_capturing import OutputRecorder

from ..base.protocols import StockValue
from ..core.pretrained import AddNormPreTrainedModel
from .configuration_addnorm_t5 import AddNormT5Config
from .t5_shape import (
    T5ShapeAttention,
    T5ShapeBlock,
    T5ShapeDense,
    T5ShapeGatedDense,
    T5ShapeStack,
    WithGatedLayouts,
    t5_layout,
    t5_sublayers,
)


class AddNormT5Attention(T5ShapeAttention, stock.T5Attention): ...


class AddNormT5DenseActDense(T5ShapeDense, stock.T5DenseActDense): ...


class AddNormT5DenseGatedActDense(T5ShapeGatedDense, stock.T5DenseGatedActDense): ...


class AddNormT5Block(T5ShapeBlock, stock.T5Block): ...


class AddNormT5EncoderBlock(AddNormT5Block):
    """One of the encoder."""

    sublayers = t5_sublayers(AddNormT5Attention, AddNormT5DenseActDense)


class AddNormT5DecoderBlock(AddNormT5Block):
    """One of the decoder."""

    sublayers = t5_sublayers(AddNormT5Attention, AddNormT5DenseActDense, reads_encoder=True)


class AddNormT5GatedEncoderBlock(AddNormT5Block):
    """One of the encoder with a gated feed-forward."""

    sublayers = t5_sublayers(AddNormT5Attention, AddNormT5DenseGatedActDense)


class AddNormT5GatedDecoderBlock(AddNormT5Block):
    """One of the decoder with a gated feed-forward."""

    sublayers = t5_sublayers(AddNormT5Attention, AddNormT5DenseGatedActDense, reads_encoder=True)


class AddNormT5PreTrainedModel(WithGatedLayouts, AddNormPreTrainedModel, stock.T5PreTrainedModel):
    config: AddNormT5Config
    layouts = {"encoder": t5_layout(AddNormT5EncoderBlock), "decoder": t5_layout(AddNormT5DecoderBlock)}
    gated_layouts: ClassVar = {
        "encoder": t5_layout(AddNormT5GatedEncoderBlock),
        "decoder": t5_layout(AddNormT5GatedDecoderBlock),
    }
    # those of a stock block's layers, which another scheme does not call
    _can_record_outputs: StockValue = {
        "hidden_states": OutputRecorder(stock.T5Block, index=0),
        "attentions": OutputRecorder(stock.T5Attention, index=-1, layer_name="SelfAttention"),
        "cross_attentions": OutputRecorder(stock.T5Attention, index=-1, layer_name="EncDecAttention"),
    }


class AddNormT5Stack(T5ShapeStack, AddNormT5PreTrainedModel, stock.T5Stack): ...  # type: ignore[override]


class AddNormT5Model(AddNormT5PreTrainedModel, stock.T5Model): ...


class AddNormT5EncoderModel(AddNormT5PreTrainedModel, stock.T5EncoderModel): ...


class AddNormT5ForConditionalGeneration(AddNormT5PreTrainedModel, stock.T5ForConditionalGeneration): ...


class AddNormT5ForSequenceClassification(AddNormT5PreTrainedModel, stock.T5ForSequenceClassification): ...


class AddNormT5ForTokenClassification(AddNormT5PreTrainedModel, stock.T5ForTokenClassification): ...


class AddNormT5ForQuestionAnswering(AddNormT5PreTrainedModel, stock.T5ForQuestionAnswering): ...
