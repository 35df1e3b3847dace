"""ALBERT with another add & norm: the base model and its heads."""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.albert import modeling_albert as stock

from ..base.packed_tokens import PackedTokens
from ..base.protocols import StockValue
from ..core.branch_norms import BranchNorms, WithBranchNorms, same
from ..core.encoder import AddNormEncoder
from ..core.family_layout import FamilyLayout, SublayerLayout
from ..core.layer import AddNormLayer, BlocksOfDepth
from ..core.layer_add_norm import in_chunks
from ..core.pretrained import AddNormPreTrainedModel
from ..streams.streams import LayerState
from .configuration_addnorm_albert import AddNormAlbertConfig


class AddNormAlbertAttention(WithBranchNorms, stock.AlbertAttention):
    """`AlbertAttention` with norms behind q, k, v and before the output projection.

    The stock forward adds its input and normalises; as a branch it gives the projection's output alone.
    """

    linear_roles: ClassVar = {"query": "q", "key": "k", "value": "v", "dense": "o"}

    def replaced(self, branch_norms: BranchNorms) -> dict[str, Callable[..., StockValue]]:
        outputs: list[torch.Tensor] = []

        def project(core: torch.Tensor) -> torch.Tensor:
            outputs.append(branch_norms.project(self.dense, ("o",), core))
            return outputs[0]

        # what the stock LayerNorm would be given, the sum with the input, is not used
        parts = super().replaced(branch_norms)
        return parts | {"dense": project, "output_dropout": same, "LayerNorm": lambda _: outputs[0]}


class AddNormAlbertLayer(AddNormLayer, stock.AlbertLayer):
    """An ALBERT layer whose sublayers run through the add & norm blocks of the depth that it is run at.

    x -> attention -> feed-forward -> x      each inside its add & norm block

    """

    sublayers: ClassVar = {
        "attention": SublayerLayout(
            norms={"post": "attention.LayerNorm"},
            dropout="attention.output_dropout",
            parts={"attention": AddNormAlbertAttention},
        ),
        "feed_forward": SublayerLayout(
            norms={"post": "full_layer_layer_norm"}, linears={"w1": "ffn", "w2": "ffn_output"}
        ),
    }

    def forward(
        self,
        hidden_states: LayerState,
        attention_mask: torch.Tensor | None = None,
        connections: BlocksOfDepth | None = None,
        **kwargs: Any,
    ) -> LayerState:
        chunk = (self.chunk_size_feed_forward, self.seq_len_dim)

        def attend(u: torch.Tensor, branch_norms: BranchNorms) -> torch.Tensor:
            return self.attention(u, attention_mask, branch_norms=branch_norms, **kwargs)[0]

        def feed_forward(u: torch.Tensor, branch_norms: BranchNorms) -> torch.Tensor:
            def in_one_piece(part: torch.Tensor) -> torch.Tensor:
                return self.ffn_output(
                    branch_norms.norm("mid", self.activation(branch_norms.norm("up", self.ffn(part))))
                )

            return in_chunks(in_one_piece, None if self.mixes_tokens else chunk, u)

        return self.run(hidden_states, {"attention": attend, "feed_forward": feed_forward}, connections)


class AddNormAlbertTransformer(AddNormEncoder, stock.AlbertTransformer):
    """ALBERT's encoder, which knows the depth that each of its shared layers is run at."""

    holds_connections = True
    connections: Any

    def run_layers(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs: Any
    ) -> Any:
        """The stock loop, with the blocks of every depth."""
        packed: PackedTokens | None = kwargs.get("packed")
        if self.runs_as_stock and not self.fused_add_norm and not (packed is not None and packed.first_only):
            return self.stock_forward(self, hidden_states, attention_mask, **kwargs)
        hidden_states = self.embedding_hidden_mapping_in(hidden_states)
        blocks = iter(self.connections)
        for depth in range(self.config.num_hidden_layers):
            group: Any = self.albert_layer_groups[
                int(depth / (self.config.num_hidden_layers / self.config.num_hidden_groups))
            ]
            for layer in group.albert_layers:
                hidden_states = layer(hidden_states, attention_mask, connections=BlocksOfDepth(next(blocks)), **kwargs)
        return BaseModelOutput(last_hidden_state=hidden_states)


def _layers(config: Any) -> list[str]:
    groups = [
        int(depth / (config.num_hidden_layers / config.num_hidden_groups)) for depth in range(config.num_hidden_layers)
    ]
    return [
        f"encoder.albert_layer_groups.{group}.albert_layers.{index}"
        for group in groups
        for index in range(config.inner_group_num)
    ]


class AddNormAlbertPreTrainedModel(AddNormPreTrainedModel, stock.AlbertPreTrainedModel):
    config: AddNormAlbertConfig
    base_model_prefix = "albert"
    layout = FamilyLayout(
        layer=AddNormAlbertLayer,
        layers=_layers,
        encoder="encoder",
        encoder_class=AddNormAlbertTransformer,
        embeddings=("embeddings",),
        position_table="embeddings.position_embeddings",
        embed_norm="embeddings.LayerNorm",
        head_norms=("predictions.LayerNorm",),
    )


class AddNormAlbertModel(AddNormAlbertPreTrainedModel, stock.AlbertModel):
    config: AddNormAlbertConfig


class AddNormAlbertForPreTraining(AddNormAlbertPreTrainedModel, stock.AlbertForPreTraining): ...


class AddNormAlbertForMaskedLM(AddNormAlbertPreTrainedModel, stock.AlbertForMaskedLM): ...


class AddNormAlbertForSequenceClassification(AddNormAlbertPreTrainedModel, stock.AlbertForSequenceClassification): ...


class AddNormAlbertForMultipleChoice(AddNormAlbertPreTrainedModel, stock.AlbertForMultipleChoice): ...


class AddNormAlbertForTokenClassification(AddNormAlbertPreTrainedModel, stock.AlbertForTokenClassification): ...


class AddNormAlbertForQuestionAnswering(AddNormAlbertPreTrainedModel, stock.AlbertForQuestionAnswering): ...
