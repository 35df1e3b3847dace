"""UniSpeech with another add & norm: the base model and its heads."""

from transformers.models.unispeech import modeling_unispeech as stock

from ..core.pretrained import AddNormPreTrainedModel
from .configuration_addnorm_unispeech import AddNormUniSpeechConfig
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


class AddNormUniSpeechAttention(Wav2Vec2ShapeAttention, stock.UniSpeechAttention): ...


class AddNormUniSpeechFeedForward(Wav2Vec2ShapeFeedForward, stock.UniSpeechFeedForward): ...


class AddNormUniSpeechEncoderLayer(Wav2Vec2ShapeLayer, stock.UniSpeechEncoderLayer):
    sublayers = wav2vec2_sublayers("post", AddNormUniSpeechAttention, AddNormUniSpeechFeedForward)


class AddNormUniSpeechEncoderLayerStableLayerNorm(
    Wav2Vec2ShapeStableLayer, stock.UniSpeechEncoderLayerStableLayerNorm
):
    sublayers = wav2vec2_sublayers("pre", AddNormUniSpeechAttention, AddNormUniSpeechFeedForward)


class AddNormUniSpeechEncoder(Wav2Vec2ShapeEncoder, stock.UniSpeechEncoder): ...


class AddNormUniSpeechEncoderStableLayerNorm(Wav2Vec2ShapeEncoder, stock.UniSpeechEncoderStableLayerNorm): ...


class AddNormUniSpeechPreTrainedModel(WithStableLayout, AddNormPreTrainedModel, stock.UniSpeechPreTrainedModel):
    config: AddNormUniSpeechConfig
    layout = wav2vec2_layout(AddNormUniSpeechEncoderLayer, AddNormUniSpeechEncoder)
    stable_layout = wav2vec2_layout(
        AddNormUniSpeechEncoderLayerStableLayerNorm, AddNormUniSpeechEncoderStableLayerNorm, stable=True
    )


class AddNormUniSpeechModel(AddNormUniSpeechPreTrainedModel, stock.UniSpeechModel): ...


class AddNormUniSpeechForPreTraining(AddNormUniSpeechPreTrainedModel, stock.UniSpeechForPreTraining): ...


class AddNormUniSpeechForCTC(AddNormUniSpeechPreTrainedModel, stock.UniSpeechForCTC): ...


class AddNormUniSpeechForSequenceClassification(
    AddNormUniSpeechPreTrainedModel, stock.UniSpeechForSequenceClassification
): ...
