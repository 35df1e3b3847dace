"""Norms that divide a token by a measure of its length, its mean left in: RMSNorm and what is made of it."""

from typing import Annotated, Literal

import torch
from torch import nn

from ..base.protocols import OptionValue
from ..base.registries import NORMS
from ..base.registry import Fraction, Positive, whole
from .fused import can_fuse, root_scaled
from .norm_base import Norm, in_full_precision, no_gain_to_center, root, set_gain, slices, unit
from .pointwise_norms import LearnedScale


@NORMS.register("rms_norm")
class RMSNorm(Norm):
    """RMSNorm: `x / sqrt(mean(x^2) + eps) * gain`, no mean taken out.

        x [..., hidden] -> / sqrt(mean(x^2) + eps) -> * gain (-> + bias) -> [..., hidden]

    Source: Zhang & Sennrich, "Root Mean Square Layer Normalization", 2019, arXiv 1910.07467. The paper's code adds
    1e-8 outside the root (`eps=1e-8, eps_place="outside"`); T5, LLaMA and their successors add 1e-6 inside, the
    default here. Zero-centred gain: Gemma 2 (2024, arXiv 2408.00118).

    Args:
        hidden_size (`int`): size of the last axis.
        gain (`bool`, *optional*, defaults to `True`): a learned gain per feature.
        bias (`bool`, *optional*, defaults to `False`): a learned bias per feature.
        zero_centered (`bool`, *optional*, defaults to `False`): the gain is `1 + zero_centered_weight`.
        eps (`float`, *optional*, defaults to 1e-6): above 0.
        eps_place (`str`, *optional*, defaults to `"inside"`): add eps inside the root, or "outside" of it.
    Dtype: computed in float32 at least, gain included, returned in `x.dtype`.
    Init: gain = 1 (zero_centered_weight = 0), bias = 0.
    """

    def __init__(
        self,
        hidden_size: int,
        *,
        gain: bool = True,
        bias: bool = False,
        zero_centered: bool = False,
        eps: Positive = 1e-6,
        eps_place: Literal["inside", "outside"] = "inside",
    ):
        super().__init__(hidden_size, gain, bias, zero_centered)
        self.eps, self.eps_place = eps, eps_place

    # which options exclude each other
    contradiction = staticmethod(no_gain_to_center)

    def mean_square(self, x: torch.Tensor) -> torch.Tensor:
        """What the root is taken of, [..., 1]."""
        return x.square().mean(-1, keepdim=True)

    def normalize(self, x: torch.Tensor) -> torch.Tensor:
        if self.eps_place == "inside":
            # as T5 computes it, to the last bit
            return x * torch.rsqrt(self.mean_square(x) + self.eps)
        return x / root(self.mean_square(x), self.eps, self.eps_place)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x.to(torch.promote_types(x.dtype, torch.float32))
        if not (self.fuses and self.is_plain) or not can_fuse(y, self.weight, self.zero_centered_weight, self.bias):
            return super().forward(x)
        bias = None if self.bias is None else self.bias.to(y.dtype)
        return root_scaled(y, self.gain_as(y), bias, self.eps).to(x.dtype)

    @property
    def is_plain(self) -> bool:
        """Whether it is `x / sqrt(mean(x^2) + eps) * gain + bias`, and no class derived from it says otherwise."""
        same = (
            getattr(type(self), name) is getattr(RMSNorm, name)
            for name in ("mean_square", "normalize", "times_gain", "plus_bias", "affine")
        )
        return self.eps_place == "inside" and all(same)

    def extra_repr(self) -> str:
        return f"{self.hidden_size}, eps={self.eps}, eps_place={self.eps_place}"


@NORMS.register("crms_norm")
class CompressedRMSNorm(RMSNorm):
    """CRMSNorm, LayerNorm of a token whose features sum to 0 and of which the last one is not stored.

        x [..., hidden] -> / sqrt((sum(x^2) + sum(x)^2) / (hidden + 1) + eps) -> [..., hidden]

    The feature left out is `-sum(x)`. LayerNorm of the `hidden + 1` features, without gain and bias, has these
    outputs, the last one not stored either: a gain or a bias would end that, and there is none.

    Source: Jiang, Gu, Zhu & Pan, "Pre-RMSNorm and Pre-CRMSNorm Transformers", 2023, arXiv 2305.14858, with the eps of
    the authors' code.

    Args:
        hidden_size (`int`): size of the last axis: the features that are stored.
        eps (`float`, *optional*, defaults to 1e-5): above 0, inside the root.
    Dtype: computed in float32 at least, returned in `x.dtype`. No parameters.
    """

    def __init__(self, hidden_size: int, *, eps: Positive = 1e-5):
        super().__init__(hidden_size, gain=False, eps=eps)

    def mean_square(self, x: torch.Tensor) -> torch.Tensor:
        total = x.square().sum(-1, keepdim=True) + x.sum(-1, keepdim=True).square()
        return total / (self.hidden_size + 1)


