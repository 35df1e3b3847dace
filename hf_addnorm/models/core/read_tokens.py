"""Heads that read a part of the tokens: then the rest of the model computes no more than these need."""

import inspect
from functools import wraps
from typing import Protocol

import torch

from ..base.protocols import HasConfig, StockValue
from ..norms.norm_base import mixes_tokens
from .packing import FIRST_ONLY, READ_TOKENS, Arguments, is_packed, is_traced
from .token_hooks import Forward


# the label that says that a token has none
_NO_LABEL = -100


class MayReadLabelled(HasConfig, Protocol):
    """A masked language model."""

    # whether its head reads labelled tokens alone
    labelled_only: bool


def require_head_of_single_tokens(model: MayReadLabelled) -> None:
    """Refuse a model whose head is not that of a masked language model, or has a norm over tokens.

    Raises:
        ValueError: with the reason.
    """
    name, spec = type(model).__name__, model.config.add_norm
    norms = [norm for place in ("head", "logits") if (norm := spec.place_norm(getattr(spec, place))) is not None]
    if not name.endswith("ForMaskedLM"):
        raise ValueError(f"labelled_only is true, and {name} is no masked language model.")
    if any(mixes_tokens(norm) for norm in norms):
        raise ValueError("labelled_only is true, and a norm of the head takes statistics over all tokens.")


def with_labelled_tokens(forward: Forward) -> Forward:
    """A masked language model's forward, which hands its head the labelled tokens alone where it is to do so.

    The base model gives them as [1, labelled, hidden], and the stock forward does the rest.
    """
    arguments_of = Arguments(inspect.signature(forward))

    @wraps(forward)
    def with_labelled_tokens(self: MayReadLabelled, *args: StockValue, **kwargs: StockValue) -> StockValue:
        if not self.labelled_only or is_traced():
            return forward(self, *args, **kwargs)
        given = arguments_of(self, *args, **kwargs)
        labels: torch.Tensor | None = given.get("labels")
        if labels is not None:
            places = (labels.flatten() != _NO_LABEL).nonzero().squeeze(1)
            given |= {"labels": labels.flatten()[places].unsqueeze(0), READ_TOKENS: places}
        return forward(self, **given)

    return with_labelled_tokens


class ReadsFirst(HasConfig, Protocol):
    """A model whose head may read the first token of each row alone."""

    # whether the last layer may run its feed-forward for a part of the tokens
    last_layer_can_be_cut: bool


def with_first_tokens(forward: Forward) -> Forward:
    """The forward of a model that classifies rows: packed, its last layer ends with the tokens that its head reads.

    All tokens run through the last layer's attention, and the first one of each row alone through its feed-forward.
    The argument `FIRST_ONLY` asks for the same with padding, which an exported model does.
    """
    arguments_of = Arguments(inspect.signature(forward))

    @wraps(forward)
    def with_first_tokens(self: ReadsFirst, *args: StockValue, **kwargs: StockValue) -> StockValue:
        is_wanted = kwargs.pop(FIRST_ONLY, False) or is_packed(self.config)
        if not (self.last_layer_can_be_cut and is_wanted and _reads_first(self.config)):
            return forward(self, *args, **kwargs)
        given = arguments_of(self, *args, **kwargs)
        wants_states = given.get("output_hidden_states")
        if wants_states or (wants_states is None and getattr(self.config, "output_hidden_states", False)):
            return forward(self, **given)
        return forward(self, **given, **{FIRST_ONLY: True})

    return with_first_tokens


def _reads_first(config: StockValue) -> bool:
    """Whether a head that classifies rows reads their first tokens: some let the config say so, by these entries."""
    first = getattr(config, "summary_type", "first") == "first"
    return first and getattr(config, "classifier_pooling", "cls") == "cls"
