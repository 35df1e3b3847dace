"""Running a model one sublayer at a time, over batches whose states between two sublayers lie in files.

A model's own forward makes what a sublayer needs beside the stream (masks, positions); its layers before the wanted
one hand on what they are given, and the forward ends behind the wanted sublayer. So nothing here is per family, and
memory does not grow with the number of batches.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch import nn

from ..models.base.protocols import StockValue
from ..models.base.token_mask import current
from ..models.core.encoder import AddNormEncoder
from ..models.core.layer import AddNormLayer
from ..models.core.layer_add_norm import LayerAddNorm, MakeCalls, SublayerCall
from ..models.core.pretrained import AddNormPreTrainedModel
from ..models.core.recasting import get_part
from ..sites import sublayers
from .batches import Batch


T = TypeVar("T")


class States:
    """A tensor for each batch, in files.

    Args:
        folder (`Path`): of the files.
        name (`str`): begins their names.
    """

    def __init__(self, folder: Path, name: str):
        self.folder, self.name = folder, name

    def __getitem__(self, index: int) -> torch.Tensor:
        value: torch.Tensor = torch.load(self.folder / f"{self.name}_{index}.pt")
        return value

    def __setitem__(self, index: int, value: torch.Tensor) -> None:
        torch.save(value, self.folder / f"{self.name}_{index}.pt")


class _Done(Exception, Generic[T]):
    """Ends a forward that has come to where it was wanted."""

    def __init__(self, value: T):
        self.value = value


@dataclass
class Step:
    """One sublayer of one batch, in the middle of a forward.

    Args:
        call (`SublayerCall`): the sublayer.
        real (`torch.Tensor`, *optional*): [batch, seq], true for a real token; None if all are.
    """

    call: SublayerCall
    real: torch.Tensor | None


class Stepper:
    """Runs one sublayer of a model at a time.

    Args:
        model: in evaluation. Its layers run through their blocks from now on, also where they are as stock.
    """

    def __init__(self, model: AddNormPreTrainedModel):
        self.model, self.subs = model, sublayers(model)
        self.names = model.config.add_norm_sublayers()
        for module in model.modules():
            if isinstance(module, (AddNormLayer, AddNormEncoder)):
                module.runs_as_stock = False
            # told which tokens are real
            if isinstance(module, (AddNormLayer, AddNormPreTrainedModel)):
                module.mixes_tokens = True

    def run(self, batch: Batch, index: int, action: Callable[[Step], T]) -> T:
        """What `action` makes of the sublayer number `index`, in a forward of `batch`.

        Raises:
            ValueError: if the forward does not come to it.
        """
        depth, order = divmod(index, len(self.names))
        with self._passing(depth, lambda calls: action(Step(calls[order], current().mask))):
            value: T = self._forward(batch)
        return value

    def enter(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor | None]:
        """What the first layer is given in a forward of `batch`, and its real tokens."""
        seen: list[torch.Tensor] = []
        blocks = get_part(self.model, self.subs[0].block.rpartition(".")[0])
        handle = blocks.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
        try:
            real = self.run(batch, 0, lambda step: step.real)
        finally:
            handle.remove()
        return seen[0], real

    def embedded(self, batch: Batch, path: str) -> torch.Tensor:
        """What the norm at `path`, in front of the layers, is given."""

        def stop(module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            raise _Done(args[0])

        handle = get_part(self.model, path).register_forward_pre_hook(stop)
        try:
            found: torch.Tensor = self._forward(batch)
        finally:
            handle.remove()
        return found

    @torch.no_grad()
    def _forward(self, batch: Batch) -> StockValue:
        try:
            self.model(**batch)
        except _Done as done:
            return done.value
        raise ValueError("a forward did not come to the sublayer that was wanted: is a layer left out?")

    @contextmanager
    def _passing(self, depth: int, action: Callable[[Sequence[SublayerCall]], T]) -> Iterator[None]:
        """Layers before `depth` hand on what they are given, and that one ends the forward."""
        paths = [sub.block.rpartition(".")[0] for sub in self.subs[:: len(self.names)]]
        blocks: list[LayerAddNorm] = [get_part(self.model, path) for path in paths[: depth + 1]]

        def stop(hidden: torch.Tensor, make_calls: MakeCalls, *_: object) -> None:
            raise _Done(action(make_calls(blocks[depth])))

        try:
            for block in blocks[:-1]:
                block.forward = _pass  # type: ignore[method-assign, assignment]
            blocks[-1].forward = stop  # type: ignore[method-assign, assignment]
            yield
        finally:
            for block in blocks:
                vars(block).pop("forward", None)


def _pass(hidden: torch.Tensor, *_: object) -> torch.Tensor:
    return hidden


def tokens(x: torch.Tensor, real: torch.Tensor | None) -> torch.Tensor:
    """The real tokens of `x` [batch, seq, features] as [tokens, features]."""
    return x.flatten(0, -2) if real is None else x[real[:, -x.shape[1] :]]


@contextmanager
def given_to(module: nn.Module) -> Iterator[list[torch.Tensor]]:
    """What a module is given while the context holds."""
    seen: list[torch.Tensor] = []
    handle = module.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    try:
        yield seen
    finally:
        handle.remove()