@NORMS.register("prms_norm")
class PartialRMSNorm(RMSNorm):
    """pRMSNorm, whose mean square is that of the first features alone: `x / (sqrt(mean(x[:k]^2)) + eps) * gain`.

        x [..., hidden] -> / (sqrt(mean(x[:k]^2)) + eps) -> * gain (-> + bias) -> [..., hidden]

    k is `fraction * hidden_size` rounded down, and at least 1. The fraction 1 is RMSNorm.

    Source: Zhang & Sennrich, "Root Mean Square Layer Normalization", 2019, arXiv 1910.07467; rounded as in the
    authors' code.

    Args:
        hidden_size (`int`): size of the last axis.
        fraction (`float`, *optional*, defaults to 0.0625): the paper's p; above 0, at most 1.
        gain (`bool`, *optional*, defaults to `True`): a learned gain per feature.
        bias (`bool`, *optional*, defaults to `False`): a learned bias per feature.
        zero_centered (`bool`, *optional*, defaults to `False`): the gain is `1 + zero_centered_weight`.
        eps (`float`, *optional*, defaults to 1e-8): above 0.
        eps_place (`str`, *optional*, defaults to `"outside"`): add eps outside of the root, or "inside" it.
    Dtype: computed in float32 at least, gain included, returned in `x.dtype`.
    Init: gain = 1 (zero_centered_weight = 0), bias = 0.
    """

    def __init__(
        self,
        hidden_size: int,
        *,
        fraction: Fraction = 0.0625,
        gain: bool = True,
        bias: bool = False,
        zero_centered: bool = False,
        eps: Positive = 1e-8,
        eps_place: Literal["inside", "outside"] = "outside",
    ):
        super().__init__(hidden_size, gain=gain, bias=bias, zero_centered=zero_centered, eps=eps, eps_place=eps_place)
        # 0.29 of 100 is 29, whatever floating point makes of it
        self.measured = max(1, int(round(fraction * hidden_size, 9)))

    def mean_square(self, x: torch.Tensor) -> torch.Tensor:
        return super().mean_square(x[..., : self.measured])

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, measured={self.measured}"


@NORMS.register("grouped_rms_norm")
class GroupedRMSNorm(RMSNorm):
    """RMSNorm inside groups of features: each contiguous, equal slice of a token is divided by its own size.

        x [..., hidden] -> groups -> each / sqrt(mean(^2) + eps) -> side by side -> * gain -> [..., hidden]

    In the slot `mid` of attention, with one group for each head, it is the norm of the heads' outputs of RetNet
    (`gain=False`) and of the Diff Transformer (`shared=True, eps=1e-5`).

    Source: Qwen4-Exp (its streams) and MuseSpark (its heads), as they are in Transformers 5.23; RetNet, Sun et al.,
    2023, arXiv 2307.08621; Diff Transformer, Ye et al., 2024, arXiv 2410.05258, both as in the authors' code.

    Args:
        hidden_size (`int`): size of the last axis.
        groups (`int` or `"heads"`, *optional*, defaults to `"heads"`): how many; "heads" means the number of attention
            heads.
        gain (`bool`, *optional*, defaults to `True`): a learned gain per feature.
        shared (`bool`, *optional*, defaults to `False`): one gain, of the size of a group, for all groups.
        zero_centered (`bool`, *optional*, defaults to `False`): the gain is `1 + zero_centered_weight`.
        eps (`float`, *optional*, defaults to 1e-6): above 0, inside the root.
    Raises:
        ValueError: if `groups` does not divide `hidden_size`.
    Dtype: computed in float32 at least, gain included, returned in `x.dtype`.
    Init: gain = 1 (zero_centered_weight = 0).
    """

    def __init__(
        self,
        hidden_size: int,
        *,
        groups: Annotated[int, whole(at_least=1)] | Literal["heads"] = "heads",
        gain: bool = True,
        shared: bool = False,
        zero_centered: bool = False,
        eps: Positive = 1e-6,
    ):
        self.groups, self.shared = slices("grouped_rms_norm", groups, hidden_size), shared
        size = hidden_size // self.groups
        super().__init__(size if shared else hidden_size, gain=gain, zero_centered=zero_centered, eps=eps)

    @staticmethod
    def contradiction(
        gain: bool = True, zero_centered: bool = False, shared: bool = False, **_: OptionValue
    ) -> str | None:
        """The sentence that refuses options of a gain where there is none."""
        if shared > gain:
            return "shared is true but gain is false: there is no gain to share."
        return no_gain_to_center(gain, zero_centered)

    def normalize(self, x: torch.Tensor) -> torch.Tensor:
        return super().normalize(x.unflatten(-1, (self.groups, -1)))

    def affine(self, y: torch.Tensor) -> torch.Tensor:
        return super().affine(y).flatten(-2) if self.shared else super().affine(y.flatten(-2))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, groups={self.groups}, shared={self.shared}"


