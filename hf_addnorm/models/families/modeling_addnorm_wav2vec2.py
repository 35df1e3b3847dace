"""Wav2Vec2 with another add & norm: the base model and its heads."""

from collections.abc import Collection
from functools import partial
from typing import Any, ClassVar

import torch
from torch import nn
from transformers.models.wav2vec2 import modeling_wav2vec2 as stock

from ..core.branch_norms import BranchNorms, WithBranchNorms
from ..core.encoder import AddNormEncoder
from ..core.family_layout import FamilyLayout, SublayerLayout, numbered
from ..core.layer import AddNormLayer
from ..core.pretrained import AddNormPreTrainedModel
from ..streams.streams import LayerState
from .configuration_addnorm_wav2vec2 import AddNormWav2Vec2Config


class AddNormWav2Vec2Attention(WithBranchNorms, stock.Wav2Vec2Attention):
    """`Wav2Vec2Attention` with norms behind q, k, v and before the output projection."""

    linear_roles: ClassVar = {"q_proj": "q", "k_proj": "k", "v_proj": "v", "out_proj": "o"}


class AddNormWav2Vec2FeedForward(WithBranchNorms, stock.Wav2Vec2FeedForward):
    """`Wav2Vec2FeedForward` with norms before the activation and before the output projection."""

    linear_roles: ClassVar = {"intermediate_dense": "w1", "output_dense": "w2"}
    left_to_block: ClassVar = ("output_dropout",)


def _sublayers(slot: str) -> dict[str, SublayerLayout]:
    """The sublayers, whose stock norms fill `slot`."""
    return {
        "attention": SublayerLayout(
            norms={slot: "layer_norm"}, dropout="dropout", parts={"attention": AddNormWav2Vec2Attention}
        ),
        "feed_forward": SublayerLayout(
            norms={slot: "final_layer_norm"},
            dropout="feed_forward.output_dropout",
            parts={"feed_forward": AddNormWav2Vec2FeedForward},
        ),
    }


class AddNormWav2Vec2Layer(AddNormLayer):
    """What the layers of both layouts have in common; the adapter of a language, where there is one, comes last.

    x -> attention -> feed-forward -> (adapter) -> x      each sublayer inside its add & norm block
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


class AddNormWav2Vec2EncoderLayer(AddNormWav2Vec2Layer, stock.Wav2Vec2EncoderLayer):
    """A Wav2Vec2 layer whose sublayers run through add & norm blocks."""

    sublayers: ClassVar = _sublayers("post")


class AddNormWav2Vec2EncoderLayerStableLayerNorm(AddNormWav2Vec2Layer, stock.Wav2Vec2EncoderLayerStableLayerNorm):
    """The same in the stable layout, in which a layer may have an adapter."""

    sublayers: ClassVar = _sublayers("pre")

    @property
    def added_last(self) -> nn.Module | None:
        return self.adapter_layer


class AddNormWav2Vec2Encoder(AddNormEncoder, stock.Wav2Vec2Encoder):
    """Wav2Vec2's encoder with the norm of the place `final`."""

    reads_tokens = True


class AddNormWav2Vec2EncoderStableLayerNorm(AddNormEncoder, stock.Wav2Vec2EncoderStableLayerNorm):
    """The same in the stable layout, where the stock encoder has that norm."""

    reads_tokens = True


class AddNormWav2Vec2PreTrainedModel(AddNormPreTrainedModel, stock.Wav2Vec2PreTrainedModel):
    config: AddNormWav2Vec2Config
    layout = FamilyLayout(
        layer=AddNormWav2Vec2EncoderLayer,
        layers=numbered("encoder.layers"),
        encoder="encoder",
        encoder_class=AddNormWav2Vec2Encoder,
        embed_norm="encoder.layer_norm",
    )
    stable_anatomy = FamilyLayout(
        layer=AddNormWav2Vec2EncoderLayerStableLayerNorm,
        layers=numbered("encoder.layers"),
        encoder="encoder",
        encoder_class=AddNormWav2Vec2EncoderStableLayerNorm,
        embed_dropout="encoder.dropout",
        final_norm="encoder.layer_norm",
    )

    @classmethod
    def layout_of(cls, config: AddNormWav2Vec2Config) -> FamilyLayout:
        # CODEPATH: wav2vec2-large-lv60 and XLS-R are in the stable layout, wav2vec2-base and -large in the other
        return cls.stable_anatomy if config.do_stable_layer_norm else cls.layout


class AddNormWav2Vec2Model(AddNormWav2Vec2PreTrainedModel, stock.Wav2Vec2Model): ...


class AddNormWav2Vec2ForPreTraining(AddNormWav2Vec2PreTrainedModel, stock.Wav2Vec2ForPreTraining): ...


class AddNormWav2Vec2ForCTC(AddNormWav2Vec2PreTrainedModel, stock.Wav2Vec2ForCTC): ...


class AddNormWav2Vec2ForSequenceClassification(
    AddNormWav2Vec2PreTrainedModel, stock.Wav2Vec2ForSequenceClassification
): ...


class AddNormWav2Vec2ForAudioFrameClassification(
    AddNormWav2Vec2PreTrainedModel, stock.Wav2Vec2ForAudioFrameClassification
): ...


class AddNormWav2Vec2ForXVector(AddNormWav2Vec2PreTrainedModel, stock.Wav2Vec2ForXVector): ...
