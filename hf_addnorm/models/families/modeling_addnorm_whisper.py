"""Whisper with another add & norm: encoder-decoder and heads."""

import torch
from transformers.models.whisper import modeling_whisper as stock

from ..base.protocols import StockValue
from ..core.embeddings_and_output import TransformedEmbedding
from ..core.encoder import AddNormStack
from ..core.pretrained import AddNormPreTrainedModel
from ..core.several_stacks import HasEncoderAlone
from .bart_shape import BartShapeAttention, BartShapeEncoderLayer, BartShapeLayer, bart_layout, bart_sublayers
from .configuration_addnorm_whisper import AddNormWhisperConfig


class AddNormWhisperAttention(BartShapeAttention, stock.WhisperAttention): ...


class AddNormWhisperPositions(stock.WhisperPositionalEmbedding, TransformedEmbedding):
    """`WhisperPositionalEmbedding` whose rows are transformed."""

    def forward(
        self, input_ids: torch.Tensor, past_key_values_length: int = 0, position_ids: torch.Tensor | None = None
    ) -> torch.Tensor:
        rows: torch.Tensor = self.weight_norm(super().forward(input_ids, past_key_values_length, position_ids))
        return rows


class AddNormWhisperEncoderLayer(BartShapeEncoderLayer, stock.WhisperEncoderLayer):
    sublayers = bart_sublayers("pre", AddNormWhisperAttention)


class AddNormWhisperDecoderLayer(BartShapeLayer, stock.WhisperDecoderLayer):
    sublayers = bart_sublayers("pre", AddNormWhisperAttention, reads_encoder=True)


class AddNormWhisperPreTrainedModel(AddNormPreTrainedModel, stock.WhisperPreTrainedModel):
    config: AddNormWhisperConfig
    # no norm behind the embeddings, and the dropout there is no module
    layouts = {
        "encoder": bart_layout(
            AddNormWhisperEncoderLayer, embeddings=(), embed_in_layer=True, final_norm="layer_norm"
        ),
        "decoder": bart_layout(
            AddNormWhisperDecoderLayer,
            embed_in_layer=True,
            final_norm="layer_norm",
            table_classes=(AddNormWhisperPositions,),
        ),
    }


class AddNormWhisperEncoder(AddNormStack, AddNormWhisperPreTrainedModel, stock.WhisperEncoder):
    stack_name = "encoder"


class AddNormWhisperDecoder(AddNormStack, AddNormWhisperPreTrainedModel, stock.WhisperDecoder):
    stack_name = "decoder"


class AddNormWhisperDecoderWrapper(AddNormWhisperPreTrainedModel, stock.WhisperDecoderWrapper): ...


class AddNormWhisperModel(AddNormWhisperPreTrainedModel, stock.WhisperModel): ...


class AddNormWhisperForConditionalGeneration(AddNormWhisperPreTrainedModel, stock.WhisperForConditionalGeneration): ...


class AddNormWhisperForAudioClassification(
    HasEncoderAlone, AddNormWhisperPreTrainedModel, stock.WhisperForAudioClassification
): ...


# the stock model's start calls post_init; trf-ignore: TRF013
class AddNormWhisperForCausalLM(AddNormWhisperPreTrainedModel, stock.WhisperForCausalLM):
    def __init__(self, config: StockValue):
        # it has the decoder alone, of which the stock model says half
        config.is_decoder = True
        super().__init__(config)
