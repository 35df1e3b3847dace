"""YOLOS with another add & norm: the base model and its head, which finds objects."""

from typing import ClassVar

import torch
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.yolos import modeling_yolos as stock

from ..base.protocols import StockModule, StockValue
from ..core.branch_norms import BranchNorms, same
from ..core.encoder import AddNormEncoder
from ..core.family_layout import FamilyLayout, SublayerLayout, numbered
from ..core.layer import AddNormLayer
from ..core.pretrained import AddNormPreTrainedModel
from ..streams.streams import LayerState
from .bert_shape import BertShapeAttention, BertShapeIntermediate
from .configuration_addnorm_yolos import AddNormYolosConfig


class AddNormYolosSelfAttention(BertShapeAttention, stock.YolosSelfAttention): ...


class AddNormYolosIntermediate(BertShapeIntermediate, stock.YolosIntermediate): ...


class AddNormYolosLayer(AddNormLayer, stock.YolosLayer):
    """A YOLOS layer whose sublayers run through add & norm blocks.

    x -> attention -> feed-forward -> x      each inside its add & norm block
    """

    attention: StockModule
    intermediate: StockModule
    output: StockModule
    sublayers: ClassVar = {
        "attention": SublayerLayout(
            norms={"pre": "layernorm_before"},
            dropout="attention.output.dropout",
            parts={"attention.attention": AddNormYolosSelfAttention},
            linears={"o": "attention.output.dense"},
        ),
        "feed_forward": SublayerLayout(
            norms={"pre": "layernorm_after"},
            dropout="output.dropout",
            parts={"intermediate": AddNormYolosIntermediate},
            linears={"w2": "output.dense"},
        ),
    }

    def forward(self, hidden_states: LayerState, **kwargs: StockValue) -> LayerState:
        def attend(u: torch.Tensor, branch_norms: BranchNorms) -> torch.Tensor:
            core, _ = self.attention.attention(u, branch_norms=branch_norms, **kwargs)
            return self.attention.output.dense(branch_norms.norm("mid", core))

        def feed_forward(u: torch.Tensor, branch_norms: BranchNorms) -> torch.Tensor:
            return self.output.dense(branch_norms.norm("mid", self.intermediate(u, branch_norms=branch_norms)))

        return self.run(hidden_states, {"attention": attend, "feed_forward": feed_forward})


class AddNormYolosEncoder(AddNormEncoder, stock.YolosEncoder):
    """`YolosEncoder`, which adds positions to any stream between the layers.

    x -> layer 1 -> + positions -> layer 2 -> ... -> layer L -> x
    """

    layer: StockModule
    interpolation: StockModule

    def run_layers(
        self, hidden_states: torch.Tensor, height: int, width: int, **kwargs: StockValue
    ) -> BaseModelOutput:
        # CODEPATH: hustvl/yolos-base and -small add positions between the layers, hustvl/yolos-tiny does not
        added = self.interpolation((height, width)) if self.config.use_mid_position_embeddings else None
        state: LayerState = hidden_states
        for depth, layer in enumerate(self.layer):
            state = layer(state)
            if added is not None and depth < len(self.layer) - 1:
                positions = added[depth].to(hidden_states.device).expand_as(hidden_states)
                state = layer.connections.stream.add_between_layers(state, positions, same)
        return BaseModelOutput(last_hidden_state=state)


class AddNormYolosPreTrainedModel(AddNormPreTrainedModel, stock.YolosPreTrainedModel):
    config: AddNormYolosConfig
    layout = FamilyLayout(
        cannot_pack="an image has no padding",
        layer=AddNormYolosLayer,
        layers=numbered("encoder.layer"),
        encoder="encoder",
        encoder_class=AddNormYolosEncoder,
        embed_dropout="embeddings.dropout",
        final_norm="layernorm",
        between_layers="encoder.interpolation.mid_position_embeddings",
    )


class AddNormYolosModel(AddNormYolosPreTrainedModel, stock.YolosModel): ...


class AddNormYolosForObjectDetection(AddNormYolosPreTrainedModel, stock.YolosForObjectDetection): ...
