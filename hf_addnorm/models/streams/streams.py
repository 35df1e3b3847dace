"""Streams: the state that runs through the layers, and how a sublayer reads from it and writes to it.

Between layers the state is a tensor, or a tuple whose first entry is the tensor that a reader of hidden states wants;
so the stock loops carry it as they are. The first layer makes the state of the embeddings' output, the last layer
makes one tensor of it again.
"""

from collections.abc import Callable
from typing import Generic, NewType, TypeVar

import torch
from torch import nn

from ..base.depth import Position
from ..base.protocols import StockValue
from ..base.registries import RESIDUALS, STREAMS
from ..base.registry import ComponentSpec, Finite, Positive
from ..residuals.residuals import Residual


Tensors = tuple[torch.Tensor, ...]
# what stands between layers; the first of several tensors is the one that a reader of hidden states wants
HiddenStates = torch.Tensor | Tensors
# The same in the signatures of a family's layers: those of the stock layers, which they override, say a tensor alone.
LayerState = StockValue
Function = Callable[[torch.Tensor], torch.Tensor]
NewNorm = Callable[[], nn.Module]
# from the stream and a branch's output to the stream
Sum = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
# what acts on a state where a layer begins or ends
LayerPart = Callable[..., torch.Tensor]

# a state within a layer; what `read` keeps of it for `write`; the module by which a sublayer reads and writes
StateT = TypeVar("StateT")
KeptT = TypeVar("KeptT")
ResidualT = TypeVar("ResidualT")


def readable(state: LayerState) -> torch.Tensor:
    """What hidden states between the layers are to a reader, [batch, seq, hidden]: of several tensors the first."""
    first: torch.Tensor = state[0] if isinstance(state, tuple) else state
    return first


class Stream(Generic[StateT, KeptT, ResidualT]):
    """Base of the streams: what state runs through the layers, and how sublayers read it and write to it.

    A class says with its base what its states are: `Stream[state, what read keeps for write, residual]`.
    """

    # the names of the norms that the last layer has for the stream itself
    norms: tuple[str, ...] = ()
    # whether its residuals have norms, of their layer's kind
    has_norms_in_layers = False
    # whether hidden states are tuples between the layers
    is_tuple = False
    # whether there is one tensor to which the sublayers add
    is_one = True
    # whether it has weights of its own for what a sublayer adds, so that the spec's residual has no place
    owns_residual = False

    def build_residual(
        self, residual: ComponentSpec, hidden_size: int, position: Position, new_norm: NewNorm
    ) -> Residual | None:
        """The module by which a sublayer reads from and writes to the state; `new_norm` makes one of its layer's."""
        built: Residual = RESIDUALS.build(residual, hidden_size, position)
        return built

    def build_layer_part(self, hidden_size: int, position: Position) -> Residual | None:
        """What acts on the state where a layer begins and ends, or None; `position` is its first sublayer's."""
        return None

    def own_norm(self, norm: ComponentSpec) -> ComponentSpec:
        """What its `norms` are, where the spec's is `norm`."""
        return norm

    def build_entry_modules(self, hidden_size: int) -> dict[str, nn.Module]:
        """What the first layer has for the stream itself, by its name in a checkpoint."""
        return {}

    def build_exit_modules(self, hidden_size: int, new_norm: NewNorm) -> dict[str, nn.Module]:
        """What the last layer has for the stream itself, by its name in a checkpoint; `new_norm` is as above."""
        return {name: new_norm() for name in self.norms}

    def enter(self, hidden: HiddenStates, *entry_modules: Function) -> StateT:
        """The state, from what a layer is given: what `leave` gave, or in the first one the embeddings' output.

        The first layer passes what the stream has there (see `build_entry_modules`).
        """
        raise NotImplementedError

    def begin_layer(self, state: StateT, part: LayerPart | None) -> StateT:
        """The state at a layer's first sublayer; `part` (see `build_layer_part`) is None where it is skipped."""
        return state

    def end_layer(self, state: StateT, part: LayerPart | None, position: Position) -> StateT:
        """The state after a layer; `part` is as in `begin_layer`, `position` is that of its first sublayer."""
        return state

    def leave(self, state: StateT) -> HiddenStates:
        """What a layer gives to the next one."""
        raise NotImplementedError

    def add_between_layers(self, hidden: HiddenStates, f: torch.Tensor, post: Function) -> HiddenStates:
        """What the next layer is given where something outside of all layers adds `f` to the stream."""
        _, kept = self.read(self.enter(hidden))
        return self.leave(self.write(kept, f, None, post))

    def finish(self, state: StateT, *exit_modules: Callable[..., torch.Tensor]) -> torch.Tensor:
        """One tensor, from the state after the last layer and what the stream has there (see `build_exit_modules`)."""
        raise NotImplementedError

    def read(self, state: StateT, residual: ResidualT | None = None) -> tuple[torch.Tensor, KeptT]:
        """What the branch of a sublayer is given, and what `write` needs of the state."""
        raise NotImplementedError

    def write(self, kept: KeptT, f: torch.Tensor, residual: ResidualT | None, post: Function) -> StateT:
        """The state after a sublayer whose branch gave `f`; a plain sum where `residual` is None."""
        raise NotImplementedError


