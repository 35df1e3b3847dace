"""GPT-NeoX with another add & norm: the base model and its heads."""

from typing import ClassVar

import torch
from transformers.models.gpt_neox import modeling_gpt_neox as stock

from ..base.protocols import StockValue
from ..core.branch_norms import BranchNorms, WithBranchNorms
from ..core.family_layout import FamilyLayout, SublayerLayout, numbered
from ..core.layer import AddNormLayer
from ..core.pretrained import AddNormPreTrainedModel
from ..streams.streams import LayerState
from ..streams.wirings import Parallel, Sequential
from .configuration_addnorm_gpt_neox import AddNormGPTNeoXConfig


class AddNormGPTNeoXAttention(WithBranchNorms, stock.GPTNeoXAttention):
    """`GPTNeoXAttention` with norms behind q, k, v (before the rotary embedding) and before the output projection."""

    linear_roles: ClassVar = {"query_key_value": ("q", "k", "v"), "dense": "o"}

    def blocks_of(self, name: str) -> int:
        # q, k and v of the first head, then those of the second
        return self.config.num_attention_heads if name == "query_key_value" else 1


class AddNormGPTNeoXMLP(WithBranchNorms, stock.GPTNeoXMLP):
    """`GPTNeoXMLP` with norms before the activation and before the output projection."""

    linear_roles: ClassVar = {"dense_h_to_4h": "w1", "dense_4h_to_h": "w2"}


class AddNormGPTNeoXLayer(AddNormLayer, stock.GPTNeoXLayer):
    """A GPT-NeoX layer whose sublayers run through add & norm blocks.

    x -> attention, feed-forward -> x      each inside its add & norm block; in parallel in the stock model
    """

    sublayers: ClassVar = {
        "attention": SublayerLayout(
            norms={"pre": "input_layernorm"},
            dropout="post_attention_dropout",
            parts={"attention": AddNormGPTNeoXAttention},
        ),
        "feed_forward": SublayerLayout(
            norms={"pre": "post_attention_layernorm"}, dropout="post_mlp_dropout", parts={"mlp": AddNormGPTNeoXMLP}
        ),
    }

    def has_stock_wiring(self, wiring: Sequential) -> bool:
        if not self.use_parallel_residual:
            return super().has_stock_wiring(wiring)
        return isinstance(wiring, Parallel) and not wiring.shared_norm

    def forward(self, hidden_states: LayerState, **kwargs: StockValue) -> LayerState:  # type: ignore[override]
        def attend(u: torch.Tensor, branch_norms: BranchNorms) -> torch.Tensor:
            return self.attention(u, branch_norms=branch_norms, **kwargs)[0]

        def feed_forward(u: torch.Tensor, branch_norms: BranchNorms) -> torch.Tensor:
            return self.mlp(u, branch_norms=branch_norms)

        return self.run(hidden_states, {"attention": attend, "feed_forward": feed_forward})


class AddNormGPTNeoXPreTrainedModel(AddNormPreTrainedModel, stock.GPTNeoXPreTrainedModel):
    config: AddNormGPTNeoXConfig
    layout = FamilyLayout(
        layer=AddNormGPTNeoXLayer,
        layers=numbered("layers"),
        embeddings=("embed_in",),
        embed_dropout="emb_dropout",
        final_norm="final_layer_norm",
    )


class AddNormGPTNeoXModel(AddNormGPTNeoXPreTrainedModel, stock.GPTNeoXModel): ...


class AddNormGPTNeoXForCausalLM(AddNormGPTNeoXPreTrainedModel, stock.GPTNeoXForCausalLM): ...


class AddNormGPTNeoXForSequenceClassification(
    AddNormGPTNeoXPreTrainedModel, stock.GPTNeoXForSequenceClassification
): ...


class AddNormGPTNeoXForTokenClassification(AddNormGPTNeoXPreTrainedModel, stock.GPTNeoXForTokenClassification): ...


class AddNormGPTNeoXForQuestionAnswering(AddNormGPTNeoXPreTrainedModel, stock.GPTNeoXForQuestionAnswering): ...
