"""Start weights as a function of role and depth: the rules that run inside `_init_weights`.

A rule for weights sees each Linear layer of a layer, with the role it plays in its sublayer and its position, after
the stock rules drew it; a rule for norms sees each norm of a slot, one for embeddings each of their tables. All writes
go through guarded initialisers, so values that a checkpoint brought are never touched.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import log
from typing import Annotated, Literal, cast

import torch
from torch import nn
from transformers import initialization as init
from transformers.pytorch_utils import Conv1D

from ..base.depth import Position, power
from ..base.fused_roles import join_roles, split_roles
from ..base.registries import INITS
from ..base.registry import Finite, Positive, whole
from ..norms.norm_base import set_gain


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
        blocks (`int`): how often its roles follow each other; see `split_roles`.
    """

    module: nn.Module
    roles: tuple[str, ...]
    position: Position
    output_scale: float = 1.0
    blocks: int = 1

    @property
    def weight(self) -> nn.Parameter:
        """[out, in], and the transpose in a Conv1D."""
        return self.module.get_parameter("weight")


class InitRule:
    """Base: what a rule does to the parts whose role is among its `roles`.

    Args:
        roles (`tuple[str, ...]`): q, k, v, o, w1, w2; `<slot>_norm`; embed, a table of the embeddings.
    """

    # whether it has no meaning without tables of the embeddings
    needs_tables = False

    def __init__(self, roles: tuple[str, ...]):
        self.roles = roles

    def start_linear(self, linear: Linear) -> None:
        """Write the start weight of a Linear layer that has one of the roles, after the stock rules drew it."""

    def start_module(self, module: nn.Module, position: Position) -> None:
        """Write the start of a norm or a table that has one of the roles; `position` is that of the first layer."""


class ScaleWeights(InitRule):
    """Multiply the drawn weights of some roles by a number that depends on the depth. Biases stay.

    Args:
        roles (`tuple[str, ...]`): roles to scale.
        factor (`Callable`): the number, from the position.
        base (`str`): the draw that is scaled: "stock", the model's own, without the factor by depth that it may have
            in o and w2 (GPT-2, ModernBERT), or "xavier_normal" or "xavier_uniform" (Glorot & Bengio, 2010), or
            "fan_in_normal", N(0, 1/in) cut at three standard deviations; these then also draw the attention's and
            feed-forward's other weights, unscaled.
    """

    def __init__(self, roles: tuple[str, ...], factor: Callable[[Position], float], base: str = "stock"):
        super().__init__(roles if base == "stock" else LINEAR_ROLES)
        self.scaled, self.factor, self.base = roles, factor, base

    def start_linear(self, linear: Linear) -> None:
        """Draw and scale the weight of `linear`, part by part where it is fused."""
        weight = linear.weight.clone()
        is_transposed = isinstance(linear.module, Conv1D)
        # [out, in]
        parts = split_roles(weight.T if is_transposed else weight, len(linear.roles), linear.blocks)
        for role, part in zip(linear.roles, parts, strict=True):
            factor = self.factor(linear.position) if role in self.scaled else 1.0
            if self.base == "stock":
                part.mul_(factor / linear.output_scale if role in ("o", "w2") else factor)
            else:
                _DRAWS[self.base](part, gain=factor)
        started = join_roles(parts, linear.blocks)
        init.copy_(linear.weight, started.T if is_transposed else started)


def fan_in_normal_(weight: torch.Tensor, gain: float) -> torch.Tensor:
    """Draw a weight [out, in] from N(0, gain^2 / in), cut at three standard deviations."""
    std = gain * weight.shape[1] ** -0.5
    return torch.nn.init.trunc_normal_(weight, std=std, a=-3 * std, b=3 * std)


_DRAWS: dict[str, Callable[..., torch.Tensor]] = {
    "xavier_normal": torch.nn.init.xavier_normal_,
    "xavier_uniform": torch.nn.init.xavier_uniform_,
    "fan_in_normal": fan_in_normal_,
}


def draw_table(module: nn.Module, draw: Callable[[torch.Tensor], object]) -> None:
    """Draw the rows of an embedding table anew; that of the padding token is 0, as in the stock models.

    Args:
        module (`torch.nn.Embedding`): the table.
        draw (`Callable`): writes the start into a tensor [rows, width].
    """
    table = cast(nn.Embedding, module)
    weight = torch.empty_like(table.weight)
    draw(weight)
    if table.padding_idx is not None:
        weight[table.padding_idx] = 0.0
    init.copy_(table.weight, weight)


