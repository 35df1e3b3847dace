"""SpeechT5 with another add & norm: text to speech, speech to text, speech to speech."""

from collections.abc import Collection
from functools import partial
from typing import Any, ClassVar

import torch
from transformers.models.speecht5 import modeling_speecht5 as stock

from ..core.branch_norms import BranchNorms, ModuleView, WithBranchNorms
from ..core.encoder import AddNormStack, draw_skipped
from ..core.family_layout import FamilyLayout, SublayerLayout, numbered
from ..core.layer import AddNormLayer
from ..core.pretrained import AddNormPreTrainedModel
from ..streams.streams import LayerState
from .configuration_addnorm_speecht5 import AddNormSpeechT5Config


class AddNormSpeechT5Attention(WithBranchNorms, stock.SpeechT5Attention):
    linear_roles: ClassVar = {"q_proj": "q", "k_proj": "k", "v_proj": "v", "out_proj": "o"}


class AddNormSpeechT5FeedForward(WithBranchNorms, stock.SpeechT5FeedForward):
    linear_roles: ClassVar = {"intermediate_dense": "w1", "output_dense": "w2"}
    left_to_block: ClassVar = ("output_dropout",)


def _attention(path: str, norm: str) -> SublayerLayout:
    return SublayerLayout(norms={"post": norm}, dropout="dropout", parts={path: AddNormSpeechT5Attention})


_FEED_FORWARD = SublayerLayout(
    norms={"post": "final_layer_norm"},
    dropout="feed_forward.output_dropout",
    parts={"feed_forward": AddNormSpeechT5FeedForward},
)


class SpeechT5Layer(AddNormLayer):
    """Mixin for a stock layer of the encoder or the decoder, which have the same feed-forward."""

    feed_forward: Any

    def run_feed_forward(self, u: torch.Tensor, branch_norms: BranchNorms) -> torch.Tensor:
        """The branch of the feed-forward: its output for `u` [batch, seq, hidden]."""
        output: torch.Tensor = self.feed_forward(u, branch_norms=branch_norms)
        return output


class AddNormSpeechT5EncoderLayer(SpeechT5Layer, stock.SpeechT5EncoderLayer):
    """`SpeechT5EncoderLayer` whose sublayers run through add & norm blocks.

    x -> attention -> feed-forward -> x      each inside its add & norm block

    It returns the hidden states, and the weights of its attention where these are asked for.
    """

    sublayers = {"attention": _attention("attention", "layer_norm"), "feed_forward": _FEED_FORWARD}

    def forward(  # type: ignore[override]
        self,
        hidden_states: LayerState,
        attention_mask: torch.Tensor | None = None,
        position_bias: torch.Tensor | None = None,
        skipped: Collection[int] = (),
        **kwargs: Any,
    ) -> tuple[Any, ...]:
        weights = None

        def attend(u: torch.Tensor, branch_norms: BranchNorms) -> torch.Tensor:
            nonlocal weights
            masked = {"attention_mask": attention_mask, "position_bias": position_bias}
            output, weights = self.attention(u, **masked, branch_norms=branch_norms, **kwargs)
            return output

        branches = {"attention": attend, "feed_forward": self.run_feed_forward}
        state = self.run(hidden_states, branches, skipped=skipped)
        return (state, weights) if kwargs.get("output_attentions") else (state,)


class AddNormSpeechT5DecoderLayer(SpeechT5Layer, stock.SpeechT5DecoderLayer):
    """`SpeechT5DecoderLayer` whose sublayers run through add & norm blocks.

    x -> attention -> (cross-attention) -> feed-forward -> x      each inside its add & norm block

    It returns the hidden states, and the weights of both attentions where these are asked for.
    """

    sublayers = {
        "attention": _attention("self_attn", "self_attn_layer_norm"),
        "cross_attention": _attention("encoder_attn", "encoder_attn_layer_norm"),
        "feed_forward": _FEED_FORWARD,
    }

    def forward(  # type: ignore[override]
        self,
        hidden_states: LayerState,
        attention_mask: torch.Tensor | None = None,
        encoder_hidden_states: torch.Tensor | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool | None = None,
        skipped: Collection[int] = (),
        **kwargs: Any,
    ) -> tuple[Any, ...]:
        if past_key_values is not None:
            # from Transformers 5.24 on the cache comes as `cache`, in kwargs
            kwargs["past_key_values"] = past_key_values
        weights = across = None

        def attend(u: torch.Tensor, branch_norms: BranchNorms) -> torch.Tensor:
            nonlocal weights
            output, weights = self.self_attn(u, attention_mask=attention_mask, branch_norms=branch_norms, **kwargs)
            return output

        def attend_across(u: torch.Tensor, branch_norms: BranchNorms) -> torch.Tensor:
            nonlocal across
            memory = {"key_value_states": encoder_hidden_states, "attention_mask": encoder_attention_mask}
            output, across = self.encoder_attn(u, **memory, branch_norms=branch_norms, **kwargs)
            return output

        branches = {"attention": attend, "feed_forward": self.run_feed_forward}
        if encoder_hidden_states is not None:
            self.require_cross_attention()
            branches = {"attention": attend, "cross_attention": attend_across, "feed_forward": self.run_feed_forward}
        state = self.run(hidden_states, branches, skipped=skipped)
        return (state, weights, across) if kwargs.get("output_attentions") else (state,)


