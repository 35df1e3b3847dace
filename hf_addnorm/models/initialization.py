"""Start weights as a function of role and depth: the rules that run inside `_init_weights`.

A rule for weights sees each Linear layer of a layer, with the role it plays in its sublayer and its position, after
the stock rules drew it; a rule for norms sees each norm of a slot. All writes go through guarded initialisers, so
values that a checkpoint brought are never touched.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from transformers import initialization as init
from transformers.pytorch_utils import Conv1D

from .depth import Position, at_depth, parse_depth_value
from .norms import set_gain
from .registry import Choice, Registry


INITS = Registry("init rule")

LINEAR_ROLES = ("q", "k", "v", "o", "w1", "w2")


@dataclass(frozen=True)
class Linear:
    """A Linear layer (or GPT-2's Conv1D) as its sublayer sees it.

    Args:
        module (`torch.nn.Module`): with a `weight`.
        roles (`tuple[str, ...]`): q, k, v, o (attention), w1, w2 (feed-forward); several where it is fused, in the
            order of its output features.
        position (`Position`): where the sublayer stands.
        output_scale (`float`): what the stock draw of o and w2 is multiplied by already.
    """

    module: Any
    roles: tuple[str, ...]
    position: Position
    output_scale: float = 1.0


class ScaleWeights:
    """Multiply the drawn weights of some roles by a number that depends on the depth. Biases stay.

    Args:
        roles (`tuple[str, ...]`): roles to scale.
        factor (`float` or depth rule): the number.
        base (`str`): the draw that is scaled: "stock", the model's own, without the factor by depth that it may have
            in o and w2 (GPT-2, ModernBERT), or "xavier_normal" (Glorot & Bengio, 2010), which then also draws the
            attention's and feed-forward's other weights, unscaled.
    """

    def __init__(self, roles: tuple[str, ...], factor: float | Choice, base: str = "stock"):
        self.roles = roles if base == "stock" else LINEAR_ROLES
        self.scaled, self.factor, self.base = roles, factor, base

    def apply(self, linear: Linear) -> None:
        """Draw and scale the weight of `linear`, part by part where it is fused."""
        if not any(role in self.roles for role in linear.roles):
            return
        weight = linear.module.weight.clone()
        parts = weight.chunk(len(linear.roles), dim=1 if isinstance(linear.module, Conv1D) else 0)
        for role, part in zip(linear.roles, parts, strict=True):
            factor = at_depth(self.factor, linear.position) if role in self.scaled else 1.0
            if self.base == "xavier_normal":
                torch.nn.init.xavier_normal_(part, gain=factor)
            else:
                part.mul_(factor / linear.output_scale if role in ("o", "w2") else factor)
        init.copy_(linear.module.weight, weight)


class ZeroNorms:
    """Start the norms of some slots at zero, gain and bias, so that they pass nothing at first.

    Args:
        roles (`tuple[str, ...]`): `<slot>_norm`.
    """

    def __init__(self, roles: tuple[str, ...]):
        self.roles = roles

    def apply(self, norm: Any) -> None:
        """Write gain 0 and bias 0."""
        set_gain(norm, 0.0)
        if getattr(norm, "bias", None) is not None:
            init.zeros_(norm.bias)


@INITS.register("scaled_output")
def scaled_output() -> ScaleWeights:
    """Output projections (o, w2) times 1/sqrt(2L), as GPT-2 and ModernBERT start anyway.

    Source: GPT-2, Radford et al., 2019; Megatron-LM, Shoeybi et al., 2019, arXiv 1909.08053.
    """
    return ScaleWeights(("o", "w2"), parse_depth_value({"kind": "power", "of": "sublayers", "exponent": -0.5}, "init"))


@INITS.register("deepnorm")
def deepnorm(*, base: Literal["xavier_normal", "stock"] = "xavier_normal") -> ScaleWeights:
    """v, o, w1, w2 times (8L)^(-1/4); q and k unscaled.

    Source: Wang et al., "DeepNet", 2022, arXiv 2203.00555: Xavier normal draws with that gain. The authors' code
    scales the model's own draw instead: `base="stock"`.
    """
    factor = {"kind": "power", "of": "sublayers", "times": 4.0, "exponent": -0.25}
    return ScaleWeights(("v", "o", "w1", "w2"), parse_depth_value(factor, "init"), base)


@INITS.register("sub_ln")
def sub_ln(*, base: Literal["xavier_normal", "stock"] = "xavier_normal") -> ScaleWeights:
    """v, o, w1, w2 times sqrt(ln 2L); q and k unscaled.

    Source: Wang et al., "Magneto" (Foundation Transformers), 2022, arXiv 2210.06423: Xavier normal draws with that
    gain. The authors' code scales the model's own draw instead: `base="stock"`.
    """
    factor = {"kind": "power", "of": "sublayers", "exponent": 0.5, "log_of": True}
    return ScaleWeights(("v", "o", "w1", "w2"), parse_depth_value(factor, "init"), base)


@INITS.register("b2t")
def b2t() -> ScaleWeights:
    """q, k, v, o, w1, w2 times 1/sqrt(L), the model's own draw.

    Source: B2T connection, Takase et al., 2022, arXiv 2206.00330.
    """
    return ScaleWeights(LINEAR_ROLES, parse_depth_value({"kind": "power", "of": "layers", "exponent": -0.5}, "init"))


@INITS.register("zero_out_norm")
def zero_out_norm() -> ZeroNorms:
    """Norms in the slot `out` start at gain 0 and bias 0: every sublayer starts as the identity.

    Source: res-post-norm of Swin Transformer V2, Liu et al., 2021, arXiv 2111.09883.
    """
    return ZeroNorms(("out_norm",))
