"""Wav2Vec2 with another add & norm: the base model and its heads."""

from transformers.models.wav2vec2 import modeling_wav2vec2 as stock

from ..core.pretrained import AddNormPreTrainedModel
from .configuration_addnorm_wav2vec2 import AddNormWav2Vec2Config
from .wav2vec2_shape import (
    Wav2Vec2ShapeAttention,
    Wav2Vec2ShapeEncoder,
    Wav2Vec2ShapeFeedForward,
    Wav2Vec2ShapeLayer,
    Wav2Vec2ShapeStableLayer,
    WithStableLayout,
    wav2vec2_layout,
    wav2vec2_sublayers,
)


class AddNormWav2Vec2Attention(Wav2Vec2ShapeAttention, stock.Wav2Vec2Attention): ...


class AddNormWav2Vec2FeedForward(Wav2Vec2ShapeFeedForward, stock.Wav2Vec2FeedForward): ...


class AddNormWav2Vec2EncoderLayer(Wav2Vec2ShapeLayer, stock.Wav2Vec2EncoderLayer):
    sublayers = wav2vec2_sublayers("post", AddNormWav2Vec2Attention, AddNormWav2Vec2FeedForward)


class AddNormWav2Vec2EncoderLayerStableLayerNorm(Wav2Vec2ShapeStableLayer, stock.Wav2Vec2EncoderLayerStableLayerNorm):
    sublayers = wav2vec2_sublayers("pre", AddNormWav2Vec2Attention, AddNormWav2Vec2FeedForward)


class AddNormWav2Vec2Encoder(Wav2Vec2ShapeEncoder, stock.Wav2Vec2Encoder): ...


class AddNormWav2Vec2EncoderStableLayerNorm(Wav2Vec2ShapeEncoder, stock.Wav2Vec2EncoderStableLayerNorm): ...


class AddNormWav2Vec2PreTrainedModel(WithStableLayout, AddNormPreTrainedModel, stock.Wav2Vec2PreTrainedModel):
    config: AddNormWav2Vec2Config
    layout = wav2vec2_layout(AddNormWav2Vec2EncoderLayer, AddNormWav2Vec2Encoder)
    stable_layout = wav2vec2_layout(
        AddNormWav2Vec2EncoderLayerStableLayerNorm, AddNormWav2Vec2EncoderStableLayerNorm, stable=True
    )


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
