"""UMT5 with another add & norm: encoder-decoder, encoder and heads."""

from typing import ClassVar

import torch
from transformers.models.umt5 import modeling_umt5 as stock
from transformers.utils.output_capturing import OutputRecorder

from ..base.protocols import StockValue
from ..core.branch_norms import BranchNorms
from ..core.layer import finite_in_float16
from ..core.pretrained import AddNormPreTrainedModel
from ..core.several_stacks import HasEncoderAlone
from ..streams.streams import LayerState
from .configuration_addnorm_umt5 import AddNormUMT5Config
from .t5_shape import (
    T5ShapeAttention,
    T5ShapeBranches,
    T5ShapeDense,
    T5ShapeGatedDense,
    T5ShapeStack,
    WithGatedLayouts,
    t5_layout,
    t5_sublayers,
)


class AddNormUMT5Attention(T5ShapeAttention, stock.UMT5Attention): ...


class AddNormUMT5DenseActDense(T5ShapeDense, stock.UMT5DenseActDense): ...


class AddNormUMT5DenseGatedActDense(T5ShapeGatedDense, stock.UMT5DenseGatedActDense): ...


class AddNormUMT5Block(T5ShapeBranches, stock.UMT5Block):
    """`UMT5Block` whose sublayers run through add & norm blocks; each has a table of distances of its own.

    x -> attention -> (cross-attention) -> feed-forward -> x      each inside its add & norm block
    """

    def forward(
        self,
        hidden_states: LayerState,
        attention_mask: torch.Tensor | None = None,
        encoder_hidden_states: torch.Tensor | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
        past_key_values: StockValue = None,
        **kwargs: StockValue,
    ) -> LayerState:
        if past_key_values is not None:
            kwargs["past_key_values"] = past_key_values

        def attend(u: torch.Tensor, branch_norms: BranchNorms) -> torch.Tensor:
            return self.layer[0].SelfAttention(u, attention_mask=attention_mask, branch_norms=branch_norms, **kwargs)[
                0
            ]

        def attend_across(u: torch.Tensor, branch_norms: BranchNorms) -> torch.Tensor:
            memory = {"encoder_hidden_states": encoder_hidden_states, "attention_mask": encoder_attention_mask}
            return self.layer[1].EncDecAttention(u, **memory, branch_norms=branch_norms, **kwargs)[0]

        return finite_in_float16(self.run(hidden_states, self.branches(attend, attend_across, encoder_hidden_states)))


class AddNormUMT5EncoderBlock(AddNormUMT5Block):
    """One of the encoder."""

    sublayers = t5_sublayers(AddNormUMT5Attention, AddNormUMT5DenseActDense)


class AddNormUMT5DecoderBlock(AddNormUMT5Block):
    """One of the decoder."""

    sublayers = t5_sublayers(AddNormUMT5Attention, AddNormUMT5DenseActDense, reads_encoder=True)


class AddNormUMT5GatedEncoderBlock(AddNormUMT5Block):
    """One of the encoder with a gated feed-forward."""

    sublayers = t5_sublayers(AddNormUMT5Attention, AddNormUMT5DenseGatedActDense)


class AddNormUMT5GatedDecoderBlock(AddNormUMT5Block):
    """One of the decoder with a gated feed-forward."""

    sublayers = t5_sublayers(AddNormUMT5Attention, AddNormUMT5DenseGatedActDense, reads_encoder=True)


class AddNormUMT5PreTrainedModel(WithGatedLayouts, AddNormPreTrainedModel, stock.UMT5PreTrainedModel):
    config: AddNormUMT5Config
    layouts = {"encoder": t5_layout(AddNormUMT5EncoderBlock), "decoder": t5_layout(AddNormUMT5DecoderBlock)}
    gated_layouts: ClassVar = {
        "encoder": t5_layout(AddNormUMT5GatedEncoderBlock),
        "decoder": t5_layout(AddNormUMT5GatedDecoderBlock),
    }
    # those of a stock block's layers, which another scheme does not call
    _can_record_outputs: StockValue = {
        "hidden_states": OutputRecorder(stock.UMT5Block, index=0),
        "attentions": OutputRecorder(stock.UMT5Attention, index=-1, layer_name="SelfAttention"),
        "cross_attentions": OutputRecorder(stock.UMT5Attention, index=-1, layer_name="EncDecAttention"),
    }


class AddNormUMT5Stack(T5ShapeStack, AddNormUMT5PreTrainedModel, stock.UMT5Stack): ...  # type: ignore[override]


class AddNormUMT5Model(AddNormUMT5PreTrainedModel, stock.UMT5Model): ...  # type: ignore[misc]


class AddNormUMT5EncoderModel(HasEncoderAlone, AddNormUMT5PreTrainedModel, stock.UMT5EncoderModel): ...


class AddNormUMT5ForConditionalGeneration(AddNormUMT5PreTrainedModel, stock.UMT5ForConditionalGeneration): ...


class AddNormUMT5ForSequenceClassification(AddNormUMT5PreTrainedModel, stock.UMT5ForSequenceClassification): ...


class AddNormUMT5ForTokenClassification(
    HasEncoderAlone, AddNormUMT5PreTrainedModel, stock.UMT5ForTokenClassification
): ...


class AddNormUMT5ForQuestionAnswering(AddNormUMT5PreTrainedModel, stock.UMT5ForQuestionAnswering): ...
