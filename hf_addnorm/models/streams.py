"""Streams: the state that runs through the layers, and how a sublayer reads from it and writes to it.

Between layers the state is a tensor, or a tuple whose first entry is the tensor that a reader of hidden states wants;
so the stock loops carry it as they are. The first layer makes the state of the embeddings' output, the last layer
makes one tensor of it again.
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal

import torch
from torch import nn
from transformers import initialization as init

from .depth import Position
from .registry import Choice, Finite, Registry, whole
from .residuals import RESIDUALS, Residual


STREAMS = Registry("stream")

# a tensor, or a tuple of them: what stands between layers
Hidden = Any
Function = Callable[[torch.Tensor], torch.Tensor]


@STREAMS.register("single")
class SingleStream:
    """One tensor, `[batch, seq, hidden]`.

    x -> layer 1 -> ... -> layer L -> x
    """

    # whether the last layer has a norm of the stream's own
    has_norm = False
    # whether hidden states are tuples between the layers
    is_tuple = False

    def build_residual(self, residual: Choice, hidden_size: int, position: Position) -> Any:
        """The module by which a sublayer reads from and writes to the state."""
        return RESIDUALS.build(residual, hidden_size, position)

    def enter(self, hidden: Hidden) -> Any:
        """The state, from what a layer is given: the embeddings' output, or what `leave` gave."""
        return hidden

    def leave(self, state: Any) -> Hidden:
        """What a layer gives to the next one."""
        return state

    def finish(self, state: Any, norm: Function) -> torch.Tensor:
        """One tensor, from the state after the last layer; `norm` is that of `has_norm`."""
        return state

    def read(self, state: Any, residual: Any = None) -> torch.Tensor:
        """What the branch of a sublayer is given."""
        return state

    def write(self, state: Any, f: torch.Tensor, residual: Any, post: Function) -> Any:
        """The state after a sublayer whose branch gave `f`; a plain sum where `residual` is None."""
        return post(state + f if residual is None else residual(state, f))


@STREAMS.register("dual")
class DualStream(SingleStream):
    """Two tensors: a post-norm stream that the sublayers read, and the sum of all their outputs.

        x <- N(x + f),  y <- y + scale * f;  after the last layer x + N'(y)

    Source: ResiDual, Xie et al., 2023, arXiv 2304.14802.

    Args:
        scale (`float`, *optional*, defaults to 1): multiplies everything that goes into the sum, the embeddings too.
    """

    has_norm = True
    is_tuple = True

    def __init__(self, *, scale: Finite = 1.0):
        self.scale = scale

    def enter(self, hidden: Hidden) -> Any:
        return hidden if isinstance(hidden, tuple) else (hidden, self.scale * hidden)

    def finish(self, state: Any, norm: Function) -> torch.Tensor:
        return state[0] + norm(state[1])

    def read(self, state: Any, residual: Any = None) -> torch.Tensor:
        return state[0]

    def write(self, state: Any, f: torch.Tensor, residual: Any, post: Function) -> Any:
        return super().write(state[0], f, residual, post), state[1] + self.scale * f


class HyperConnection(Residual):
    """How one sublayer reads from n streams H and writes to them: `u = alpha_0^T H`, `H <- alpha_1^T H + beta f^T`.

        H -+-> alpha_0 -> u -> F -> f -> beta -> + -> H
           +-> alpha_1 --------------------------^

    Args:
        streams (`int`): n.
        position (`Position`): the sublayer k (from 0) starts by reading stream k mod n.
    Parameters: alpha [n, 1 + n], beta [n]. Init: alpha_0 = e_(k mod n), alpha_1 = 1, beta = 1, at which every stream
    is the plain sum. Dtype: that of H; the parameters stay in float32.
    """

    keep_in_float32 = (r"residual_norm\.(alpha|beta)",)

    def __init__(self, streams: int, position: Position):
        super().__init__()
        self.streams, self.first = streams, position.sublayer % streams
        self.alpha = nn.Parameter(torch.empty(streams, 1 + streams))
        self.beta = nn.Parameter(torch.empty(streams))

    def reset_parameters(self) -> None:
        start = torch.eye(self.streams)
        read = start[:, self.first : self.first + 1]
        init.ones_(self.beta)
        init.copy_(self.alpha, torch.cat([read, start], dim=1))

    def read(self, h: torch.Tensor) -> torch.Tensor:
        """`[batch, seq, n, hidden]` -> `[batch, seq, hidden]`."""
        return torch.einsum("...nd,n->...d", h, self.alpha[:, 0].to(h.dtype))

    def forward(self, h: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
        """`[batch, seq, n, hidden]` and `[batch, seq, hidden]` -> `[batch, seq, n, hidden]`."""
        mixed = torch.einsum("...nd,nm->...md", h, self.alpha[:, 1:].to(h.dtype))
        return mixed + self.beta.to(h.dtype).unsqueeze(-1) * f.unsqueeze(-2)

    def extra_repr(self) -> str:
        return f"streams={self.streams}"


@STREAMS.register("hyper_connections")
class HyperConnectionStream(SingleStream):
    """n copies of the stream, which every sublayer mixes: `H` of `[batch, seq, n, hidden]`.

    Source: Hyper-Connections, static, Zhu et al., 2024, arXiv 2409.19606. See `HyperConnection` for one sublayer.
    Hidden states are the reduced streams. A norm in the slot `post` normalises each stream by itself.

    Args:
        streams (`int`, *optional*, defaults to 4): n.
        reduce (`str`, *optional*, defaults to `"mean"`): one tensor after the last layer, "mean" or "sum" of the
            streams. The paper's sum equals the mean under the final norm that it has; where none follows, the mean
            keeps the scale of the plain stream.
    """

    is_tuple = True

    def __init__(self, *, streams: Annotated[int, whole(at_least=1)] = 4, reduce: Literal["mean", "sum"] = "mean"):
        self.streams, self.reduce = streams, reduce

    def build_residual(self, residual: Choice, hidden_size: int, position: Position) -> Any:
        return HyperConnection(self.streams, position)

    def enter(self, hidden: Hidden) -> Any:
        if isinstance(hidden, tuple):
            return hidden[1]
        return hidden.unsqueeze(-2).expand(*hidden.shape[:-1], self.streams, hidden.shape[-1])

    def leave(self, state: Any) -> Hidden:
        return self.read(state), state

    def finish(self, state: Any, norm: Function) -> torch.Tensor:
        return self.read(state)

    def read(self, state: Any, residual: Any = None) -> torch.Tensor:
        if residual is not None:
            return residual.read(state)
        return state.mean(-2) if self.reduce == "mean" else state.sum(-2)

    def write(self, state: Any, f: torch.Tensor, residual: Any, post: Function) -> Any:
        return post(state + f.unsqueeze(-2) if residual is None else residual(state, f))
