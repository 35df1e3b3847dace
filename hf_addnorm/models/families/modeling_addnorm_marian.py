"""Marian with another add & norm: encoder-decoder and heads."""

from transformers.models.marian import modeling_marian as stock

from ..core.encoder import AddNormStack
from ..core.pretrained import AddNormPreTrainedModel
from .bart_shape import BartShapeAttention, BartShapeEncoderLayer, BartShapeLayer, bart_layout, bart_sublayers
from .configuration_addnorm_marian import AddNormMarianConfig


class AddNormMarianAttention(BartShapeAttention, stock.MarianAttention): ...


class AddNormMarianEncoderLayer(BartShapeEncoderLayer, stock.MarianEncoderLayer):
    sublayers = bart_sublayers("post", AddNormMarianAttention)


class AddNormMarianDecoderLayer(BartShapeLayer, stock.MarianDecoderLayer):
    sublayers = bart_sublayers("post", AddNormMarianAttention, reads_encoder=True)


class AddNormMarianPreTrainedModel(AddNormPreTrainedModel, stock.MarianPreTrainedModel):
    config: AddNormMarianConfig
    # no norm behind the embeddings, and the dropout there is no module
    layouts = {
        stack: bart_layout(layer, embeddings=("embed_tokens",), embed_in_layer=True)
        for stack, layer in {"encoder": AddNormMarianEncoderLayer, "decoder": AddNormMarianDecoderLayer}.items()
    }


class AddNormMarianEncoder(AddNormStack, AddNormMarianPreTrainedModel, stock.MarianEncoder):
    stack_name = "encoder"


class AddNormMarianDecoder(AddNormStack, AddNormMarianPreTrainedModel, stock.MarianDecoder):
    stack_name = "decoder"


class AddNormMarianDecoderWrapper(AddNormMarianPreTrainedModel, stock.MarianDecoderWrapper): ...


class AddNormMarianModel(AddNormMarianPreTrainedModel, stock.MarianModel): ...


class AddNormMarianMTModel(AddNormMarianPreTrainedModel, stock.MarianMTModel): ...


class AddNormMarianForCausalLM(AddNormMarianPreTrainedModel, stock.MarianForCausalLM): ...
