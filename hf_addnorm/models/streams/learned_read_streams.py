"""Streams that a sublayer reads by weights of the token: gates on normalised streams, a softmax over all outputs."""

from collections.abc import Callable, Sequence
from typing import Annotated

import torch
from torch import nn

from ..base.depth import Position
from ..base.protocols import AutogradContext
from ..base.registries import STREAMS
from ..base.registry import ComponentSpec, Positive, whole
from ..norms.rms_norms import GroupedRMSNorm, RMSNorm
from ..residuals.residuals import Residual
from .hyper_connections import CopiedStreams
from .streams import Function, HiddenStates, NewNorm, SeveralTensors, Tensors


__all__ = ["STREAMS"]


class StreamMixer(Residual):
    """One tensor of n normalised streams by a low-rank gate: `u = mean_i g_i * r_i`, r_i = RMSNorm(S_i).

        S -> RMS of each -> r -+-> D -> / n -> silu -> U -> sigmoid -> g
                               +--------------------------------> * g -> mean over the streams -> u

    Args:
        hidden_size (`int`): that of the model.
        streams (`int`): n.
        rank (`int`): the width of the gate's inside.
        eps (`float`): of the norm.
    Parameters: down [rank, n hidden], up [n hidden, rank], the norm's gain [n hidden], as its distance from 1. Init:
    matrices N(0, 0.02^2), gain = 1, at which u is about half of the mean. Dtype: that of S; computed in float32.
    """

    checkpoint_name = "head_gate"
    keep_in_float32 = ("residual_gate", "head_gate")

    def __init__(self, hidden_size: int, streams: int, rank: int, eps: float):
        super().__init__()
        self.streams = streams
        width = streams * hidden_size
        self.input_norm = GroupedRMSNorm(width, groups=streams, zero_centered=True, eps=eps)
        self.down = nn.Linear(width, rank, bias=False)
        self.up = nn.Linear(rank, width, bias=False)

    def reset_parameters(self) -> None:
        self.input_norm.reset_parameters()
        for linear in (self.down, self.up):
            nn.init.normal_(linear.weight, std=0.02)

    def mix(self, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """u [..., hidden] and r [..., n hidden]."""
        r = self.input_norm(state.flatten(-2).to(self.down.weight.dtype))
        gate = torch.sigmoid(self.up(nn.functional.silu(self.down(r) / self.streams)))
        return (gate * r).unflatten(-1, (self.streams, -1)).mean(-2), r

    def forward(self, state: torch.Tensor) -> torch.Tensor:
        """`[batch, seq, n, hidden]` -> `[batch, seq, hidden]`."""
        return self.mix(state)[0].to(state.dtype)


# the streams, and how much is written to each
KeptGated = tuple[torch.Tensor, torch.Tensor]


class GatedStreamConnection(StreamMixer):
    """How one sublayer reads from the streams, and writes to each: `S_i <- S_i + 2 sigmoid(w_i . r / n) f`.

    Args:
        hidden_size, streams, rank, eps: see `StreamMixer`.
    Parameters: those of `StreamMixer`, write [n, n hidden]. Init: write N(0, 0.02^2), at which about f is written.
    """

    checkpoint_name = "residual_gate"

    def __init__(self, hidden_size: int, streams: int, rank: int, eps: float):
        super().__init__(hidden_size, streams, rank, eps)
        self.write = nn.Linear(streams * hidden_size, streams, bias=False)

    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.normal_(self.write.weight, std=0.02)

    def forward(self, state: torch.Tensor) -> tuple[torch.Tensor, KeptGated]:  # type: ignore[override]
        """The branch's input, which is normalised; the streams, and how much of f is written to each."""
        u, r = self.mix(state)
        return u.to(state.dtype), (state, (2 * torch.sigmoid(self.write(r) / self.streams)).to(state.dtype))


@STREAMS.register("gated_streams")
class GatedStreams(CopiedStreams[KeptGated]):
    """n streams, which sublayers read through low-rank gates on their normalised values.

        u = mean_i g_i * r_i;  S_i <- S_i + 2 sigmoid(w_i . r / n) F(u);  at the end mean_i g_i * r_i

    What is read is normalised: the slots `pre` and the place `final` are empty in the published form.

    Source: the gated residual of Qwen4-Exp, as in Transformers 5.23 (models/qwen4_exp). See `GatedStreamConnection`
    for one sublayer and `StreamMixer` for the end. Hidden states between the layers are the mean of the streams.

    Args:
        streams (`int`, *optional*, defaults to 4): n, at least 2.
        rank (`int`, *optional*, defaults to 320): the width of the gates' inside.
        eps (`float`, *optional*, defaults to 1e-6): of the norms; above 0, inside the root.
    """

    def __init__(
        self,
        *,
        streams: Annotated[int, whole(at_least=2)] = 4,
        rank: Annotated[int, whole(at_least=1)] = 320,
        eps: Positive = 1e-6,
    ):
        super().__init__(streams, "mean")
        self.rank, self.eps = rank, eps

    def build_residual(
        self, residual: ComponentSpec, hidden_size: int, position: Position, new_norm: NewNorm
    ) -> Residual | None:
        return GatedStreamConnection(hidden_size, self.streams, self.rank, self.eps)

    def build_exit_modules(self, hidden_size: int, new_norm: NewNorm) -> dict[str, nn.Module]:
        return {StreamMixer.checkpoint_name: StreamMixer(hidden_size, self.streams, self.rank, self.eps)}

    def add_to_streams(self, kept: KeptGated, f: torch.Tensor) -> torch.Tensor:
        state, written = kept
        return state + written.unsqueeze(-1) * f.unsqueeze(-2)


def _scores(values: Sequence[torch.Tensor], w: torch.Tensor, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    """`w . v / rms(v)` and `1 / rms(v)` of each of some outputs v [batch, seq, hidden]; both [n, batch, seq, 1]."""
    dots, rates = [], []
    for value in values:
        wide = value.to(w.dtype)
        dots.append((wide @ w).unsqueeze(-1))
        rates.append(torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps))
    rate = torch.stack(rates)
    return torch.stack(dots) * rate, rate


class _SoftmaxMix(torch.autograd.Function):
    """`sum_i a_i v_i`, `a = softmax_i(w . v_i / rms(v_i))`; it keeps the outputs v_i for the backward, no copies."""

    @staticmethod
    def forward(ctx: AutogradContext, eps: float, *tensors: torch.Tensor) -> torch.Tensor:
        # where no gradients are needed, torch.compile (2.13) leaves ctx out if there are as many inputs as parameters
        # here: two outputs would do that if w were a parameter of its own
        w, *values = tensors
        ctx.eps = eps
        ctx.save_for_backward(w, *values)
        shares = _scores(values, w, eps)[0].softmax(0)
        mixed = shares[0] * values[0]
        for share, value in zip(shares[1:], values[1:], strict=True):
            mixed = torch.addcmul(mixed, share, value.to(w.dtype))
        return mixed.to(values[0].dtype)

    @staticmethod
    def backward(ctx: AutogradContext, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        w, *values = ctx.saved_tensors
        grad = grad.to(w.dtype)
        scores, rate = _scores(values, w, ctx.eps)
        shares = scores.softmax(0)
        products = torch.stack([(grad * value).sum(-1, keepdim=True) for value in values])
        of_score = shares * (products - (shares * products).sum(0))
        of_w, of_values = torch.zeros_like(w), []
        for value, share, ds, score, r in zip(values, shares, of_score, scores, rate, strict=True):
            direction = (ds * r).to(w.dtype)
            # the score is w . v * r, and r falls as v grows
            of_value = share * grad + direction * w - direction * (score * r / w.numel()) * value
            of_values.append(of_value.to(value.dtype))
            of_w = of_w + (direction * value).flatten(0, -2).sum(0)
        return None, of_w, *of_values


class QueryGain(RMSNorm):
    """The gain of an RMSNorm of keys, put on the query: `query . RMSNorm(v) = (gain * query) . v / rms(v)`."""

    def forward(self, query: torch.Tensor) -> torch.Tensor:
        return self.times_gain(query)


class AttentionResidual(Residual):
    """A softmax mix over all outputs so far: `sum_i a_i v_i`, `a = softmax_i(query . RMSNorm(v_i))`.

    Args:
        hidden_size (`int`): that of the model.
        eps (`float`): of the norm.
    Parameters: query [hidden], the norm's gain [hidden]. Init: query = 0, at which it is the mean, gain = 1, which
    gets a gradient once the query has left 0.
    Dtype: that of the outputs; the weights are computed in float32.
    """

    keep_in_float32 = (r"(residual|head)_norm\.query",)

    def __init__(self, hidden_size: int, eps: float):
        super().__init__()
        self.query = nn.Parameter(torch.empty(hidden_size))
        self.key_norm = QueryGain(hidden_size, eps=eps)

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.query)
        self.key_norm.reset_parameters()

    def forward(self, state: Tensors) -> torch.Tensor:
        """`[batch, seq, hidden]` of a state whose first entry is not one of the outputs."""
        mixed: torch.Tensor = _SoftmaxMix.apply(self.key_norm.eps, self.key_norm(self.query), *state[1:])
        return mixed


def with_output(state: Tensors, f: torch.Tensor) -> Tensors:
    """A state with one more output; its first entry is the mean of all."""
    mean, *earlier = state
    # not appended to: torch.compile with 2.9 takes what is unpacked for a tuple
    outputs = [*earlier, f]
    # step by step, a mean in half precision would be rounded as often
    is_half = f.dtype.itemsize < 4
    return (torch.stack(outputs).mean(0) if is_half else mean + (f - mean) / len(outputs), *outputs)


@STREAMS.register("attention_residuals")
class AttentionResidualStream(SeveralTensors[Tensors, Callable[[Tensors], torch.Tensor]]):
    """All outputs of the sublayers are kept, and each sublayer reads a softmax mix of those before it: no sums.

        v_0 = embeddings;  v_k = F_k(N(sum_i a_ki v_i)),  a_k = softmax_i(query_k . RMSNorm(v_i));  last a mix more

    The state has one more tensor after each sublayer. It starts as the mean of all outputs, not as their sum. Hidden
    states between the layers are that mean. A norm in the slot `post` normalises the output.

    Source: Attention Residuals, Kimi, 2026, arXiv 2603.15031, over all outputs; the start of the queries was not
    confirmed. The form over sums of blocks of layers is not offered.

    Args:
        eps (`float`, *optional*, defaults to 1e-6): of the norms; above 0, inside the root.
    """

    is_one = False
    owns_residual = True

    def __init__(self, *, eps: Positive = 1e-6):
        self.eps = eps

    def build_residual(
        self, residual: ComponentSpec, hidden_size: int, position: Position, new_norm: NewNorm
    ) -> Residual | None:
        # the first one has one output to read, whatever weights it would give it
        return AttentionResidual(hidden_size, self.eps) if position.sublayer else None

    def build_exit_modules(self, hidden_size: int, new_norm: NewNorm) -> dict[str, nn.Module]:
        return {"head_norm": AttentionResidual(hidden_size, self.eps)}

    def enter(self, hidden: HiddenStates, *entry_modules: Function) -> Tensors:
        return hidden if isinstance(hidden, tuple) else (hidden, hidden)

    def finish(self, state: Tensors, *exit_modules: Callable[..., torch.Tensor]) -> torch.Tensor:
        return exit_modules[0](state)

    def read(
        self, state: Tensors, residual: Callable[[Tensors], torch.Tensor] | None = None
    ) -> tuple[torch.Tensor, Tensors]:
        return (state[0] if residual is None else residual(state)), state

    def write(self, kept: Tensors, f: torch.Tensor, residual: object, post: Function) -> Tensors:
        return with_output(kept, post(f))
