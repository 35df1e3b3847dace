"""Hyper-connections: n copies of the stream, or fractions of it, which every sublayer mixes."""

from collections.abc import Callable, Iterable
from typing import Annotated, Generic, Literal

import torch
from torch import nn
from transformers import initialization as init

from ..base.depth import Position
from ..base.protocols import OptionValue
from ..base.registries import STREAMS
from ..base.registry import ComponentSpec, Finite, Positive, whole
from ..norms.rms_norms import RMSNorm
from ..residuals.residuals import Residual
from .streams import Function, HiddenStates, KeptT, NewNorm, Stream, StreamConnection


# what a sublayer keeps of several streams: their pieces, alpha_mix and beta
Mix = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class Scales(nn.Module):
    """A learned scalar for each of some tensors, by name.

    Args:
        names (`tuple[str, ...]`): of the scalars.
        start (`float`): where they start.
    Parameters: each scalar [1]. Init: start. Dtype: that of the products.
    """

    def __init__(self, names: Iterable[str], start: float = 0.01):
        super().__init__()
        self.start = start
        for name in names:
            self.register_parameter(name, nn.Parameter(torch.empty(1)))

    def reset_parameters(self) -> None:
        for scale in self.parameters():
            init.constant_(scale, self.start)

    def forward(self, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Each tensor times the scalar of its name."""
        return {name: self.get_parameter(name) * tensor for name, tensor in tensors.items()}


class HyperMixing(StreamConnection[torch.Tensor, Mix]):
    """Base: how one sublayer reads from the pieces of a state and writes to them, by weights `alpha` and `beta`.

        H -+-> alpha_read -> u -> F -> f -> beta -> + -> H
           +-> alpha_mix ---------------------------^

    A state of n streams is n * m pieces where each stream is cut into m fractions; piece s * m + j is fraction j of
    stream s. The branch is given m pieces side by side, and each of its output's m fractions goes to the pieces of
    the same fraction.

    Args:
        streams (`int`): n.
        fractions (`int`): m.
    """

    def __init__(self, streams: int, fractions: int = 1):
        super().__init__()
        self.streams, self.fractions = streams, fractions

    def weights(self, pieces: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """alpha [..., n m, m + n m] and beta [..., n m], from the pieces [..., n m, hidden / m]."""
        raise NotImplementedError

    def forward(self, state: torch.Tensor) -> tuple[torch.Tensor, Mix]:
        """`[batch, seq, n, hidden]` -> the branch's input `[batch, seq, hidden]`; the pieces, alpha_mix and beta."""
        return read_pieces(state, self.fractions, self.weights)

    def extra_repr(self) -> str:
        return f"streams={self.streams}, fractions={self.fractions}"


def read_pieces(
    state: torch.Tensor, fractions: int, weights: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
) -> tuple[torch.Tensor, Mix]:
    """What `HyperMixing` reads from a state, by the weights of its pieces."""
    pieces = state.unflatten(-1, (fractions, -1)).flatten(-3, -2)
    alpha, beta = (weight.to(state.dtype) for weight in weights(pieces))
    return mixed(pieces, alpha[..., :fractions]).flatten(-2), (pieces, alpha[..., fractions:], beta)


def mixed(pieces: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    """Sums of the pieces [..., p, features] by the columns of alpha [..., p, q]: [..., q, features]."""
    # not as an einsum: ONNX Runtime knows none in which "..." stands for axes that one operand lacks
    return alpha.transpose(-2, -1) @ pieces


class StaticWeights(Residual):
    """The weights of static hyper-connections, the same for every token.

    Args:
        streams, fractions (`int`): see `HyperMixing`.
        position (`Position`): the sublayer k (from 0) starts by reading stream k mod n.
    Parameters: alpha [n m, m + n m], beta [n m]. Init: alpha_read picks the fractions of stream k mod n,
    alpha_mix = 1, beta = 1, at which every stream is the plain sum. Dtype: float32.
    """

    keep_in_float32 = (r"(residual|static)_norm\.(alpha|beta)",)

    def __init__(self, streams: int, fractions: int, position: Position):
        super().__init__()
        pieces = streams * fractions
        self.streams, self.fractions, self.first = streams, fractions, position.sublayer % streams
        self.alpha = nn.Parameter(torch.empty(pieces, fractions + pieces))
        self.beta = nn.Parameter(torch.empty(pieces))

    def reset_parameters(self) -> None:
        start = torch.eye(len(self.beta))
        read = start[:, self.first * self.fractions :][:, : self.fractions]
        init.ones_(self.beta)
        init.copy_(self.alpha, torch.cat([read, start], dim=1))

    def forward(self) -> tuple[torch.Tensor, torch.Tensor]:
        """alpha and beta."""
        return self.alpha, self.beta

    def extra_repr(self) -> str:
        return f"streams={self.streams}, fractions={self.fractions}"


class HyperConnection(StaticWeights):
    """Static hyper-connections: `u = alpha_read^T H`, `H <- alpha_mix^T H + beta f^T`.

    Args:
        streams, fractions, position: see `StaticWeights`.
    Parameters: those of `StaticWeights`. Dtype: that of H; the parameters stay in float32.
    """

    def forward(self, state: torch.Tensor) -> tuple[torch.Tensor, Mix]:  # type: ignore[override]
        """See `HyperMixing`."""
        return read_pieces(state, self.fractions, lambda _: (self.alpha, self.beta))


# the scalars of dynamic weights; of three, the first two are for the columns of alpha, the last for beta
_SCALES = {"two": ("alpha", "beta"), "three": ("read", "mix", "write")}
_INPUT_NORMS: dict[str, Callable[[int, float], nn.LayerNorm | RMSNorm]] = {
    "layer_norm": lambda width, eps: nn.LayerNorm(width, eps=eps),
    "layer_norm_without_bias": lambda width, eps: nn.LayerNorm(width, eps=eps, bias=False),
    "rms_norm": lambda width, eps: RMSNorm(width, eps=eps),
}


class DynamicHyperConnection(HyperMixing):
    """Hyper-connections whose weights depend on the token: those of `HyperConnection` plus what each piece says.

        alpha + s_alpha * tanh(LN(H) W_alpha),  beta + s_beta * tanh(LN(H) w_beta)

    Args:
        hidden_size (`int`): that of the model.
        streams, fractions, position: see `HyperConnection`.
        tanh (`bool`): False leaves the tanh away.
        norm, eps, scales, scale_start: see `HyperConnectionStream`.
    Parameters: W_alpha [hidden / m, m + n m], w_beta [hidden / m], the scalars s_alpha and s_beta (or those of what is
    read, mixed and written), the norm's gain and bias, and those of `HyperConnection`. Init: W = 0, s = scale_start:
    it begins as the static one. Dtype: that of H; computed in float32 at least.
    """

    checkpoint_name = "residual_gate"
    keep_in_float32 = ("residual_gate",)

    def __init__(
        self,
        hidden_size: int,
        streams: int,
        fractions: int,
        position: Position,
        tanh: bool,
        norm: str = "layer_norm",
        eps: float = 1e-5,
        scales: str = "two",
        scale_start: float = 0.01,
    ):
        super().__init__(streams, fractions)
        width = hidden_size // fractions
        self.tanh, self.has_own_mix_scale = tanh, "mix" in _SCALES[scales]
        self.static_norm = StaticWeights(streams, fractions, position)
        self.input_norm = _INPUT_NORMS[norm](width, eps)
        self.weight_alpha = nn.Parameter(torch.empty(width, fractions + streams * fractions))
        self.weight_beta = nn.Parameter(torch.empty(width))
        self.scale_norm = Scales(_SCALES[scales], scale_start)

    def reset_parameters(self) -> None:
        self.input_norm.reset_parameters()
        for weight in (self.weight_alpha, self.weight_beta):
            init.zeros_(weight)
        self.scale_norm.reset_parameters()

    def weights(self, pieces: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        normed = self.input_norm(pieces.to(self.weight_alpha.dtype))
        alpha, beta = normed @ self.weight_alpha, normed @ self.weight_beta
        if self.tanh:
            alpha, beta = alpha.tanh(), beta.tanh()
        static_alpha, static_beta = self.static_norm()
        if not self.has_own_mix_scale:
            dynamic = self.scale_norm({"alpha": alpha, "beta": beta})
            return static_alpha + dynamic["alpha"], static_beta + dynamic["beta"]
        read, mix = alpha.tensor_split([self.fractions], -1)
        dynamic = self.scale_norm({"read": read, "write": beta, "mix": mix})
        return static_alpha + torch.cat([dynamic["read"], dynamic["mix"]], -1), static_beta + dynamic["write"]


class CopiedStreams(
    Stream[torch.Tensor, torch.Tensor | KeptT, Callable[[torch.Tensor], tuple[torch.Tensor, KeptT]]], Generic[KeptT]
):
    """n streams `[batch, seq, n, hidden]`, first copies of the embeddings; hidden states are their sum or mean.

    What is read by a residual is kept as that says; without one, the streams are.
    """

    is_tuple = True
    is_one = False
    owns_residual = True
    # into how many pieces each stream is cut
    fractions = 1

    def __init__(self, streams: int, reduce: str):
        self.streams, self.reduce = streams, reduce

    def enter(self, hidden: HiddenStates, *entry_modules: Function) -> torch.Tensor:
        if isinstance(hidden, tuple):
            return hidden[1]
        return hidden.unsqueeze(-2).expand(*hidden.shape[:-1], self.streams, hidden.shape[-1])

    def leave(self, state: torch.Tensor) -> HiddenStates:
        return self.finish(state), state

    def finish(self, state: torch.Tensor, *exit_modules: Callable[..., torch.Tensor]) -> torch.Tensor:
        if exit_modules:
            return exit_modules[0](state)
        return state.sum(-2) if self.reduce == "sum" else state.mean(-2)

    def read(
        self, state: torch.Tensor, residual: Callable[[torch.Tensor], tuple[torch.Tensor, KeptT]] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | KeptT]:
        return (self.finish(state), state) if residual is None else residual(state)

    def write(self, kept: torch.Tensor | KeptT, f: torch.Tensor, residual: object, post: Function) -> torch.Tensor:
        return post(kept + f.unsqueeze(-2) if isinstance(kept, torch.Tensor) else self.add_to_streams(kept, f))

    def add_to_streams(self, kept: KeptT, f: torch.Tensor) -> torch.Tensor:
        """The streams, from what a residual kept of them and the branch's output `[batch, seq, hidden]`."""
        raise NotImplementedError


class SeveralStreams(CopiedStreams[Mix]):
    """Base of the several streams that are read and written by `HyperMixing`."""

    def add_to_streams(self, kept: Mix, f: torch.Tensor) -> torch.Tensor:
        pieces, alpha, beta = kept
        parts = f.unflatten(-1, (self.fractions, -1)).unsqueeze(-3)
        added = parts.expand(*parts.shape[:-3], self.streams, *parts.shape[-2:]).flatten(-3, -2)
        pieces = mixed(pieces, alpha) + beta.unsqueeze(-1) * added
        streams: torch.Tensor = pieces.unflatten(-2, (self.streams, -1)).flatten(-2)
        return streams


@STREAMS.register("hyper_connections")
class HyperConnectionStream(SeveralStreams):
    """n copies of the stream, which every sublayer mixes: `H` of `[batch, seq, n, hidden]`.

    Source: Hyper-Connections, Zhu et al., 2024, arXiv 2409.19606, static and dynamic; fractions of the stream instead
    of copies: Frac-Connections, Zhu et al., 2025, arXiv 2503.14125 (`streams=1, fractions=m`). See `HyperConnection`
    and `DynamicHyperConnection` for one sublayer. Hidden states are the reduced streams. A norm in the slot `post`
    normalises each stream by itself.

    Args:
        streams (`int`, *optional*, defaults to 4): n.
        reduce (`str`, *optional*, defaults to `"mean"`): one tensor after the last layer, "mean" or "sum" of the
            streams. The paper's sum equals the mean under the final norm that it has; where none follows, the mean
            keeps the scale of the plain stream.
        fractions (`int`, *optional*, defaults to 1): every stream is cut into so many, which are mixed like streams;
            it must divide the hidden size.
        dynamic (`bool`, *optional*, defaults to `False`): the weights depend on the token.
        tanh (`bool`, *optional*, defaults to `True`): dynamic weights go through a tanh.
        norm (`str`, *optional*, defaults to `"layer_norm"`): what dynamic weights are read through, the paper's
            "layer_norm", or "layer_norm_without_bias" or "rms_norm" as in later code (mHC's paper writes hyper-
            connections with an RMSNorm).
        eps (`float`, *optional*, defaults to 1e-5): of that norm; above 0, inside the root.
        scales (`str`, *optional*, defaults to `"two"`): "two" scalars multiply dynamic weights, one alpha's and one
            beta's, as in the paper; with "three", what is read and what is mixed have one each, as in mHC's paper.
        scale_start (`float`, *optional*, defaults to 0.01): where these scalars start.
    """

    def __init__(
        self,
        *,
        streams: Annotated[int, whole(at_least=1)] = 4,
        reduce: Literal["mean", "sum"] = "mean",
        fractions: Annotated[int, whole(at_least=1)] = 1,
        dynamic: bool = False,
        tanh: bool = True,
        norm: Literal["layer_norm", "layer_norm_without_bias", "rms_norm"] = "layer_norm",
        eps: Positive = 1e-5,
        scales: Literal["two", "three"] = "two",
        scale_start: Finite = 0.01,
    ):
        super().__init__(streams, reduce)
        self.fractions, self.dynamic = fractions, dynamic
        self.of_dynamic: dict[str, OptionValue] = {
            "tanh": tanh,
            "norm": norm,
            "eps": eps,
            "scales": scales,
            "scale_start": scale_start,
        }

    @staticmethod
    def contradiction(dynamic: bool, **options: OptionValue) -> str | None:
        """The sentence that says which options exclude each other, if any do."""
        if dynamic:
            return None
        if not options["tanh"]:
            return "tanh is false but dynamic is false too: static weights have no tanh."
        for name, default in (("norm", "layer_norm"), ("eps", 1e-5), ("scales", "two"), ("scale_start", 0.01)):
            if options[name] != default:
                return f"{name} is {options[name]!r} but dynamic is false: static weights have none."
        return None

    def build_residual(
        self, residual: ComponentSpec, hidden_size: int, position: Position, new_norm: NewNorm
    ) -> Residual | None:
        if hidden_size % self.fractions:
            raise ValueError(
                f"add_norm.stream.fractions is {self.fractions}, which does not divide the hidden size {hidden_size}."
            )
        if self.dynamic:
            return DynamicHyperConnection(hidden_size, self.streams, self.fractions, position, **self.of_dynamic)
        return HyperConnection(self.streams, self.fractions, position)