_CANNOT_PACK = "its attention adds a term for the distance of each two tokens of a row, by code of its own"


class AddNormSpeechT5PreTrainedModel(AddNormPreTrainedModel, stock.SpeechT5PreTrainedModel):
    config: AddNormSpeechT5Config
    layouts = {
        "encoder": FamilyLayout(
            layer=AddNormSpeechT5EncoderLayer,
            layers=numbered("layers"),
            embed_norm="layer_norm",
            is_stack=True,
            cannot_pack=_CANNOT_PACK,
        ),
        # no norm behind the embeddings, and the dropout there is in another module
        "decoder": FamilyLayout(
            layer=AddNormSpeechT5DecoderLayer,
            layers=numbered("layers"),
            embed_in_layer=True,
            is_stack=True,
            cannot_pack=_CANNOT_PACK,
        ),
    }


class SpeechT5Stack(AddNormStack):
    """Mixin for a stock encoder or decoder, whose loop hands its layers no arguments of ours."""

    def run_layers(self, *args: Any, **kwargs: Any) -> Any:
        if not (self.layer_drop > 0.0 and self.training):
            return super().run_layers(*args, **kwargs)
        skipped = draw_skipped(self.layer_drop, len(self.layers), self.device)
        layers = [partial(layer, skipped=skipped) for layer in self.layers]
        return self.stock_forward(ModuleView(self, {"layers": layers}), *args, **kwargs)


class AddNormSpeechT5Encoder(SpeechT5Stack, AddNormSpeechT5PreTrainedModel, stock.SpeechT5Encoder):
    stack_name = "encoder"


class AddNormSpeechT5Decoder(SpeechT5Stack, AddNormSpeechT5PreTrainedModel, stock.SpeechT5Decoder):
    stack_name = "decoder"


class AddNormSpeechT5EncoderWithSpeechPrenet(
    AddNormSpeechT5PreTrainedModel, stock.SpeechT5EncoderWithSpeechPrenet
): ...


class AddNormSpeechT5EncoderWithTextPrenet(AddNormSpeechT5PreTrainedModel, stock.SpeechT5EncoderWithTextPrenet): ...


class AddNormSpeechT5EncoderWithoutPrenet(AddNormSpeechT5PreTrainedModel, stock.SpeechT5EncoderWithoutPrenet): ...


class AddNormSpeechT5DecoderWithSpeechPrenet(
    AddNormSpeechT5PreTrainedModel, stock.SpeechT5DecoderWithSpeechPrenet
): ...


class AddNormSpeechT5DecoderWithTextPrenet(AddNormSpeechT5PreTrainedModel, stock.SpeechT5DecoderWithTextPrenet): ...


class AddNormSpeechT5DecoderWithoutPrenet(AddNormSpeechT5PreTrainedModel, stock.SpeechT5DecoderWithoutPrenet): ...


class AddNormSpeechT5Model(AddNormSpeechT5PreTrainedModel, stock.SpeechT5Model): ...


class AddNormSpeechT5ForTextToSpeech(AddNormSpeechT5PreTrainedModel, stock.SpeechT5ForTextToSpeech): ...


class AddNormSpeechT5ForSpeechToText(AddNormSpeechT5PreTrainedModel, stock.SpeechT5ForSpeechToText): ...


class AddNormSpeechT5ForSpeechToSpeech(AddNormSpeechT5PreTrainedModel, stock.SpeechT5ForSpeechToSpeech): ...
