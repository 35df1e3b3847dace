"""Streams on which something acts where a layer begins or ends: averages over depth, the embeddings again, AltUp."""

from collections.abc import Callable
from typing import Annotated

import torch
from torch import nn
from transformers import initialization as init

from ..base.depth import DepthValue, Position, at_depth
from ..base.registries import STREAMS
from ..base.registry import ComponentSpec, Finite, Positive, whole
from ..norms.rms_norms import RMSNorm
from ..residuals.residuals import Residual
from .streams import Function, HiddenStates, LayerPart, NewNorm, SeveralTensors, Sum, Tensors, summed


__all__ = ["STREAMS"]


class DepthWeightedAverage(Residual):
    """A learned weighted sum of the outputs of layers: `sum_j alpha[j] X_j`.

    Args:
        terms (`int`): how many outputs, from the oldest to the newest.
    Parameters: alpha [terms]. Init: 0, and 1 for the newest. Dtype: that of the outputs; alpha stays in float32.
    """

    checkpoint_name = "average_norm"
    keep_in_float32 = (r"average_norm\.alpha",)

    def __init__(self, terms: int):
        super().__init__()
        self.terms = terms
        self.alpha = nn.Parameter(torch.empty(terms))

    def reset_parameters(self) -> None:
        init.copy_(self.alpha, torch.eye(self.terms)[-1])

    def forward(self, *outputs: torch.Tensor) -> torch.Tensor:
        """`terms` tensors `[batch, seq, hidden]` -> one."""
        alpha = self.alpha.to(outputs[0].dtype)
        total = alpha[0] * outputs[0]
        for weight, output in zip(alpha[1:], outputs[1:], strict=True):
            total = total + weight * output
        return total

    def extra_repr(self) -> str:
        return f"terms={self.terms}"


