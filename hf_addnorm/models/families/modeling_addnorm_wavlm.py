"""WavLM with another add & norm: the base model and its heads."""

from collections.abc import Collection
from functools import wraps

import torch
from torch import nn
from transformers.models.wavlm import modeling_wavlm as stock

from ..base.protocols import StockValue
from ..core.branch_norms import BranchNorms
from ..core.pretrained import AddNormPreTrainedModel
from ..streams.streams import LayerState, readable
from .configuration_addnorm_wavlm import AddNormWavLMConfig
from .wav2vec2_shape import (
    Wav2Vec2ShapeAttention,
    Wav2Vec2ShapeEncoder,
    Wav2Vec2ShapeFeedForward,
    Wav2Vec2ShapeLayer,
    WithStableLayout,
    wav2vec2_layout,
    wav2vec2_sublayers,
)


def _is_its_weight(projection: StockValue) -> bool:
    """Whether a projection is what its weight and bias say, and nobody wants to see it called."""
    return type(projection) is nn.Linear and not (
        projection._forward_hooks or projection._forward_pre_hooks or hasattr(projection, "_hf_hook")
    )


class AddNormWavLMAttention(Wav2Vec2ShapeAttention, stock.WavLMAttention):
    """`WavLMAttention` with norms behind q, k, v and before the output projection.

    The stock attention gives the weights of its projections to a function of PyTorch. Where a projection is more than
    its weight (a norm beside it, a transform, an adapter, a hook), it is called here, and the formula is the same.
    """

    def torch_multi_head_self_attention(
        self, hidden_states: torch.Tensor, attention_mask: StockValue, gated_position_bias: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        projections = (self.q_proj, self.k_proj, self.v_proj, self.out_proj)
        if all(map(_is_its_weight, projections)):
            # no `super()`: a view of the module may stand in its place
            return stock.WavLMAttention.torch_multi_head_self_attention(
                self, hidden_states, attention_mask, gated_position_bias
            )
        by_head = (len(hidden_states), -1, self.num_heads, self.head_dim)
        q, k, v = (project(hidden_states).view(by_head).transpose(1, 2) for project in projections[:3])
        scores = (q * self.scaling) @ k.transpose(-1, -2) + gated_position_bias.view(*q.shape[:3], -1)
        if attention_mask is not None:
            scores = scores.masked_fill(attention_mask.ne(1)[:, None, None], float("-inf"))
        weights = nn.functional.dropout(scores.softmax(dim=-1), p=self.dropout, training=self.training)
        output = self.out_proj((weights @ v).transpose(1, 2).flatten(-2))
        # of each head the mean of all, as in the stock model
        return output, weights.mean(dim=1, keepdim=True).expand_as(weights)


class AddNormWavLMFeedForward(Wav2Vec2ShapeFeedForward, stock.WavLMFeedForward): ...


class WavLMShapeLayer(Wav2Vec2ShapeLayer):
    """Mixin for a stock layer, whose sublayers run through add & norm blocks.

    x -> attention -> feed-forward -> x      each inside its add & norm block

    It returns the hidden states, and what is added to the scores for the distances of frames, which the first layer
    computes for all; each layer has a gate of its own for it.
    """

    def forward(  # type: ignore[override]
        self,
        hidden_states: LayerState,
        attention_mask: torch.Tensor | None = None,
        position_bias: torch.Tensor | None = None,
        skipped: Collection[int] = (),
        **kwargs: StockValue,
    ) -> StockValue:
        biases = [position_bias]

        def attend(u: torch.Tensor, branch_norms: BranchNorms) -> torch.Tensor:
            output, _, biases[0] = self.attention(
                u, attention_mask=attention_mask, position_bias=position_bias, branch_norms=branch_norms, **kwargs
            )
            return output

        def feed_forward(u: torch.Tensor, branch_norms: BranchNorms) -> torch.Tensor:
            return self.feed_forward(u, branch_norms=branch_norms)

        # the first layer is never left out: the others need its positions
        skipped = set(skipped) - {0}
        state = self.run(hidden_states, {"attention": attend, "feed_forward": feed_forward}, skipped=skipped)
        return state, biases[0]


class AddNormWavLMEncoderLayer(WavLMShapeLayer, stock.WavLMEncoderLayer):  # type: ignore[misc]
    sublayers = wav2vec2_sublayers("post", AddNormWavLMAttention, AddNormWavLMFeedForward)


class AddNormWavLMEncoderLayerStableLayerNorm(WavLMShapeLayer, stock.WavLMEncoderLayerStableLayerNorm):
    sublayers = wav2vec2_sublayers("pre", AddNormWavLMAttention, AddNormWavLMFeedForward)


class AddNormWavLMEncoder(Wav2Vec2ShapeEncoder, stock.WavLMEncoder): ...


class AddNormWavLMEncoderStableLayerNorm(Wav2Vec2ShapeEncoder, stock.WavLMEncoderStableLayerNorm): ...


_CANNOT_REENTER = (
    "the layers share what the first one computes for the distances of frames: reentrant checkpointing waits for its "
    "backward within their own, and never ends, in the stock model too"
)


class AddNormWavLMPreTrainedModel(WithStableLayout, AddNormPreTrainedModel, stock.WavLMPreTrainedModel):
    config: AddNormWavLMConfig
    layout = wav2vec2_layout(AddNormWavLMEncoderLayer, AddNormWavLMEncoder, cannot_reenter=_CANNOT_REENTER)
    stable_layout = wav2vec2_layout(
        AddNormWavLMEncoderLayerStableLayerNorm,
        AddNormWavLMEncoderStableLayerNorm,
        stable=True,
        cannot_reenter=_CANNOT_REENTER,
    )


class AddNormWavLMModel(AddNormWavLMPreTrainedModel, stock.WavLMModel):
    @wraps(stock.WavLMModel.forward)
    def forward(self, *args: StockValue, **kwargs: StockValue) -> StockValue:  # type: ignore[override]
        outputs = super().forward(*args, **kwargs)
        # a layer gives its state and its positions, of which Transformers records the first
        if isinstance(outputs, tuple):
            return tuple(tuple(map(readable, part)) if isinstance(part, tuple) else part for part in outputs)
        if outputs.hidden_states is not None:
            outputs.hidden_states = tuple(map(readable, outputs.hidden_states))
        return outputs


class AddNormWavLMForCTC(AddNormWavLMPreTrainedModel, stock.WavLMForCTC): ...


class AddNormWavLMForSequenceClassification(AddNormWavLMPreTrainedModel, stock.WavLMForSequenceClassification): ...


class AddNormWavLMForAudioFrameClassification(AddNormWavLMPreTrainedModel, stock.WavLMForAudioFrameClassification): ...


class AddNormWavLMForXVector(AddNormWavLMPreTrainedModel, stock.WavLMForXVector): ...