@NORMS.register("scale_norm")
class ScaleNorm(Norm):
    """ScaleNorm: `g * x / max(length, eps)`, the length of the token as a vector, g one learned scalar.

        x [..., hidden] -> / max(length, eps) -> * g -> [..., hidden]

    Source: Nguyen & Salazar, "Transformers without Tears", 2019, arXiv 1910.05895. Their models are pre-norm, with
    FixNorm on the embeddings.

    Args:
        hidden_size (`int`): size of the last axis.
        start (`float`, *optional*): start value of g; by default sqrt(hidden_size), at which it is RMSNorm.
        eps (`float`, *optional*, defaults to 1e-5): the least length that is divided by; above 0.
    Dtype: computed in float32 at least, returned in `x.dtype`.
    Init: g = start; it is `scalar_weight`, so that a checkpoint's gain per feature is never read as one number.
    """

    def __init__(self, hidden_size: int, *, start: Positive | None = None, eps: Positive = 1e-5):
        super().__init__(hidden_size, gain=False, bias=False)
        self.scalar_weight = nn.Parameter(torch.empty(1))
        self.start, self.eps = hidden_size**0.5 if start is None else start, eps

    def reset_parameters(self) -> None:
        set_gain(self, self.start)

    def normalize(self, x: torch.Tensor) -> torch.Tensor:
        length = root(x.square().sum(-1, keepdim=True), 0.0, "outside")
        return self.scalar_weight * x / length.clamp(min=self.eps)

    def extra_repr(self) -> str:
        return f"{self.hidden_size}, start={self.start:.6g}, eps={self.eps}"


@NORMS.register("l2_norm")
class L2Norm(Norm):
    """The token as a unit vector: `x / max(length, eps)`, and 0 for a token of exactly 0.

        x [..., hidden] -> / max(length, eps) (-> * gain) -> [..., hidden]

    A token of exactly 0 has no direction: it stays 0 and gets no gradient. Between 0 and eps the output grows from 0
    to a unit vector, so that no gradient is larger than 1/eps.

    Source: the norm of nGPT, Loshchilov et al., 2024, arXiv 2410.01131, whose code has no eps and gives NaN for 0.

    Args:
        hidden_size (`int`): size of the last axis.
        gain (`bool`, *optional*, defaults to `False`): a learned gain per feature.
        eps (`float`, *optional*, defaults to 1e-12): the least length that is divided by; above 0.
    Dtype: computed in float32 at least, returned in `x.dtype`. Init: gain = 1.
    """

    def __init__(self, hidden_size: int, *, gain: bool = False, eps: Positive = 1e-12):
        super().__init__(hidden_size, gain, bias=False)
        self.eps = eps

    def normalize(self, x: torch.Tensor) -> torch.Tensor:
        return unit(x, self.eps)

    def extra_repr(self) -> str:
        return f"{self.hidden_size}, eps={self.eps}"


