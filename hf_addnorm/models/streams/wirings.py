"""Wirings: how the sublayers of a layer meet. The layer is the unit here, x its state, A, C, M its branches."""

from collections.abc import Sequence
from typing import Protocol

import torch

from ..base.registries import WIRINGS
from .streams import Kept, State


class CalledSublayer(Protocol):
    """A sublayer during one forward, as a wiring runs it; `SublayerCall` says what its methods do."""

    def read(self, state: State) -> tuple[torch.Tensor, Kept]: ...

    def enter(self, x: torch.Tensor) -> torch.Tensor: ...

    def leave(self, u: torch.Tensor) -> torch.Tensor: ...

    def output(self, x: torch.Tensor) -> torch.Tensor: ...

    def write(self, kept: Kept, f: torch.Tensor, also: torch.Tensor | None = None) -> State: ...

    def step(self, state: State) -> State: ...


@WIRINGS.register("sequential")
class Sequential:
    """One sublayer after the other.

        x -> attention -> (cross-attention) -> feed-forward -> x

    Source: Vaswani et al., 2017, arXiv 1706.03762.
    """

    # whether the layer's input goes around a sublayer, besides the stream
    skips = False

    def uses(self, slot: str, order: int, sublayers: int) -> bool:
        """Whether the slot of the sublayer number `order` (from 0) of a layer is on its way."""
        return True

    def writes(self, order: int, sublayers: int) -> bool:
        """Whether that sublayer writes to the stream."""
        return True

    def __call__(self, state: State, calls: Sequence[CalledSublayer]) -> State:
        """The state after the layer, from the state before it."""
        for call in calls:
            state = call.step(state)
        return state


@WIRINGS.register("parallel")
class Parallel(Sequential):
    """All branches from the same state, one sum: `x <- N_post(x + A(N x) + M(N x))`.

        x -+-> N -+-> A -+-> + -> (post) -> x
           |      +-> M -^   |
           +-----------------^

    Source: GPT-J, Wang & Komatsuzaki, 2021; PaLM, Chowdhery et al., 2022, arXiv 2204.02311 (one norm for all
    branches); GPT-NeoX, Black et al., 2022, arXiv 2204.06745 (a norm for each). The slot `post` is that of the last
    sublayer, and so is the residual: a layer writes once, and depth rules count it as one sublayer.

    Args:
        shared_norm (`bool`, *optional*, defaults to `True`): the branches share the norm in the slot `pre` of the
            first sublayer.
    """

    def __init__(self, *, shared_norm: bool = True):
        self.shared_norm = shared_norm

    def uses(self, slot: str, order: int, sublayers: int) -> bool:
        if slot == "pre":
            return order == 0 or not self.shared_norm
        return slot != "post" or order == sublayers - 1

    def writes(self, order: int, sublayers: int) -> bool:
        return order == sublayers - 1

    def __call__(self, state: State, calls: Sequence[CalledSublayer]) -> State:
        x, kept = calls[-1].read(state)
        shared = calls[0].enter(x)
        f = calls[0].leave(shared)
        for call in calls[1:]:
            f = f + call.leave(shared if self.shared_norm else call.enter(x))
        return calls[-1].write(kept, f)


@WIRINGS.register("b2t")
class BottomToTop(Sequential):
    """In turn, and the layer's input is added again before the last norm: `h = N(x + A(x))`, `y = N'(x + h + M(h))`.

        x -+-> A -> + -> N -> h -+-> M -> + -> N' -> y
           +--------^            +--------^
           +------------------------------^

    Source: B2T connection, Takase et al., 2022, arXiv 2206.00330.
    """

    skips = True

    def __call__(self, state: State, calls: Sequence[CalledSublayer]) -> State:
        before, _ = calls[0].read(state)
        for call in calls[:-1]:
            state = call.step(state)
        x, kept = calls[-1].read(state)
        return calls[-1].write(kept, calls[-1].output(x), also=before)


@WIRINGS.register("two_hop")
class TwoHop(Sequential):
    """In turn, but the last sublayer adds to the layer's input: `y = x + A(N x)`, `x <- x + M(N y)`.

        x -+-> A -> + -> y -> M -> + -> x
           +--------^              |
           +-----------------------^

    Source: Megalodon, Ma et al., 2024, arXiv 2404.08801.
    """

    skips = True

    def __call__(self, state: State, calls: Sequence[CalledSublayer]) -> State:
        _, kept = calls[-1].read(state)
        for call in calls[:-1]:
            state = call.step(state)
        x, _ = calls[-1].read(state)
        return calls[-1].write(kept, calls[-1].output(x))