# What the blocks of a layer hand on: only the stream that made them knows what a state and what is kept of it are.
State = NewType("State", object)
Kept = NewType("Kept", object)
AnyStream = Stream[State, Kept, Callable[..., object]]


def summed(x: torch.Tensor, f: torch.Tensor, residual: Sum | None, post: Function) -> torch.Tensor:
    """One tensor of the stream after a sublayer whose branch gave `f`."""
    return post(x + f if residual is None else residual(x, f))


@STREAMS.register("single")
class SingleStream(Stream[torch.Tensor, torch.Tensor, Sum]):
    """One tensor, `[batch, seq, hidden]`.

    x -> layer 1 -> ... -> layer L -> x
    """

    def enter(self, hidden: HiddenStates, *entry_modules: Function) -> torch.Tensor:
        # it is given what `leave` gave
        return hidden  # type: ignore[return-value]

    def leave(self, state: torch.Tensor) -> HiddenStates:
        return state

    def finish(self, state: torch.Tensor, *exit_modules: Callable[..., torch.Tensor]) -> torch.Tensor:
        return state

    def read(self, state: torch.Tensor, residual: Sum | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        return state, state

    def write(self, kept: torch.Tensor, f: torch.Tensor, residual: Sum | None, post: Function) -> torch.Tensor:
        return post(kept + f if residual is None else residual(kept, f))


class SeveralTensors(Stream[Tensors, KeptT, ResidualT]):
    """Base of the streams whose state is the tuple that stands between the layers."""

    is_tuple = True

    def leave(self, state: Tensors) -> HiddenStates:
        return state


@STREAMS.register("dual")
class DualStream(SeveralTensors[Tensors, Sum]):
    """Two tensors: a post-norm stream that the sublayers read, and the sum of all their outputs.

        x <- N(x + f),  y <- y + scale * f;  after the last layer post_scale * x + N'(y)

    Source: ResiDual, Xie et al., 2023, arXiv 2304.14802. The authors' code has N' with `eps=1e-7`, and a scale of 0.05
    for their largest data.

    Args:
        scale (`float`, *optional*, defaults to 1): multiplies everything that goes into the sum, the embeddings too.
        post_scale (`float`, *optional*, defaults to 1): multiplies the post-norm stream at the end.
        eps (`float`, *optional*): that of N', above 0, where this kind of norm has one; by default the spec's norm's.
    """

    norms = ("stream_norm",)
    is_one = False

    def __init__(self, *, scale: Finite = 1.0, post_scale: Finite = 1.0, eps: Positive | None = None):
        self.scale, self.post_scale, self.eps = scale, post_scale, eps

    def own_norm(self, norm: ComponentSpec) -> ComponentSpec:
        own = self.eps is not None and "eps" in norm.options
        return ComponentSpec(norm.kind, norm.options | {"eps": self.eps}) if own else norm

    def enter(self, hidden: HiddenStates, *entry_modules: Function) -> Tensors:
        return hidden if isinstance(hidden, tuple) else (hidden, self.scale * hidden)

    def finish(self, state: Tensors, *exit_modules: Callable[..., torch.Tensor]) -> torch.Tensor:
        x = state[0] if self.post_scale == 1.0 else self.post_scale * state[0]
        return x + exit_modules[0](state[1])

    def read(self, state: Tensors, residual: Sum | None = None) -> tuple[torch.Tensor, Tensors]:
        return state[0], state

    def write(self, kept: Tensors, f: torch.Tensor, residual: Sum | None, post: Function) -> Tensors:
        return summed(kept[0], f, residual, post), kept[1] + self.scale * f


class StreamConnection(Residual, Generic[StateT, KeptT]):
    """Base: how one sublayer reads from the state of a stream that has no plain sum.

    Writing is the stream's own (`Stream.write`) and has no parameters. So all parameters are read in `forward`,
    on which the hooks of offloading and the wrappers of adapters sit.
    """

    def forward(self, state: StateT) -> tuple[torch.Tensor, KeptT]:
        """What the branch is given, `[batch, seq, hidden]`, and what the stream's `write` needs."""
        raise NotImplementedError


# of the siamese stream: both streams, and what multiplies the branch in the first one
KeptSiamese = tuple[torch.Tensor, torch.Tensor, float]


class SiameseConnection(StreamConnection[Tensors, KeptSiamese]):
    """How one sublayer reads from the two streams of `SiameseStream` and writes to them.

        x -> post_norm -> x -+--------> + -> u -> F -> f -+-> * branch_scale -> + -> x
                             |          |                 |          x ---------^
        y --------------> pre_norm -----^                 +---------> + -> y    (+ y)

    Args:
        branch_scale (`float`): multiplies what is added to x.
        new_norm (`Callable`): makes a norm of the layer's kind.
    Parameters: those of the two norms. Dtype: that of the inputs.
    """

    def __init__(self, branch_scale: float, new_norm: NewNorm):
        super().__init__()
        self.branch_scale = branch_scale
        self.post_norm, self.pre_norm = new_norm(), new_norm()

    def forward(self, state: Tensors) -> tuple[torch.Tensor, KeptSiamese]:
        """The branch's input before its norm; the streams with x normalised, and `branch_scale`."""
        x, y = self.post_norm(state[0]), state[1]
        return x + self.pre_norm(y), (x, y, self.branch_scale)

    def extra_repr(self) -> str:
        return f"branch_scale={self.branch_scale:.6g}"


class HybridSiameseConnection(StreamConnection[Tensors, KeptSiamese]):
    """The same for the attention of the form with HybridNorm: x is scaled instead of normalised, and stays as it is.

        x -+-> * weight -> + -> u -> F -> f -+-> * branch_scale -> + -> x
           |               |                 |          x ---------^
        y ---> pre_norm ---^                 +---------> + -> y    (+ y)

    Args:
        hidden_size (`int`): that of the model.
        branch_scale, new_norm: see `SiameseConnection`.
    Parameters: weight [hidden], those of the norm. Init: weight = 1. Dtype: that of the inputs.
    """

    def __init__(self, hidden_size: int, branch_scale: float, new_norm: NewNorm):
        super().__init__()
        self.branch_scale = branch_scale
        self.weight = nn.Parameter(torch.empty(hidden_size))
        self.pre_norm = new_norm()

    def reset_parameters(self) -> None:
        nn.init.ones_(self.weight)

    def forward(self, state: Tensors) -> tuple[torch.Tensor, KeptSiamese]:
        """The branch's input; the streams as they are, and `branch_scale`."""
        x, y = state
        return self.weight * x + self.pre_norm(y), (x, y, self.branch_scale)

    def extra_repr(self) -> str:
        return f"branch_scale={self.branch_scale:.6g}"


@STREAMS.register("siamese")
class SiameseStream(SeveralTensors[KeptSiamese, Callable[[Tensors], tuple[torch.Tensor, KeptSiamese]]]):
    """Two streams that share every branch: x is normalised at each sublayer, y is the plain sum of all outputs.

        x <- N_post(x);  f = F(N_pre(x + N_y(y)));  x <- x + f / sqrt(2l),  y <- y + f;  at the end N_a(x) + N_b(y)

    l is the layer, from 1; both sublayers of a layer divide by the same number. N_pre is the norm of the slot `pre`.
    Hidden states between the layers are those of x.

    Source: SiameseNorm, Li et al., 2026, arXiv 2602.08064.

    Args:
        hybrid (`bool`, *optional*, defaults to `False`): attention reads `weight * x + N_y(y)` and leaves x without a
            norm, as in the authors' language models, which have HybridNorm's slots: q, k, v in attention, `pre` in the
            feed-forward alone.
    """

    norms = ("normed_stream_norm", "plain_stream_norm")
    has_norms_in_layers = True
    is_one = False
    owns_residual = True

    def __init__(self, *, hybrid: bool = False):
        self.hybrid = hybrid

    def build_residual(
        self, residual: ComponentSpec, hidden_size: int, position: Position, new_norm: NewNorm
    ) -> Residual:
        branch_scale, per_layer = (2 * (position.layer + 1)) ** -0.5, position.sublayers // position.layers
        if self.hybrid and position.sublayer % per_layer < per_layer - 1:
            return HybridSiameseConnection(hidden_size, branch_scale, new_norm)
        return SiameseConnection(branch_scale, new_norm)

    def enter(self, hidden: HiddenStates, *entry_modules: Function) -> Tensors:
        return hidden if isinstance(hidden, tuple) else (hidden, hidden)

    def finish(self, state: Tensors, *exit_modules: Callable[..., torch.Tensor]) -> torch.Tensor:
        return exit_modules[0](state[0]) + exit_modules[1](state[1])

    def read(
        self, state: Tensors, residual: Callable[[Tensors], tuple[torch.Tensor, KeptSiamese]] | None = None
    ) -> tuple[torch.Tensor, KeptSiamese]:
        return (state[0], (state[0], state[1], 1.0)) if residual is None else residual(state)

    def write(self, kept: KeptSiamese, f: torch.Tensor, residual: object, post: Function) -> Tensors:
        x, y, branch_scale = kept
        return post(x + branch_scale * f), y + f
