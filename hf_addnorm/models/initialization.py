"""Start weights as a function of role and depth: the rules that run inside `_init_weights`.

A rule sees one module at a time, with the role it plays in its sublayer (q, k, v, o, w1, w2 for the Linear layers,
"out_norm" for a norm in the slot `out`, ...) and its position. All writes go through guarded initialisers, so values
that a checkpoint brought are never touched.
"""

from dataclasses import dataclass
from typing import Any, Literal

from transformers import initialization as init

from .depth import Position, at_depth, parse_depth_value
from .norms import set_gain
from .registry import Choice, Registry


INITS = Registry("init rule")

LINEAR_ROLES = ("q", "k", "v", "o", "w1", "w2")


@dataclass(frozen=True)
class Role:
    """What a module is to its sublayer.

    Args:
        name (`str`): q, k, v, o (attention), w1, w2 (feed-forward), or `<slot>_norm`.
        position (`Position`): where the sublayer stands.
    """

    name: str
    position: Position


class ScaleWeights:
    """Multiply the drawn weights of some roles by a number that depends on the depth. Biases stay.

    Args:
        roles (`tuple[str, ...]`): roles to scale.
        factor (`float` or depth rule): the number.
        base (`str`): the draw that is scaled: "stock", the model's own, or "xavier_normal" (Glorot & Bengio, 2010),
            which then also draws the attention's and feed-forward's other weights, unscaled.
    """

    def __init__(self, roles: tuple[str, ...], factor: float | Choice, base: str = "stock"):
        self.roles = roles if base == "stock" else LINEAR_ROLES
        self.scaled, self.factor, self.base = roles, factor, base

    def apply(self, module: Any, role: Role) -> None:
        """Draw and scale the weight of `module`, if its role is one of these."""
        factor = at_depth(self.factor, role.position) if role.name in self.scaled else 1.0
        if self.base == "xavier_normal":
            init.xavier_normal_(module.weight, gain=factor)
        else:
            init.copy_(module.weight, module.weight * factor)


class ZeroNorms:
    """Start the norms of some slots at zero, gain and bias, so that they pass nothing at first."""

    def __init__(self, roles: tuple[str, ...]):
        self.roles = roles

    def apply(self, module: Any, role: Role) -> None:
        """Write gain 0 and bias 0."""
        set_gain(module, 0.0)
        if getattr(module, "bias", None) is not None:
            init.zeros_(module.bias)


@INITS.register("scaled_output")
def scaled_output() -> ScaleWeights:
    """Output projections (o, w2) times 1/sqrt(2L).

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


@INITS.register("zero_out_norm")
def zero_out_norm() -> ZeroNorms:
    """Norms in the slot `out` start at gain 0 and bias 0: every sublayer starts as the identity.

    Source: res-post-norm of Swin Transformer V2, Liu et al., 2021, arXiv 2111.09883.
    """
    return ZeroNorms(("out_norm",))
