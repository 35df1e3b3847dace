"""BART with another add & norm: encoder-decoder and heads."""

from transformers.models.bart import modeling_bart as stock

from ..core.embeddings_and_output import TransformedEmbedding
from ..core.encoder import AddNormStack
from ..core.pretrained import AddNormPreTrainedModel
from .bart_shape import BartShapeAttention, BartShapeEncoderLayer, BartShapeLayer, bart_layout, bart_sublayers
from .configuration_addnorm_bart import AddNormBartConfig


class AddNormBartAttention(BartShapeAttention, stock.BartAttention): ...


class AddNormBartWords(stock.BartScaledWordEmbedding, TransformedEmbedding):
    """`BartScaledWordEmbedding` whose rows are transformed before they are scaled."""


class AddNormBartPositions(stock.BartLearnedPositionalEmbedding, TransformedEmbedding):
    """`BartLearnedPositionalEmbedding` whose rows are transformed."""


class AddNormBartEncoderLayer(BartShapeEncoderLayer, stock.BartEncoderLayer):
    sublayers = bart_sublayers("post", AddNormBartAttention)


class AddNormBartDecoderLayer(BartShapeLayer, stock.BartDecoderLayer):
    sublayers = bart_sublayers("post", AddNormBartAttention, reads_encoder=True)


class AddNormBartPreTrainedModel(AddNormPreTrainedModel, stock.BartPreTrainedModel):
    config: AddNormBartConfig
    layouts = {
        stack: bart_layout(
            layer, embed_norm="layernorm_embedding", table_classes=(AddNormBartWords, AddNormBartPositions)
        )
        for stack, layer in {"encoder": AddNormBartEncoderLayer, "decoder": AddNormBartDecoderLayer}.items()
    }


class AddNormBartEncoder(AddNormStack, AddNormBartPreTrainedModel, stock.BartEncoder):
    stack_name = "encoder"


class AddNormBartDecoder(AddNormStack, AddNormBartPreTrainedModel, stock.BartDecoder):
    stack_name = "decoder"


class AddNormBartDecoderWrapper(AddNormBartPreTrainedModel, stock.BartDecoderWrapper): ...


class AddNormBartModel(AddNormBartPreTrainedModel, stock.BartModel): ...


class AddNormBartForConditionalGeneration(AddNormBartPreTrainedModel, stock.BartForConditionalGeneration): ...


class AddNormBartForSequenceClassification(AddNormBartPreTrainedModel, stock.BartForSequenceClassification): ...


class AddNormBartForQuestionAnswering(AddNormBartPreTrainedModel, stock.BartForQuestionAnswering): ...


class AddNormBartForCausalLM(AddNormBartPreTrainedModel, stock.BartForCausalLM): ...
