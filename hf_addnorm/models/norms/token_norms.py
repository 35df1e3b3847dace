"""Norms over tokens, of which only the real ones count: instance norm, ContraNorm, sums.

Those that keep running statistics are in running_norms.
"""

from collections.abc import Callable
from typing import Annotated, Literal

import torch

from ..base.protocols import OptionValue
from ..base.registries import NORMS
from ..base.registry import Positive, number, whole
from ..base.token_mask import current
from .norm_base import Norm, centred, in_full_precision, slices, unit


def mask_of(x: torch.Tensor) -> torch.Tensor | None:
    """Which tokens of `x` [batch, seq, ..., hidden] are real, [batch, seq, ..., 1]; None if all are.

    Raises:
        ValueError: if `x` has no tokens, or it cannot be known which are real.
    """
    if x.dim() < 3:
        raise ValueError(
            f"a norm that takes statistics over tokens needs [batch, seq, ..., features] and was given "
            f"{list(x.shape)}: a head that pools its tokens cannot have one."
        )
    return current().on(x)


def real_tokens(x: torch.Tensor, keep_padding: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """`x` [batch, seq, ..., hidden] with 0 in the padded places, and which are not, [..., 1].

    Args:
        keep_padding (`bool`, *optional*, defaults to `False`): leave what the padded places hold, if it is finite.
    Raises:
        ValueError: as `mask_of`.
    """
    real = mask_of(x)
    if real is None:
        return x, torch.ones([*x.shape[:-1], 1], dtype=torch.bool, device=x.device)
    real = real.expand(*x.shape[:-1], 1)
    return torch.where(real | x.isfinite() if keep_padding else real, x, 0.0), real


def by_sequence(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """`function(x)`, of `x` [batch, seq, ..., features]; where tokens are packed, it sees a row for each sequence."""
    packed = current().packed
    return function(x) if packed is None else packed.from_rows(function(packed.to_rows(x)))


class TokenNorm(Norm):
    """Base of the norms whose statistics are taken over tokens: padding counts nowhere.

    Padded places are taken to hold 0 and then normalised like the rest: whatever they hold, infinities too, the output
    is finite there, and no gradient comes from them. A norm that counts them in its backward, as its authors' code
    does, keeps what they hold.
    """

    keeps_padding = False
    # whether the statistics are those of each sequence, not of the whole batch
    of_sequences = True

    @staticmethod
    def mixes_tokens(**options: OptionValue) -> bool:
        return True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.keeps_padding and current().packed is not None:
            raise ValueError(
                f"{type(self).__name__} with variant='official' counts padded places in training, of which packed "
                "tokens have none: train without set_packed, or with variant='paper'."
            )
        return by_sequence(self._run, x) if self.of_sequences else self._run(x)

    def _run(self, x: torch.Tensor) -> torch.Tensor:
        y, real = real_tokens(x.to(torch.promote_types(x.dtype, torch.float32)), self.keeps_padding)
        return self.transform(y, real).to(x.dtype)

    def transform(self, x: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        """The whole function, of `x` [batch, seq, ..., hidden], 0 where `real` [..., 1] is false."""
        return self.affine(self.normalize_tokens(x, real))

    def normalize_tokens(self, x: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        """The function without gain and bias, of the same."""
        raise NotImplementedError


@NORMS.register("instance_norm")
class InstanceNorm(TokenNorm):
    """InstanceNorm over the real tokens of each sequence: `(x - mean) / sqrt(var + eps) * gain + bias` per feature.

        x [batch, seq, hidden] -> - mean over tokens -> / sqrt(var + eps) -> * gain -> + bias -> [batch, seq, hidden]

    A sequence with a single real token has variance 0, so that its output is the bias; one without any is taken to
    have mean and variance 0.

    Source: Ulyanov et al., 2016, arXiv 1607.08022.

    Args:
        hidden_size (`int`): size of the last axis.
        gain, bias (`bool`, *optional*, default to `True`): learned, per feature.
        eps (`float`, *optional*, defaults to 1e-5): above 0, inside the root.
        variance (`str`, *optional*, defaults to `"biased"`): divide by n, or with "unbiased" by n - 1.
    Dtype: computed in float32 at least, returned in `x.dtype`. Init: gain = 1, bias = 0.
    """

    def __init__(
        self,
        hidden_size: int,
        *,
        gain: bool = True,
        bias: bool = True,
        eps: Positive = 1e-5,
        variance: Literal["biased", "unbiased"] = "biased",
    ):
        super().__init__(hidden_size, gain, bias)
        self.eps, self.correction = eps, int(variance == "unbiased")

    def normalize_tokens(self, x: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        count = real.sum(1, keepdim=True).to(x.dtype)
        y = centred(x, lambda z: torch.where(real, z, 0.0).sum(1, keepdim=True) / count.clamp(min=1.0))
        squares = torch.where(real, y, 0.0).square().sum(1, keepdim=True)
        return y / torch.sqrt(squares / (count - self.correction).clamp(min=1.0) + self.eps)

    def extra_repr(self) -> str:
        return f"{self.hidden_size}, eps={self.eps}, correction={self.correction}"


@NORMS.register("sequence_group_norm")
class SequenceGroupNorm(TokenNorm):
    """GroupNorm over a sequence: `(x - mean) / sqrt(var + eps) * gain + bias`, of all its real tokens and a group.

        x [batch, seq, hidden] -> groups -> - mean over tokens and group -> / sqrt(var + eps) -> * gain -> + bias

    With one feature in a group it is InstanceNorm, with one group the LayerNorm of a whole sequence. A sequence
    without a real token is taken to have mean and variance 0.

    Source: Wu & He, "Group Normalization", 2018, arXiv 1803.08494, a sequence's tokens in the place of an image's
    pixels.

    Args:
        hidden_size (`int`): size of the last axis.
        groups (`int` or `"heads"`, *optional*, defaults to `"heads"`): of contiguous features, equal in size; "heads"
            means the number of attention heads.
        gain, bias (`bool`, *optional*, default to `True`): learned, per feature.
        eps (`float`, *optional*, defaults to 1e-5): above 0, inside the root.
    Raises:
        ValueError: if `groups` does not divide `hidden_size`.
    Dtype: computed in float32 at least, returned in `x.dtype`. Init: gain = 1, bias = 0.
    """

    def __init__(
        self,
        hidden_size: int,
        *,
        groups: Annotated[int, whole(at_least=1)] | Literal["heads"] = "heads",
        gain: bool = True,
        bias: bool = True,
        eps: Positive = 1e-5,
    ):
        super().__init__(hidden_size, gain, bias)
        self.groups, self.eps = slices("sequence_group_norm", groups, hidden_size), eps

    def normalize_tokens(self, x: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        parts, real = x.unflatten(-1, (self.groups, -1)), real.unsqueeze(-1)
        count = (real.sum(1, keepdim=True) * parts.shape[-1]).to(x.dtype).clamp(min=1.0)
        y = centred(parts, lambda z: torch.where(real, z, 0.0).sum((1, -1), keepdim=True) / count)
        squares = torch.where(real, y, 0.0).square().sum((1, -1), keepdim=True)
        normalized: torch.Tensor = y / torch.sqrt(squares / count + self.eps)
        return normalized.flatten(-2)

    def extra_repr(self) -> str:
        return f"{self.hidden_size}, groups={self.groups}, eps={self.eps}"


def _without_mean(x: torch.Tensor) -> torch.Tensor:
    """Each token less its mean over the features."""
    return centred(x, lambda z: z.mean(-1, keepdim=True))


@NORMS.register("contra_norm")
class ContraNorm(TokenNorm):
    """ContraNorm, LayerNorm of `x - scale * A x` with A the softmax of the tokens' cosines: like tokens move apart.

        x [batch, seq, hidden] -+------------------> - -> LayerNorm -> * gain -> + bias -> [batch, seq, hidden]
                                +-> A -> * scale ----^

    `A = softmax(cos(x_i, x_j) / temperature)` over the real tokens j of the sequence: padding attracts no attention,
    unlike in the authors' code, which has no mask. With the scale 0 it is LayerNorm. It costs seq^2 * hidden,
    and is not for a causal model. Over features, like features move apart instead: `x A` with the softmax, over j, of
    the products of features i and j of the tokens' directions, summed over the real tokens; seq * hidden^2.

    Source: Guo et al., 2023, arXiv 2303.06562, the form with LayerNorm of their ViT code; over features, the second
    form of their BERT code.

    Args:
        hidden_size (`int`): size of the last axis.
        scale (`float`, *optional*, defaults to 0.1): the paper's s, which it tunes by task; at least 0.
        identity (`bool`, *optional*, defaults to `False`): `(1 + scale) * x - scale * A x` instead, as in the authors'
            BERT code, where LayerNorm stands beside it.
        temperature (`float`, *optional*, defaults to 1): above 0.
        over (`str`, *optional*, defaults to `"tokens"`): what moves apart, "tokens" or "features".
        gain, bias (`bool`, *optional*, default to `True`): LayerNorm's, learned, per feature.
        eps (`float`, *optional*, defaults to 1e-6): LayerNorm's, above 0, inside the root.
    Dtype: computed in float32 at least, also under autocast, returned in `x.dtype`. Init: gain = 1, bias = 0.
    """

    def __init__(
        self,
        hidden_size: int,
        *,
        scale: Annotated[float, number(at_least=0)] = 0.1,
        identity: bool = False,
        temperature: Positive = 1.0,
        over: Literal["tokens", "features"] = "tokens",
        gain: bool = True,
        bias: bool = True,
        eps: Positive = 1e-6,
    ):
        super().__init__(hidden_size, gain, bias)
        self.scale, self.identity, self.temperature, self.over, self.eps = scale, identity, temperature, over, eps

    def mix_tokens(self, tokens: torch.Tensor, directions: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        """A x without its mean over the features, of [..., tokens, features]."""
        cosines = directions @ directions.transpose(-1, -2)
        # not -inf: a sequence may have no real token
        scores = (cosines / self.temperature).masked_fill(~real.transpose(-1, -2), torch.finfo(tokens.dtype).min)
        # that of a token without its mean, which is then not what a rounded sum is of
        return torch.softmax(scores, dim=-1) @ _without_mean(tokens)

    def mix_features(self, tokens: torch.Tensor, directions: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        """x A, of the same; the direction of a padded token is 0."""
        products = directions.transpose(-1, -2) @ directions
        shares = torch.softmax(products / self.temperature, dim=-1)
        # what the mean becomes beyond itself
        gained = tokens.mean(-1, keepdim=True) * (shares.sum(-2, keepdim=True) - 1)
        return _without_mean(tokens) @ shares + gained

    def normalize_tokens(self, x: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        # where a token has heads, the tokens of each head meet each other
        tokens = x.transpose(1, -2)
        mix = self.mix_tokens if self.over == "tokens" else self.mix_features
        with in_full_precision(x):
            mixed = mix(tokens, unit(tokens, 1e-12), real.transpose(1, -2)).transpose(1, -2)
        # LayerNorm sees no mean of x
        y = _without_mean((1 + self.scale if self.identity else 1) * _without_mean(x) - self.scale * mixed)
        return y / torch.sqrt(y.square().mean(-1, keepdim=True) + self.eps)

    def extra_repr(self) -> str:
        return f"{self.hidden_size}, scale={self.scale}, identity={self.identity}, over={self.over}, eps={self.eps}"


@NORMS.register("sum_norm")
class SumNorm(Norm):
    """Division by a sum: `x / floor(sum(x)) * gain + bias`, over the features of a token or the tokens of a sequence.

        x [batch, seq, hidden] -+-> sum of x or |x| -> floor --v
                                +----------------------------> / -> * gain (-> + bias) -> [batch, seq, hidden]

    `floor(s)` is s where `|s| > eps`, else eps with the sign of s, and eps for s = 0: the denominator keeps its sign
    and is never smaller than eps. Where the floor holds, the denominator is a constant to the gradient, which so is at
    most 1/eps there, also at 0. Where it does not, the signed outputs sum to 1, and the others' sizes do.

    A signed sum passes through 0: that of a LayerNorm's outputs over the features is nothing but rounding. There the
    floor alone says how large the output is.

    No paper: a norm of this package, division by the sum as for probabilities.

    Args:
        hidden_size (`int`): size of the last axis.
        over (`str`, *optional*, defaults to `"features"`): sum over a token's "features", or feature by feature over
            the real "tokens" of its sequence, which a causal model refuses.
        signed (`bool`, *optional*, defaults to `True`): the sum of the values; else that of their sizes, `|x|`.
        eps (`float`, *optional*, defaults to 1e-2): the floor, above 0.
        gain (`bool`, *optional*, defaults to `True`): a learned gain per feature.
        bias (`bool`, *optional*, defaults to `False`): a learned bias per feature.
    Dtype: computed in float32 at least, returned in `x.dtype`. Init: gain = 1, bias = 0.
    """

    def __init__(
        self,
        hidden_size: int,
        *,
        over: Literal["features", "tokens"] = "features",
        signed: bool = True,
        eps: Positive = 1e-2,
        gain: bool = True,
        bias: bool = False,
    ):
        super().__init__(hidden_size, gain, bias)
        self.over, self.signed, self.eps = over, signed, eps

    @staticmethod
    def mixes_tokens(**options: OptionValue) -> bool:
        return bool(options["over"] == "tokens")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return by_sequence(super().forward, x) if self.over == "tokens" else super().forward(x)

    def normalize(self, x: torch.Tensor) -> torch.Tensor:
        axis = -1
        if self.over == "tokens":
            x, _ = real_tokens(x)
            axis = 1
        total = (x if self.signed else x.abs()).sum(axis, keepdim=True)
        floor = torch.full_like(total, self.eps)
        floor = torch.where(total < 0, -floor, floor)
        return x / torch.where(total.abs() > self.eps, total, floor)

    def extra_repr(self) -> str:
        return f"{self.hidden_size}, over={self.over}, signed={self.signed}, eps={self.eps}"
