"""T5 with another add & norm: encoder-decoder, encoder and heads; v1.0, and v1.1 with its gated feed-forward."""

from typing import Any, ClassVar

import torch
from transformers.models.t5 import modeling_t5 as stock
from transformers.utils.output_capturing import OutputRecorder

from ..core.branch_norms import BranchNorms, WithBranchNorms
from ..core.encoder import AddNormStack
from ..core.family_layout import FamilyLayout, SublayerLayout, numbered
from ..core.layer import AddNormLayer, finite_in_float16
from ..core.pretrained import AddNormPreTrainedModel
from ..streams.streams import LayerState
from .configuration_addnorm_t5 import AddNormT5Config


class AddNormT5Attention(WithBranchNorms, stock.T5Attention):
    """`T5Attention` with norms behind q, k, v and before o; scores of normed queries are scaled."""

    linear_roles: ClassVar = {"q": "q", "k": "k", "v": "v", "o": "o"}

    def replaced(self, branch_norms: BranchNorms) -> dict[str, Any]:
        parts = super().replaced(branch_norms)
        if not {"q", "qk"}.isdisjoint(branch_norms.norms):
            # what the start of the queries has, a norm takes away
            parts["scaling"] = self.key_value_proj_dim**-0.5
        return parts


class AddNormT5DenseActDense(WithBranchNorms, stock.T5DenseActDense):
    linear_roles: ClassVar = {"wi": "w1", "wo": "w2"}
    looked_at: ClassVar = ("wo",)


class AddNormT5DenseGatedActDense(WithBranchNorms, stock.T5DenseGatedActDense):
    """`T5DenseGatedActDense` with norms around its inside; `up` is one norm for both first projections."""

    linear_roles: ClassVar = {"wi_0": "w1", "wi_1": "w1", "wo": "w2"}
    looked_at: ClassVar = ("wo",)


def t5_sublayers(feed_forward: type[WithBranchNorms], reads_encoder: bool = False) -> dict[str, SublayerLayout]:
    """The sublayers of a T5 block, each a layer of its own there.

    Args:
        feed_forward: the class that recasts the feed-forward.
        reads_encoder (`bool`, *optional*, defaults to `False`): whether it is a decoder's.
    """
    parts: dict[str, tuple[str, type[WithBranchNorms]]] = {"attention": ("SelfAttention", AddNormT5Attention)}
    if reads_encoder:
        parts["cross_attention"] = ("EncDecAttention", AddNormT5Attention)
    parts["feed_forward"] = ("DenseReluDense", feed_forward)
    return {
        name: SublayerLayout(
            norms={"pre": f"layer.{index}.layer_norm"},
            dropout=f"layer.{index}.dropout",
            parts={f"layer.{index}.{path}": recast},
        )
        for index, (name, (path, recast)) in enumerate(parts.items())
    }


