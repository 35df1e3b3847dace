"""Residuals that have matrices: gates that read the stream and the branch, and a learned map of the stream.

Weight decay takes their matrices, as it takes those of the sublayers: their name in a checkpoint is `residual_gate`.
They stay in float32, and so does what is computed with them.
"""

import math
from typing import Annotated, Literal, cast

import torch
from torch import nn
from transformers import initialization as init

from ..base.depth import DepthValue, Position, at_depth
from ..base.registries import RESIDUALS
from ..base.registry import Finite, Positive, whole
from ..norms.norm_base import unit
from ..norms.rms_norms import RMSNorm
from .residuals import Residual


class MatrixResidual(Residual):
    """Base of the residuals with matrices: `mix` in the dtype of the matrices, returned in that of the stream."""

    checkpoint_name = "residual_gate"
    keep_in_float32 = (r"residual_gate\.",)

    def mix(self, x: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
        """The residual, with both tensors in the dtype of the matrices."""
        raise NotImplementedError

    def forward(self, x: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
        dtype = next(self.parameters()).dtype
        return self.mix(x.to(dtype), f.to(dtype)).to(x.dtype)


class InputReadingResidual(Residual):
    """Base of the residuals with matrices that read what the branch was given, beside the stream and its output.

    That is the output of the norm in the slot `pre`; where there is none, and where it is not passed, the stream.
    """

    checkpoint_name = "residual_gate"
    keep_in_float32 = (r"residual_gate\.",)
    reads_input = True

    def mix(self, x: torch.Tensor, f: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        """The residual, with all tensors in the dtype of the matrices."""
        raise NotImplementedError

    def forward(self, x: torch.Tensor, f: torch.Tensor, branch_input: torch.Tensor | None = None) -> torch.Tensor:
        dtype = next(self.parameters()).dtype
        u = x if branch_input is None else branch_input
        return self.mix(x.to(dtype), f.to(dtype), u.to(dtype)).to(x.dtype)


@RESIDUALS.register("highway")
class HighwayGate(MatrixResidual):
    """A gate that reads the stream, `(1 - g) * x + g * f` with `g = sigmoid(W x + b)`.

        x -+-> W, + b -> sigmoid -> g
           +-> * (1 - g) -+-> y
        f ---> * g -------^

    Source: Highway Networks, Srivastava, Greff & Schmidhuber, 2015, arXiv 1505.00387 (their transform gate, with the
    carry gate 1 - g).

    Args:
        start (`float` or depth rule, *optional*, defaults to -1): start value of b; below 0 it begins near the
            identity.
    Dtype: computed in float32, returned in that of `x`. Init: W Xavier uniform, b = start.
    """

    def __init__(self, hidden_size: int, position: Position, *, start: DepthValue = -1.0):
        super().__init__()
        self.start = at_depth(start, position)
        self.gate = nn.Linear(hidden_size, hidden_size)

    def reset_parameters(self) -> None:
        nn.init.xavier_uniform_(self.gate.weight)
        nn.init.constant_(self.gate.bias, self.start)

    def mix(self, x: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
        return torch.lerp(x, f, torch.sigmoid(self.gate(x)).to(x.dtype))

    def extra_repr(self) -> str:
        return f"start={self.start:.6g}"


@RESIDUALS.register("gru_gate")
class GRUGate(MatrixResidual):
    """A recurrent unit whose state is the stream and whose input is the branch's output.

        r = sigmoid(W_r f + U_r x)
        z = sigmoid(W_z f + U_z x - bias)
        h = tanh(W_h f + U_h (r * x))
        y = (1 - z) * x + z * h

        x -+------------------------> * (1 - z) -+-> y
           +-> * r -> U_h -+                     |
        f -> relu -> W_h --+-> tanh -> * z ------^

    Source: GTrXL, Parisotto et al., "Stabilizing Transformers for Reinforcement Learning", 2019, arXiv 1910.06764.

    Args:
        start (`float` or depth rule, *optional*, defaults to 2): start value of every entry of `bias`; above 0 it
            begins near the identity.
        relu (`bool`, *optional*, defaults to `True`): f passes a ReLU first, as in the paper's layer.
        biases (`str`, *optional*, defaults to `"z"`): as in the paper; with "all", biases are added in r and in h too,
            as in public code whose matrices are Linear layers.
    Dtype: computed in float32, returned in that of `x`. Init: matrices Xavier uniform, bias = start, others 0.
    """

    def __init__(
        self,
        hidden_size: int,
        position: Position,
        *,
        start: DepthValue = 2.0,
        relu: bool = True,
        biases: Literal["z", "all"] = "z",
    ):
        super().__init__()
        self.start, self.relu = at_depth(start, position), relu
        self.branch = nn.ModuleDict(
            {name: nn.Linear(hidden_size, hidden_size, bias=biases == "all" and name != "z") for name in "rzh"}
        )
        self.stream = nn.ModuleDict({name: nn.Linear(hidden_size, hidden_size, bias=False) for name in "rzh"})
        self.bias = nn.Parameter(torch.empty(hidden_size))

    def reset_parameters(self) -> None:
        for linear in (*self.branch.values(), *self.stream.values()):
            nn.init.xavier_uniform_(linear.get_parameter("weight"))
            if linear.bias is not None:
                nn.init.zeros_(linear.get_parameter("bias"))
        nn.init.constant_(self.bias, self.start)

    def mix(self, x: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
        f = torch.relu(f) if self.relu else f
        r = torch.sigmoid(self.branch["r"](f) + self.stream["r"](x))
        z = torch.sigmoid(self.branch["z"](f) + self.stream["z"](x) - self.bias)
        h = torch.tanh(self.branch["h"](f) + self.stream["h"](r * x))
        return torch.lerp(x, h.to(x.dtype), z.to(x.dtype))

    def extra_repr(self) -> str:
        return f"start={self.start:.6g}, relu={self.relu}"


@RESIDUALS.register("gru_cell")
class GRUCellResidual(MatrixResidual):
    """A GRU cell whose state is the stream and whose input is the branch: `GRUCell(f, x)`.

        r = sigmoid(W_r f + b_r + U_r x + c_r)
        z = sigmoid(W_z f + b_z + U_z x + c_z)
        n = tanh(W_n f + b_n + r * (U_n x + c_n))
        y = (1 - z) * n + z * x

    It is never the plain sum: at its start about half of the stream is kept.

    Source: the gated residual of x-transformers (`gate_residual`), with torch's cell; Cho et al., 2014,
    arXiv 1406.1078. No paper has it as a residual; GTrXL's gate (`gru_gate`) has other weights and a bias.

    Dtype: computed in float32, returned in that of `x`. Init: all uniform within 1 / sqrt(hidden), as torch's.
    """

    def __init__(self, hidden_size: int, position: Position):
        super().__init__()
        self.cell = nn.GRUCell(hidden_size, hidden_size)

    def reset_parameters(self) -> None:
        self.cell.reset_parameters()

    def mix(self, x: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
        state: torch.Tensor = self.cell(f.flatten(0, -2), x.flatten(0, -2))
        return state.view_as(x)


@RESIDUALS.register("laurel_lr")
class LowRankResidual(MatrixResidual):
    """A learned map of low rank beside the identity on the stream, `f + x + B A x`.

        x -+-> A [hidden -> rank] -> B [rank -> hidden] -+
           +---------------------------------------------+-> y
        f -----------------------------------------------^

    Source: LAuReL-LR, Menghani, Kumar & Kumar, 2024, arXiv 2411.07501. Its other version for one tensor, LAuReL-RW,
    is not offered: the paper leaves open how its two weights are normalised.

    Args:
        rank (`int`, *optional*, defaults to 32): at most the hidden size. The paper had 32 in its ablations, and 4 and
            64 in its language models of 1B and 4B parameters.
    Raises:
        ValueError: if `rank` is above the hidden size.
    Dtype: computed in float32, returned in that of `x`. Init: B = 0, at which it is the plain sum; A as in the paper's
    language models: 1 / sqrt(rank * hidden) where feature mod rank is the row, 0 elsewhere.
    """

    def __init__(self, hidden_size: int, position: Position, *, rank: Annotated[int, whole(at_least=1)] = 32):
        super().__init__()
        if rank > hidden_size:
            raise ValueError(f"rank is {rank}; allowed is at most the hidden size, {hidden_size}.")
        self.down = nn.Linear(hidden_size, rank, bias=False)
        self.up = nn.Linear(rank, hidden_size, bias=False)

    def reset_parameters(self) -> None:
        rank, hidden = self.down.weight.shape
        chosen = torch.arange(hidden) % rank == torch.arange(rank).unsqueeze(-1)
        init.copy_(self.down.weight, chosen / math.sqrt(rank * hidden))
        nn.init.zeros_(self.up.weight)

    def mix(self, x: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
        mapped: torch.Tensor = self.up(self.down(x))
        return f + x + mapped


@RESIDUALS.register("laurel_gemma3n")
class NormedLowRankResidual(InputReadingResidual):
    """A normed low-rank map of the branch's input, and that input, in the sum: `(x + f + u + RMS(B A u)) / sqrt(2)`.

        x -+-> N -> u -+-> F -> f -----------------------+
           |           +-> A -> B -> RMS -> * gain ------+
           |           +---------------------------------+-> / sqrt(2) -> y
           +---------------------------------------------^

    Source: the LAuReL block of Gemma 3n, as in Transformers' `models/gemma3n`: in its attention, between norms in the
    slots `pre` and `out`. LAuReL itself is `laurel_lr`.

    Args:
        rank (`int`, *optional*, defaults to 64): at most the hidden size.
        eps (`float`, *optional*, defaults to 1e-6): of the norm; above 0, inside the root.
    Raises:
        ValueError: if `rank` is above the hidden size.
    Dtype: computed in float32, returned in that of `x`. Init: A and B ~ N(0, 0.02^2), gain = 1.
    """

    def __init__(
        self,
        hidden_size: int,
        position: Position,
        *,
        rank: Annotated[int, whole(at_least=1)] = 64,
        eps: Positive = 1e-6,
    ):
        super().__init__()
        if rank > hidden_size:
            raise ValueError(f"rank is {rank}; allowed is at most the hidden size, {hidden_size}.")
        self.down = nn.Linear(hidden_size, rank, bias=False)
        self.up = nn.Linear(rank, hidden_size, bias=False)
        self.map_norm = RMSNorm(hidden_size, eps=eps)

    def reset_parameters(self) -> None:
        nn.init.normal_(self.down.weight, std=0.02)
        nn.init.normal_(self.up.weight, std=0.02)
        self.map_norm.reset_parameters()

    def mix(self, x: torch.Tensor, f: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        mapped: torch.Tensor = self.map_norm(self.up(self.down(u)))
        return (x + f + u + mapped) / math.sqrt(2)


@RESIDUALS.register("deep_delta")
class DeepDeltaResidual(InputReadingResidual):
    """The branch says a direction, along which the stream is rewritten: `x + beta * (v - k . x) * k`.

        k = f / |f|,  beta = 2 sigmoid(w . u + b),  v = value . x + c

        x -+------------------------------------> + -> y
           +-> value -> v -+                      |
           +-> . k --------+-> - -> * beta -> * k ^
        f -> / |f| -> k             u -> 2 sigmoid(w . u + b) -> beta

    beta 0 leaves the stream alone, 1 sets its part along k to v, 2 reflects it. The size of f does not matter; an f of
    exactly 0 has no direction, changes nothing and gets no gradient.

    Source: Deep Delta Learning, the authors' code, 2026, with one value for each token. In that code v is a projection
    of the stream, as here, or a constant (`value=2`).

    Args:
        value (`float`, *optional*): v as a constant; by default it is learned.
        eps (`float`, *optional*, defaults to 1e-6): the least size of f that is divided by; above 0.
    Dtype: computed in float32, returned in that of `x`. Init: w and value ~ N(0, 0.02^2), b = c = 0, at which beta is
    near 1.
    """

    needs_output = True

    def __init__(self, hidden_size: int, position: Position, *, value: Finite | None = None, eps: Positive = 1e-6):
        super().__init__()
        self.constant, self.eps = value, eps
        self.beta = nn.Linear(hidden_size, 1)
        self.value = nn.Linear(hidden_size, 1) if value is None else None

    def reset_parameters(self) -> None:
        for linear in (self.beta, self.value):
            if linear is not None:
                nn.init.normal_(linear.weight, std=0.02)
                nn.init.zeros_(linear.bias)

    def mix(self, x: torch.Tensor, f: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        k = unit(f, self.eps)
        value: float | torch.Tensor = cast(float, self.constant) if self.value is None else self.value(x)
        beta: torch.Tensor = 2 * torch.sigmoid(self.beta(u))
        return x + beta * (value - (k * x).sum(-1, keepdim=True)) * k

    def extra_repr(self) -> str:
        return f"value={self.constant}, eps={self.eps:.6g}"
