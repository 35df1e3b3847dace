"""Data2VecAudio with another add & norm: the base model and its heads."""

from transformers.models.data2vec import modeling_data2vec_audio as stock

from ..core.pretrained import AddNormPreTrainedModel
from .configuration_addnorm_data2vec_audio import AddNormData2VecAudioConfig
from .wav2vec2_shape import (
    Wav2Vec2ShapeAttention,
    Wav2Vec2ShapeEncoder,
    Wav2Vec2ShapeFeedForward,
    Wav2Vec2ShapeLayer,
    wav2vec2_layout,
    wav2vec2_sublayers,
)


class AddNormData2VecAudioAttention(Wav2Vec2ShapeAttention, stock.Data2VecAudioAttention): ...


class AddNormData2VecAudioFeedForward(Wav2Vec2ShapeFeedForward, stock.Data2VecAudioFeedForward): ...


class AddNormData2VecAudioEncoderLayer(Wav2Vec2ShapeLayer, stock.Data2VecAudioEncoderLayer):
    sublayers = wav2vec2_sublayers("post", AddNormData2VecAudioAttention, AddNormData2VecAudioFeedForward)


class AddNormData2VecAudioEncoder(Wav2Vec2ShapeEncoder, stock.Data2VecAudioEncoder): ...


class AddNormData2VecAudioPreTrainedModel(AddNormPreTrainedModel, stock.Data2VecAudioPreTrainedModel):
    config: AddNormData2VecAudioConfig
    layout = wav2vec2_layout(AddNormData2VecAudioEncoderLayer, AddNormData2VecAudioEncoder)


class AddNormData2VecAudioModel(AddNormData2VecAudioPreTrainedModel, stock.Data2VecAudioModel): ...


class AddNormData2VecAudioForCTC(AddNormData2VecAudioPreTrainedModel, stock.Data2VecAudioForCTC): ...


class AddNormData2VecAudioForSequenceClassification(
    AddNormData2VecAudioPreTrainedModel, stock.Data2VecAudioForSequenceClassification
): ...


class AddNormData2VecAudioForAudioFrameClassification(
    AddNormData2VecAudioPreTrainedModel, stock.Data2VecAudioForAudioFrameClassification
): ...


class AddNormData2VecAudioForXVector(AddNormData2VecAudioPreTrainedModel, stock.Data2VecAudioForXVector): ...
