"""Looking at what runs through the sublayers of a model, for every family, stream and wiring, with no code of theirs.

state -> read -> x -> enter -> u -> leave -> f -> write (sum, norm in post) -> state
                 |             |             |          |       |
             stream_in     branch_in    branch_out  after_sum  after_norm
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Protocol

import torch
from torch import nn

from ..models.base.protocols import StockValue
from ..models.core.branch_norms import same
from ..models.core.encoder import AddNormEncoder
from ..models.core.layer import AddNormLayer
from ..models.core.layer_add_norm import LayerAddNorm, SublayerCall
from ..models.core.pretrained import AddNormPreTrainedModel
from ..models.streams.streams import Function, Kept, State
from ..sites import LayerStack


POINTS = ("stream_in", "branch_in", "branch_out", "after_sum", "after_norm")


See = Callable[[int, str, str, torch.Tensor], None]


class Observer(Protocol):
    """What is told of every tensor that passes one of the `POINTS`."""

    def see(self, stack: str, layer: int, sublayer: str, point: str, x: torch.Tensor) -> None:
        """Called while the forward runs; `x` is the tensor itself, [batch, seq, hidden] unless a stream has more.

        `stack` is empty where the model has one stack of layers, else "encoder" or "decoder".
        """
        ...


class WatchedCall(SublayerCall):
    """A sublayer's call that shows an observer what passes. It computes what `SublayerCall` does, in the same order.

    The feed-forward runs in one piece, whatever `chunk_size_feed_forward` is.

    Args:
        see (`Callable`): is told layer, sublayer, point and tensor; the `see` of an `Observer` for one stack.
        layer, name, parts: see `SublayerCall`.
    """

    def __init__(self, see: See, layer: LayerAddNorm, name: str, *parts: StockValue):
        *most, _ = parts
        super().__init__(layer, name, *most)
        self._see = partial(see, layer.position.layer, name)
        # the sum is what the norm behind it is given, where there is none too
        self.norms["post"] = partial(self._norm_in_post, self.norms.get("post"))

    def _norm_in_post(self, norm: Function | None, y: torch.Tensor) -> torch.Tensor:
        self._see("after_sum", y)
        if norm is None:
            return same(y)
        z = norm(y)
        self._see("after_norm", z)
        return z

    def read(self, state: State) -> tuple[torch.Tensor, Kept]:
        x, kept = super().read(state)
        self._see("stream_in", x)
        return x, kept

    def leave(self, u: torch.Tensor) -> torch.Tensor:
        self._see("branch_in", u)
        f = super().leave(u)
        self._see("branch_out", f)
        return f

    def _step(self, state: State) -> State:
        x, kept = self.read(state)
        return self.write(kept, self.leave(self.enter(x)))


@contextmanager
def watching(model: AddNormPreTrainedModel, observer: Observer) -> Iterator[None]:
    """While it holds, the observer is told what passes in every layer; outputs stay as they are, bit for bit.

    The model's own code runs in the place of the stock layer's also where both do the same, and the model says which
    tokens are real (`token_mask.current()`) also where no norm asks for it.

    Args:
        model: an AddNorm model, not compiled.
        observer (`Observer`): what is told.
    """
    changed: list[tuple[nn.Module, str, object]] = []
    for stack in model.stack_configs:
        # a layer may be shared by several depths
        for layer in dict.fromkeys(layer for layer, _ in LayerStack(model, stack).layers()):
            changed.append((layer, "call_class", partial(WatchedCall, partial(observer.see, stack))))
    for module in model.modules():
        if isinstance(module, (AddNormLayer, AddNormEncoder)):
            changed.append((module, "runs_as_stock", False))
        if isinstance(module, AddNormPreTrainedModel):
            changed.append((module, "asks_model", True))
    before = [(module, name, vars(module).get(name)) for module, name, _ in changed]
    was_there = [name in vars(module) for module, name, _ in changed]
    try:
        for module, name, value in changed:
            setattr(module, name, value)
        yield
    finally:
        for (module, name, value), had in zip(before, was_there, strict=True):
            setattr(module, name, value) if had else delattr(module, name)