@NORMS.register("scaled_l2_norm")
class ScaledL2Norm(LearnedScale):
    """Unit vectors with a gain and the root of their size: `sqrt(n) * weight / stored * x / length`.

        x [..., hidden] -> groups of n -> / max(length, eps) -> * sqrt(n) * weight / stored -> [..., hidden]

    The size and the gain are those of one vector's features, n of them; the gain has an entry for every feature of all
    vectors. With one vector for each head, in the slot `qk` and over the hidden size, the scores
    `q k^T / sqrt(n)` of a stock attention are nGPT's: cosines, with a gain, times sqrt(n).

    Source: the norm of queries and keys of nGPT, Loshchilov et al., 2024, arXiv 2410.01131.

    Args:
        hidden_size (`int`): size of the last axis.
        groups (`int` or `"heads"`, *optional*, defaults to 1): so many contiguous, equal slices, each one a vector;
            "heads" means the number of attention heads.
        stored (`float` or `"rsqrt_width"`, *optional*, defaults to `"rsqrt_width"`): start value of the parameter.
        model_width (`int`, *optional*): what "rsqrt_width" is one over the root of; by default the model's hidden
            size.
        eps (`float`, *optional*, defaults to 1e-12): the least length that is divided by; above 0.
    Raises:
        ValueError: if `groups` does not divide `hidden_size`.
    Dtype: computed in float32 at least, returned in `x.dtype`. Init: weight = stored.
    """

    def __init__(
        self,
        hidden_size: int,
        *,
        groups: Annotated[int, whole(at_least=1)] | Literal["heads"] = 1,
        stored: Positive | Literal["rsqrt_width"] = "rsqrt_width",
        model_width: Annotated[int, whole(at_least=1)] | None = None,
        eps: Positive = 1e-12,
    ):
        count = slices("scaled_l2_norm", groups, hidden_size)
        super().__init__(hidden_size, factor=(hidden_size // count) ** 0.5, stored=stored, model_width=model_width)
        self.groups, self.eps = count, eps

    def normalize(self, x: torch.Tensor) -> torch.Tensor:
        return super().normalize(unit(x.unflatten(-1, (self.groups, -1)), self.eps).flatten(-2))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, groups={self.groups}, eps={self.eps}"


@NORMS.register("see_dnorm")
class SeeDNorm(RMSNorm):
    """SeeDNorm, RMSNorm with a gain that depends on the token: `(tanh(x . direction) * alpha + gain) * RMSNorm(x)`.

        x [..., hidden] -+-> / sqrt(mean(x^2) + eps) -------------> * -> [..., hidden]
                         +-> . direction -> tanh -> * alpha -> + gain -^

    The product `x . direction` is one number for a token; direction, alpha and gain have an entry per feature. The
    form with one such number for each head is not offered.

    Source: Cai et al., "SeeDNorm: Self-Rescaled Dynamic Normalization", 2025, arXiv 2510.22777: the formula is the
    paper's, the start values are not confirmed. As they are here, it starts as RMSNorm; alpha gets a gradient once
    direction has left 0.

    Args:
        hidden_size (`int`): size of the last axis.
        eps (`float`, *optional*, defaults to 1e-6): above 0, inside the root.
    Dtype: computed in float32 at least, returned in `x.dtype`.
    Init: gain = 1, direction (the paper's beta) = 0, alpha = 1.
    """

    def __init__(self, hidden_size: int, *, eps: Positive = 1e-6):
        super().__init__(hidden_size, eps=eps)
        self.direction = nn.Parameter(torch.empty(hidden_size))
        self.alpha = nn.Parameter(torch.empty(hidden_size))

    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.zeros_(self.direction)
        nn.init.ones_(self.alpha)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        y = self.normalize(wide)
        token = torch.tanh((wide * self.direction).sum(-1, keepdim=True))
        return (self.affine(y) + token * self.alpha * y).to(x.dtype)


@NORMS.register("gated_rms_norm")
class GatedRMSNorm(RMSNorm):
    """RMSNorm with a low-rank gate of its own output: `y * sigmoid(U silu(D y))` with `y = RMSNorm(x)`.

        x [..., hidden] -> RMSNorm -> y -+-----------------------------> * -> [..., hidden]
                                         +-> D -> silu -> U -> sigmoid --^

    D is `gate_down` [rank, hidden] and U `gate_up` [hidden, rank], without biases. Nothing but their shape tells a
    trainer that these are matrices: see CONTRIBUTING.md on weight decay.

    Source: A.X-K2, SK Telecom, 2026, as it is in Transformers 5.23 (models/axk2).

    Args:
        hidden_size (`int`): size of the last axis.
        rank (`int`, *optional*, defaults to 16): the width of the gate's inside.
        eps (`float`, *optional*, defaults to 1e-6): above 0, inside the root.
    Dtype: computed in float32 at least, the gate included, returned in `x.dtype`; the matrices stay in float32.
    Init: gain = 1; the matrices are drawn from a normal distribution with standard deviation 0.02.
    """

    keep_in_float32 = (r"gate_(down|up)",)

    def __init__(self, hidden_size: int, *, rank: Annotated[int, whole(at_least=1)] = 16, eps: Positive = 1e-6):
        super().__init__(hidden_size, eps=eps)
        self.rank = rank
        self.gate_down = nn.Parameter(torch.empty(rank, hidden_size))
        self.gate_up = nn.Parameter(torch.empty(hidden_size, rank))

    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.normal_(self.gate_down, std=0.02)
        nn.init.normal_(self.gate_up, std=0.02)

    def affine(self, y: torch.Tensor) -> torch.Tensor:
        y = super().affine(y)
        with in_full_precision(y):
            inner = nn.functional.silu(y @ self.gate_down.to(y.dtype).T)
            return y * torch.sigmoid(inner @ self.gate_up.to(y.dtype).T)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, rank={self.rank}"


@NORMS.register("input_scaled_rms_norm")
class InputScaledRMSNorm(RMSNorm):
    """RMSNorm of the scaled token, whose gain so stands before the statistic: `RMSNorm((1 + w) * x)`.

        x [..., hidden] -> * (1 + w) -> / sqrt(mean(^2) + eps) -> [..., hidden]

    The output has the size of a normalised token whatever the gain is, which weighs features against each other only.

    Source: MuseSpark, as it is in Transformers 5.23 (models/muse_spark), behind its feed-forwards, with eps 1e-8.

    Args:
        hidden_size (`int`): size of the last axis.
        eps (`float`, *optional*, defaults to 1e-6): above 0, inside the root.
    Dtype: computed in float32 at least, gain included, returned in `x.dtype`. Init: w (zero_centered_weight) = 0.
    """

    def __init__(self, hidden_size: int, *, eps: Positive = 1e-6):
        super().__init__(hidden_size, zero_centered=True, eps=eps)

    def normalize(self, x: torch.Tensor) -> torch.Tensor:
        return super().normalize(self.times_gain(x))

    def affine(self, y: torch.Tensor) -> torch.Tensor:
        return y


@NORMS.register("bhyt_star")
class BoundedTanhNorm(RMSNorm):
    """BHyT*, a tanh of the normalised token: `tanh(alpha * RMSNorm(x) / kappa) * gain`, bounded whatever x is.

        x [..., hidden] -> / sqrt(mean(x^2) + eps) -> * alpha / kappa -> tanh -> * gain -> [..., hidden]

    A feature is bent by how large it is beside the others of its token, not by its own size as in DyT.

    Source: Byun et al., 2026, arXiv 2601.09719, the form of one place, with the constants of the authors' code; their
    BHyT, which is not offered, measures a token once for two places. In that code alpha (their lambda) is meant to be
    a constant unless asked for, but is a parameter of the model all the same.

    Args:
        hidden_size (`int`): size of the last axis.
        alpha_init (`float`, *optional*, defaults to 2): the scalar `alpha`, or its start value; above 0.
        learned (`bool`, *optional*, defaults to `False`): alpha is learned.
        kappa (`float`, *optional*, defaults to 10): above 0.
        eps (`float`, *optional*, defaults to 1e-6): above 0, inside the root.
    Dtype: computed in float32 at least, gain included, returned in `x.dtype`.
    Init: gain = 1, alpha = alpha_init if it is learned.
    """

    def __init__(
        self,
        hidden_size: int,
        *,
        alpha_init: Positive = 2.0,
        learned: bool = False,
        kappa: Positive = 10.0,
        eps: Positive = 1e-6,
    ):
        super().__init__(hidden_size, eps=eps)
        self.alpha_init, self.kappa = alpha_init, kappa
        self.alpha = nn.Parameter(torch.empty(1)) if learned else None

    def reset_parameters(self) -> None:
        super().reset_parameters()
        if self.alpha is not None:
            nn.init.constant_(self.alpha, self.alpha_init)

    def normalize(self, x: torch.Tensor) -> torch.Tensor:
        alpha = self.alpha_init if self.alpha is None else self.alpha
        # in this order: alpha may be of half precision
        return torch.tanh(alpha * super().normalize(x) / self.kappa)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, alpha_init={self.alpha_init}, kappa={self.kappa}"
