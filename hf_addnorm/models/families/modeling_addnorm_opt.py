"""OPT with another add & norm: the base model and its heads."""

from transformers.models.opt import modeling_opt as stock

from ..base.protocols import StockValue
from ..core.embeddings_and_output import TransformedEmbedding
from ..core.encoder import AddNormEncoderModel, AddNormStack
from ..core.family_layout import FamilyLayout, numbered
from ..core.layer import AddNormLayer
from ..core.pretrained import AddNormPreTrainedModel
from .bart_shape import BartShapeAttention, BartShapeLayer, NumberedPositions, bart_sublayers
from .configuration_addnorm_opt import AddNormOPTConfig


class AddNormOPTAttention(BartShapeAttention, stock.OPTAttention): ...


class AddNormOPTPositions(stock.OPTLearnedPositionalEmbedding, TransformedEmbedding):  # type: ignore[misc]
    """`OPTLearnedPositionalEmbedding` whose rows are transformed."""


class AddNormOPTDecoderLayer(BartShapeLayer, stock.OPTDecoderLayer):  # type: ignore[misc]
    sublayers = bart_sublayers("pre", AddNormOPTAttention)
    # the stock layer has none
    activation_dropout = 0.0


class AddNormOPTPostDecoderLayer(AddNormOPTDecoderLayer):
    """The same, of a checkpoint whose norms stand behind the sublayers."""

    sublayers = bart_sublayers("post", AddNormOPTAttention)


class AddNormOPTDecoder(AddNormStack, AddNormEncoderModel, stock.OPTDecoder): ...


def _layout(layer: type[AddNormLayer]) -> FamilyLayout:
    return FamilyLayout(
        layer=layer,
        layers=numbered("decoder.layers"),
        encoder="decoder",
        encoder_class=AddNormOPTDecoder,
        embeddings=("decoder.embed_tokens", "decoder.embed_positions"),
        table_classes=(AddNormOPTPositions,),
        position_table="decoder.embed_positions",
        positions_class=NumberedPositions,
        embed_in_layer=True,
        final_norm="decoder.final_layer_norm",
        cannot_pack="its embeddings number the tokens by the attention mask",
    )


class AddNormOPTPreTrainedModel(AddNormPreTrainedModel, stock.OPTPreTrainedModel):
    config: AddNormOPTConfig
    layout = _layout(AddNormOPTDecoderLayer)
    post_layout = _layout(AddNormOPTPostDecoderLayer)

    @classmethod
    def layout_of(cls, config: StockValue) -> FamilyLayout:
        # CODEPATH: opt-350m has its norms behind the sublayers, the other checkpoints before them
        return cls.layout if config.do_layer_norm_before else cls.post_layout


class AddNormOPTModel(AddNormOPTPreTrainedModel, stock.OPTModel): ...


class AddNormOPTForCausalLM(AddNormOPTPreTrainedModel, stock.OPTForCausalLM): ...


class AddNormOPTForSequenceClassification(AddNormOPTPreTrainedModel, stock.OPTForSequenceClassification): ...


class AddNormOPTForQuestionAnswering(AddNormOPTPreTrainedModel, stock.OPTForQuestionAnswering): ...
