"""Auxiliary losses: scalars that a module adds to the loss of its model during a training forward."""

from collections.abc import Callable

import torch

from .forward_context import Arguments, ForwardContext, Returned, recomputing
from .protocols import HasConfig, StockValue


_losses: ForwardContext[list[torch.Tensor] | None] = ForwardContext("auxiliary_losses", None)


def contribute(loss: torch.Tensor) -> None:
    """Add a scalar to the loss of the model that runs now; a class that does so says `adds_loss = True`.

    A checkpoint's recomputation adds nothing: what the forward added is part of the same graph. Where nobody collects,
    the loss is dropped.
    """
    losses = _losses.get()
    if losses is not None and not recomputing():
        losses.append(loss)


def collect_losses(
    function: Callable[Arguments, Returned], *args: Arguments.args, **kwargs: Arguments.kwargs
) -> tuple[Returned, list[torch.Tensor]]:
    """Run a model and return the auxiliary losses of its modules separately, instead of adding them to its loss.

    Args:
        function (`Callable`): is called with the other arguments.
    Returns:
        What it returns, and the losses, scalars in float32 at least.
    """
    losses: list[torch.Tensor] = []
    return _losses.running_with(losses, function, *args, **kwargs), losses


def with_losses(
    forward: Callable[..., StockValue], model: HasConfig, *args: StockValue, **kwargs: StockValue
) -> StockValue:
    """Run a model's forward and add the auxiliary losses of its modules to the loss in its outputs, if it has one.

    A model within another one leaves them to that.
    """
    if _losses.get() is not None:
        return forward(model, *args, **kwargs)
    return_dict = kwargs.get("return_dict")
    as_tuple = not (getattr(model.config, "return_dict", True) if return_dict is None else return_dict)
    # in a tuple nothing says whether its first entry is a loss
    outputs, losses = collect_losses(forward, model, *args, **kwargs | {"return_dict": True})
    loss = outputs.get("loss")
    if loss is not None:
        for extra in losses:
            loss = loss + extra.to(loss)
        outputs.loss = loss
    return outputs.to_tuple() if as_tuple else outputs
