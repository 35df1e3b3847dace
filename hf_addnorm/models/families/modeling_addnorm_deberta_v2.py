"""DeBERTa-v2 (and v3) with another add & norm: the base model and its heads."""

from collections.abc import Callable
from typing import ClassVar

import torch
from transformers.models.deberta_v2 import modeling_deberta_v2 as stock

from ..base.protocols import StockValue
from ..core.branch_norms import BranchNorms, ModuleView, WithBranchNorms, same
from ..core.encoder import AddNormEncoder
from ..core.layer import AddNormLayer
from ..core.pretrained import AddNormPreTrainedModel
from ..streams.streams import LayerState
from .bert_shape import BertShapeIntermediate, bert_layout, bert_sublayers
from .configuration_addnorm_deberta_v2 import AddNormDebertaV2Config


class AddNormDebertaV2SelfAttention(WithBranchNorms, stock.DisentangledSelfAttention):
    """`DisentangledSelfAttention` with norms behind the content's q, k and v; positions are projected without them."""

    linear_roles: ClassVar = {"query_proj": "q", "key_proj": "k", "value_proj": "v"}

    def replaced(self, branch_norms: BranchNorms) -> dict[str, Callable[..., StockValue]]:
        parts = super().replaced(branch_norms)
        # the same projections of relative positions, which are no tokens, have no norm
        return {**parts, "disentangled_attention_bias": self.disentangled_attention_bias} if parts else parts


class AddNormDebertaV2Intermediate(BertShapeIntermediate, stock.DebertaV2Intermediate): ...


class AddNormDebertaV2ConvLayer(stock.ConvLayer):
    """The convolution after the first layer, `N(x + conv(embeddings))`, which writes to any stream."""

    stream: StockValue

    def forward(
        self, hidden_states: torch.Tensor, residual_states: LayerState, input_mask: torch.Tensor
    ) -> LayerState:
        # one tensor after a single layer too
        if not isinstance(residual_states, tuple):
            return super().forward(hidden_states, residual_states, input_mask)
        alone: StockValue = ModuleView(self, {"LayerNorm": same})
        f = stock.ConvLayer.forward(alone, hidden_states, torch.zeros_like(hidden_states), input_mask)

        def post(y: torch.Tensor) -> torch.Tensor:
            # as the stock convolution does, padding is left at 0
            return self.LayerNorm(y) * input_mask.view(*input_mask.shape, *[1] * (y.dim() - 2)).to(y.dtype)

        return self.stream.add_between_layers(residual_states, f, post)


class AddNormDebertaV2Layer(AddNormLayer, stock.DebertaV2Layer):
    """A DeBERTa-v2 layer whose sublayers run through add & norm blocks.

    x -> attention -> feed-forward -> x      each inside its add & norm block
    """

    sublayers: ClassVar = bert_sublayers(AddNormDebertaV2SelfAttention, AddNormDebertaV2Intermediate)

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


class AddNormDebertaV2Encoder(AddNormEncoder, stock.DebertaV2Encoder): ...


class AddNormDebertaV2PreTrainedModel(AddNormPreTrainedModel, stock.DebertaV2PreTrainedModel):
    config: AddNormDebertaV2Config
    layout = bert_layout(
        AddNormDebertaV2Layer,
        AddNormDebertaV2Encoder,
        head_norms=("cls.predictions.transform.LayerNorm", "lm_predictions.lm_head.LayerNorm"),
        other_norms=("encoder.conv.LayerNorm",),
        other_parts={"encoder.conv": AddNormDebertaV2ConvLayer},
        cannot_pack="its attention adds a term for the distance of each two tokens of a row, by code of its own",
    )


class AddNormDebertaV2Model(AddNormDebertaV2PreTrainedModel, stock.DebertaV2Model): ...


class AddNormDebertaV2ForMaskedLM(AddNormDebertaV2PreTrainedModel, stock.DebertaV2ForMaskedLM): ...


class AddNormDebertaV2ForSequenceClassification(
    AddNormDebertaV2PreTrainedModel, stock.DebertaV2ForSequenceClassification
): ...


class AddNormDebertaV2ForTokenClassification(
    AddNormDebertaV2PreTrainedModel, stock.DebertaV2ForTokenClassification
): ...


class AddNormDebertaV2ForQuestionAnswering(AddNormDebertaV2PreTrainedModel, stock.DebertaV2ForQuestionAnswering): ...


class AddNormDebertaV2ForMultipleChoice(AddNormDebertaV2PreTrainedModel, stock.DebertaV2ForMultipleChoice): ...
