"""DistilBERT with another add & norm: the base model and its heads."""

from typing import ClassVar

import torch
from transformers.models.distilbert import modeling_distilbert as stock

from ..base.protocols import StockValue
from ..core.branch_norms import BranchNorms, ModuleView, WithBranchNorms
from ..core.encoder import AddNormEncoder
from ..core.family_layout import FamilyLayout, SublayerLayout, numbered
from ..core.layer import AddNormLayer
from ..core.pretrained import AddNormPreTrainedModel
from ..streams.streams import LayerState
from .configuration_addnorm_distilbert import AddNormDistilBertConfig


class AddNormDistilBertSelfAttention(WithBranchNorms, stock.DistilBertSelfAttention):
    """`DistilBertSelfAttention` with norms behind q, k, v and before the output projection."""

    linear_roles: ClassVar = {"q_lin": "q", "k_lin": "k", "v_lin": "v", "out_lin": "o"}


class AddNormDistilBertFFN(WithBranchNorms, stock.FFN):
    """`FFN` with norms before the activation and before the output projection, in one piece."""

    linear_roles: ClassVar = {"lin1": "w1", "lin2": "w2"}
    left_to_block: ClassVar = ("dropout",)

    def forward(self, *args: StockValue, branch_norms: BranchNorms | None = None, **kwargs: StockValue) -> StockValue:
        if branch_norms is None:
            return super().forward(*args, **kwargs)
        # not in chunks here: the whole sublayer runs in chunks, if anything does
        view: StockValue = ModuleView(self, self.replaced(branch_norms))
        return stock.FFN.ff_chunk(view, *args, **kwargs)


class AddNormDistilBertLayer(AddNormLayer, stock.TransformerBlock):
    """A DistilBERT layer whose sublayers run through add & norm blocks.

    x -> attention -> feed-forward -> x      each inside its add & norm block
    """

    sublayers: ClassVar = {
        "attention": SublayerLayout(
            norms={"post": "sa_layer_norm"}, parts={"attention": AddNormDistilBertSelfAttention}
        ),
        "feed_forward": SublayerLayout(
            norms={"post": "output_layer_norm"}, dropout="ffn.dropout", parts={"ffn": AddNormDistilBertFFN}
        ),
    }

    def forward(
        self, hidden_states: LayerState, attention_mask: torch.Tensor | None = None, **kwargs: StockValue
    ) -> LayerState:
        def attend(u: torch.Tensor, branch_norms: BranchNorms) -> torch.Tensor:
            return self.attention(u, attention_mask=attention_mask, branch_norms=branch_norms, **kwargs)[0]

        def feed_forward(u: torch.Tensor, branch_norms: BranchNorms) -> torch.Tensor:
            return self.ffn(u, branch_norms=branch_norms)

        chunk = (self.ffn.chunk_size_feed_forward, self.ffn.seq_len_dim)
        return self.run(hidden_states, {"attention": attend, "feed_forward": feed_forward}, chunk=chunk)


class AddNormDistilBertTransformer(AddNormEncoder, stock.Transformer):
    """DistilBERT's encoder with the norm of the place `final`."""


class AddNormDistilBertPreTrainedModel(AddNormPreTrainedModel, stock.DistilBertPreTrainedModel):
    config: AddNormDistilBertConfig
    layout = FamilyLayout(
        layer=AddNormDistilBertLayer,
        layers=numbered("transformer.layer"),
        encoder="transformer",
        encoder_class=AddNormDistilBertTransformer,
        embeddings=("embeddings",),
        position_table="embeddings.position_embeddings",
        embed_norm="embeddings.LayerNorm",
        head_norms=("vocab_layer_norm",),
    )


class AddNormDistilBertModel(AddNormDistilBertPreTrainedModel, stock.DistilBertModel): ...


class AddNormDistilBertForMaskedLM(AddNormDistilBertPreTrainedModel, stock.DistilBertForMaskedLM): ...


class AddNormDistilBertForSequenceClassification(
    AddNormDistilBertPreTrainedModel, stock.DistilBertForSequenceClassification
): ...


class AddNormDistilBertForMultipleChoice(AddNormDistilBertPreTrainedModel, stock.DistilBertForMultipleChoice): ...


class AddNormDistilBertForTokenClassification(
    AddNormDistilBertPreTrainedModel, stock.DistilBertForTokenClassification
): ...


class AddNormDistilBertForQuestionAnswering(
    AddNormDistilBertPreTrainedModel, stock.DistilBertForQuestionAnswering
): ...
