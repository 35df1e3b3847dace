"""Residuals: how the stream `x` and the branch's output `f` become one, `y = write(x, f)`.

Each is a module from two tensors `[batch, seq, hidden]` to one of the same shape. The option `share` says whether
the sublayers of a layer have one set of parameters each or one together.
"""

from typing import Literal

import torch
from torch import nn

from .depth import DepthValue, Position, at_depth
from .registry import Registry


RESIDUALS = Registry("residual")


class Residual(nn.Module):
    """Base of what reads the stream and writes to it: a module from stream and branch's output to the stream.

    `home` is its name in a checkpoint. Weight decay spares what is in a module named `*_norm`: gains, scalars and
    vectors. One that has matrices has another home, and keeps its gains in children named `*_norm`.
    """

    home = "residual_norm"

    def reset_parameters(self) -> None:
        """Write the documented start values."""


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
        factor = getattr(self, self.name)
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

    Source: LayerScale of CaiT, Touvron et al., 2021, arXiv 2103.17239 (start by depth, rule "cait").

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
