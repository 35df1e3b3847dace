"""DeBERTa-v2 (and v3) with another add & norm: the base model and its heads."""

from typing import Any, ClassVar

import torch
from transformers.models.deberta_v2.modeling_deberta_v2 import (
    ConvLayer,
    DebertaV2Encoder,
    DebertaV2ForMaskedLM,
    DebertaV2ForMultipleChoice,
    DebertaV2ForQuestionAnswering,
    DebertaV2ForSequenceClassification,
    DebertaV2ForTokenClassification,
    DebertaV2Intermediate,
    DebertaV2Layer,
    DebertaV2Model,
    DebertaV2PreTrainedModel,
    DisentangledSelfAttention,
)

from ..core.branch_norms import BranchNorms, ModuleView, WithBranchNorms, same
from ..core.encoder import AddNormEncoder
from ..core.family_layout import FamilyLayout, SublayerLayout, numbered
from ..core.layer import AddNormLayer
from ..core.pretrained import AddNormPreTrainedModel
from ..streams.streams import LayerState
from .configuration_addnorm_deberta_v2 import AddNormDebertaV2Config


class AddNormDebertaV2SelfAttention(WithBranchNorms, DisentangledSelfAttention):
    """`DisentangledSelfAttention` with norms behind the content's q, k and v; positions are projected without them."""

    linear_roles: ClassVar = {"query_proj": "q", "key_proj": "k", "value_proj": "v"}


class AddNormDebertaV2Intermediate(WithBranchNorms, DebertaV2Intermediate):
    """`DebertaV2Intermediate` with a norm before the activation."""

    linear_roles: ClassVar = {"dense": "w1"}


class AddNormDebertaV2ConvLayer(ConvLayer):
    """The convolution after the first layer, `N(x + conv(embeddings))`, which writes to any stream."""

    stream: Any

    def forward(
        self, hidden_states: torch.Tensor, residual_states: LayerState, input_mask: torch.Tensor
    ) -> LayerState:
        # one tensor after a single layer too
        if not isinstance(residual_states, tuple):
            return super().forward(hidden_states, residual_states, input_mask)
        alone: Any = ModuleView(self, {"LayerNorm": same})
        f = ConvLayer.forward(alone, hidden_states, torch.zeros_like(hidden_states), input_mask)

        def post(y: torch.Tensor) -> torch.Tensor:
            # as the stock convolution does, padding is left at 0
            return self.LayerNorm(y) * input_mask.view(*input_mask.shape, *[1] * (y.dim() - 2)).to(y.dtype)

        return self.stream.add_between_layers(residual_states, f, post)


class AddNormDebertaV2Layer(AddNormLayer, DebertaV2Layer):
    """A DeBERTa-v2 layer whose sublayers run through add & norm blocks.

    x -> attention -> feed-forward -> x      each inside its add & norm block
    """

    sublayers: ClassVar = {
        "attention": SublayerLayout(
            norms={"post": "attention.output.LayerNorm"},
            dropout="attention.output.dropout",
            parts={"attention.self": AddNormDebertaV2SelfAttention},
            linears={"o": "attention.output.dense"},
        ),
        "feed_forward": SublayerLayout(
            norms={"post": "output.LayerNorm"},
            dropout="output.dropout",
            parts={"intermediate": AddNormDebertaV2Intermediate},
            linears={"w2": "output.dense"},
        ),
    }

    # mlinter: output_attentions is an argument here, because the stock loop passes it
    def forward(  # trf-ignore: TRF045
        self,
        hidden_states: LayerState,
        attention_mask: torch.Tensor,
        query_states: torch.Tensor | None = None,
        relative_pos: torch.Tensor | None = None,
        rel_embeddings: torch.Tensor | None = None,
        output_attentions: bool = False,
    ) -> tuple[LayerState, torch.Tensor | None]:
        weights: list[torch.Tensor | None] = []

        def attend(u: torch.Tensor, branch_norms: BranchNorms) -> torch.Tensor:
            core, probabilities = self.attention.self(
                u if query_states is None else hidden_states,
                attention_mask,
                output_attentions,
                query_states=None if query_states is None else u,
                relative_pos=relative_pos,
                rel_embeddings=rel_embeddings,
                branch_norms=branch_norms,
            )
            weights.append(probabilities)
            return self.attention.output.dense(branch_norms.norm("mid", core))

        def feed_forward(u: torch.Tensor, branch_norms: BranchNorms) -> torch.Tensor:
            return self.output.dense(branch_norms.norm("mid", self.intermediate(u, branch_norms=branch_norms)))

        stream = hidden_states if query_states is None else query_states
        hidden_states_after = self.run(stream, {"attention": attend, "feed_forward": feed_forward})
        return hidden_states_after, weights[0]


