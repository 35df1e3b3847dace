"""GPT-2 with another add & norm: the base model and its heads."""

from typing import Any, ClassVar

import torch
from transformers.models.gpt2.modeling_gpt2 import (
    GPT2MLP,
    GPT2Attention,
    GPT2Block,
    GPT2DoubleHeadsModel,
    GPT2ForQuestionAnswering,
    GPT2ForSequenceClassification,
    GPT2ForTokenClassification,
    GPT2LMHeadModel,
    GPT2Model,
    GPT2PreTrainedModel,
)

from ..core.branch_norms import BranchNorms, WithBranchNorms
from ..core.family_layout import ONE_OVER_ROOT_2L, FamilyLayout, SublayerLayout, numbered
from ..core.layer import AddNormLayer
from ..core.pretrained import AddNormPreTrainedModel
from ..streams.streams import LayerState
from .configuration_addnorm_gpt2 import AddNormGPT2Config


class AddNormGPT2Attention(WithBranchNorms, GPT2Attention):
    """`GPT2Attention` with norms behind q, k, v and before the output projection."""

    linear_roles: ClassVar = {"c_attn": ("q", "k", "v"), "c_proj": "o"}
    left_to_block: ClassVar = ("resid_dropout",)


class AddNormGPT2CrossAttention(WithBranchNorms, GPT2Attention):
    """The same across to an encoder, with its query apart."""

    linear_roles: ClassVar = {"q_attn": "q", "c_attn": ("k", "v"), "c_proj": "o"}
    left_to_block: ClassVar = ("resid_dropout",)


class AddNormGPT2MLP(WithBranchNorms, GPT2MLP):
    """`GPT2MLP` with norms before the activation and before the output projection."""

    linear_roles: ClassVar = {"c_fc": "w1", "c_proj": "w2"}
    left_to_block: ClassVar = ("dropout",)


class AddNormGPT2Block(AddNormLayer, GPT2Block):
    """A GPT-2 layer whose sublayers run through add & norm blocks.

    x -> attention -> (cross-attention) -> feed-forward -> x      each inside its add & norm block
    """

    sublayers: ClassVar = {
        "attention": SublayerLayout(
            norms={"pre": "ln_1"}, dropout="attn.resid_dropout", parts={"attn": AddNormGPT2Attention}
        ),
        "cross_attention": SublayerLayout(
            norms={"pre": "ln_cross_attn"},
            dropout="crossattention.resid_dropout",
            parts={"crossattention": AddNormGPT2CrossAttention},
        ),
        "feed_forward": SublayerLayout(norms={"pre": "ln_2"}, dropout="mlp.dropout", parts={"mlp": AddNormGPT2MLP}),
    }

    def forward(
        self,
        hidden_states: LayerState,
        past_key_values: Any = None,
        attention_mask: torch.Tensor | None = None,
        encoder_hidden_states: torch.Tensor | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
        use_cache: bool | None = False,
        **kwargs: Any,
    ) -> LayerState:
        common = {"past_key_values": past_key_values, "attention_mask": attention_mask}

        def attend(u: torch.Tensor, branch_norms: BranchNorms) -> torch.Tensor:
            return self.attn(u, use_cache=use_cache, branch_norms=branch_norms, **common, **kwargs)[0]

        def attend_across(u: torch.Tensor, branch_norms: BranchNorms) -> torch.Tensor:
            across = {"encoder_hidden_states": encoder_hidden_states, "encoder_attention_mask": encoder_attention_mask}
            return self.crossattention(u, branch_norms=branch_norms, **common, **across)[0]

        def feed_forward(u: torch.Tensor, branch_norms: BranchNorms) -> torch.Tensor:
            return self.mlp(u, branch_norms=branch_norms)

        branches = {"attention": attend, "feed_forward": feed_forward}
        if encoder_hidden_states is not None:
            self.require_cross_attention()
            branches = {"attention": attend, "cross_attention": attend_across, "feed_forward": feed_forward}
        return self.run(hidden_states, branches)


class AddNormGPT2PreTrainedModel(AddNormPreTrainedModel, GPT2PreTrainedModel):
    """Base of the GPT-2 models: recasting, initialisation, and everything that stock GPT-2 has."""

    config: AddNormGPT2Config
    config_class = AddNormGPT2Config
    layout = FamilyLayout(
        layer=AddNormGPT2Block,
        layers=numbered("h"),
        embeddings=("wte", "wpe"),
        position_table="wpe",
        embed_dropout="drop",
        final_norm="ln_f",
        output_scale=ONE_OVER_ROOT_2L,
    )

    @classmethod
    def add_norm_base(cls) -> type["AddNormGPT2Model"]:
        return AddNormGPT2Model


class AddNormGPT2Model(AddNormGPT2PreTrainedModel, GPT2Model):
    """`GPT2Model` with the add & norm of `config.add_norm`; same arguments, same outputs."""


class AddNormGPT2LMHeadModel(AddNormGPT2PreTrainedModel, GPT2LMHeadModel):
    """`GPT2LMHeadModel` with the add & norm of `config.add_norm`; same arguments, same outputs."""


class AddNormGPT2DoubleHeadsModel(AddNormGPT2PreTrainedModel, GPT2DoubleHeadsModel):
    """`GPT2DoubleHeadsModel` with the add & norm of `config.add_norm`; same arguments, same outputs."""


class AddNormGPT2ForSequenceClassification(AddNormGPT2PreTrainedModel, GPT2ForSequenceClassification):
    """`GPT2ForSequenceClassification` with the add & norm of `config.add_norm`; same arguments, same outputs."""


class AddNormGPT2ForTokenClassification(AddNormGPT2PreTrainedModel, GPT2ForTokenClassification):
    """`GPT2ForTokenClassification` with the add & norm of `config.add_norm`; same arguments, same outputs."""


class AddNormGPT2ForQuestionAnswering(AddNormGPT2PreTrainedModel, GPT2ForQuestionAnswering):
    """`GPT2ForQuestionAnswering` with the add & norm of `config.add_norm`; same arguments, same outputs."""


__all__ = [
    "AddNormGPT2DoubleHeadsModel",
    "AddNormGPT2ForQuestionAnswering",
    "AddNormGPT2ForSequenceClassification",
    "AddNormGPT2ForTokenClassification",
    "AddNormGPT2LMHeadModel",
    "AddNormGPT2Model",
    "AddNormGPT2PreTrainedModel",
]
