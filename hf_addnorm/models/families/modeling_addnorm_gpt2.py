"""GPT-2 with another add & norm: the base model and its heads."""

from typing import ClassVar

import torch
from transformers.models.gpt2 import modeling_gpt2 as stock

from ..base.protocols import StockValue
from ..core.branch_norms import BranchNorms, WithBranchNorms
from ..core.family_layout import ONE_OVER_ROOT_2L, FamilyLayout, SublayerLayout, numbered
from ..core.layer import AddNormLayer
from ..core.pretrained import AddNormPreTrainedModel
from ..streams.streams import LayerState
from .configuration_addnorm_gpt2 import AddNormGPT2Config


class AddNormGPT2Attention(WithBranchNorms, stock.GPT2Attention):
    """`GPT2Attention` with norms behind q, k, v and before the output projection."""

    linear_roles: ClassVar = {"c_attn": ("q", "k", "v"), "c_proj": "o"}
    left_to_block: ClassVar = ("resid_dropout",)


class AddNormGPT2CrossAttention(WithBranchNorms, stock.GPT2Attention):
    """The same across to an encoder, with its query apart."""

    linear_roles: ClassVar = {"q_attn": "q", "c_attn": ("k", "v"), "c_proj": "o"}
    left_to_block: ClassVar = ("resid_dropout",)


class AddNormGPT2MLP(WithBranchNorms, stock.GPT2MLP):
    """`GPT2MLP` with norms before the activation and before the output projection."""

    linear_roles: ClassVar = {"c_fc": "w1", "c_proj": "w2"}
    left_to_block: ClassVar = ("dropout",)


class AddNormGPT2Block(AddNormLayer, stock.GPT2Block):
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
        past_key_values: StockValue = None,
        attention_mask: torch.Tensor | None = None,
        encoder_hidden_states: torch.Tensor | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
        use_cache: bool | None = False,
        **kwargs: StockValue,
    ) -> LayerState:
        # by position, as it comes: from Transformers 5.24 on its name is `cache`
        common = (past_key_values, attention_mask)

        def attend(u: torch.Tensor, branch_norms: BranchNorms) -> torch.Tensor:
            return self.attn(u, *common, use_cache=use_cache, branch_norms=branch_norms, **kwargs)[0]

        def attend_across(u: torch.Tensor, branch_norms: BranchNorms) -> torch.Tensor:
            across = {"encoder_hidden_states": encoder_hidden_states, "encoder_attention_mask": encoder_attention_mask}
            return self.crossattention(u, *common, branch_norms=branch_norms, **across)[0]

        def feed_forward(u: torch.Tensor, branch_norms: BranchNorms) -> torch.Tensor:
            return self.mlp(u, branch_norms=branch_norms)

        branches = {"attention": attend, "feed_forward": feed_forward}
        if encoder_hidden_states is not None:
            self.require_cross_attention()
            branches = {"attention": attend, "cross_attention": attend_across, "feed_forward": feed_forward}
        return self.run(hidden_states, branches)


class AddNormGPT2PreTrainedModel(AddNormPreTrainedModel, stock.GPT2PreTrainedModel):
    config: AddNormGPT2Config
    layout = FamilyLayout(
        layer=AddNormGPT2Block,
        layers=numbered("h"),
        embeddings=("wte", "wpe"),
        position_table="wpe",
        embed_dropout="drop",
        final_norm="ln_f",
        output_scale=ONE_OVER_ROOT_2L,
    )


class AddNormGPT2Model(AddNormGPT2PreTrainedModel, stock.GPT2Model): ...


class AddNormGPT2LMHeadModel(AddNormGPT2PreTrainedModel, stock.GPT2LMHeadModel): ...


class AddNormGPT2DoubleHeadsModel(AddNormGPT2PreTrainedModel, stock.GPT2DoubleHeadsModel): ...


class AddNormGPT2ForSequenceClassification(AddNormGPT2PreTrainedModel, stock.GPT2ForSequenceClassification): ...


class AddNormGPT2ForTokenClassification(AddNormGPT2PreTrainedModel, stock.GPT2ForTokenClassification): ...


class AddNormGPT2ForQuestionAnswering(AddNormGPT2PreTrainedModel, stock.GPT2ForQuestionAnswering): ...
