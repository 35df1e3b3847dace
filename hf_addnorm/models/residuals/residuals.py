"""Residuals: how the stream `x` and the branch's output `f` become one, `y = write(x, f)`.

Each is a module from two tensors `[batch, seq, hidden]` to one of the same shape. The option `share` says whether
the sublayers of a layer have one set of parameters each or one together; depth rules of one for all take the place of
the layer's first sublayer. Those that have matrices are in `matrix_residuals.py`.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import nn

from ..base.depth import DepthValue, Position, at_depth
from ..base.registries import RESIDUALS
from ..base.registry import Positive
from ..norms.norm_base import unit


class Residual(nn.Module):
    """Base of what reads the stream and writes to it: a module from stream and branch's output to the stream.

    `checkpoint_name` is its name in a checkpoint. Weight decay spares what is in a module named `*_norm`: gains,
    scalars and vectors. One that has matrices has another name, and keeps its gains in children named `*_norm`.
    """

    checkpoint_name = "residual_norm"
    # whether `calibrate` can set its start
    calibrates = False
    # whether a branch that gives exactly 0 gets no gradient from it
    needs_output = False
    # whether it is given what the branch was given too, as `branch_input`
    reads_input = False

    def reset_parameters(self) -> None:
        """Write the documented start values."""

    def scales(self) -> tuple[float, float] | None:
        """The factors of stream and branch, where it is their sum with constant factors; else None."""
        return None

    def calibrate(self, x: torch.Tensor, f: torch.Tensor, real: torch.Tensor | None, before: float | None) -> float:
        """Set the start from one batch, before `x` and `f` are combined: a model's `calibrate` runs through all.

        Args:
            x, f (`torch.Tensor`): what this residual is about to combine, [batch, seq, hidden].
            real (`torch.Tensor`, *optional*): [batch, seq], true for a real token; None if all are.
            before (`float`, *optional*): what the sublayer before this one returned here; None for the first.
        Returns:
            What the next sublayer is given as `before`.
        """
        raise NotImplementedError


@RESIDUALS.register("add")
class Add(Residual):
    """The plain sum, `x + f`.

        x --------+-> y
        f --------^

    Source: He et al., 2015, arXiv 1512.03385; Vaswani et al., 2017, arXiv 1706.03762.
    Dtype: that of the inputs. No parameters.
    """

    def __init__(self, hidden_size: int, position: Position):
        super().__init__()

    def scales(self) -> tuple[float, float]:
        return 1.0, 1.0

    def forward(self, x: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
        return f + x


@RESIDUALS.register("constant")
class ConstantResidual(Residual):
    """Constants on the two sides, `skip_scale * x + branch_scale * f`.

        x -> * skip_scale ----+-> y
        f -> * branch_scale --^

    Source: DeepNorm's skip (2L)^(1/4) of Wang et al., 2022, arXiv 2203.00555; a depth-scaled branch, as in MiniCPM
    (Hu et al., 2024, arXiv 2404.06395). Keel-like schemes set `skip_scale` alone.

    Args:
        skip_scale (`float` or depth rule, *optional*, defaults to 1): multiplies the stream.
        branch_scale (`float` or depth rule, *optional*, defaults to 1): multiplies the branch's output.
    Dtype: that of the inputs. No parameters.
    """

    def __init__(
        self, hidden_size: int, position: Position, *, skip_scale: DepthValue = 1.0, branch_scale: DepthValue = 1.0
    ):
        super().__init__()
        self.skip_scale, self.branch_scale = at_depth(skip_scale, position), at_depth(branch_scale, position)

    def scales(self) -> tuple[float, float]:
        return self.skip_scale, self.branch_scale

    def forward(self, x: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
        return self.skip_scale * x + self.branch_scale * f

    def extra_repr(self) -> str:
        return f"skip_scale={self.skip_scale:.6g}, branch_scale={self.branch_scale:.6g}"


class LearnedResidual(Residual):
    """Base of the residuals with one learned factor on one side, `x + factor * f` or `factor * x + f`.

    Args:
        factor (`torch.nn.Parameter`): shape [1] or [hidden].
        start (`float`): its start value.
        side (`str`): "branch" or "skip".
    """

    def __init__(self, name: str, size: int, start: float, side: str):
        super().__init__()
        self.name, self.start, self.side = name, start, side
        self.register_parameter(name, nn.Parameter(torch.empty(size)))

    def reset_parameters(self) -> None:
        nn.init.constant_(self.get_parameter(self.name), self.start)

    def forward(self, x: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
        factor: torch.Tensor = getattr(self, self.name)
        return x + factor * f if self.side == "branch" else factor * x + f

    def extra_repr(self) -> str:
        return f"side={self.side}, start={self.start:.6g}"


@RESIDUALS.register("scalar")
class ScalarResidual(LearnedResidual):
    """One learned scalar, `x + alpha * f`.

        x ------------+-> y
        f -> * alpha -^

    Source: ReZero, Bachlechner et al., 2020, arXiv 2003.04887 (start 0, one alpha for both sublayers of a layer,
    `share="layer"`); SkipInit, De & Smith, 2020, arXiv 2002.10444 (start 0, one per branch, `share="sublayer"`).

    Args:
        start (`float` or depth rule, *optional*, defaults to 0): start value of `alpha`.
        share (`str`, *optional*, defaults to `"sublayer"`): one alpha per "sublayer", or per "layer".
        side (`str`, *optional*, defaults to `"branch"`): what alpha multiplies, "branch" or "skip".
    Dtype: that of the inputs. Init: alpha = start.
    """

    def __init__(
        self,
        hidden_size: int,
        position: Position,
        *,
        start: DepthValue = 0.0,
        share: Literal["sublayer", "layer"] = "sublayer",
        side: Literal["branch", "skip"] = "branch",
    ):
        super().__init__("alpha", 1, at_depth(start, position), side)


@RESIDUALS.register("vector")
class VectorResidual(LearnedResidual):
    """One learned factor per feature, `x + weight * f`.

        x -------------+-> y
        f -> * weight -^

    Source: LayerScale of CaiT, Touvron et al., 2021, arXiv 2103.17239 (start by depth, rule "cait"). In families whose
    stock layers have it (DINOv2, BEiT), a vector for each branch is theirs, under its stock name.

    Args:
        start (`float` or depth rule, *optional*, defaults to 0.1): start value of every entry of `weight`.
        share (`str`, *optional*, defaults to `"sublayer"`): one vector per "sublayer", or per "layer".
        side (`str`, *optional*, defaults to `"branch"`): what the vector multiplies, "branch" or "skip".
    Dtype: that of the inputs. Init: weight = start.
    """

    def __init__(
        self,
        hidden_size: int,
        position: Position,
        *,
        start: DepthValue = 0.1,
        share: Literal["sublayer", "layer"] = "sublayer",
        side: Literal["branch", "skip"] = "branch",
    ):
        super().__init__("weight", hidden_size, at_depth(start, position), side)


class BorrowedVector(Residual):
    """`vector` where the stock layer has such a factor of its own (LayerScale): that one is used, `x + stock(f)`.

        x -------------+-> y
        f -> stock ----^

    So it has no parameters, and a checkpoint's keys are the stock ones. A layer makes it of a `VectorResidual`, and
    hands in what multiplies at each call: a tool may have put it elsewhere by then.

    Args:
        start (`float`): the start value of every entry of the factor.
    """

    def __init__(self, start: float):
        super().__init__()
        self.start = start

    def forward(self, x: torch.Tensor, f: torch.Tensor, stock: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        return x + stock(f)

    def with_factor(self, factor: nn.Parameter) -> VectorResidual:
        """The same residual as a module that holds the factor."""
        with torch.device("meta"):
            held = VectorResidual(factor.numel(), Position(0, 1, 0, 1), start=self.start)
        held.weight = factor
        return held

    def extra_repr(self) -> str:
        return f"start={self.start:.6g}, factor=that of the stock layer"


def variance(x: torch.Tensor, real: torch.Tensor | None) -> torch.Tensor:
    """The variance of all features of all real tokens together, divided by their number.

    Args:
        x (`torch.Tensor`): [batch, seq, hidden].
        real (`torch.Tensor`, *optional*): [batch, seq], true for a real token; None if all are.
    """
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    return (x if real is None else x[real]).var(correction=0)


@RESIDUALS.register("admin")
class AdminResidual(LearnedResidual):
    """One learned factor per feature on the stream, which starts as large as the stream has grown, `weight * x + f`.

        x -> * weight -+-> y
        f -------------^

    `model.calibrate(batch)` is the profiling pass: weight_1 = 1, then from sublayer to sublayer
    `weight_(k+1) = sqrt(Var(weight_k x_k) + Var(f_k))`, each the same for all features. The variances are over all
    features of the real tokens of the batch together, without dropout; the authors' code takes the padding too, and
    has dropout on.

    Source: Admin, Liu et al., "Understanding the Difficulty of Training Transformers", 2020, arXiv 2004.08249; the
    recurrence is that of the authors' code.

    Args:
        start (`float` or depth rule, *optional*, defaults to 1): start value of every entry of `weight` until it is
            calibrated. The rule "admin" is the authors' start without data.
    Dtype: that of the inputs. Init: weight = start. What was calibrated is saved as the parameter that it is.
    """

    calibrates = True

    def __init__(self, hidden_size: int, position: Position, *, start: DepthValue = 1.0):
        super().__init__("weight", hidden_size, at_depth(start, position), "skip")

    def calibrate(self, x: torch.Tensor, f: torch.Tensor, real: torch.Tensor | None, before: float | None) -> float:
        omega = 1.0 if before is None else before
        nn.init.constant_(self.get_parameter("weight"), omega)
        return (variance(omega * x, real) + variance(f, real)).sqrt().item()


@RESIDUALS.register("affine")
class AffineResidual(Residual):
    """A learned affine map on either side, `skip_weight * (x + skip_bias) + branch_weight * (f + branch_bias)`.

        x -> + skip_bias ----> * skip_weight ----+-> y
        f -> + branch_bias --> * branch_weight --^

    Source: the residual scaling of ZAYA, as in Transformers' `models/zaya`. With factors alone: `vector`.
    Dtype: that of the inputs. Init: weights = 1, biases = 0, at which it is the plain sum.
    """

    def __init__(self, hidden_size: int, position: Position):
        super().__init__()
        self.skip_weight = nn.Parameter(torch.empty(hidden_size))
        self.skip_bias = nn.Parameter(torch.empty(hidden_size))
        self.branch_weight = nn.Parameter(torch.empty(hidden_size))
        self.branch_bias = nn.Parameter(torch.empty(hidden_size))

    def reset_parameters(self) -> None:
        for weight, bias in ((self.skip_weight, self.skip_bias), (self.branch_weight, self.branch_bias)):
            nn.init.ones_(weight)
            nn.init.zeros_(bias)

    def forward(self, x: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
        return self.skip_weight * (x + self.skip_bias) + self.branch_weight * (f + self.branch_bias)


@RESIDUALS.register("gpas")
class GradientPreservingScale(Residual):
    """A learned scale of the sum that its gradient does not see, `G(x + f)`, G(z) = z - SiLU(gate) * sg(z).

        x -> * skip_scale -+-> G -> y        on_skip:   x -> * skip_scale -> G -+-> y
        f -----------------^                            f ----------------------^

    sg stops the gradient: forward, G multiplies by `1 - SiLU(gate)`; backward, z has the gradient of the identity.

    Source: GPAS, Chen et al., 2025, arXiv 2506.22049. The authors put G after the sum in pre-norm and sandwich models,
    and on the skip in post-norm ones, after the factor of DeepNorm where there is one. They clip the gradients of the
    gates by themselves (0.01) where models have 1B parameters or more.

    Args:
        place (`str`, *optional*, defaults to `"after_add"`): G takes the sum, "after_add", or the stream, "on_skip".
        share (`str`, *optional*, defaults to `"layer"`): one gate per "layer", as in the paper, or per "sublayer".
        skip_scale (`float` or depth rule, *optional*, defaults to 1): multiplies the stream.
    Dtype: that of the inputs; the gate stays in float32. Init: gate = 0, at which G is the identity.
    """

    keep_in_float32 = (r"residual_norm\.gate",)

    def __init__(
        self,
        hidden_size: int,
        position: Position,
        *,
        place: Literal["after_add", "on_skip"] = "after_add",
        share: Literal["layer", "sublayer"] = "layer",
        skip_scale: DepthValue = 1.0,
    ):
        super().__init__()
        self.place, self.skip_scale = place, at_depth(skip_scale, position)
        self.gate = nn.Parameter(torch.empty(1))

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.gate)

    def scale(self, z: torch.Tensor) -> torch.Tensor:
        """G."""
        return z - nn.functional.silu(self.gate).to(z.dtype) * z.detach()

    def forward(self, x: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
        x = self.skip_scale * x
        return self.scale(x) + f if self.place == "on_skip" else self.scale(x + f)

    def extra_repr(self) -> str:
        return f"place={self.place}, skip_scale={self.skip_scale:.6g}"


@RESIDUALS.register("muse_gate")
class MuseGate(Residual):
    """A learned mix per feature that keeps the variance, `sqrt(1 - beta^2) * x + beta * f`.

        x -> * sqrt(1 - beta^2) -+-> y
        f -> * beta -------------^       beta = sigmoid(gate / temperature)

    Source: the residual gate of MuseSpark, as in Transformers' `models/muse_spark`, on branches that end in a norm.

    Args:
        temperature (`float`, *optional*, defaults to 0.3): divides the gate.
        eps (`float`, *optional*, defaults to 1e-3): `1 - beta^2` is at least this.
        std (`float`, *optional*, defaults to 0.02): standard deviation of the gate's start.
    Dtype: computed in float32, returned in that of `x`; the gate stays in float32. Init: gate ~ N(0, std^2), at which
    beta is near 1/2.
    """

    keep_in_float32 = (r"residual_norm\.gate",)

    def __init__(
        self,
        hidden_size: int,
        position: Position,
        *,
        temperature: Positive = 0.3,
        eps: Positive = 1e-3,
        std: Positive = 0.02,
    ):
        super().__init__()
        self.temperature, self.eps, self.std = temperature, eps, std
        self.gate = nn.Parameter(torch.empty(hidden_size))

    def reset_parameters(self) -> None:
        nn.init.normal_(self.gate, std=self.std)

    def forward(self, x: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
        logit = self.gate / self.temperature
        beta = torch.sigmoid(logit)
        # 1 - beta^2, exact also where beta is near 1
        rest = torch.sigmoid(-logit) * (1 + beta)
        return (rest.clamp(min=self.eps).sqrt() * x + beta * f).to(x.dtype)

    def extra_repr(self) -> str:
        return f"temperature={self.temperature:.6g}, eps={self.eps:.6g}"


@RESIDUALS.register("normalized_lerp")
class NormalizedLerp(Residual):
    """A step on the unit sphere from the stream to the branch, `J(J(x) + |a| * (J(f) - J(x)))`, J(z) = z / length.

        x -> J -> * (1 - |a|) -+-> J -> y
        f -> J -> * |a| -------^          a = start * weight / stored

    Each token is a unit vector before and after; a has an entry per feature, the size of the step. A token of exactly
    0 has no direction: J leaves it 0.

    Source: nGPT, Loshchilov et al., 2024, arXiv 2410.01131. The authors' code has no eps: J of 0 is NaN there.

    Args:
        start (`float`, *optional*, defaults to 0.05): start value of every entry of a, above 0.
        stored (`float` or `"rsqrt_width"`, *optional*, defaults to `"rsqrt_width"`): start value of the parameter,
            above 0; "rsqrt_width" is 1 / sqrt(hidden).
        eps (`float`, *optional*, defaults to 1e-12): the least length that is divided by; above 0.
    Dtype: computed in float32 (float64 for float64 input), returned in that of `x`. Init: weight = stored.
    """

    def __init__(
        self,
        hidden_size: int,
        position: Position,
        *,
        start: Positive = 0.05,
        stored: Positive | Literal["rsqrt_width"] = "rsqrt_width",
        eps: Positive = 1e-12,
    ):
        super().__init__()
        self.start, self.stored, self.eps = start, hidden_size**-0.5 if isinstance(stored, str) else stored, eps
        self.weight = nn.Parameter(torch.empty(hidden_size))

    def reset_parameters(self) -> None:
        nn.init.constant_(self.weight, self.stored)

    def forward(self, x: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        skip, branch = unit(x.to(wide), self.eps), unit(f.to(wide), self.eps)
        step = (self.weight.to(wide) * (self.start / self.stored)).abs()
        return unit(skip + step * (branch - skip), self.eps).to(x.dtype)

    def extra_repr(self) -> str:
        return f"start={self.start:.6g}, stored={self.stored:.6g}"


@RESIDUALS.register("orthogonal")
class OrthogonalResidual(Residual):
    """Only what is new goes in, `x + f - (x . f) / (x . x + eps) * x`: of each token, the part of f orthogonal to x.

        x ----------------------------------+-> y
        f -> - its projection onto x -------^

    Source: Orthogonal Residual Update, Oh et al., 2025, arXiv 2505.11881: the form per token, which the authors' code
    runs in transformers.

    Args:
        eps (`float`, *optional*, defaults to 1e-6): added to the square of x; at x = 0 it is the plain sum.
    Dtype: computed in float32 (float64 for float64 input), returned in that of `x`. No parameters.
    """

    def __init__(self, hidden_size: int, position: Position, *, eps: Positive = 1e-6):
        super().__init__()
        self.eps = eps

    def forward(self, x: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        x_wide, f_wide = x.to(wide), f.to(wide)
        dot = (x_wide * f_wide).sum(-1, keepdim=True)
        along = dot / (x_wide.square().sum(-1, keepdim=True) + self.eps)
        return (x_wide + f_wide - along * x_wide).to(x.dtype)

    def extra_repr(self) -> str:
        return f"eps={self.eps:.6g}"
