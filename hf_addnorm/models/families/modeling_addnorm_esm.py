"""ESM with another add & norm: the base model and its heads."""

from dataclasses import replace
from typing import Any

import torch
from transformers.models.esm import modeling_esm as stock

from ..core.encoder import AddNormEncoder
from ..core.family_layout import FamilyLayout
from ..core.pretrained import AddNormPreTrainedModel
from .bert_shape import BertShapeAttention, BertShapeIntermediate, BertShapeLayer, bert_layout, bert_sublayers
from .configuration_addnorm_esm import AddNormEsmConfig


class AddNormEsmSelfAttention(BertShapeAttention, stock.EsmSelfAttention):
    """`EsmSelfAttention` with norms behind q, k and v, which does not look at an encoder."""

    def forward(self, *args: Any, encoder_hidden_states: torch.Tensor | None = None, **kwargs: Any) -> Any:
        # the stock class is the cross-attention too, wherever it is given these
        return super().forward(*args, **kwargs)


class AddNormEsmCrossAttention(BertShapeAttention, stock.EsmSelfAttention):
    """The same between a decoder and an encoder, whose mask it is given by its own name."""

    def forward(self, *args: Any, branch_norms: Any = None, **kwargs: Any) -> Any:
        if branch_norms is not None:
            kwargs["encoder_attention_mask"] = kwargs.pop("attention_mask")
        return super().forward(*args, branch_norms=branch_norms, **kwargs)


class AddNormEsmIntermediate(BertShapeIntermediate, stock.EsmIntermediate): ...


class AddNormEsmLayer(BertShapeLayer, stock.EsmLayer):  # type: ignore[misc]  # the stock one has no cache
    sublayers = bert_sublayers(
        AddNormEsmSelfAttention,
        AddNormEsmIntermediate,
        AddNormEsmCrossAttention,
        slot="pre",
        attention_norm="LayerNorm",
        feed_forward_norm="LayerNorm",
    )


class AddNormEsmEncoder(AddNormEncoder, stock.EsmEncoder): ...


class AddNormEsmPreTrainedModel(AddNormPreTrainedModel, stock.EsmPreTrainedModel):
    config: AddNormEsmConfig
    layout = bert_layout(
        AddNormEsmLayer,
        AddNormEsmEncoder,
        head_norms=("lm_head.layer_norm",),
        embed_place="embeddings.layer_norm",
        final_norm="encoder.emb_layer_norm_after",
    )

    @classmethod
    def layout_of(cls, config: AddNormEsmConfig) -> FamilyLayout:
        # CODEPATH: ESM-1b has a norm after the embeddings, ESM-2 has none
        if config.emb_layer_norm_before:
            return replace(cls.layout, embed_norm=cls.layout.embed_place, embed_place=None)
        return cls.layout


class AddNormEsmModel(AddNormEsmPreTrainedModel, stock.EsmModel): ...


class AddNormEsmForMaskedLM(AddNormEsmPreTrainedModel, stock.EsmForMaskedLM): ...


class AddNormEsmForSequenceClassification(AddNormEsmPreTrainedModel, stock.EsmForSequenceClassification): ...


class AddNormEsmForTokenClassification(AddNormEsmPreTrainedModel, stock.EsmForTokenClassification): ...
