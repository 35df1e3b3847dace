"""MPNet with another add & norm: the base model and its heads."""

from typing import ClassVar

import torch
from transformers.models.mpnet import modeling_mpnet as stock

from ..base.protocols import StockValue
from ..core.branch_norms import BranchNorms, WithBranchNorms
from ..core.encoder import AddNormEncoder
from ..core.family_layout import SublayerLayout
from ..core.layer import AddNormLayer
from ..core.pretrained import AddNormPreTrainedModel
from ..streams.streams import LayerState
from .bert_shape import BertShapeIntermediate, bert_layout
from .configuration_addnorm_mpnet import AddNormMPNetConfig


class AddNormMPNetSelfAttention(WithBranchNorms, stock.MPNetSelfAttention):
    """`MPNetSelfAttention` with norms behind q, k, v and before the output projection."""

    linear_roles: ClassVar = {"q": "q", "k": "k", "v": "v", "o": "o"}


class AddNormMPNetIntermediate(BertShapeIntermediate, stock.MPNetIntermediate): ...


class AddNormMPNetLayer(AddNormLayer, stock.MPNetLayer):
    """`MPNetLayer` whose sublayers run through add & norm blocks.

    x -> attention -> feed-forward -> x      each inside its add & norm block

    It returns the hidden states and, where they are asked for, the weights of its attention."""

    sublayers: ClassVar = {
        "attention": SublayerLayout(
            norms={"post": "attention.LayerNorm"},
            dropout="attention.dropout",
            parts={"attention.attn": AddNormMPNetSelfAttention},
        ),
        "feed_forward": SublayerLayout(
            norms={"post": "output.LayerNorm"},
            dropout="output.dropout",
            parts={"intermediate": AddNormMPNetIntermediate},
            linears={"w2": "output.dense"},
        ),
    }

    def forward(  # type: ignore[override]
        self,
        hidden_states: LayerState,
        attention_mask: torch.Tensor | None = None,
        position_bias: torch.Tensor | None = None,
        **kwargs: StockValue,
    ) -> tuple[LayerState, ...]:
        beside: list[torch.Tensor] = []

        def attend(u: torch.Tensor, branch_norms: BranchNorms) -> torch.Tensor:
            output, *weights = self.attention.attn(
                u, attention_mask, position_bias, branch_norms=branch_norms, **kwargs
            )
            beside.extend(weights)
            return output

        def feed_forward(u: torch.Tensor, branch_norms: BranchNorms) -> torch.Tensor:
            return self.output.dense(branch_norms.norm("mid", self.intermediate(u, branch_norms=branch_norms)))

        hidden_states = self.run(hidden_states, {"attention": attend, "feed_forward": feed_forward})
        return hidden_states, *beside


class AddNormMPNetEncoder(AddNormEncoder, stock.MPNetEncoder): ...


class AddNormMPNetPreTrainedModel(AddNormPreTrainedModel, stock.MPNetPreTrainedModel):
    config: AddNormMPNetConfig
    layout = bert_layout(
        AddNormMPNetLayer,
        AddNormMPNetEncoder,
        head_norms=("lm_head.layer_norm",),
        cannot_pack="its attention adds a term for the distance of each two tokens of a row, by code of its own",
    )


class AddNormMPNetModel(AddNormMPNetPreTrainedModel, stock.MPNetModel): ...


class AddNormMPNetForMaskedLM(AddNormMPNetPreTrainedModel, stock.MPNetForMaskedLM): ...


class AddNormMPNetForSequenceClassification(AddNormMPNetPreTrainedModel, stock.MPNetForSequenceClassification): ...


class AddNormMPNetForMultipleChoice(AddNormMPNetPreTrainedModel, stock.MPNetForMultipleChoice): ...


class AddNormMPNetForTokenClassification(AddNormMPNetPreTrainedModel, stock.MPNetForTokenClassification): ...


class AddNormMPNetForQuestionAnswering(AddNormMPNetPreTrainedModel, stock.MPNetForQuestionAnswering): ...
