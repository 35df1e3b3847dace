"""BERT with another add & norm: the base model and its nine heads."""

from functools import partial
from typing import Any, ClassVar

import torch
from transformers.models.bert.modeling_bert import (
    BertEncoder,
    BertForMaskedLM,
    BertForMultipleChoice,
    BertForNextSentencePrediction,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertLayer,
    BertLMHeadModel,
    BertModel,
    BertPreTrainedModel,
)
from transformers.pytorch_utils import apply_chunking_to_forward

from .configuration_addnorm_bert import AddNormBertConfig
from .pretrained import AddNormEncoder, AddNormLayer, AddNormPreTrainedModel, Anatomy, Sublayer


def _attention(name: str) -> Sublayer:
    return Sublayer(
        dropout=f"{name}.output.dropout",
        linears={
            "q": f"{name}.self.query",
            "k": f"{name}.self.key",
            "v": f"{name}.self.value",
            "o": f"{name}.output.dense",
        },
        norms={"post": f"{name}.output.LayerNorm"},
    )


class AddNormBertLayer(AddNormLayer, BertLayer):
    """A BERT layer whose sublayers run through add & norm blocks.

    x -> attention -> (cross-attention) -> feed-forward -> x      each inside its AddNorm block
    """

    sublayers: ClassVar[dict[str, Sublayer]] = {
        "attention": _attention("attention"),
        "cross_attention": _attention("crossattention"),
        "feed_forward": Sublayer(
            dropout="output.dropout",
            linears={"w1": "intermediate.dense", "w2": "output.dense"},
            norms={"post": "output.LayerNorm"},
        ),
    }

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        encoder_hidden_states: torch.Tensor | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        attend = partial(
            self._attend, encoder_hidden_states=encoder_hidden_states, past_key_values=past_key_values, **kwargs
        )
        hidden_states = self.connect(
            "attention", hidden_states, partial(attend, self.attention, attention_mask=attention_mask)
        )
        if self.is_decoder and encoder_hidden_states is not None:
            if not self.connections.has("cross_attention"):
                raise ValueError(
                    "encoder_hidden_states were passed, but the model has no cross-attention: build it with "
                    "config.add_cross_attention=True."
                )
            hidden_states = self.connect(
                "cross_attention",
                hidden_states,
                partial(attend, self.crossattention, attention_mask=encoder_attention_mask),
            )

        return apply_chunking_to_forward(
            self.feed_forward_chunk, self.chunk_size_feed_forward, self.seq_len_dim, hidden_states
        )

    def feed_forward_chunk(self, attention_output: torch.Tensor) -> torch.Tensor:
        """The feed-forward's whole block on a chunk of tokens: also its dropout is drawn chunk by chunk, as stock."""
        return self.connect("feed_forward", attention_output, self._feed_forward)

    @staticmethod
    def _attend(attention: Any, u: torch.Tensor, mid: Any, **kwargs: Any) -> torch.Tensor:
        core, _ = attention.self(u, **kwargs)
        return attention.output.dense(mid(core))

    def _feed_forward(self, u: torch.Tensor, mid: Any) -> torch.Tensor:
        output: Any = self.output
        return output.dense(mid(self.intermediate(u)))


class AddNormBertEncoder(AddNormEncoder, BertEncoder):
    """BERT's encoder with the norm of the place `final`."""


class AddNormBertPreTrainedModel(AddNormPreTrainedModel, BertPreTrainedModel):
    """Base of the BERT models: adoption, initialisation, and everything that stock BERT has."""

    config: AddNormBertConfig
    config_class = AddNormBertConfig
    add_norm_layer = AddNormBertLayer
    add_norm_encoder = AddNormBertEncoder
    anatomy = Anatomy(
        encoder="encoder",
        layers="encoder.layer",
        sublayers=AddNormBertLayer.sublayers,
        embed_norm="embeddings.LayerNorm",
        head_norms=("cls.predictions.transform.LayerNorm",),
    )

    @classmethod
    def add_norm_base(cls) -> type["AddNormBertModel"]:
        return AddNormBertModel


class AddNormBertModel(AddNormBertPreTrainedModel, BertModel):
    """`BertModel` with the add & norm of `config.add_norm`; same arguments, same outputs."""

    # BertEmbeddings is the stock model's own, adopted as it is
    _no_split_modules = ["BertEmbeddings", "AddNormBertLayer"]  # trf-ignore: TRF022


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
