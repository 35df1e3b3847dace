"""ViT with another add & norm: the base model and its heads."""

from typing import Any, ClassVar

import torch
from transformers.models.vit.modeling_vit import (
    ViTAttention,
    ViTForImageClassification,
    ViTForMaskedImageModeling,
    ViTLayer,
    ViTMLP,
    ViTModel,
    ViTPreTrainedModel,
)

from ..core.branch_norms import Inner, InnerNorms
from ..core.family_layout import Anatomy, Sublayer, numbered
from ..core.pretrained import AddNormLayer, AddNormPreTrainedModel
from ..streams.streams import Hidden
from .configuration_addnorm_vit import AddNormViTConfig


class AddNormViTAttention(InnerNorms, ViTAttention):
    """`ViTAttention` with norms behind q, k, v and before the output projection."""

    linear_roles: ClassVar = {"q_proj": "q", "k_proj": "k", "v_proj": "v", "o_proj": "o"}


class AddNormViTMLP(InnerNorms, ViTMLP):
    """`ViTMLP` with norms before the activation and before the output projection."""

    linear_roles: ClassVar = {"fc1": "w1", "fc2": "w2"}


class AddNormViTLayer(AddNormLayer, ViTLayer):
    """A ViT layer whose sublayers run through add & norm blocks.

    x -> attention -> feed-forward -> x      each inside its AddNorm block
    """

    sublayers: ClassVar = {
        "attention": Sublayer(
            norms={"pre": "layernorm_before"}, dropout="dropout", parts={"attention": AddNormViTAttention}
        ),
        "feed_forward": Sublayer(norms={"pre": "layernorm_after"}, dropout="dropout", parts={"mlp": AddNormViTMLP}),
    }

    def forward(self, hidden_states: Hidden, attention_mask: torch.Tensor | None = None, **kwargs: Any) -> Hidden:
        def attend(u: torch.Tensor, inner: Inner) -> torch.Tensor:
            return self.attention(u, attention_mask, inner=inner, **kwargs)[0]

        def feed_forward(u: torch.Tensor, inner: Inner) -> torch.Tensor:
            return self.mlp(u, inner=inner)

        return self.run(hidden_states, {"attention": attend, "feed_forward": feed_forward})


class AddNormViTPreTrainedModel(AddNormPreTrainedModel, ViTPreTrainedModel):
    """Base of the ViT models: adoption, initialisation, and everything that stock ViT has."""

    config: AddNormViTConfig
    config_class = AddNormViTConfig
    anatomy = Anatomy(
        layer=AddNormViTLayer,
        layers=numbered("layers"),
        embed_dropout="embeddings.dropout",
        final_norm="layernorm",
    )

    @classmethod
    def add_norm_base(cls) -> type["AddNormViTModel"]:
        return AddNormViTModel


class AddNormViTModel(AddNormViTPreTrainedModel, ViTModel):
    """`ViTModel` with the add & norm of `config.add_norm`; same arguments, same outputs."""


class AddNormViTForMaskedImageModeling(AddNormViTPreTrainedModel, ViTForMaskedImageModeling):
    """`ViTForMaskedImageModeling` with the add & norm of `config.add_norm`; same arguments, same outputs."""


class AddNormViTForImageClassification(AddNormViTPreTrainedModel, ViTForImageClassification):
    """`ViTForImageClassification` with the add & norm of `config.add_norm`; same arguments, same outputs."""


__all__ = [
    "AddNormViTForImageClassification",
    "AddNormViTForMaskedImageModeling",
    "AddNormViTModel",
    "AddNormViTPreTrainedModel",
]
