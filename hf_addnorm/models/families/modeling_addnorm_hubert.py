"""HuBERT with another add & norm: the base model and its heads."""

from transformers.models.hubert import modeling_hubert as stock

from ..core.pretrained import AddNormPreTrainedModel
from .configuration_addnorm_hubert import AddNormHubertConfig
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


class AddNormHubertAttention(Wav2Vec2ShapeAttention, stock.HubertAttention): ...


class AddNormHubertFeedForward(Wav2Vec2ShapeFeedForward, stock.HubertFeedForward): ...


class AddNormHubertEncoderLayer(Wav2Vec2ShapeLayer, stock.HubertEncoderLayer):
    sublayers = wav2vec2_sublayers("post", AddNormHubertAttention, AddNormHubertFeedForward)


class AddNormHubertEncoderLayerStableLayerNorm(Wav2Vec2ShapeStableLayer, stock.HubertEncoderLayerStableLayerNorm):
    sublayers = wav2vec2_sublayers("pre", AddNormHubertAttention, AddNormHubertFeedForward)


class AddNormHubertEncoder(Wav2Vec2ShapeEncoder, stock.HubertEncoder): ...


class AddNormHubertEncoderStableLayerNorm(Wav2Vec2ShapeEncoder, stock.HubertEncoderStableLayerNorm): ...


class AddNormHubertPreTrainedModel(WithStableLayout, AddNormPreTrainedModel, stock.HubertPreTrainedModel):
    config: AddNormHubertConfig
    layout = wav2vec2_layout(AddNormHubertEncoderLayer, AddNormHubertEncoder)
    stable_layout = wav2vec2_layout(
        AddNormHubertEncoderLayerStableLayerNorm, AddNormHubertEncoderStableLayerNorm, stable=True
    )


class AddNormHubertModel(AddNormHubertPreTrainedModel, stock.HubertModel): ...


class AddNormHubertForCTC(AddNormHubertPreTrainedModel, stock.HubertForCTC): ...


class AddNormHubertForSequenceClassification(AddNormHubertPreTrainedModel, stock.HubertForSequenceClassification): ...
