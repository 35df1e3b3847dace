"""How a model, and its layers, are told which tokens are real while a forward runs."""

import inspect
from collections.abc import Callable
from functools import partial, wraps
from typing import Protocol

import torch
from torch import nn

from ..base.auxiliary_loss import with_losses
from ..base.protocols import HasConfig, StockValue
from ..base.token_mask import TokenMask, current, running_with


Forward = Callable[..., StockValue]


class ToldOfTokens(HasConfig, Protocol):
    """A model whose forward is told of tokens."""

    # whether something in it adds to the loss, asks what the model knows, takes statistics over tokens
    adds_loss: bool
    asks_model: bool
    mixes_tokens: bool
    # whether the output layer has something of the spec's
    changes_output: bool

    def require_output_layer(self) -> None:
        """Refuse an output layer that has lost that."""
        ...


def pass_token_mask(
    layer: nn.Module, args: tuple[StockValue, ...], kwargs: dict[str, StockValue]
) -> tuple[tuple[StockValue, ...], dict[str, StockValue]]:
    """A hook before a layer's forward: hands the model's tokens on as an argument."""
    # before a checkpoint begins, so that its recomputation is told the same
    return args, kwargs | {"tokens": current()}


def takes_token_mask(forward: Forward) -> Forward:
    """A layer's forward that takes the model's tokens as `tokens` and knows them while it runs."""

    @wraps(forward)
    def with_tokens(
        self: nn.Module, *args: StockValue, tokens: TokenMask | None = None, **kwargs: StockValue
    ) -> StockValue:
        if tokens is None:
            return forward(self, *args, **kwargs)
        return running_with(tokens, forward, self, *args, **kwargs)

    return with_tokens


def _reader(forward: Forward, name: str) -> Callable[[tuple[StockValue, ...], dict[str, StockValue]], StockValue]:
    """What gives an argument of a model's forward, by place or by name; None where it has none."""
    names = list(inspect.signature(forward).parameters)
    position = names.index(name) - 1 if name in names else None

    def read(args: tuple[StockValue, ...], kwargs: dict[str, StockValue]) -> StockValue:
        by_place = args[position : position + 1] if position is not None else ()
        return by_place[0] if by_place else kwargs.get(name)

    return read


def _patch_grid(config: StockValue, image: torch.Tensor | None) -> tuple[int, int] | None:
    """Rows and columns of the patches of images [batch, channels, height, width]."""
    if image is None:
        return None
    sizes = config.patch_size if isinstance(config.patch_size, (list, tuple)) else 2 * (config.patch_size,)
    return image.shape[-2] // sizes[0], image.shape[-1] // sizes[1]


def _behind_patches(config: StockValue) -> int:
    """The number of tokens behind an image's patches."""
    entry: str = getattr(getattr(config, "facts", None), "behind_patches", "")
    return getattr(config, entry) if entry else 0


def with_token_mask(forward: Forward) -> Forward:
    """A model's forward that knows its tokens while it runs, and collects losses, where a norm asks for them."""
    mask, image = _reader(forward, "attention_mask"), _reader(forward, "pixel_values")

    @wraps(forward)
    def with_token_mask(self: ToldOfTokens, *args: StockValue, **kwargs: StockValue) -> StockValue:
        if self.changes_output:
            self.require_output_layer()
        run: Forward = partial(with_losses, forward) if self.adds_loss else forward
        if not (self.asks_model or self.mixes_tokens):
            return run(self, *args, **kwargs)
        grid = _patch_grid(self.config, image(args, kwargs))
        tokens = TokenMask.of(mask(args, kwargs), grid, _behind_patches(self.config))
        return running_with(tokens, run, self, *args, **kwargs)

    # Accelerate, where it takes its autocast away again, goes down to what no decorator is on, and would take this too
    vars(with_token_mask)["__signature__"] = inspect.signature(forward)
    del vars(with_token_mask)["__wrapped__"]
    return with_token_mask