class AddNormDebertaV2Encoder(AddNormEncoder, DebertaV2Encoder):
    """DeBERTa's encoder with the norm of the place `final`."""


class AddNormDebertaV2PreTrainedModel(AddNormPreTrainedModel, DebertaV2PreTrainedModel):
    """Base of the DeBERTa-v2 models: recasting, initialisation, and everything that stock DeBERTa-v2 has."""

    config: AddNormDebertaV2Config
    config_class = AddNormDebertaV2Config
    layout = FamilyLayout(
        layer=AddNormDebertaV2Layer,
        layers=numbered("encoder.layer"),
        encoder="encoder",
        encoder_class=AddNormDebertaV2Encoder,
        embeddings=("embeddings",),
        position_table="embeddings.position_embeddings",
        embed_norm="embeddings.LayerNorm",
        other_norms=("encoder.conv.LayerNorm",),
        other_parts={"encoder.conv": AddNormDebertaV2ConvLayer},
        head_norms=("cls.predictions.transform.LayerNorm", "lm_predictions.lm_head.LayerNorm"),
    )

    @classmethod
    def add_norm_base(cls) -> type["AddNormDebertaV2Model"]:
        return AddNormDebertaV2Model


class AddNormDebertaV2Model(AddNormDebertaV2PreTrainedModel, DebertaV2Model):
    """`DebertaV2Model` with the add & norm of `config.add_norm`; same arguments, same outputs."""


class AddNormDebertaV2ForMaskedLM(AddNormDebertaV2PreTrainedModel, DebertaV2ForMaskedLM):
    """`DebertaV2ForMaskedLM` with the add & norm of `config.add_norm`; same arguments, same outputs."""


class AddNormDebertaV2ForSequenceClassification(AddNormDebertaV2PreTrainedModel, DebertaV2ForSequenceClassification):
    """`DebertaV2ForSequenceClassification` with the add & norm of `config.add_norm`; same arguments, same outputs."""


class AddNormDebertaV2ForTokenClassification(AddNormDebertaV2PreTrainedModel, DebertaV2ForTokenClassification):
    """`DebertaV2ForTokenClassification` with the add & norm of `config.add_norm`; same arguments, same outputs."""


class AddNormDebertaV2ForQuestionAnswering(AddNormDebertaV2PreTrainedModel, DebertaV2ForQuestionAnswering):
    """`DebertaV2ForQuestionAnswering` with the add & norm of `config.add_norm`; same arguments, same outputs."""


class AddNormDebertaV2ForMultipleChoice(AddNormDebertaV2PreTrainedModel, DebertaV2ForMultipleChoice):
    """`DebertaV2ForMultipleChoice` with the add & norm of `config.add_norm`; same arguments, same outputs."""


__all__ = [
    "AddNormDebertaV2ForMaskedLM",
    "AddNormDebertaV2ForMultipleChoice",
    "AddNormDebertaV2ForQuestionAnswering",
    "AddNormDebertaV2ForSequenceClassification",
    "AddNormDebertaV2ForTokenClassification",
    "AddNormDebertaV2Model",
    "AddNormDebertaV2PreTrainedModel",
]
