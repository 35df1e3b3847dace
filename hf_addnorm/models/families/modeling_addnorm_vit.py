"""ViT with another add & norm: the base model and its heads."""

from typing import Any, ClassVar

import torch
from transformers.models.vit import modeling_vit as stock

from ..core.branch_norms import BranchNorms, WithBranchNorms
from ..core.family_layout import FamilyLayout, SublayerLayout, numbered
from ..core.layer import AddNormLayer
from ..core.pretrained import AddNormPreTrainedModel
from ..streams.streams import LayerState
from .configuration_addnorm_vit import AddNormViTConfig


class AddNormViTAttention(WithBranchNorms, stock.ViTAttention):
    """`ViTAttention` with norms behind q, k, v and before the output projection."""

    linear_roles: ClassVar = {"q_proj": "q", "k_proj": "k", "v_proj": "v", "o_proj": "o"}


class AddNormViTMLP(WithBranchNorms, stock.ViTMLP):
    """`ViTMLP` with norms before the activation and before the output projection."""

    linear_roles: ClassVar = {"fc1": "w1", "fc2": "w2"}


class AddNormViTLayer(AddNormLayer, stock.ViTLayer):
    """A ViT layer whose sublayers run through add & norm blocks.

    x -> attention -> feed-forward -> x      each inside its add & norm block
    """

    sublayers: ClassVar = {
        "attention": SublayerLayout(
            norms={"pre": "layernorm_before"}, dropout="dropout", parts={"attention": AddNormViTAttention}
        ),
        "feed_forward": SublayerLayout(
            norms={"pre": "layernorm_after"}, dropout="dropout", parts={"mlp": AddNormViTMLP}
        ),
    }

    def forward(
        self, hidden_states: LayerState, attention_mask: torch.Tensor | None = None, **kwargs: Any
    ) -> LayerState:
        def attend(u: torch.Tensor, branch_norms: BranchNorms) -> torch.Tensor:
            return self.attention(u, attention_mask, branch_norms=branch_norms, **kwargs)[0]

        def feed_forward(u: torch.Tensor, branch_norms: BranchNorms) -> torch.Tensor:
            return self.mlp(u, branch_norms=branch_norms)

        return self.run(hidden_states, {"attention": attend, "feed_forward": feed_forward})


class AddNormViTPreTrainedModel(AddNormPreTrainedModel, stock.ViTPreTrainedModel):
    config: AddNormViTConfig
    layout = FamilyLayout(
        layer=AddNormViTLayer,
        layers=numbered("layers"),
        embed_dropout="embeddings.dropout",
        final_norm="layernorm",
    )


class AddNormViTModel(AddNormViTPreTrainedModel, stock.ViTModel): ...


class AddNormViTForMaskedImageModeling(AddNormViTPreTrainedModel, stock.ViTForMaskedImageModeling): ...


class AddNormViTForImageClassification(AddNormViTPreTrainedModel, stock.ViTForImageClassification): ...
