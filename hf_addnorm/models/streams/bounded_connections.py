"""Hyper-connections whose weights are bounded: mHC, mHC-lite, iHC. Every weight is read from all streams together."""

from itertools import permutations
from math import factorial, log
from typing import Annotated, Literal

import torch
from torch import nn
from transformers import initialization as init

from ..base.depth import Position
from ..base.registries import STREAMS
from ..base.registry import ComponentSpec, Finite, Positive, whole
from ..residuals.residuals import Residual
from .hyper_connections import HyperMixing, Scales, SeveralStreams, mixed
from .streams import NewNorm


__all__ = ["STREAMS"]

_EPS = 1e-6

Reduce = Literal["mean", "sum", "learned"]


def normalized(streams: torch.Tensor) -> torch.Tensor:
    """All streams of a token [..., n, hidden] as one vector [..., n hidden] of the size 1."""
    flat = streams.flatten(-2)
    return flat * torch.rsqrt(flat.square().mean(-1, keepdim=True) + _EPS)


class BoundedHyperConnection(HyperMixing):
    """Base: what a sublayer reads and writes is in (0, 1) and (0, 2), and the mix of the streams keeps their size.

        r = vec(H) / rms(vec(H));  p = sigmoid(s_1 W_1 r + b_1),  w = 2 sigmoid(s_2 W_2 r + b_2)
        C = mix(s_3 W_3 r + b_3);  u = p^T H;  H <- C H + w F(u)^T

    Args:
        hidden_size (`int`): that of the model.
        streams (`int`): n.
        mixing (`int`): how many numbers `mix` takes; none if 0.
        magnitude (`float`): the bound of what is written.
        eps (`float`): is added to what is read.
    Parameters: weight [2 n + mixing, n hidden], bias [2 n + mixing], a scalar s for each of the parts. Init: s = 0.01,
    b_1 = -ln(n - 1), so that p sums to 1, b_2 = 0, so that w = magnitude / 2, b_3 = mix_start, weight N(0, 0.02^2),
    which makes the streams differ. Dtype: that of H; computed in float32 at least.
    """

    checkpoint_name = "residual_gate"
    keep_in_float32 = ("residual_gate",)

    def __init__(self, hidden_size: int, streams: int, mixing: int, magnitude: float = 2.0, eps: float = 0.0):
        super().__init__(streams)
        self.magnitude, self.eps = magnitude, eps
        self.sizes = {"read": streams, "write": streams} | ({"mix": mixing} if mixing else {})
        rows = sum(self.sizes.values())
        self.weight = nn.Parameter(torch.empty(rows, streams * hidden_size))
        self.bias = nn.Parameter(torch.empty(rows))
        self.scale_norm = Scales(self.sizes)

    def mix_start(self) -> torch.Tensor:
        """The start of `b_3`."""
        return torch.empty(0)

    def mix(self, says: dict[str, torch.Tensor]) -> torch.Tensor:
        """The transposed C, [..., n, n], from what the weight says: column q makes stream q."""
        raise NotImplementedError

    def reset_parameters(self) -> None:
        n = self.streams
        init.normal_(self.weight, std=0.02)
        init.copy_(self.bias, torch.cat([torch.full((n,), -log(n - 1)), torch.zeros(n), self.mix_start()]))
        self.scale_norm.reset_parameters()

    def weights(self, pieces: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        projected = normalized(pieces.to(self.weight.dtype)) @ self.weight.T
        sizes = list(self.sizes.values())
        scaled = self.scale_norm(dict(zip(self.sizes, projected.split(sizes, -1), strict=True)))
        biases = zip(self.sizes, self.bias.split(sizes), strict=True)
        says = {name: scaled[name] + bias for name, bias in biases}
        read, mix = says["read"].sigmoid() + self.eps, self.mix(says)
        return torch.cat([read.unsqueeze(-1), mix.expand(*read.shape, -1)], -1), self.written(says["write"])

    def written(self, logits: torch.Tensor) -> torch.Tensor:
        """w, [..., n]."""
        return self.magnitude * logits.sigmoid()


class ManifoldHyperConnection(BoundedHyperConnection):
    """mHC's: C is doubly stochastic by the Sinkhorn-Knopp algorithm, so that no mix makes the streams grow.

    Args:
        hidden_size, streams: see `BoundedHyperConnection`.
        iterations (`int`): of the Sinkhorn-Knopp algorithm.
        mix_bias (`float`): start of the diagonal of b_3.
        official (`bool`): as the authors' code has it, see `ManifoldHyperConnectionStream`.
    """

    def __init__(self, hidden_size: int, streams: int, iterations: int, mix_bias: float, official: bool):
        super().__init__(hidden_size, streams, streams**2, eps=_EPS if official else 0.0)
        self.iterations, self.mix_bias, self.official = iterations, mix_bias, official

    def mix_start(self) -> torch.Tensor:
        return self.mix_bias * torch.eye(self.streams).flatten()

    def mix(self, says: dict[str, torch.Tensor]) -> torch.Tensor:
        matrix = says["mix"].unflatten(-1, (self.streams, -1))
        # the paper: row q of C makes stream q
        return (
            official_sinkhorn(matrix, self.iterations)
            if self.official
            else sinkhorn(matrix, self.iterations).transpose(-2, -1)
        )

    def extra_repr(self) -> str:
        return f"streams={self.streams}, iterations={self.iterations}, official={self.official}"


class PermutationHyperConnection(BoundedHyperConnection):
    """mHC-lite's: C is a weighted mean of all n! permutations, and so exactly doubly stochastic.

    Args:
        hidden_size, streams: see `BoundedHyperConnection`.
        mix_bias (`float`): start of b_3 for the permutation that changes nothing; 0 for all others.
    """

    def __init__(self, hidden_size: int, streams: int, mix_bias: float):
        super().__init__(hidden_size, streams, factorial(streams))
        self.mix_bias = mix_bias

    def mix_start(self) -> torch.Tensor:
        # the first one changes nothing
        return self.mix_bias * torch.eye(factorial(self.streams))[0]

    def mix(self, says: dict[str, torch.Tensor]) -> torch.Tensor:
        logits = says["mix"]
        # by permutation and stream: the stream that is put there
        source = torch.tensor(list(permutations(range(self.streams))), device=logits.device)
        matrices = torch.nn.functional.one_hot(source, self.streams).to(logits.dtype)
        mixes = logits.softmax(-1) @ matrices.transpose(-2, -1).flatten(-2)
        matrix: torch.Tensor = mixes.unflatten(-1, (self.streams, self.streams))
        return matrix


class IndependentHyperConnection(BoundedHyperConnection):
    """iHC's: the streams are not mixed, each is a plain sum of its own."""

    def __init__(self, hidden_size: int, streams: int, magnitude: float):
        super().__init__(hidden_size, streams, 0, magnitude, eps=_EPS)

    def mix(self, says: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.eye(self.streams, dtype=self.weight.dtype, device=self.weight.device)

    def written(self, logits: torch.Tensor) -> torch.Tensor:
        return super().written(logits) + self.eps


class StreamHead(Residual):
    """One tensor of n streams by learned weights of the token: `sum_i p_i H_i`, `p = sigmoid(s W r + b)`.

        H -+-> vec -> / rms -> r -> W -> * s -> + b -> sigmoid -> p
           +-------------------------------------------> . p -> x

    Args:
        hidden_size, streams (`int`): see `BoundedHyperConnection`.
        eps (`float`): is added to p.
    Parameters: weight [n, n hidden], bias [n], the scalar s. Init: s = 0.01, b = -ln(n - 1), at which it is near the
    mean, weight N(0, 0.02^2). Dtype: that of H; computed in float32 at least.
    """

    checkpoint_name = "head_gate"
    keep_in_float32 = ("head_gate",)

    def __init__(self, hidden_size: int, streams: int, eps: float):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(streams, streams * hidden_size))
        self.bias = nn.Parameter(torch.empty(streams))
        self.scale_norm = Scales(("read",))

    def reset_parameters(self) -> None:
        init.normal_(self.weight, std=0.02)
        init.constant_(self.bias, -log(len(self.bias) - 1))
        self.scale_norm.reset_parameters()

    def forward(self, state: torch.Tensor) -> torch.Tensor:
        """`[batch, seq, n, hidden]` -> `[batch, seq, hidden]`."""
        scaled = self.scale_norm({"read": normalized(state.to(self.weight.dtype)) @ self.weight.T})
        weights = (scaled["read"] + self.bias).sigmoid() + self.eps
        return mixed(state, weights.to(state.dtype).unsqueeze(-1)).squeeze(-2)


def sinkhorn(logits: torch.Tensor, iterations: int) -> torch.Tensor:
    """A doubly stochastic matrix near `exp(logits)` [..., n, n]: columns, then rows divided by their sums, in turn.

    Source: Sinkhorn & Knopp, 1967.
    """
    for _ in range(iterations):
        logits = logits - logits.logsumexp(-2, keepdim=True)
        logits = logits - logits.logsumexp(-1, keepdim=True)
    return logits.exp()


def official_sinkhorn(logits: torch.Tensor, iterations: int) -> torch.Tensor:
    """The same as mHC's authors compute it: rows first, with 1e-6 added to the rows' softmax and to every sum."""
    matrix = logits.softmax(-1) + _EPS
    matrix = matrix / (matrix.sum(-2, keepdim=True) + _EPS)
    for _ in range(iterations - 1):
        matrix = matrix / (matrix.sum(-1, keepdim=True) + _EPS)
        matrix = matrix / (matrix.sum(-2, keepdim=True) + _EPS)
    return matrix


class BoundedStream(SeveralStreams):
    """Base of the streams whose weights are bounded: n copies, which may be reduced by learned weights.

    Args:
        streams (`int`): n.
        reduce (`str`): "mean", "sum" or "learned", see `StreamHead`.
        eps (`float`): is added to the weights of the head.
    """

    def __init__(self, streams: int, reduce: str, eps: float = 0.0):
        super().__init__(streams, reduce)
        self.eps = eps

    def build_exit_modules(self, hidden_size: int, new_norm: NewNorm) -> dict[str, nn.Module]:
        return (
            {StreamHead.checkpoint_name: StreamHead(hidden_size, self.streams, self.eps)}
            if self.reduce == "learned"
            else {}
        )


@STREAMS.register("manifold_hyper_connections")
class ManifoldHyperConnectionStream(BoundedStream):
    """mHC: hyper-connections whose weights are bounded, and whose mixing matrix is doubly stochastic.

    Source: mHC, Xie et al., 2025, arXiv 2512.24880. See `ManifoldHyperConnection` for one sublayer. Hidden states are
    the reduced streams. The paper states the start of the scales, 0.01; that of the biases is ours: reading the mean
    of the streams, writing to each once, mixing little.

    Args:
        streams (`int`, *optional*, defaults to 4): n, at least 2.
        reduce (`str`, *optional*, defaults to `"mean"`): one tensor after the last layer, "mean" or "sum" of the
            streams, or by "learned" weights of the token, as in Transformers' `models/deepseek_v4` (see `StreamHead`).
            Hidden states between the layers are the mean then.
        iterations (`int`, *optional*, defaults to 20): of the Sinkhorn-Knopp algorithm.
        mix_bias (`float`, *optional*, defaults to 5): start of the diagonal of the mixing matrix's logits.
        official (`bool`, *optional*, defaults to `False`): as the authors' code has it: H is mixed by the transposed
            matrix, Sinkhorn-Knopp begins with the rows, and 1e-6 is added to the reading weights and to every sum.
    """

    def __init__(
        self,
        *,
        streams: Annotated[int, whole(at_least=2)] = 4,
        reduce: Reduce = "mean",
        iterations: Annotated[int, whole(at_least=1)] = 20,
        mix_bias: Finite = 5.0,
        official: bool = False,
    ):
        super().__init__(streams, reduce, _EPS if official else 0.0)
        self.iterations, self.mix_bias, self.official = iterations, mix_bias, official

    def build_residual(
        self, residual: ComponentSpec, hidden_size: int, position: Position, new_norm: NewNorm
    ) -> Residual | None:
        return ManifoldHyperConnection(hidden_size, self.streams, self.iterations, self.mix_bias, self.official)


@STREAMS.register("permutation_hyper_connections")
class PermutationHyperConnectionStream(BoundedStream):
    """mHC-lite: mHC with a weighted mean of permutations as its mixing matrix, instead of an iteration.

    Source: mHC-lite, the authors' code, 2026, arXiv 2601.05732. See `PermutationHyperConnection` for one sublayer.
    The start of the mix is the authors'; that of reading and writing is as in `manifold_hyper_connections`.

    Args:
        streams (`int`, *optional*, defaults to 4): n, from 2 to 6: there are n! permutations.
        reduce (`str`, *optional*, defaults to `"mean"`): see `manifold_hyper_connections`.
        mix_bias (`float`, *optional*, defaults to 8): how much larger the logit of the permutation that changes
            nothing starts.
    """

    def __init__(
        self,
        *,
        streams: Annotated[int, whole(at_least=2)] = 4,
        reduce: Reduce = "mean",
        mix_bias: Finite = 8.0,
    ):
        super().__init__(streams, reduce)
        self.mix_bias = mix_bias

    @staticmethod
    def contradiction(streams: int, **_: object) -> str | None:
        """The sentence that refuses too many streams."""
        return (
            f"streams is {streams}, of which there are n! permutations; allowed is at most 6." if streams > 6 else None
        )

    def build_residual(
        self, residual: ComponentSpec, hidden_size: int, position: Position, new_norm: NewNorm
    ) -> Residual | None:
        return PermutationHyperConnection(hidden_size, self.streams, self.mix_bias)


@STREAMS.register("independent_hyper_connections")
class IndependentHyperConnectionStream(BoundedStream):
    """iHC: streams that sublayers read and write by weights of the token, and that are not mixed.

    Source: HunYuan V4, Tencent, 2026, as in Transformers 5.23 (models/hy_v4), with its start values. That model's
    streams are reduced by learned weights.

    Args:
        streams (`int`, *optional*, defaults to 4): n, at least 2.
        reduce (`str`, *optional*, defaults to `"learned"`): see `manifold_hyper_connections`.
        magnitude (`float`, *optional*, defaults to 2): the bound of what is written; above 0.
    """

    def __init__(
        self,
        *,
        streams: Annotated[int, whole(at_least=2)] = 4,
        reduce: Reduce = "learned",
        magnitude: Positive = 2.0,
    ):
        super().__init__(streams, reduce, _EPS)
        self.magnitude = magnitude

    def build_residual(
        self, residual: ComponentSpec, hidden_size: int, position: Position, new_norm: NewNorm
    ) -> Residual | None:
        return IndependentHyperConnection(hidden_size, self.streams, self.magnitude)