@STREAMS.register("dense")
class DenseStream(SeveralTensors[Tensors, Sum]):
    """One tensor, which at the end of a layer becomes an average over the outputs of all layers so far.

        x -> layer i -> X_i;  x <- sum_j alpha_ij X_j      X_0: the embeddings; X_j: before layer j's average

    Source: DenseFormer, Pagliardini et al., 2024, arXiv 2402.02622. It begins as the plain stream.

    Args:
        dilation (`int`, *optional*, defaults to 1): layer i sees only every so many outputs back from its own.
        period (`int`, *optional*, defaults to 1): only every so many layers end with an average.
    """

    def __init__(
        self, *, dilation: Annotated[int, whole(at_least=1)] = 1, period: Annotated[int, whole(at_least=1)] = 1
    ):
        self.dilation, self.period = dilation, period

    def build_layer_part(self, hidden_size: int, position: Position) -> Residual | None:
        newest = position.layer + 1
        return DepthWeightedAverage(newest // self.dilation + 1) if newest % self.period == 0 else None

    def enter(self, hidden: HiddenStates, *entry_modules: Function) -> Tensors:
        return hidden if isinstance(hidden, tuple) else (hidden, hidden)

    def end_layer(self, state: Tensors, part: LayerPart | None, position: Position) -> Tensors:
        x, *before = state
        outputs = [*before, x]
        if part is not None:
            x = part(*outputs[(len(outputs) - 1) % self.dilation :: self.dilation])
        return (x, *outputs)

    def finish(self, state: Tensors, *exit_modules: Callable[..., torch.Tensor]) -> torch.Tensor:
        return state[0]

    def read(self, state: Tensors, residual: Sum | None = None) -> tuple[torch.Tensor, Tensors]:
        return state[0], state

    def write(self, kept: Tensors, f: torch.Tensor, residual: Sum | None, post: Function) -> Tensors:
        return (summed(kept[0], f, residual, post), *kept[1:])


class Factors(Residual):
    """Base of what sums tensors with a learned factor for each of some of them.

    Args:
        starts (`dict[str, float]`): where the factors start, by name.
    Parameters: each factor [1]. Dtype: that of the tensors; the factors stay in float32.
    """

    def __init__(self, **starts: float):
        super().__init__()
        self.starts = starts
        for name in starts:
            self.register_parameter(name, nn.Parameter(torch.empty(1)))

    def reset_parameters(self) -> None:
        for name, start in self.starts.items():
            init.constant_(self.get_parameter(name), start)

    def times(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """`x` times the factor `name`."""
        return self.get_parameter(name).to(x.dtype) * x

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={start:.6g}" for name, start in self.starts.items())


class EmbeddingMix(Factors):
    """What a layer begins with: the stream and the embeddings' output, `scale * x + embedding_scale * x_0`.

    Args:
        scale, embedding_scale (`float`): where the two factors start.
    """

    checkpoint_name = "begin_norm"
    keep_in_float32 = ("begin_norm",)

    def __init__(self, scale: float, embedding_scale: float):
        super().__init__(scale=scale, embedding_scale=embedding_scale)

    def forward(self, x: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
        """Two tensors `[batch, seq, hidden]` -> one."""
        return self.times("scale", x) + self.times("embedding_scale", embedded)


class Backout(Factors):
    """The last output less what stood in the middle of the depth: `x - weight * middle`.

    Args:
        weight (`float`): where the factor starts.
    """

    checkpoint_name = "backout_norm"
    keep_in_float32 = ("backout_norm",)

    def forward(self, x: torch.Tensor, middle: torch.Tensor) -> torch.Tensor:
        """Two tensors `[batch, seq, hidden]` -> one."""
        return x - self.times("weight", middle)


_SCALE = ComponentSpec("linear", {"first": 1.15, "last": 1.05})
_EMBEDDING_SCALE = ComponentSpec("linear", {"first": 0.2, "last": 0.05})


@STREAMS.register("embedding_skip")
class EmbeddingSkipStream(SeveralTensors[Tensors, Sum]):
    """One tensor into which every layer mixes the embeddings first, and which ends less its own middle.

        x <- scale_l * x + embedding_scale_l * x_0 -> layer l -> x;  at the end x - backout * x_mid

    x_0 is the embeddings' output as the layers are given it; x_mid is the output of layer L // 2, counted from 0.

    Source: the code of nanochat (Karpathy, 2025-2026; its start values are the defaults), after modded-nanogpt. No
    paper has it. Its embeddings of the values and its mix with the token before are no add & norm, and are not here.

    Args:
        scale (`float` or `dict`, *optional*, defaults to 1.15 in the first layer, falling to 1.05 in the last one):
            where the factor on the stream starts, a number or a depth rule.
        embedding_scale (`float` or `dict`, *optional*, defaults to 0.2, falling to 0.05): likewise on the embeddings.
        backout (`float`, *optional*, defaults to 0.2): where the factor on the middle starts; None leaves it out.
    """

    def __init__(
        self,
        *,
        scale: DepthValue = _SCALE,  # type: ignore[assignment]
        embedding_scale: DepthValue = _EMBEDDING_SCALE,  # type: ignore[assignment]
        backout: Finite | None = 0.2,
    ):
        self.scale, self.embedding_scale, self.backout = scale, embedding_scale, backout

    def build_layer_part(self, hidden_size: int, position: Position) -> Residual | None:
        return EmbeddingMix(at_depth(self.scale, position), at_depth(self.embedding_scale, position))

    def build_exit_modules(self, hidden_size: int, new_norm: NewNorm) -> dict[str, nn.Module]:
        return {} if self.backout is None else {Backout.checkpoint_name: Backout(weight=self.backout)}

    def enter(self, hidden: HiddenStates, *entry_modules: Function) -> Tensors:
        return hidden if isinstance(hidden, tuple) else (hidden, hidden, hidden)

    def begin_layer(self, state: Tensors, part: LayerPart | None) -> Tensors:
        return state if part is None else (part(state[0], state[1]), *state[1:])

    def end_layer(self, state: Tensors, part: LayerPart | None, position: Position) -> Tensors:
        x, embedded, middle = state
        until_middle = position.layer <= position.layers // 2
        return (x, embedded, x if part is not None and until_middle and self.backout is not None else middle)

    def finish(self, state: Tensors, *exit_modules: Callable[..., torch.Tensor]) -> torch.Tensor:
        return exit_modules[0](state[0], state[2]) if exit_modules else state[0]

    def read(self, state: Tensors, residual: Sum | None = None) -> tuple[torch.Tensor, Tensors]:
        return state[0], state

    def write(self, kept: Tensors, f: torch.Tensor, residual: Sum | None, post: Function) -> Tensors:
        return (summed(kept[0], f, residual, post), *kept[1:])


def _as_large_as(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """`y` with the root mean square that `x` has, token by token."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    size, own = (z.to(dtype).square().mean(-1, keepdim=True) for z in (x, y))
    # a token of zeros (padding, in some families) must not get the gradient of a root at 0
    size = size.clamp(min=torch.finfo(dtype).tiny)
    return y * (size.sqrt() / own.clamp(min=1e-5).sqrt()).to(y.dtype)


class StreamProjections(Residual):
    """One tensor to n streams, itself and n - 1 projections of its size: `S_i = W_i x * rms(x) / rms(W_i x)`.

    Args:
        hidden_size (`int`): that of the model.
        streams (`int`): n.
        active (`int`): the stream that is the tensor itself.
    Parameters: n - 1 matrices [hidden, hidden]. Init: N(0, 0.02^2), of which the size does not matter.
    Dtype: that of x; sizes are computed in float32.
    """

    checkpoint_name = "start_gate"

    def __init__(self, hidden_size: int, streams: int, active: int):
        super().__init__()
        self.active = active
        self.projections = nn.ModuleList(nn.Linear(hidden_size, hidden_size, bias=False) for _ in range(streams - 1))

    def reset_parameters(self) -> None:
        for projection in self.projections:
            nn.init.normal_(projection.weight, std=0.02)  # type: ignore[arg-type]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[batch, seq, hidden]` -> `[batch, seq, n, hidden]`."""
        streams = [_as_large_as(x, projection(x)) for projection in self.projections]
        return torch.stack([*streams[: self.active], x, *streams[self.active :]], -2)


class ProjectedMean(StreamProjections):
    """The other way: the mean of the active stream and of projections of the others, which get its size.

    Args:
        hidden_size, streams, active: see `StreamProjections`.
    Parameters, init and dtype: as there.
    """

    checkpoint_name = "head_gate"

    def forward(self, state: torch.Tensor) -> torch.Tensor:
        """`[batch, seq, n, hidden]` -> `[batch, seq, hidden]`."""
        x, *others = [state[..., index, :] for index in self._active_first(state.shape[-2])]
        projected = [projection(other) for projection, other in zip(self.projections, others, strict=True)]
        return torch.stack([x, *(_as_large_as(x, y) for y in projected)]).mean(0)

    def _active_first(self, streams: int) -> list[int]:
        return [self.active, *(index for index in range(streams) if index != self.active)]


class AlternatingUpdates(Residual):
    """How one layer, which runs on one of n streams, changes all: a prediction before it, a correction after it.

        S -> P -> S' -> S'_a -> layer -> y;   S_i <- S'_i + (1 + c_i) (y - S'_a)

    `S'_j = S_j + sum_i p_ji S_i`, with p a linear map of `m(S_a)`, c one of `m(y)`, and the modalities
    `m(x) = tanh(W RMSNorm(x) / hidden)`, n of them.

    Args:
        hidden_size (`int`): that of the model.
        streams (`int`): n.
        active (`int`): a, the stream that the layer runs on.
        eps (`float`): of the norm.
    Parameters: router W [n, hidden], predict [n^2, n], correct [n, n], the norm's gain [hidden]. Init: matrices
    N(0, 0.02^2), at which nearly every stream becomes S_i + (y - S_a). Dtype: that of S; weights of the streams are
    computed in float32.
    """

    checkpoint_name = "layer_gate"
    keep_in_float32 = ("layer_gate",)

    def __init__(self, hidden_size: int, streams: int, active: int, eps: float):
        super().__init__()
        self.streams, self.active = streams, active
        self.input_norm = RMSNorm(hidden_size, eps=eps)
        self.router = nn.Linear(hidden_size, streams, bias=False)
        self.predict_weights = nn.Linear(streams, streams * streams, bias=False)
        self.correct_weights = nn.Linear(streams, streams, bias=False)

    def reset_parameters(self) -> None:
        self.input_norm.reset_parameters()
        for linear in (self.router, self.predict_weights, self.correct_weights):
            nn.init.normal_(linear.weight, std=0.02)

    def _modalities(self, x: torch.Tensor) -> torch.Tensor:
        x = x.to(self.router.weight.dtype)
        return torch.tanh(self.router(self.input_norm(x) / x.shape[-1]))

    def forward(self, streams: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
        """The streams `[batch, seq, n, hidden]` before the layer, or after it, where its output y is given.

        Args:
            streams: before the layer they become the prediction; after it they are that prediction.
            y (`torch.Tensor`, *optional*): the layer's output, `[batch, seq, hidden]`.
        """
        if y is None:
            weights = self.predict_weights(self._modalities(streams[..., self.active, :]))
            matrices: torch.Tensor = weights.unflatten(-1, (self.streams, self.streams)).to(streams.dtype)
            return streams + matrices @ streams
        factors: torch.Tensor = (1 + self.correct_weights(self._modalities(y))).to(y.dtype)
        return streams + factors.unsqueeze(-1) * (y - streams[..., self.active, :]).unsqueeze(-2)


@STREAMS.register("altup")
class AltUpStream(SeveralTensors[Tensors, Sum]):
    """n streams, of which a layer runs on one as on a plain stream; the others follow by prediction and correction.

        x -> n projections -> S;  S' = predict(S);  y = layer(S'_a);  S = correct(S', y);  at the end their mean

    Slots, wiring and residual are those of the plain stream, within a layer. Hidden states between the layers are the
    active stream. Every layer costs n^2 + n products of the width, both ends n - 1 matrices; the streams start as
    random projections, so that pretrained weights do not go on as they were.

    Source: AltUp, Baykal et al., NeurIPS 2023, in the form of Gemma 3n, as in Transformers 5.23 (models/gemma3n),
    without its inputs of each layer and its clipping of the weights at 120 in training. See `AlternatingUpdates`,
    `StreamProjections` and `ProjectedMean`.

    Args:
        streams (`int`, *optional*, defaults to 4): n, at least 2.
        active (`int`, *optional*, defaults to 0): the stream that the layers run on, from 0.
        eps (`float`, *optional*, defaults to 1e-6): of the norms; above 0, inside the root.
    """

    def __init__(
        self,
        *,
        streams: Annotated[int, whole(at_least=2)] = 4,
        active: Annotated[int, whole(at_least=0)] = 0,
        eps: Positive = 1e-6,
    ):
        self.streams, self.active, self.eps = streams, active, eps

    @staticmethod
    def contradiction(streams: int, active: int, **_: object) -> str | None:
        """The sentence that says which options exclude each other, if any do."""
        return None if active < streams else f"active is {active}; allowed is a stream, from 0 to {streams - 1}."

    def build_layer_part(self, hidden_size: int, position: Position) -> Residual | None:
        return AlternatingUpdates(hidden_size, self.streams, self.active, self.eps)

    def build_entry_modules(self, hidden_size: int) -> dict[str, nn.Module]:
        return {StreamProjections.checkpoint_name: StreamProjections(hidden_size, self.streams, self.active)}

    def build_exit_modules(self, hidden_size: int, new_norm: NewNorm) -> dict[str, nn.Module]:
        return {ProjectedMean.checkpoint_name: ProjectedMean(hidden_size, self.streams, self.active)}

    def enter(self, hidden: HiddenStates, *entry_modules: Function) -> Tensors:
        if isinstance(hidden, tuple):
            return hidden
        streams = entry_modules[0](hidden)
        return streams[..., self.active, :], streams

    def begin_layer(self, state: Tensors, part: LayerPart | None) -> Tensors:
        if part is None:
            return state
        predicted = part(state[1])
        return predicted[..., self.active, :], predicted

    def end_layer(self, state: Tensors, part: LayerPart | None, position: Position) -> Tensors:
        if part is None:
            return state
        streams = part(state[1], state[0])
        return streams[..., self.active, :], streams

    def add_between_layers(self, hidden: HiddenStates, f: torch.Tensor, post: Function) -> HiddenStates:
        # there it is no layer's output, which all streams would follow
        streams = list(self.enter(hidden)[1].unbind(-2))
        streams[self.active] = post(streams[self.active] + f)
        return streams[self.active], torch.stack(streams, -2)

    def finish(self, state: Tensors, *exit_modules: Callable[..., torch.Tensor]) -> torch.Tensor:
        return exit_modules[0](state[1])

    def read(self, state: Tensors, residual: Sum | None = None) -> tuple[torch.Tensor, Tensors]:
        return state[0], state

    def write(self, kept: Tensors, f: torch.Tensor, residual: Sum | None, post: Function) -> Tensors:
        return summed(kept[0], f, residual, post), kept[1]
