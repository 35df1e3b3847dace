"""What families whose layers are Wav2Vec2's share: where a layer's parts are, and how they are called.

Their stock layers have Wav2Vec2's paths, and differ in nothing but their names: HuBERT, UniSpeech, Data2VecAudio, ...
Most of them have two layouts, and the config's `do_stable_layer_norm` says in which one a checkpoint is.
"""

from collections.abc import Collection
from functools import partial
from typing import Any, ClassVar

import torch
from torch import nn

from ..core.branch_norms import BranchNorms, WithBranchNorms
from ..core.encoder import AddNormEncoder
from ..core.family_layout import FamilyLayout, SublayerLayout, numbered
from ..core.layer import AddNormLayer
from ..streams.streams import LayerState


class Wav2Vec2ShapeAttention(WithBranchNorms):
    """Mixin for a stock attention with its output projection."""

    linear_roles: ClassVar = {"q_proj": "q", "k_proj": "k", "v_proj": "v", "out_proj": "o"}


class Wav2Vec2ShapeFeedForward(WithBranchNorms):
    """Mixin for a stock feed-forward of two Linear layers, whose last dropout belongs to the add & norm block."""

    linear_roles: ClassVar = {"intermediate_dense": "w1", "output_dense": "w2"}
    left_to_block: ClassVar = ("output_dropout",)


def wav2vec2_sublayers(
    slot: str, attention: type[WithBranchNorms], feed_forward: type[WithBranchNorms]
) -> dict[str, SublayerLayout]:
    """The sublayers of Wav2Vec2's layer.

    Args:
        slot (`str`): the one that the stock norms fill: "post", or "pre" in the stable layout.
        attention, feed_forward: the classes that recast their parts.
    """
    return {
        "attention": SublayerLayout(norms={slot: "layer_norm"}, dropout="dropout", parts={"attention": attention}),
        "feed_forward": SublayerLayout(
            norms={slot: "final_layer_norm"},
            dropout="feed_forward.output_dropout",
            parts={"feed_forward": feed_forward},
        ),
    }


def wav2vec2_layout(
    layer: type[AddNormLayer], encoder: type[AddNormEncoder], stable: bool = False, cannot_reenter: str = ""
) -> FamilyLayout:
    """Wav2Vec2's layout: the encoder's own norm stands before the layers, in the stable layout after them.

    Args:
        layer, encoder: the classes that recast a layer and the encoder.
        stable (`bool`, *optional*, defaults to `False`): which of the two it is.
        cannot_reenter (`str`, *optional*): as in `FamilyLayout`.
    """
    norm = "encoder.layer_norm"
    return FamilyLayout(
        cannot_pack="the convolutions of its embeddings read the padded sound",
        cannot_reenter=cannot_reenter,
        layer=layer,
        layers=numbered("encoder.layers"),
        encoder="encoder",
        encoder_class=encoder,
        embed_norm=None if stable else norm,
        embed_dropout="encoder.dropout" if stable else None,
        final_norm=norm if stable else None,
    )


class WithStableLayout(nn.Module):
    """Mixin for a family's models whose weights are in one of two layouts, as the config says."""

    layout: ClassVar[FamilyLayout]
    stable_layout: ClassVar[FamilyLayout]

    @classmethod
    def layout_of(cls, config: Any) -> FamilyLayout:
        # CODEPATH: wav2vec2-large-lv60 and XLS-R are in the stable layout, wav2vec2-base and -large in the other
        return cls.stable_layout if config.do_stable_layer_norm else cls.layout


class Wav2Vec2ShapeEncoder(AddNormEncoder):
    """Mixin for a stock encoder, whose attention mask counts frames."""

    reads_tokens = True


class Wav2Vec2ShapeLayer(AddNormLayer):
    """Mixin for a stock layer, whose sublayers run through add & norm blocks.

    x -> attention -> feed-forward -> x      each inside its add & norm block
    """

    attention: Any
    feed_forward: Any

    def forward(
        self,
        hidden_states: LayerState,
        attention_mask: torch.Tensor | None = None,
        skipped: Collection[int] = (),
        **kwargs: Any,
    ) -> LayerState:
        def attend(u: torch.Tensor, branch_norms: BranchNorms) -> torch.Tensor:
            return self.attention(u, attention_mask=attention_mask, branch_norms=branch_norms, **kwargs)[0]

        def feed_forward(u: torch.Tensor, branch_norms: BranchNorms) -> torch.Tensor:
            return self.feed_forward(u, branch_norms=branch_norms)

        branches = {"attention": attend, "feed_forward": feed_forward}
        then = None if self.added_last is None else partial(self.added_last)
        return self.run(hidden_states, branches, then=then, skipped=skipped)


class Wav2Vec2ShapeStableLayer(Wav2Vec2ShapeLayer):
    """The same for one in the stable layout, which may have an adapter, of a language, at its end.

    x -> attention -> feed-forward -> (adapter) -> x      each sublayer inside its add & norm block
    """

    adapter_layer: Any

    @property
    def added_last(self) -> nn.Module | None:
        return self.adapter_layer
