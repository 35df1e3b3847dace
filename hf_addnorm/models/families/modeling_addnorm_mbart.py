"""mBART with another add & norm: encoder-decoder and heads."""

from transformers.models.mbart import modeling_mbart as stock

from ..core.embeddings_and_output import TransformedEmbedding
from ..core.encoder import AddNormStack
from ..core.pretrained import AddNormPreTrainedModel
from .bart_shape import BartShapeAttention, BartShapeEncoderLayer, BartShapeLayer, bart_layout, bart_sublayers
from .configuration_addnorm_mbart import AddNormMBartConfig


class AddNormMBartAttention(BartShapeAttention, stock.MBartAttention): ...


class AddNormMBartWords(stock.MBartScaledWordEmbedding, TransformedEmbedding):
    """`MBartScaledWordEmbedding` whose rows are transformed before they are scaled."""


class AddNormMBartPositions(stock.MBartLearnedPositionalEmbedding, TransformedEmbedding):
    """`MBartLearnedPositionalEmbedding` whose rows are transformed."""


class AddNormMBartEncoderLayer(BartShapeEncoderLayer, stock.MBartEncoderLayer):
    sublayers = bart_sublayers("pre", AddNormMBartAttention)


class AddNormMBartDecoderLayer(BartShapeLayer, stock.MBartDecoderLayer):
    sublayers = bart_sublayers("pre", AddNormMBartAttention, reads_encoder=True)


class AddNormMBartPreTrainedModel(AddNormPreTrainedModel, stock.MBartPreTrainedModel):
    config: AddNormMBartConfig
    layouts = {
        stack: bart_layout(
            layer,
            embed_norm="layernorm_embedding",
            final_norm="layer_norm",
            table_classes=(AddNormMBartWords, AddNormMBartPositions),
        )
        for stack, layer in {"encoder": AddNormMBartEncoderLayer, "decoder": AddNormMBartDecoderLayer}.items()
    }


class AddNormMBartEncoder(AddNormStack, AddNormMBartPreTrainedModel, stock.MBartEncoder):
    stack_name = "encoder"


class AddNormMBartDecoder(AddNormStack, AddNormMBartPreTrainedModel, stock.MBartDecoder):
    stack_name = "decoder"


class AddNormMBartDecoderWrapper(AddNormMBartPreTrainedModel, stock.MBartDecoderWrapper): ...


class AddNormMBartModel(AddNormMBartPreTrainedModel, stock.MBartModel): ...


class AddNormMBartForConditionalGeneration(AddNormMBartPreTrainedModel, stock.MBartForConditionalGeneration): ...


class AddNormMBartForSequenceClassification(AddNormMBartPreTrainedModel, stock.MBartForSequenceClassification): ...


class AddNormMBartForQuestionAnswering(AddNormMBartPreTrainedModel, stock.MBartForQuestionAnswering): ...


class AddNormMBartForCausalLM(AddNormMBartPreTrainedModel, stock.MBartForCausalLM): ...
