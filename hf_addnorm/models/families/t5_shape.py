"""What families whose blocks are T5's share: an encoder and a decoder, where their parts are, how they are called.

Their stock blocks have T5's paths: mT5, and UMT5, whose blocks do not hand on what they add to the scores.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import nn

from ..base.protocols import JsonValue, StockModule, StockValue
from ..core.branch_norms import BranchNorms, WithBranchNorms
from ..core.encoder import AddNormStack
from ..core.family_facts import FamilyFacts
from ..core.family_layout import FamilyLayout, SublayerLayout, numbered
from ..core.layer import AddNormLayer, finite_in_float16
from ..core.several_stacks import EncoderDecoderFamilyConfig
from ..streams.streams import LayerState


_STACKS = {
    stack: {"num_hidden_layers": depth, "num_attention_heads": "num_heads", "intermediate_size": "d_ff"}
    for stack, depth in {"encoder": "num_layers", "decoder": "num_decoder_layers"}.items()
}


class T5ShapeConfig(EncoderDecoderFamilyConfig):
    """Mixin for the config of a family of T5's shape."""

    facts = FamilyFacts(norm_eps="layer_norm_epsilon", stacks=_STACKS)
    d_kv: int
    num_heads: int

    def stock_add_norm(self) -> dict[str, JsonValue]:
        return {"preset": "pre_rms_norm"}

    def add_norm_head_size(self) -> int:
        return self.d_kv

    def slot_width(self, sublayer: str, slot: str, qkv_width: str) -> int:
        # the heads need not have the width of the stream together
        of_heads = sublayer != "feed_forward" and slot in ("q", "k", "v", "qk", "mid")
        if of_heads and (slot == "mid" or qkv_width == "hidden"):
            return self.num_heads * self.d_kv
        return super().slot_width(sublayer, slot, qkv_width)

    def add_norm_stays_on_sphere(self) -> bool:
        # what a head reads is scaled again, or distances are added to the scores
        return False