class SmallTables(InitRule):
    """Draw the tables of the embeddings from U(-bound, bound).

    Args:
        bound (`float`): above 0.
    """

    needs_tables = True

    def __init__(self, bound: float):
        super().__init__(("embed",))
        self.bound = bound

    def start_module(self, module: nn.Module, position: Position) -> None:
        draw_table(module, lambda weight: torch.nn.init.uniform_(weight, -self.bound, self.bound))


class TFixup(ScaleWeights):
    """T-Fixup's start; see `t_fixup`."""

    needs_tables = True

    def __init__(self) -> None:
        super().__init__(("v", "o", "w1", "w2"), self.scale, "xavier_normal")
        self.roles = (*self.roles, "embed")

    @staticmethod
    def scale(position: Position) -> float:
        """`0.67 L^(-1/4)`, in a decoder with cross-attention `(9L)^(-1/4)`."""
        in_decoder = position.sublayers > 2 * position.layers
        return float((9 * position.layers) ** -0.25 if in_decoder else 0.67 * position.layers**-0.25)

    def start_module(self, module: nn.Module, position: Position) -> None:
        std = cast(nn.Embedding, module).embedding_dim ** -0.5 * (9 * position.layers) ** -0.25
        draw_table(module, lambda weight: torch.nn.init.normal_(weight, std=std))


class UnitDraws(InitRule):
    """Draw every vector along the hidden axis evenly from the unit sphere; see `unit_vectors`."""

    def __init__(self) -> None:
        super().__init__((*LINEAR_ROLES, "embed"))

    def start_linear(self, linear: Linear) -> None:
        # those of o and w2 are columns of [out, in], and Conv1D stores the transpose
        axis = int(linear.roles[0] in ("o", "w2")) ^ int(not isinstance(linear.module, Conv1D))
        draw = torch.nn.init.normal_(torch.empty_like(linear.weight))
        init.copy_(linear.weight, torch.nn.functional.normalize(draw, dim=axis))

    def start_module(self, module: nn.Module, position: Position) -> None:
        def draw(weight: torch.Tensor) -> None:
            weight.copy_(torch.nn.functional.normalize(torch.nn.init.normal_(weight), dim=-1))

        draw_table(module, draw)


def zero_init(norm: nn.Module) -> None:
    """Start a norm at gain 0 and bias 0."""
    set_gain(norm, 0.0)
    for name, parameter in norm.named_parameters(recurse=False):
        if name == "bias":
            init.zeros_(parameter)


class ZeroNorms(InitRule):
    """Start the norms of some slots at zero, gain and bias, so that they pass nothing at first."""

    def start_module(self, module: nn.Module, position: Position) -> None:
        zero_init(module)


@INITS.register("scaled_output")
def scaled_output() -> ScaleWeights:
    """Output projections (o, w2) times 1/sqrt(2L), as GPT-2 and ModernBERT start anyway.

    Source: GPT-2, Radford et al., 2019; Megatron-LM, Shoeybi et al., 2019, arXiv 1909.08053.
    """
    return ScaleWeights(("o", "w2"), partial(power, of="sublayers", exponent=-0.5))


def deepnorm_in_encoder(position: Position, *, decoder_layers: int) -> float:
    """DeepNorm's factor in the encoder of an encoder-decoder, 0.87 (L^4 M)^(-1/16) with M = `decoder_layers`."""
    return float(0.87 * (position.layers**4 * decoder_layers) ** (-1 / 16))


@INITS.register("deepnorm")
def deepnorm(
    *,
    base: Literal["xavier_normal", "stock"] = "xavier_normal",
    decoder_layers: Annotated[int, whole(at_least=1)] | None = None,
) -> ScaleWeights:
    """v, o, w1, w2 times (8L)^(-1/4), in a decoder with cross-attention (12L)^(-1/4); q and k unscaled.

    Source: Wang et al., "DeepNet", 2022, arXiv 2203.00555: Xavier normal draws with that gain. The authors' code
    scales the model's own draw instead: `base="stock"`. The encoder of an encoder-decoder has 0.87 (L^4 M)^(-1/16),
    with M = `decoder_layers`; its skip's constant is the depth rule `deepnorm`.
    """
    factor = partial(power, of="sublayers", times=4.0, exponent=-0.25)
    if decoder_layers is not None:
        factor = partial(deepnorm_in_encoder, decoder_layers=decoder_layers)
    return ScaleWeights(("v", "o", "w1", "w2"), factor, base)


