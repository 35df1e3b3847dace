"""mT5 with another add & norm: encoder-decoder, encoder and heads."""

from typing import ClassVar

from transformers.models.mt5 import modeling_mt5 as stock
from transformers.utils.output_capturing import OutputRecorder

from ..base.protocols import StockValue
from ..core.pretrained import AddNormPreTrainedModel
from .configuration_addnorm_mt5 import AddNormMT5Config
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


class AddNormMT5Attention(T5ShapeAttention, stock.MT5Attention): ...


class AddNormMT5DenseActDense(T5ShapeDense, stock.MT5DenseActDense): ...


class AddNormMT5DenseGatedActDense(T5ShapeGatedDense, stock.MT5DenseGatedActDense): ...


class AddNormMT5Block(T5ShapeBlock, stock.MT5Block): ...


class AddNormMT5EncoderBlock(AddNormMT5Block):
    """One of the encoder."""

    sublayers = t5_sublayers(AddNormMT5Attention, AddNormMT5DenseActDense)


class AddNormMT5DecoderBlock(AddNormMT5Block):
    """One of the decoder."""

    sublayers = t5_sublayers(AddNormMT5Attention, AddNormMT5DenseActDense, reads_encoder=True)


class AddNormMT5GatedEncoderBlock(AddNormMT5Block):
    """One of the encoder with a gated feed-forward."""

    sublayers = t5_sublayers(AddNormMT5Attention, AddNormMT5DenseGatedActDense)


class AddNormMT5GatedDecoderBlock(AddNormMT5Block):
    """One of the decoder with a gated feed-forward."""

    sublayers = t5_sublayers(AddNormMT5Attention, AddNormMT5DenseGatedActDense, reads_encoder=True)


class AddNormMT5PreTrainedModel(WithGatedLayouts, AddNormPreTrainedModel, stock.MT5PreTrainedModel):
    config: AddNormMT5Config
    layouts = {"encoder": t5_layout(AddNormMT5EncoderBlock), "decoder": t5_layout(AddNormMT5DecoderBlock)}
    gated_layouts: ClassVar = {
        "encoder": t5_layout(AddNormMT5GatedEncoderBlock),
        "decoder": t5_layout(AddNormMT5GatedDecoderBlock),
    }
    # those of a stock block's layers, which another scheme does not call
    _can_record_outputs: StockValue = {
        "hidden_states": OutputRecorder(stock.MT5Block, index=0),
        "attentions": OutputRecorder(stock.MT5Attention, index=-1, layer_name="SelfAttention"),
        "cross_attentions": OutputRecorder(stock.MT5Attention, index=-1, layer_name="EncDecAttention"),
    }


class AddNormMT5Stack(T5ShapeStack, AddNormMT5PreTrainedModel, stock.MT5Stack): ...  # type: ignore[override]


class AddNormMT5Model(AddNormMT5PreTrainedModel, stock.MT5Model): ...  # type: ignore[misc]


class AddNormMT5EncoderModel(AddNormMT5PreTrainedModel, stock.MT5EncoderModel): ...  # type: ignore[misc]


class AddNormMT5ForConditionalGeneration(AddNormMT5PreTrainedModel, stock.MT5ForConditionalGeneration): ...  # type: ignore[misc]


class AddNormMT5ForSequenceClassification(AddNormMT5PreTrainedModel, stock.MT5ForSequenceClassification): ...


class AddNormMT5ForTokenClassification(AddNormMT5PreTrainedModel, stock.MT5ForTokenClassification): ...


class AddNormMT5ForQuestionAnswering(AddNormMT5PreTrainedModel, stock.MT5ForQuestionAnswering): ...
