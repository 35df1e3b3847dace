"""ModernBERT with another add & norm: the base model and its heads."""

from typing import ClassVar

import torch
from transformers.models.modernbert import modeling_modernbert as stock

from ..base.protocols import StockValue
from ..core.branch_norms import BranchNorms, WithBranchNorms
from ..core.family_layout import ONE_OVER_ROOT_2L, FamilyLayout, SublayerLayout, numbered
from ..core.layer import AddNormLayer
from ..core.pretrained import AddNormPreTrainedModel
from ..streams.streams import LayerState
from .configuration_addnorm_modernbert import AddNormModernBertConfig


class AddNormModernBertAttention(WithBranchNorms, stock.ModernBertAttention):
    """`ModernBertAttention` with norms behind q, k, v (before the rotary embedding) and before o."""

    linear_roles: ClassVar = {"Wqkv": ("q", "k", "v"), "Wo": "o"}
    left_to_block: ClassVar = ("out_drop",)


class AddNormModernBertMLP(WithBranchNorms, stock.ModernBertMLP):
    """`ModernBertMLP` with norms around its inside; its first projection is fused with the gate's, and so is `up`."""

    linear_roles: ClassVar = {"Wi": ("w1", "w1"), "Wo": "w2"}


class AddNormModernBertEncoderLayer(AddNormLayer, stock.ModernBertEncoderLayer):
    """A ModernBERT layer whose sublayers run through add & norm blocks.

    x -> attention -> feed-forward -> x      each inside its add & norm block
    """

    sublayers: ClassVar = {
        "attention": SublayerLayout(
            norms={"pre": "attn_norm"}, dropout="attn.out_drop", parts={"attn": AddNormModernBertAttention}
        ),
        "feed_forward": SublayerLayout(norms={"pre": "mlp_norm"}, parts={"mlp": AddNormModernBertMLP}),
    }

    def forward(
        self,
        hidden_states: LayerState,
        attention_mask: torch.Tensor | None = None,
        position_embeddings: StockValue = None,
        **kwargs: StockValue,
    ) -> LayerState:
        kwargs |= {"attention_mask": attention_mask, "position_embeddings": position_embeddings}

        def attend(u: torch.Tensor, branch_norms: BranchNorms) -> torch.Tensor:
            return self.attn(u, branch_norms=branch_norms, **kwargs)[0]

        def feed_forward(u: torch.Tensor, branch_norms: BranchNorms) -> torch.Tensor:
            return self.mlp(u, branch_norms=branch_norms)

        return self.run(hidden_states, {"attention": attend, "feed_forward": feed_forward})


class AddNormModernBertPreTrainedModel(AddNormPreTrainedModel, stock.ModernBertPreTrainedModel):
    config: AddNormModernBertConfig
    layout = FamilyLayout(
        layer=AddNormModernBertEncoderLayer,
        layers=numbered("layers"),
        embeddings=("embeddings",),
        embed_norm="embeddings.norm",
        final_norm="final_norm",
        head_norms=("head.norm",),
        output_scale=ONE_OVER_ROOT_2L,
    )


class AddNormModernBertModel(AddNormModernBertPreTrainedModel, stock.ModernBertModel): ...


class AddNormModernBertForMaskedLM(AddNormModernBertPreTrainedModel, stock.ModernBertForMaskedLM): ...


class AddNormModernBertForSequenceClassification(
    AddNormModernBertPreTrainedModel, stock.ModernBertForSequenceClassification
): ...


class AddNormModernBertForTokenClassification(
    AddNormModernBertPreTrainedModel, stock.ModernBertForTokenClassification
): ...


class AddNormModernBertForQuestionAnswering(
    AddNormModernBertPreTrainedModel, stock.ModernBertForQuestionAnswering
): ...


class AddNormModernBertForMultipleChoice(AddNormModernBertPreTrainedModel, stock.ModernBertForMultipleChoice): ...
