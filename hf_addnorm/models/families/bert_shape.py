"""What families whose layers are BERT's share: where a layer's parts are, and how they are called.

Their stock layers have BERT's paths, and differ in nothing but their names: RoBERTa, ELECTRA, ...
"""

from typing import ClassVar

import torch

from ..base.protocols import OptionValue, StockModule, StockValue
from ..core.branch_norms import BranchNorms, WithBranchNorms
from ..core.encoder import AddNormEncoder
from ..core.family_layout import FamilyLayout, SublayerLayout, numbered
from ..core.layer import AddNormLayer
from ..streams.streams import LayerState


class BertShapeAttention(WithBranchNorms):
    """Mixin for a stock self-attention or cross-attention that ends before its output projection."""

    linear_roles: ClassVar = {"query": "q", "key": "k", "value": "v"}


class BertShapeIntermediate(WithBranchNorms):
    """Mixin for the first half of a stock feed-forward: a Linear layer and the activation."""

    linear_roles: ClassVar = {"dense": "w1"}


def bert_sublayers(
    attention: type[WithBranchNorms],
    intermediate: type[WithBranchNorms],
    cross_attention: type[WithBranchNorms] | None = None,
    slot: str = "post",
    attention_norm: str = "output.LayerNorm",
    feed_forward_norm: str = "output.LayerNorm",
    feed_forward_dropout: str | None = "output.dropout",
) -> dict[str, SublayerLayout]:
    """The sublayers of BERT's layer.

    Args:
        attention, intermediate, cross_attention: the classes that recast their parts.
        slot (`str`): the one that the stock norms fill.
        attention_norm (`str`): the stock norm of an attention, from the attention.
        feed_forward_norm (`str`), feed_forward_dropout (`str`, *optional*): of the feed-forward, from the layer.
    """
    attentions = {"attention": ("attention", attention), "cross_attention": ("crossattention", cross_attention)}
    sublayers = {
        name: SublayerLayout(
            norms={slot: f"{path}.{attention_norm}"},
            dropout=f"{path}.output.dropout",
            parts={f"{path}.self": recast},
            linears={"o": f"{path}.output.dense"},
        )
        for name, (path, recast) in attentions.items()
        if recast is not None
    }
    sublayers["feed_forward"] = SublayerLayout(
        norms={slot: feed_forward_norm},
        dropout=feed_forward_dropout,
        parts={"intermediate": intermediate},
        linears={"w2": "output.dense"},
    )
    return sublayers


def bert_layout(
    layer: type[AddNormLayer], encoder: type[AddNormEncoder], head_norms: tuple[str, ...] = (), **others: OptionValue
) -> FamilyLayout:
    """BERT's layout.

    Args:
        layer, encoder: the classes that recast a layer and the encoder.
        head_norms, others: as in `FamilyLayout`; with `embed_dropout` the stock model has no norm there.
    """
    embed: dict[str, OptionValue] = {} if "embed_dropout" in others else {"embed_norm": "embeddings.LayerNorm"}
    return FamilyLayout(
        layer=layer,
        layers=numbered("encoder.layer"),
        encoder="encoder",
        encoder_class=encoder,
        embeddings=("embeddings",),
        position_table="embeddings.position_embeddings",
        head_norms=head_norms,
        **embed,
        **others,
    )


class BertShapeLayer(AddNormLayer):
    """Mixin for a stock layer of BERT's shape, whose sublayers run through add & norm blocks.

    x -> attention -> (cross-attention) -> feed-forward -> x      each inside its add & norm block
    """

    attention: StockModule
    crossattention: StockModule
    intermediate: StockModule
    output: StockModule
    # a family without decoders does not say
    is_decoder: bool = False
    chunk_size_feed_forward: int
    seq_len_dim: int
    # whether the stock loop expects a tuple: the hidden states, and what the attentions return beside their output
    returns_tuple: ClassVar[bool] = False

    def forward(
        self,
        hidden_states: LayerState,
        attention_mask: torch.Tensor | None = None,
        encoder_hidden_states: torch.Tensor | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
        past_key_values: StockValue = None,
        **kwargs: StockValue,
    ) -> StockValue:
        beside: list[torch.Tensor] = []
        kwargs["encoder_hidden_states"] = encoder_hidden_states
        if past_key_values is not None:
            # from Transformers 5.24 on the cache comes as `cache`, in kwargs
            kwargs["past_key_values"] = past_key_values

        def attend(u: torch.Tensor, branch_norms: BranchNorms) -> torch.Tensor:
            core, *others = self.attention.self(u, attention_mask=attention_mask, branch_norms=branch_norms, **kwargs)
            beside.extend(others)
            return self.attention.output.dense(branch_norms.norm("mid", core))

        def attend_across(u: torch.Tensor, branch_norms: BranchNorms) -> torch.Tensor:
            core, *others = self.crossattention.self(
                u, attention_mask=encoder_attention_mask, branch_norms=branch_norms, **kwargs
            )
            beside.extend(others)
            return self.crossattention.output.dense(branch_norms.norm("mid", core))

        def feed_forward(u: torch.Tensor, branch_norms: BranchNorms) -> torch.Tensor:
            return self.output.dense(branch_norms.norm("mid", self.intermediate(u, branch_norms=branch_norms)))

        branches = {"attention": attend, "feed_forward": feed_forward}
        if self.is_decoder and encoder_hidden_states is not None:
            self.require_cross_attention()
            branches = {"attention": attend, "cross_attention": attend_across, "feed_forward": feed_forward}
        state = self.run(hidden_states, branches, chunk=(self.chunk_size_feed_forward, self.seq_len_dim))
        return (state, *beside) if self.returns_tuple else state
