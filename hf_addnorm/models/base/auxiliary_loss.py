"""Auxiliary losses: scalars that a module adds to the loss of its model during a training forward."""

from collections.abc import Callable
from functools import partial

import torch
from transformers.utils import logging

from .forward_context import Arguments, ForwardContext, Returned, recomputing
from .modules import modules_with
from .protocols import HasConfig, MayAddLoss, StockValue


logger = logging.get_logger(__name__)


class Contributions:
    """What the modules of a model add to its loss during one forward.

    Args:
        losses (`list[torch.Tensor]`): scalars.
        share (`torch.Tensor`, *optional*): what the model's own loss was multiplied by, where it is a part of the loss
            of several micro-batches.
    """

    def __init__(self) -> None:
        self.losses: list[torch.Tensor] = []
        self.share: torch.Tensor | None = None

    def added_to(self, loss: torch.Tensor) -> torch.Tensor:
        """A model's loss with them, in the same proportion as in a micro-batch alone."""
        for extra in self.losses:
            loss = loss + (extra if self.share is None else extra * self.share).to(loss)
        return loss


_contributions: ForwardContext[Contributions | None] = ForwardContext("auxiliary_losses", None)


def contribute(loss: torch.Tensor) -> None:
    """Add a scalar to the loss of the model that runs now; a class that does so says `adds_loss = True`.

    A checkpoint's recomputation adds nothing: what the forward added is part of the same graph. Where nobody collects,
    the loss is dropped.
    """
    contributions = _contributions.get()
    if contributions is not None and not recomputing():
        contributions.losses.append(loss)


def collect_losses(
    function: Callable[Arguments, Returned], *args: Arguments.args, **kwargs: Arguments.kwargs
) -> tuple[Returned, list[torch.Tensor]]:
    """Run a model and return the auxiliary losses of its modules separately, instead of adding them to its loss.

    Args:
        function (`Callable`): is called with the other arguments.
    Returns:
        What it returns, and the losses, scalars in float32 at least.
    """
    contributions = Contributions()
    return _contributions.running_with(contributions, function, *args, **kwargs), contributions.losses


def _shared(
    loss_function: Callable[..., torch.Tensor],
    *args: StockValue,
    num_items_in_batch: StockValue = None,
    **kwargs: StockValue,
) -> torch.Tensor:
    """Call a loss function, and note by which factor `num_items_in_batch` made the loss a part of a larger one."""
    contributions = _contributions.get()
    if num_items_in_batch is None:
        return loss_function(*args, **kwargs)
    loss = loss_function(*args, num_items_in_batch=num_items_in_batch, **kwargs)
    if contributions is not None and contributions.losses:
        # asked of the function itself: some ignore it, and each counts in its own way
        with torch.no_grad():
            alone = loss_function(*args, **kwargs)
            contributions.share = torch.where(alone.isfinite() & (alone != 0), loss / alone, 0.0)
    return loss


def adds_loss(model: torch.nn.Module) -> bool:
    """Whether a module in it adds to the loss."""
    return any(module.adds_loss for module in modules_with(model, MayAddLoss))  # type: ignore[type-abstract]


class SharesAuxiliaryLosses:
    """Mixin for a model whose modules may add to its loss: they have the share in a step that the loss has.

    Trainer divides the loss of each micro-batch by the labels of all of them, where a head's loss function takes their
    number: what a norm adds must not count once per micro-batch then.
    """

    # whether a module in it adds to the loss
    adds_loss = False

    @property
    def loss_function(self) -> Callable[..., torch.Tensor]:
        """As in Transformers."""
        stock: Callable[..., torch.Tensor] = super().loss_function  # type: ignore[misc]
        return partial(_shared, stock) if self.adds_loss else stock

    @loss_function.setter
    def loss_function(self, value: Callable[..., torch.Tensor]) -> None:
        self._loss_function = value


def with_losses(
    forward: Callable[..., StockValue], model: HasConfig, *args: StockValue, **kwargs: StockValue
) -> StockValue:
    """Run a model's forward and add the auxiliary losses of its modules to the loss in its outputs, if it has one.

    A model within another one leaves them to that. Where they are lost, a warning says so once.
    """
    if _contributions.get() is not None:
        return forward(model, *args, **kwargs)
    return_dict = kwargs.get("return_dict")
    as_tuple = not (getattr(model.config, "return_dict", True) if return_dict is None else return_dict)
    # in a tuple nothing says whether its first entry is a loss
    contributions = Contributions()
    outputs = _contributions.running_with(contributions, forward, model, *args, **kwargs | {"return_dict": True})
    loss = outputs.get("loss")
    if loss is not None:
        outputs.loss = contributions.added_to(loss)
    elif contributions.losses and torch.is_grad_enabled() and not torch.compiler.is_compiling():
        logger.warning_once(
            "A norm of this model adds to its loss (regularized_bn), and this training forward computes none: what "
            "it adds is lost. With Trainer's label smoothing or compute_loss_func use "
            "hf_addnorm.trainer.AddNormTrainer; in a loop of your own use hf_addnorm.collect_losses."
        )
    return outputs.to_tuple() if as_tuple else outputs
