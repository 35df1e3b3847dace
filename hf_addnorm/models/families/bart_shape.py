"""What families whose layers are BART's share: an encoder and a decoder, where their parts are, how they are called.

Their stock layers have BART's paths, and differ in nothing but where their norms stand: mBART, Marian, ...
"""

from collections.abc import Collection
from typing import ClassVar

import torch
from torch import nn

from ..base.protocols import OptionValue, StockModule, StockValue
from ..core.branch_norms import BranchNorms, WithBranchNorms
from ..core.family_facts import FamilyFacts
from ..core.family_layout import FamilyLayout, SublayerLayout, numbered
from ..core.layer import AddNormLayer, finite_in_float16
from ..core.several_stacks import EncoderDecoderFamilyConfig
from ..streams.positions import Positions
from ..streams.streams import LayerState


BART_STACKS = {
    stack: {
        "num_hidden_layers": f"{stack}_layers",
        "num_attention_heads": f"{stack}_attention_heads",
        "intermediate_size": f"{stack}_ffn_dim",
    }
    for stack in ("encoder", "decoder")
}


class BartShapeConfig(EncoderDecoderFamilyConfig):
    """Mixin for the config of a family of BART's shape."""

    facts = FamilyFacts(position_table=True, stacks=BART_STACKS)

    def add_norm_eps(self) -> float:
        # that of torch.nn.LayerNorm, which the stock models leave as it is
        return 1e-5


class BartShapeAttention(WithBranchNorms):
    """Mixin for a stock attention with its output projection: self-attention or cross-attention."""

    linear_roles: ClassVar = {"q_proj": "q", "k_proj": "k", "v_proj": "v", "out_proj": "o"}


class NumberedPositions(nn.Module):
    """Positions as BART's stacks ask for them: by the tokens and how many came before, or by their numbers.

    Args:
        positions (`Positions`): from numbers [batch, seq] to what is added.
    """

    def __init__(self, positions: Positions):
        super().__init__()
        self.positions = positions

    def forward(
        self, tokens: StockValue, past_key_values_length: int = 0, position_ids: torch.Tensor | None = None
    ) -> torch.Tensor:
        """What is added, [batch or 1, seq, width]; `tokens` is [batch, seq], or that shape itself."""
        if position_ids is None:
            shape = tokens if isinstance(tokens, torch.Size) else tokens.shape
            first, device = past_key_values_length, self.positions.get_buffer("moved").device
            position_ids = torch.arange(first, first + shape[1], device=device)
        added: torch.Tensor = self.positions(position_ids if position_ids.dim() == 2 else position_ids[None])
        return added


def bart_sublayers(
    slot: str, attention: type[WithBranchNorms], reads_encoder: bool = False
) -> dict[str, SublayerLayout]:
    """The sublayers of a layer of BART's shape.

    Args:
        slot (`str`): the one that the stock norms fill: "post", or "pre".
        attention: the class that recasts attention and cross-attention.
        reads_encoder (`bool`, *optional*, defaults to `False`): whether it is a decoder's.
    """
    paths = {"attention": "self_attn"} | ({"cross_attention": "encoder_attn"} if reads_encoder else {})
    sublayers = {
        name: SublayerLayout(norms={slot: f"{path}_layer_norm"}, dropout="dropout", parts={path: attention})
        for name, path in paths.items()
    }
    sublayers["feed_forward"] = SublayerLayout(
        norms={slot: "final_layer_norm"}, dropout="dropout", linears={"w1": "fc1", "w2": "fc2"}
    )
    return sublayers


def bart_layout(layer: type[AddNormLayer], **others: OptionValue) -> FamilyLayout:
    """The layout of an encoder or a decoder of BART's shape.

    Args:
        layer: the class that recasts a layer.
        others: as in `FamilyLayout`; with `embeddings` there is no learned table of positions.
    """
    tables: dict[str, OptionValue] = {
        "embeddings": ("embed_tokens", "embed_positions"),
        "position_table": "embed_positions",
    }
    return FamilyLayout(
        layer=layer,
        layers=numbered("layers"),
        positions_class=NumberedPositions,
        is_stack=True,
        cannot_pack="its embeddings number the tokens of a row by code of their own",
        **(tables if "embeddings" not in others else {}),
        **others,
    )


class BartShapeLayer(AddNormLayer):
    """Mixin for a stock layer of an encoder or a decoder, whose sublayers run through add & norm blocks.

    x -> attention -> (cross-attention) -> feed-forward -> x      each inside its add & norm block
    """

    self_attn: StockModule
    encoder_attn: StockModule
    fc1: StockModule
    fc2: StockModule
    activation_fn: StockValue
    activation_dropout: StockValue

    def forward(
        self,
        hidden_states: LayerState,
        attention_mask: torch.Tensor | None = None,
        encoder_hidden_states: torch.Tensor | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
        past_key_values: StockValue = None,
        use_cache: bool | None = None,
        skipped: Collection[int] = (),
        **kwargs: StockValue,
    ) -> StockValue:
        if past_key_values is not None:
            # from Transformers 5.24 on the cache comes as `cache`, in kwargs
            kwargs["past_key_values"] = past_key_values

        def attend(u: torch.Tensor, branch_norms: BranchNorms) -> torch.Tensor:
            return self.self_attn(u, attention_mask=attention_mask, branch_norms=branch_norms, **kwargs)[0]

        def attend_across(u: torch.Tensor, branch_norms: BranchNorms) -> torch.Tensor:
            memory = {"key_value_states": encoder_hidden_states, "attention_mask": encoder_attention_mask}
            return self.encoder_attn(u, **memory, branch_norms=branch_norms, **kwargs)[0]

        def feed_forward(u: torch.Tensor, branch_norms: BranchNorms) -> torch.Tensor:
            inside = self.activation_fn(branch_norms.norm("up", self.fc1(u)))
            inside = nn.functional.dropout(inside, p=self.activation_dropout, training=self.training)
            return self.fc2(branch_norms.norm("mid", inside))

        branches = {"attention": attend, "feed_forward": feed_forward}
        if encoder_hidden_states is not None:
            self.require_cross_attention()
            branches = {"attention": attend, "cross_attention": attend_across, "feed_forward": feed_forward}
        return self.run(hidden_states, branches, skipped=skipped)


class BartShapeEncoderLayer(BartShapeLayer):
    """The same in the encoder, whose stock layer keeps float16 finite."""

    def forward(self, *args: StockValue, **kwargs: StockValue) -> StockValue:
        return finite_in_float16(super().forward(*args, **kwargs))
