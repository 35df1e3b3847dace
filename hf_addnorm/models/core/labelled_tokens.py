"""A masked language model whose head reads labelled tokens alone: scores of a vocabulary are costly."""

import inspect
from functools import wraps
from typing import Protocol

import torch

from ..base.protocols import HasConfig, StockValue
from ..norms.norm_base import mixes_tokens
from .packing import READ_TOKENS, Arguments, is_traced
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