def in_half_like(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """`x`, in float16 or bfloat16 where the weight is and `x` is in float32.

    In a float16 model the second projections of the feed-forwards stay in float32, and the stream becomes it. T5's own
    norms give what the other weights are in; those of other schemes give what the stream is in.
    """
    is_half = weight.dtype in (torch.float16, torch.bfloat16)
    return x.to(weight.dtype) if is_half and x.dtype == torch.float32 else x


class T5ShapeAttention(WithBranchNorms):
    """Mixin for a stock attention, with norms behind q, k, v and before o; scores of normed queries are scaled."""

    linear_roles: ClassVar = {"q": "q", "k": "k", "v": "v", "o": "o"}
    key_value_proj_dim: int
    q: nn.Linear

    def forward(self, hidden_states: torch.Tensor, *args: StockValue, **kwargs: StockValue) -> StockValue:  # type: ignore[override]
        return super().forward(in_half_like(hidden_states, self.q.weight), *args, **kwargs)

    def replaced(self, branch_norms: BranchNorms) -> dict[str, StockValue]:
        parts = super().replaced(branch_norms)
        if not {"q", "qk"}.isdisjoint(branch_norms.norms):
            # what the start of the queries has, a norm takes away
            parts["scaling"] = self.key_value_proj_dim**-0.5
        return parts


class T5ShapeDense(WithBranchNorms):
    """Mixin for a stock feed-forward, which looks at the dtype of its second projection."""

    linear_roles: ClassVar = {"wi": "w1", "wo": "w2"}
    looked_at: ClassVar = ("wo",)
    wi: nn.Linear

    def forward(self, hidden_states: torch.Tensor, *args: StockValue, **kwargs: StockValue) -> StockValue:  # type: ignore[override]
        return super().forward(in_half_like(hidden_states, self.wi.weight), *args, **kwargs)


class T5ShapeGatedDense(WithBranchNorms):
    """Mixin for a stock gated feed-forward; `up` is one norm for both first projections."""

    linear_roles: ClassVar = {"wi_0": "w1", "wi_1": "w1", "wo": "w2"}
    looked_at: ClassVar = ("wo",)
    wi_0: nn.Linear

    def forward(self, hidden_states: torch.Tensor, *args: StockValue, **kwargs: StockValue) -> StockValue:  # type: ignore[override]
        return super().forward(in_half_like(hidden_states, self.wi_0.weight), *args, **kwargs)


def t5_sublayers(
    attention: type[WithBranchNorms], feed_forward: type[WithBranchNorms], reads_encoder: bool = False
) -> dict[str, SublayerLayout]:
    """The sublayers of a block of T5's shape, each a layer of its own there.

    Args:
        attention, feed_forward: the classes that recast them.
        reads_encoder (`bool`, *optional*, defaults to `False`): whether it is a decoder's.
    """
    parts: dict[str, tuple[str, type[WithBranchNorms]]] = {"attention": ("SelfAttention", attention)}
    if reads_encoder:
        parts["cross_attention"] = ("EncDecAttention", attention)
    parts["feed_forward"] = ("DenseReluDense", feed_forward)
    return {
        name: SublayerLayout(
            norms={"pre": f"layer.{index}.layer_norm"},
            dropout=f"layer.{index}.dropout",
            parts={f"layer.{index}.{path}": recast},
        )
        for index, (name, (path, recast)) in enumerate(parts.items())
    }


class T5ShapeBranches(AddNormLayer):
    """Mixin for a stock block that says how its attentions are called."""

    layer: StockModule
    is_decoder: bool

    def branches(
        self, attend: StockValue, attend_across: StockValue, encoder_hidden_states: torch.Tensor | None
    ) -> dict[str, StockValue]:
        """The branches that run, by the names of their sublayers."""

        def feed_forward(u: torch.Tensor, branch_norms: BranchNorms) -> torch.Tensor:
            output: torch.Tensor = self.layer[-1].DenseReluDense(u, branch_norms=branch_norms)
            return output

        if not self.is_decoder or encoder_hidden_states is None:
            return {"attention": attend, "feed_forward": feed_forward}
        self.require_cross_attention()
        return {"attention": attend, "cross_attention": attend_across, "feed_forward": feed_forward}


class T5ShapeBlock(T5ShapeBranches):
    """Mixin for a stock block whose sublayers run through add & norm blocks.

    x -> attention -> (cross-attention) -> feed-forward -> x      each inside its add & norm block

    It returns the hidden states, and what its attentions added to the scores for the distances of tokens: the first
    block computes that for all.
    """

    def forward(
        self,
        hidden_states: LayerState,
        attention_mask: torch.Tensor | None = None,
        position_bias: torch.Tensor | None = None,
        encoder_hidden_states: torch.Tensor | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
        encoder_decoder_position_bias: torch.Tensor | None = None,
        past_key_values: StockValue = None,
        **kwargs: StockValue,
    ) -> StockValue:
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

        branches = self.branches(attend, attend_across, encoder_hidden_states)
        state = finite_in_float16(self.run(hidden_states, branches))
        return state, biases["self"], biases["cross"]


def t5_layout(layer: type[AddNormLayer]) -> FamilyLayout:
    """The layout of an encoder or a decoder of T5's shape.

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


class WithGatedLayouts(nn.Module):
    """Mixin for a family's models whose feed-forwards are gated or not, as the config says."""

    layouts: ClassVar[Mapping[str, FamilyLayout]]
    gated_layouts: ClassVar[Mapping[str, FamilyLayout]]

    @classmethod
    def layout_of(cls, config: StockValue) -> FamilyLayout:
        # CODEPATH: google/t5-v1_1-*, flan-t5, mt5 and umt5 have a gated feed-forward, t5-* have not
        return (cls.gated_layouts if config.is_gated_act else cls.layouts)[config.stack_name]


class T5ShapeStack(AddNormStack):
    """Mixin for a stock stack, of which encoder and decoder are of one class."""

    config: StockValue
    embed_tokens: nn.Embedding

    @property
    def stack_name(self) -> str:
        """The one that it is."""
        return "decoder" if self.config.is_decoder else "encoder"

    def run_layers(self, *args: StockValue, **kwargs: StockValue) -> StockValue:
        outputs = super().run_layers(*args, **kwargs)
        outputs["last_hidden_state"] = in_half_like(outputs["last_hidden_state"], self.embed_tokens.weight)
        return outputs
