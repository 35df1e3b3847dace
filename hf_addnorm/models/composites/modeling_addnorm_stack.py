"""A stack: several encoders as one model, in sequence or in parallel, and its heads."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, cast

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.activations import ACT2FN
from transformers.modeling_outputs import (
    BaseModelOutput,
    MaskedLMOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)

from ..base.protocols import JsonValue, StockValue
from ..base.registry import one_of
from ..core.addnorm_config import AddNormConfig
from ..core.branch_norms import same
from ..core.pretrained import AddNormPreTrainedModel
from ..core.transformers_internals import attention_of, can_return_tuple, from_config, keep_in_float32
from ..norms.norm_base import Norm, mixes_tokens
from .composite import CompositeModel
from .composite_config import family_of
from .configuration_addnorm_stack import AddNormStackConfig
from .part_families import ENCODER_CONFIGS, ENCODERS


Tensors = Sequence[torch.Tensor]


class NoWords(nn.Module):
    """What stands for the word embeddings of an encoder that reads another one's output: it has none.

    Args:
        embedding_dim (`int`): the width of what that encoder reads.
    """

    def __init__(self, embedding_dim: int):
        super().__init__()
        self.embedding_dim = embedding_dim
        # stock rules for start weights look for it; empty, and no parameter, which would never get a gradient
        self.weight = torch.empty(0, embedding_dim)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        raise ValueError("this encoder of the stack reads the output of the one before it, and has no words.")


# the kinds of mix: (start value of the weights, what multiplies the terms); None is the plain sum
MIXES: dict[str, tuple[float, Callable[[torch.Tensor], torch.Tensor]] | None] = {
    "sum": None,
    "softmax": (0.0, lambda weight: weight.softmax(0)),
    "free": (1.0, lambda weight: weight),
}


class WeightedSum(nn.Module):
    """A sum of outputs, plain or with one learned weight each: `w_1 h_1 + ... + w_N h_N`.

        h_1 -> * w_1 -+-> + -> h
        h_N -> * w_N -^

    Source: learned sums of layers, with a softmax: ELMo, Peters et al., 2018, arXiv 1802.05365.

    Args:
        count (`int`): N; a single term has no weight.
        kind (`str`): "sum", "softmax" or "free".
    Dtype: that of the terms; the weights stay in float32. Init: equal weights 1/N ("softmax"), 1 ("free").
    """

    keep_in_float32 = (r"mix_norm\.\d+\.weight",)

    def __init__(self, count: int, kind: str):
        super().__init__()
        mix = MIXES[kind] if count > 1 else None
        self.kind = kind
        self.weight = nn.Parameter(torch.empty(count)) if mix is not None else None
        self.start, self.function = mix or (1.0, same)

    def reset_parameters(self) -> None:
        """Write the documented start values."""
        if self.weight is not None:
            nn.init.constant_(self.weight, self.start)

    def forward(self, terms: Tensors) -> torch.Tensor:
        if self.weight is not None:
            weights = self.function(self.weight)
            terms = [term * weight.to(term.dtype) for term, weight in zip(terms, weights, strict=True)]
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        return total

    def extra_repr(self) -> str:
        return self.kind


# runs the encoder of a number on its inputs; these, by name
Encode = Callable[..., torch.Tensor]
Words = Mapping[str, StockValue]


class Stack(Protocol):
    """The parts of a stack between which an arrangement leads: encoders, norms of groups, sums."""

    members: list[list[int]]
    after_norm: nn.ModuleList
    mix_norm: nn.ModuleList

    @property
    def encoders(self) -> Sequence[nn.Module]:
        """In order."""
        ...

    def project(self, index: int, h: torch.Tensor) -> torch.Tensor:
        """`h` through the projection of an encoder, where it has one."""
        ...


class InSequence:
    """Each encoder reads the output of the one before it, through a projection where the widths differ.

    words -> e1 -> N -> (projection) -> e2 -> N -> ... -> h
    """

    def reads_words(self, index: int) -> bool:
        """Whether the encoder reads the words."""
        return index == 0

    def bridge(self, index: int, inputs: list[int], outputs: list[int], width: int) -> tuple[int, int]:
        """The widths before and after the projection of an encoder: here before it."""
        return (outputs[index - 1], inputs[index]) if index else (inputs[0], inputs[0])

    def sums(self, members: list[list[int]]) -> list[int]:
        """The number of terms of each sum."""
        return []

    def __call__(self, stack: Stack, encode: Encode, words: Words) -> torch.Tensor:
        """The output; `encode(index, **inputs)` runs one encoder."""
        inputs = words
        for members, norm in zip(stack.members, stack.after_norm, strict=True):
            for index in members:
                h = encode(index, **inputs)
                if index == members[-1]:
                    h = norm(h)
                if index + 1 < len(stack.encoders):
                    inputs = {"inputs_embeds": stack.project(index + 1, h)}
        return h


class InParallel(InSequence):
    """All encoders read the words; their outputs, at one width, are added.

    words -+-> e1 -> (projection) -+-> + -> N -+-> + -> h      (a sum in each group, one over the groups)
           +-> e2 -> (projection) -^           |
           +-> e3 -> (projection) ------> N ---^
    """

    def reads_words(self, index: int) -> bool:
        return True

    def bridge(self, index: int, inputs: list[int], outputs: list[int], width: int) -> tuple[int, int]:
        # here after it
        return outputs[index], width

    def sums(self, members: list[list[int]]) -> list[int]:
        return [*map(len, members), len(members)]

    def __call__(self, stack: Stack, encode: Encode, words: Words) -> torch.Tensor:
        groups = []
        for members, mix, norm in zip(stack.members, stack.mix_norm[:-1], stack.after_norm, strict=True):
            groups.append(norm(mix([stack.project(index, encode(index, **words)) for index in members])))
        total: torch.Tensor = stack.mix_norm[-1](groups)
        return total


ARRANGEMENTS: dict[str, type[InSequence]] = {"sequence": InSequence, "parallel": InParallel}


def _taken(encoder: nn.Module) -> list[str]:
    """What an encoder takes beside words and mask: token types only where it tells them apart."""
    names = ["position_ids"]
    if getattr(encoder.config, "type_vocab_size", 0) > 1:
        names.append("token_type_ids")
    return [name for name in names if name in inspect.signature(encoder.forward).parameters]


class AddNormStackPreTrainedModel(CompositeModel):
    """Base of the stacks: initialisation, and the ways to make one of encoders that exist."""

    config: AddNormStackConfig
    config_class = AddNormStackConfig
    base_model_prefix = "stack"

    @classmethod
    def from_encoders(cls, encoders: Sequence[PreTrainedModel], **kwargs: StockValue) -> "AddNormStackPreTrainedModel":
        """A stack of models that exist, stock ones or ours; each keeps its weights (they are copied).

        What a stack has no use for is left out: heads, poolers and, in a sequence, the word embeddings of all but
        the first. Projections, norms, mix and the stack's head have their start values.

        Args:
            encoders (`list[PreTrainedModel]`): with or without a head.
            kwargs: the other entries of [`AddNormStackConfig`].
        Returns:
            The stack, in evaluation mode, in the dtype of the first encoder, with the attention implementation of all.
        Raises:
            ValueError: as [`AddNormStackConfig`].
        """
        config = cls.config_class(encoders=[encoder.config for encoder in encoders], **kwargs)
        # one that is not that of all is not what each of them can have
        attention = {attention_of(encoder.config) for encoder in encoders}
        kwargs = {"attn_implementation": attention.pop()} if len(attention) == 1 else {}
        model: AddNormStackPreTrainedModel = from_config(cls, config, dtype=encoders[0].dtype, **kwargs)
        for index, (own, given) in enumerate(zip(model.parts, encoders, strict=True)):
            state = given.base_model.state_dict()
            result = own.load_state_dict(state, strict=False)
            if result.missing_keys:
                raise ValueError(
                    f"encoders[{index}] lacks the weights of {one_of(result.missing_keys[:3])}: it is not the base "
                    "model that its config describes."
                )
        model.eval()
        return model

    @classmethod
    def from_pretrained_encoders(
        cls,
        checkpoints: Sequence[str],
        add_norm: JsonValue = None,
        loading: Mapping[str, StockValue] | None = None,
        **kwargs: StockValue,
    ) -> "AddNormStackPreTrainedModel":
        """A stack of checkpoints, stock ones or ours; each keeps its weights, see `from_encoders`.

        Args:
            checkpoints (`list[str]`): folders or Hub names.
            add_norm (`list`, `str` or `dict`, *optional*): the scheme that each one is loaded into, in a list with an
                entry for each (None: its own), or one for all.
            loading (`dict`, *optional*): goes to each `from_pretrained` (`dtype`, `revision`, ...).
            kwargs: the other entries of [`AddNormStackConfig`].
        Raises:
            ValueError: a family that is not in the list, or as [`AddNormStackConfig`].
        """
        schemes = list(add_norm) if isinstance(add_norm, (list, tuple)) else [add_norm] * len(checkpoints)
        if len(schemes) != len(checkpoints):
            raise ValueError(f"add_norm has {len(schemes)} entries for {len(checkpoints)} checkpoints.")
        encoders = []
        for checkpoint, scheme in zip(checkpoints, schemes, strict=True):
            base = ENCODERS[family_of(checkpoint, ENCODER_CONFIGS, "a stack is made of").model_type]
            encoders.append(base.from_pretrained(checkpoint, add_norm=scheme, **(loading or {})))
        return cls.from_encoders(encoders, **kwargs)

    @property
    def parts(self) -> list[AddNormPreTrainedModel]:
        return cast(AddNormStackModel, self.base_model).encoders

    def get_input_embeddings(self) -> nn.Module:
        return self.parts[0].get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.parts[0].set_input_embeddings(value)

    def _resize_token_embeddings(self, *args: StockValue, **kwargs: StockValue) -> nn.Embedding:
        # one tokenizer feeds all that read words
        for encoder in self.parts[1:]:
            if not isinstance(encoder.get_input_embeddings(), NoWords):
                encoder._resize_token_embeddings(*args, **kwargs)
        table: nn.Embedding = super()._resize_token_embeddings(*args, **kwargs)
        return table

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, (Norm, WeightedSum)):
            module.reset_parameters()


class AddNormStackModel(AddNormStackPreTrainedModel):
    """Several encoders as one, without a head: see [`AddNormStackConfig`] for the drawing.

    In a sequence, a later encoder is given the output before it as `inputs_embeds`, as the stock models take them: its
    own embedding stage runs on them (its positions and token types are added, its embedding norm and dropout follow),
    and it has no word embeddings. Where its input has another width (ALBERT's is `embedding_size`), a projection
    stands before it. In parallel every encoder reads the words through its own embeddings.

    `attention_mask` goes to all; `token_type_ids` and `position_ids` to those that take them. No encoder has a pooler.
    """

    def __init__(self, config: AddNormStackConfig):
        super().__init__(config)
        self.arrangement = ARRANGEMENTS[config.arrangement]()
        self.members = config.members()
        inputs: list[int] = []
        for index, encoder_config in enumerate(config.encoders):
            base = ENCODERS[encoder_config.model_type]
            poolers = "add_pooling_layer" in inspect.signature(base.__init__).parameters
            encoder = base(encoder_config, **({"add_pooling_layer": False} if poolers else {}))
            inputs.append(cast(nn.Embedding, encoder.get_input_embeddings()).embedding_dim)
            if not self.arrangement.reads_words(index):
                encoder.set_input_embeddings(NoWords(inputs[-1]))
            # children by name: Transformers asks children, not lists, what may not be split, cast or tied
            self.add_module(f"encoder_{index}", encoder)
        outputs = [encoder_config.hidden_size for encoder_config in config.encoders]
        bridges = [self.arrangement.bridge(index, inputs, outputs, config.hidden_size) for index in range(len(inputs))]
        self.projections = nn.ModuleDict(
            {str(index): nn.Linear(*widths) for index, widths in enumerate(bridges) if widths[0] != widths[1]}
        )
        self.mix_norm = nn.ModuleList(WeightedSum(count, config.mix) for count in self.arrangement.sums(self.members))
        self.after_norm = nn.ModuleList(AddNormStackConfig.build_norm(config, members) for members in self.members)
        self.taken = [_taken(encoder) for encoder in self.encoders]
        self.mixes_tokens = config.norm is not None and mixes_tokens(config.norm)
        keep_in_float32(self)
        self.post_init()

    @property
    def encoders(self) -> list[AddNormPreTrainedModel]:
        """The encoders, in order."""
        return [getattr(self, f"encoder_{index}") for index in range(len(self.config.encoders))]

    def project(self, index: int, h: torch.Tensor) -> torch.Tensor:
        """`h` through the projection of an encoder, where it has one."""
        return self.projections[str(index)](h) if str(index) in self.projections else h

    # the encoders collect these themselves, and each by its own way
    @can_return_tuple
    def forward(  # trf-ignore: TRF045
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        **kwargs: StockValue,
    ) -> BaseModelOutput:
        """The stack's output.

        Args:
            input_ids, inputs_embeds (`torch.Tensor`): [batch, seq] or [batch, seq, width]; exactly one of them, for
                every encoder that reads words.
            attention_mask (`torch.Tensor`, *optional*): [batch, seq], 1 for a real token.
            token_type_ids, position_ids (`torch.Tensor`, *optional*): [batch, seq].
            output_attentions, output_hidden_states (`bool`, *optional*): by default as in the config.
        Returns:
            `last_hidden_state` [batch, seq, hidden_size]; `hidden_states` are those of every encoder, one after the
            other (each from its embeddings on), then the stack's output; `attentions` likewise.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("exactly one of input_ids and inputs_embeds must be given.")
        self._refuse_width(inputs_embeds)
        flags = {"output_attentions": output_attentions, "output_hidden_states": output_hidden_states}
        flags = {name: getattr(self.config, name) if flag is None else flag for name, flag in flags.items()}
        tokens = {"token_type_ids": token_type_ids, "position_ids": position_ids}
        outputs = []

        def encode(index: int, **words: StockValue) -> torch.Tensor:
            taken = {name: tokens[name] for name in self.taken[index]}
            encoder = self.encoders[index]
            outputs.append(encoder(**words, attention_mask=attention_mask, **taken, **flags, return_dict=True))
            last: torch.Tensor = outputs[-1].last_hidden_state
            return last

        words = {"inputs_embeds": inputs_embeds} if input_ids is None else {"input_ids": input_ids}
        h = self.arrangement(self, encode, words)
        states = [state for output in outputs for state in output.get("hidden_states") or ()]
        attentions = [weights for output in outputs for weights in output.get("attentions") or ()]
        return BaseModelOutput(
            last_hidden_state=h,
            hidden_states=(*states, h) if flags["output_hidden_states"] else None,
            attentions=tuple(attentions) if flags["output_attentions"] else None,
        )

    def _refuse_width(self, inputs_embeds: torch.Tensor | None) -> None:
        words = [encoder.get_input_embeddings() for encoder in self.encoders]
        widths = [part.embedding_dim for part in words if not isinstance(part, NoWords)]
        if inputs_embeds is not None and set(widths) != {inputs_embeds.shape[-1]}:
            raise ValueError(
                f"inputs_embeds is {inputs_embeds.shape[-1]} wide, and the encoders that read words take {widths}; "
                "allowed is input_ids, or one width for all."
            )


class AddNormStackPooler(nn.Module):
    """The vector of a sequence: its first token's, or the mean of the real ones, through a layer.

        h [batch, seq, hidden] -> first or mean -> W -> tanh -> [batch, hidden]

    Args:
        config (`AddNormStackConfig`): with `classifier_pooling`.
    """

    def __init__(self, config: AddNormStackConfig):
        super().__init__()
        self.pool = {"cls": self.first, "mean": self.mean}[config.classifier_pooling]
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    @staticmethod
    def first(h: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """The first token's."""
        return h[:, 0]

    @staticmethod
    def mean(h: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """The mean over the real tokens."""
        if mask is None:
            return h.mean(1)
        real = mask.unsqueeze(-1).to(h.dtype)
        return (h * real).sum(1) / real.sum(1).clamp(min=1)

    def forward(self, h: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        return torch.tanh(self.dense(self.pool(h, mask)))


class AddNormStackForSequenceClassification(AddNormStackPreTrainedModel):
    """A stack with a pooler and a linear layer on top."""

    def __init__(self, config: AddNormStackConfig):
        super().__init__(config)
        labels = cast(int, config.num_labels)
        self.stack = AddNormStackModel(config)
        self.pooler = AddNormStackPooler(config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.hidden_size, labels)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: StockValue,
    ) -> SequenceClassifierOutput:
        """As [`AddNormStackModel`], with `labels` [batch] (or [batch, labels]); `logits` are [batch, labels]."""
        outputs = self.stack(
            input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, return_dict=True, **kwargs
        )
        logits = self.classifier(self.dropout(self.pooler(outputs.last_hidden_state, attention_mask)))
        loss = None if labels is None else self.loss_function(labels, logits, self.config, **kwargs)
        return SequenceClassifierOutput(loss, logits, outputs.hidden_states, outputs.attentions)


class AddNormStackForTokenClassification(AddNormStackPreTrainedModel):
    """A stack with a linear layer on every token."""

    def __init__(self, config: AddNormStackConfig):
        super().__init__(config)
        labels = cast(int, config.num_labels)
        self.stack = AddNormStackModel(config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.hidden_size, labels)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: StockValue,
    ) -> TokenClassifierOutput:
        """As [`AddNormStackModel`], with `labels` [batch, seq]; `logits` are [batch, seq, labels]."""
        outputs = self.stack(
            input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, return_dict=True, **kwargs
        )
        logits = self.classifier(self.dropout(outputs.last_hidden_state))
        loss = None if labels is None else self.loss_function(logits, labels, self.config, **kwargs)
        return TokenClassifierOutput(loss, logits, outputs.hidden_states, outputs.attentions)


class AddNormStackForMaskedLM(AddNormStackPreTrainedModel):
    """A stack with a masked-LM head: `decoder(LayerNorm(act(W h)))`.

    W maps to the width of the first encoder's word embeddings, to which the decoder is tied whatever the widths are;
    so its weight transform and the norm of the logits, if it has any, are those of the first encoder's scheme.
    """

    # the values depend on the first encoder's family
    _tied_weights_keys = {"decoder.weight": "stack.encoder_0.embeddings.word_embeddings.weight"}

    def __init__(self, config: AddNormStackConfig):
        super().__init__(config)
        self.stack = AddNormStackModel(config)
        words = cast(nn.Embedding, self.get_input_embeddings())
        first = config.encoders[0]
        self.dense = nn.Linear(config.hidden_size, words.embedding_dim)
        self.act = ACT2FN[config.head_act]
        self.head_norm = nn.LayerNorm(words.embedding_dim, eps=first.add_norm_eps())
        self.decoder = nn.Linear(words.embedding_dim, config.vocab_size)
        path = next(name for name, module in self.named_modules() if module is words)
        self._tied_weights_keys = {"decoder.weight": f"{path}.weight"}
        self.install_output_layer()
        self.post_init()

    def output_config(self) -> AddNormConfig:
        config: AddNormConfig = self.config.encoders[0]
        return config

    def get_output_embeddings(self) -> nn.Module:
        return self.decoder

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        self.decoder = new_embeddings

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: StockValue,
    ) -> MaskedLMOutput:
        """As [`AddNormStackModel`], with `labels` [batch, seq], -100 where none; `logits` are [batch, seq, vocab]."""
        outputs = self.stack(
            input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, return_dict=True, **kwargs
        )
        logits = self.decoder(self.head_norm(self.act(self.dense(outputs.last_hidden_state))))
        loss = None if labels is None else self.loss_function(logits, labels, self.config.vocab_size, **kwargs)
        return MaskedLMOutput(loss, logits, outputs.hidden_states, outputs.attentions)


__all__ = [
    "AddNormStackForMaskedLM",
    "AddNormStackForSequenceClassification",
    "AddNormStackForTokenClassification",
    "AddNormStackModel",
    "AddNormStackPreTrainedModel",
]