def sub_ln_in_encoder(position: Position, *, decoder_layers: int) -> float:
    """Sub-LN's factor in the encoder of an encoder-decoder, sqrt(ln(3M) ln(2L) / 3) with M = `decoder_layers`."""
    return float((log(3 * decoder_layers) * log(2 * position.layers) / 3) ** 0.5)


@INITS.register("sub_ln")
def sub_ln(
    *,
    base: Literal["xavier_normal", "stock"] = "xavier_normal",
    decoder_layers: Annotated[int, whole(at_least=1)] | None = None,
) -> ScaleWeights:
    """v, o, w1, w2 times sqrt(ln 2L), in a decoder with cross-attention sqrt(ln 3L); q and k unscaled.

    Source: Wang et al., "Magneto" (Foundation Transformers), 2022, arXiv 2210.06423: Xavier normal draws with that
    gain. The authors' code scales the model's own draw instead: `base="stock"`. The encoder of an encoder-decoder has
    sqrt(ln(3M) ln(2L) / 3), with M = `decoder_layers`.
    """
    factor = partial(power, of="sublayers", exponent=0.5, log_of=True)
    if decoder_layers is not None:
        factor = partial(sub_ln_in_encoder, decoder_layers=decoder_layers)
    return ScaleWeights(("v", "o", "w1", "w2"), factor, base)


@INITS.register("b2t")
def b2t() -> ScaleWeights:
    """q, k, v, o, w1, w2 times 1/sqrt(L), the model's own draw.

    Source: B2T connection, Takase et al., 2022, arXiv 2206.00330.
    """
    return ScaleWeights(LINEAR_ROLES, partial(power, of="layers", exponent=-0.5))


@INITS.register("ds_init")
def ds_init(*, exponent: Finite = -0.5) -> ScaleWeights:
    """q, k, v, o, w1, w2 drawn from Xavier's uniform distribution times l^(-1/2), l the layer from 1.

    Source: depth-scaled initialisation, Zhang, Titov & Sennrich, 2019, arXiv 1908.11365. The authors' code gives
    l^(-1/2) to an initialiser that takes it for a variance: `exponent=-0.25`.
    """
    return ScaleWeights(LINEAR_ROLES, partial(power, of="layer", exponent=exponent), "xavier_uniform")


@INITS.register("mitchell")
def mitchell() -> ScaleWeights:
    """q, k, v, w1 drawn from N(0, 1/in), o and w2 from N(0, 1/(2 l in)), l the layer from 1; cut at three deviations.

    Source: the init called "mitchell" in OLMo's code (OLMo, Groeneveld et al., 2024, arXiv 2402.00838). It draws the
    embeddings by their width too, which is not part of it here.
    """
    return ScaleWeights(("o", "w2"), partial(power, of="layer", times=2.0, exponent=-0.5), "fan_in_normal")


@INITS.register("t_fixup")
def t_fixup() -> TFixup:
    """Xavier normal draws, v, o, w1, w2 times 0.67 L^(-1/4); embeddings N(0, 1/d) times (9L)^(-1/4), d their width.

    In a decoder with cross-attention the factor is (9L)^(-1/4). It stands in for norms and warm-up.

    Source: T-Fixup, Huang, Perez, Ba & Volkovs, ICML 2020. Every table of the embeddings is drawn so.
    """
    return TFixup()


@INITS.register("small_embeddings")
def small_embeddings(*, bound: Positive = 0.01) -> SmallTables:
    """Every table of the embeddings drawn from U(-bound, bound).

    Source: Nguyen & Salazar, "Transformers without Tears", 2019, arXiv 1910.05895 (0.01).
    """
    return SmallTables(bound)


@INITS.register("unit_vectors")
def unit_vectors() -> UnitDraws:
    """Every vector along the hidden axis drawn evenly from the unit sphere: N(0, 1/d) divided by its length.

    The rows of q, k, v, w1 and of each table of the embeddings, the columns of o and w2. An output layer that is not
    tied to the embeddings has the family's own draw, and so have embeddings that are no table, of images and sound.

    Source: nGPT, Loshchilov et al., 2024, arXiv 2410.01131.
    """
    return UnitDraws()


@INITS.register("zero_out_norm")
def zero_out_norm() -> ZeroNorms:
    """Norms in the slot `out` start at gain 0 and bias 0: every sublayer starts as the identity.

    Source: res-post-norm of Swin Transformer V2, Liu et al., 2021, arXiv 2111.09883.
    """
    return ZeroNorms(("out_norm",))
