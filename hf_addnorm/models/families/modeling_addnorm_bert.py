"""BERT with another add & norm: the base model and its eight heads."""

from typing import Any, ClassVar

import torch
from transformers.models.bert.modeling_bert import (
    BertCrossAttention,
    BertEncoder,
    BertForMaskedLM,
    BertForMultipleChoice,
    BertForNextSentencePrediction,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertIntermediate,
    BertLayer,
    BertLMHeadModel,
    BertModel,
    BertPreTrainedModel,
    BertSelfAttention,
)

from ..core.branch_norms import BranchNorms, WithBranchNorms
from ..core.encoder import AddNormEncoder
from ..core.family_layout import FamilyLayout, SublayerLayout, numbered
from ..core.layer import AddNormLayer
from ..core.pretrained import AddNormPreTrainedModel
from ..streams.streams import LayerState
from .configuration_addnorm_bert import AddNormBertConfig


class AddNormBertSelfAttention(WithBranchNorms, BertSelfAttention):
    """`BertSelfAttention` with norms behind q, k and v."""

    linear_roles: ClassVar = {"query": "q", "key": "k", "value": "v"}


class AddNormBertCrossAttention(WithBranchNorms, BertCrossAttention):
    """`BertCrossAttention` with norms behind q, k and v."""

    linear_roles: ClassVar = {"query": "q", "key": "k", "value": "v"}


class AddNormBertIntermediate(WithBranchNorms, BertIntermediate):
    """`BertIntermediate` with a norm before the activation."""

    linear_roles: ClassVar = {"dense": "w1"}


class AddNormBertLayer(AddNormLayer, BertLayer):
    """A BERT layer whose sublayers run through add & norm blocks.

    x -> attention -> (cross-attention) -> feed-forward -> x      each inside its add & norm block
    """

    sublayers: ClassVar = {
        "attention": SublayerLayout(
            norms={"post": "attention.output.LayerNorm"},
            dropout="attention.output.dropout",
            parts={"attention.self": AddNormBertSelfAttention},
            linears={"o": "attention.output.dense"},
        ),
        "cross_attention": SublayerLayout(
            norms={"post": "crossattention.output.LayerNorm"},
            dropout="crossattention.output.dropout",
            parts={"crossattention.self": AddNormBertCrossAttention},
            linears={"o": "crossattention.output.dense"},
        ),
        "feed_forward": SublayerLayout(
            norms={"post": "output.LayerNorm"},
            dropout="output.dropout",
            parts={"intermediate": AddNormBertIntermediate},
            linears={"w2": "output.dense"},
        ),
    }

    def forward(
        self,
        hidden_states: LayerState,
        attention_mask: torch.Tensor | None = None,
        encoder_hidden_states: torch.Tensor | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> LayerState:
        kwargs |= {"encoder_hidden_states": encoder_hidden_states, "past_key_values": past_key_values}

        def attend(u: torch.Tensor, branch_norms: BranchNorms) -> torch.Tensor:
            core, _ = self.attention.self(u, attention_mask=attention_mask, branch_norms=branch_norms, **kwargs)
            return self.attention.output.dense(branch_norms.norm("mid", core))

        def attend_across(u: torch.Tensor, branch_norms: BranchNorms) -> torch.Tensor:
            core, _ = self.crossattention.self(
                u, attention_mask=encoder_attention_mask, branch_norms=branch_norms, **kwargs
            )
            return self.crossattention.output.dense(branch_norms.norm("mid", core))

        def feed_forward(u: torch.Tensor, branch_norms: BranchNorms) -> torch.Tensor:
            return self.output.dense(branch_norms.norm("mid", self.intermediate(u, branch_norms=branch_norms)))

        branches = {"attention": attend, "feed_forward": feed_forward}
        if self.is_decoder and encoder_hidden_states is not None:
            self.require_cross_attention()
            branches = {"attention": attend, "cross_attention": attend_across, "feed_forward": feed_forward}
        return self.run(hidden_states, branches, chunk=(self.chunk_size_feed_forward, self.seq_len_dim))


class AddNormBertEncoder(AddNormEncoder, BertEncoder):
    """BERT's encoder with the norm of the place `final`."""


class AddNormBertPreTrainedModel(AddNormPreTrainedModel, BertPreTrainedModel):
    """Base of the BERT models: recasting, initialisation, and everything that stock BERT has."""

    config: AddNormBertConfig
    config_class = AddNormBertConfig
    layout = FamilyLayout(
        layer=AddNormBertLayer,
        layers=numbered("encoder.layer"),
        encoder="encoder",
        encoder_class=AddNormBertEncoder,
        embeddings=("embeddings",),
        position_table="embeddings.position_embeddings",
        embed_norm="embeddings.LayerNorm",
        head_norms=("cls.predictions.transform.LayerNorm",),
    )

    @classmethod
    def add_norm_base(cls) -> type["AddNormBertModel"]:
        return AddNormBertModel


class AddNormBertModel(AddNormBertPreTrainedModel, BertModel):
    """`BertModel` with the add & norm of `config.add_norm`; same arguments, same outputs."""


class AddNormBertForPreTraining(AddNormBertPreTrainedModel, BertForPreTraining):
    """`BertForPreTraining` with the add & norm of `config.add_norm`; same arguments, same outputs."""


class AddNormBertLMHeadModel(AddNormBertPreTrainedModel, BertLMHeadModel):
    """`BertLMHeadModel` with the add & norm of `config.add_norm`; same arguments, same outputs."""


class AddNormBertForMaskedLM(AddNormBertPreTrainedModel, BertForMaskedLM):
    """`BertForMaskedLM` with the add & norm of `config.add_norm`; same arguments, same outputs."""


class AddNormBertForNextSentencePrediction(AddNormBertPreTrainedModel, BertForNextSentencePrediction):
    """`BertForNextSentencePrediction` with the add & norm of `config.add_norm`; same arguments, same outputs."""


class AddNormBertForSequenceClassification(AddNormBertPreTrainedModel, BertForSequenceClassification):
    """`BertForSequenceClassification` with the add & norm of `config.add_norm`; same arguments, same outputs."""


class AddNormBertForMultipleChoice(AddNormBertPreTrainedModel, BertForMultipleChoice):
    """`BertForMultipleChoice` with the add & norm of `config.add_norm`; same arguments, same outputs."""


class AddNormBertForTokenClassification(AddNormBertPreTrainedModel, BertForTokenClassification):
    """`BertForTokenClassification` with the add & norm of `config.add_norm`; same arguments, same outputs."""


class AddNormBertForQuestionAnswering(AddNormBertPreTrainedModel, BertForQuestionAnswering):
    """`BertForQuestionAnswering` with the add & norm of `config.add_norm`; same arguments, same outputs."""


__all__ = [
    "AddNormBertForMaskedLM",
    "AddNormBertForMultipleChoice",
    "AddNormBertForNextSentencePrediction",
    "AddNormBertForPreTraining",
    "AddNormBertForQuestionAnswering",
    "AddNormBertForSequenceClassification",
    "AddNormBertForTokenClassification",
    "AddNormBertLMHeadModel",
    "AddNormBertModel",
    "AddNormBertPreTrainedModel",
]