class AddNormT5Block(AddNormLayer, stock.T5Block):
    """`T5Block` whose sublayers run through add & norm blocks.

    x -> attention -> (cross-attention) -> feed-forward -> x      each inside its add & norm block

    It returns the hidden states, and what its attentions added to the scores for the distances of tokens: the first
    block computes that for all.
    """

    layer: Any

    def forward(
        self,
        hidden_states: LayerState,
        attention_mask: torch.Tensor | None = None,
        position_bias: torch.Tensor | None = None,
        encoder_hidden_states: torch.Tensor | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
        encoder_decoder_position_bias: torch.Tensor | None = None,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> Any:
        biases: dict[str, torch.Tensor | None] = {"self": None, "cross": None}
        if past_key_values is not None:
            kwargs["past_key_values"] = past_key_values

        def attend(u: torch.Tensor, branch_norms: BranchNorms) -> torch.Tensor:
            output, biases["self"], _ = self.layer[0].SelfAttention(
                u, mask=attention_mask, position_bias=position_bias, branch_norms=branch_norms, **kwargs
            )
            return output

        def attend_across(u: torch.Tensor, branch_norms: BranchNorms) -> torch.Tensor:
            output, biases["cross"], _ = self.layer[1].EncDecAttention(
                u,
                mask=encoder_attention_mask,
                key_value_states=encoder_hidden_states,
                position_bias=encoder_decoder_position_bias,
                branch_norms=branch_norms,
                **kwargs,
            )
            return output

        def feed_forward(u: torch.Tensor, branch_norms: BranchNorms) -> torch.Tensor:
            return self.layer[-1].DenseReluDense(u, branch_norms=branch_norms)

        branches = {"attention": attend, "feed_forward": feed_forward}
        if self.is_decoder and encoder_hidden_states is not None:
            self.require_cross_attention()
            branches = {"attention": attend, "cross_attention": attend_across, "feed_forward": feed_forward}
        state = finite_in_float16(self.run(hidden_states, branches))
        return state, biases["self"], biases["cross"]


class AddNormT5EncoderBlock(AddNormT5Block):
    """One of the encoder."""

    sublayers = t5_sublayers(AddNormT5DenseActDense)


class AddNormT5DecoderBlock(AddNormT5Block):
    """One of the decoder."""

    sublayers = t5_sublayers(AddNormT5DenseActDense, reads_encoder=True)


class AddNormT5GatedEncoderBlock(AddNormT5Block):
    """One of the encoder with a gated feed-forward."""

    sublayers = t5_sublayers(AddNormT5DenseGatedActDense)


class AddNormT5GatedDecoderBlock(AddNormT5Block):
    """One of the decoder with a gated feed-forward."""

    sublayers = t5_sublayers(AddNormT5DenseGatedActDense, reads_encoder=True)


def t5_layout(layer: type[AddNormLayer]) -> FamilyLayout:
    """The layout of an encoder or a decoder.

    Args:
        layer: the class that recasts a block.
    """
    return FamilyLayout(
        layer=layer,
        layers=numbered("block"),
        embeddings=("embed_tokens",),
        # the dropout behind the embeddings is that behind the final norm, too
        embed_in_layer=True,
        final_norm="final_layer_norm",
        is_stack=True,
        cannot_pack="its attention adds a term for the distance of each two tokens of a row, by code of its own",
    )


class AddNormT5PreTrainedModel(AddNormPreTrainedModel, stock.T5PreTrainedModel):
    config: AddNormT5Config
    layouts = {"encoder": t5_layout(AddNormT5EncoderBlock), "decoder": t5_layout(AddNormT5DecoderBlock)}
    gated_layouts: ClassVar = {
        "encoder": t5_layout(AddNormT5GatedEncoderBlock),
        "decoder": t5_layout(AddNormT5GatedDecoderBlock),
    }
    # those of a stock block's layers, which another scheme does not call
    _can_record_outputs: Any = {
        "hidden_states": OutputRecorder(stock.T5Block, index=0),
        "attentions": OutputRecorder(stock.T5Attention, index=-1, layer_name="SelfAttention"),
        "cross_attentions": OutputRecorder(stock.T5Attention, index=-1, layer_name="EncDecAttention"),
    }

    @classmethod
    def layout_of(cls, config: Any) -> FamilyLayout:
        # CODEPATH: google/t5-v1_1-* and flan-t5 have a gated feed-forward, t5-* have not
        return (cls.gated_layouts if config.is_gated_act else cls.layouts)[config.stack_name]


class AddNormT5Stack(AddNormStack, AddNormT5PreTrainedModel, stock.T5Stack):
    @property
    def stack_name(self) -> str:  # type: ignore[override]
        """Encoder and decoder are of one class."""
        return "decoder" if self.config.is_decoder else "encoder"


class AddNormT5Model(AddNormT5PreTrainedModel, stock.T5Model): ...


class AddNormT5EncoderModel(AddNormT5PreTrainedModel, stock.T5EncoderModel): ...


class AddNormT5ForConditionalGeneration(AddNormT5PreTrainedModel, stock.T5ForConditionalGeneration): ...


class AddNormT5ForSequenceClassification(AddNormT5PreTrainedModel, stock.T5ForSequenceClassification): ...


class AddNormT5ForTokenClassification(AddNormT5PreTrainedModel, stock.T5ForTokenClassification): ...


class AddNormT5ForQuestionAnswering(AddNormT5PreTrainedModel, stock.T5ForQuestionAnswering): ...
