"""Dynamic token normalisation: statistics between those of a token and those of its neighbourhood."""

import math
from typing import Annotated, Literal

import torch
from torch import nn
from transformers import initialization as init

from ..base.registries import NORMS
from ..base.registry import Positive, whole
from ..base.token_mask import current
from .norm_base import in_full_precision, slices
from .token_norms import TokenNorm


def offsets(rows: int, columns: int, like: torch.Tensor) -> torch.Tensor:
    """`[rows * columns, rows * columns, 3]`: squared distance, shift in y and in x from the token j to the token i."""
    y = torch.arange(rows, device=like.device).repeat_interleave(columns)
    x = torch.arange(columns, device=like.device).repeat(rows)
    dy, dx = y[:, None] - y, x[:, None] - x
    return torch.stack([dy.square() + dx.square(), dy, dx], -1).to(like.dtype)


def over_real(x: torch.Tensor, real: torch.Tensor, axes: tuple[int, ...]) -> torch.Tensor:
    """The mean of `x` over some axes, where `real` is true, kept as axes of size 1; 0 where it is nowhere."""
    real = real.expand_as(x)
    return torch.where(real, x, 0.0).sum(axes, keepdim=True) / real.sum(axes, keepdim=True).clamp(min=1)


@NORMS.register("dynamic_token_norm")
class DynamicTokenNorm(TokenNorm):
    """DTN, mean and variance between LayerNorm's and those of the tokens around: `(x - mean) / sqrt(var + eps)`.

        x [batch, seq, hidden] -+-> mean, var of the token ----> * s_h --------+-> + -> mean, var
                                +-> mean, var of P_h over tokens -> * (1 - s_h) -^
        x -> - mean -> / sqrt(var + eps) -> * gain -> + bias -> [batch, seq, hidden]

    A head h is a slice of the features. `P_h = softmax over j of a_h . (d_ij^2, dy_ij, dx_ij)`, of the shifts between
    the tokens i and j: the mean of feature c at token i is `sum_j P_ij x_jc`, its variance `sum_j P_ij x_jc^2` less
    the mean's square. `s_h` is the sigmoid of a learned number: with 1 this is LayerNorm; with 0, and P the same for
    all tokens, InstanceNorm. Of an image, the tokens are its grid of patches; a token before or behind them has no
    place there, and its own statistics alone. It costs 2 seq^2 * hidden, and is not for a causal model.

    A sequence is taken as a grid of one row, of whose tokens the real ones count: the paper's form for text was not
    found, so that is ours.

    Source: DTN, Shao et al., 2022, arXiv 2112.02624; start values and the shifts' signs as in the authors' code. With
    `variant="official"` the rest of it too: features are divided by the root mean square of their head first, mean
    and variance have an s of their own, LayerNorm's variance divides by n - 1. What is left out is a bias of P's
    scores, which softmax cannot see, and the pooling of large grids.

    Args:
        hidden_size (`int`): size of the last axis.
        groups (`int` or `"heads"`, *optional*, defaults to `"heads"`): the number of slices of the features; "heads"
            means the number of attention heads.
        variant (`str`, *optional*, defaults to `"paper"`): "paper" or "official".
        gain, bias (`bool`, *optional*, default to `True`): learned, per feature.
        eps (`float`, *optional*, defaults to 1e-5): above 0, inside the root.
    Raises:
        ValueError: if `groups` does not divide `hidden_size`.
    Parameters: position_weights (a) [groups, 3]; own_share [groups], for "official" [2 * groups], the mean's first. A
    vector, as weight decay would draw the shares to 1/2; the authors' code decays a alone.
    Dtype: computed in float32 at least, also under autocast, returned in `x.dtype`; these two stay in float32.
    Init: gain = 1, bias = 0, own_share = 0, so that s = 1/2; the first k^2 heads, k the root of their number rounded
    down, look at the tokens of a k x k neighbourhood, one each, a = (-1, 2 y, 2 x); a of the others N(0, 0.02^2).
    """

    keep_in_float32 = ("position_weights", "own_share")

    def __init__(
        self,
        hidden_size: int,
        *,
        groups: Annotated[int, whole(at_least=1)] | Literal["heads"] = "heads",
        variant: Literal["paper", "official"] = "paper",
        gain: bool = True,
        bias: bool = True,
        eps: Positive = 1e-5,
    ):
        super().__init__(hidden_size, gain, bias)
        self.groups, self.eps = slices("dynamic_token_norm", groups, hidden_size), eps
        self.is_official = variant == "official"
        self.position_weights = nn.Parameter(torch.empty(self.groups, 3))
        self.own_share = nn.Parameter(torch.empty(2 * self.groups if self.is_official else self.groups))

    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.zeros_(self.own_share)
        side = math.isqrt(self.groups)
        center = (side - 1) / 2
        start = torch.randn(self.groups, 3) * 0.02
        for head in range(side**2):
            y, x = head % side - center, head // side - center
            start[head] = torch.tensor([-1.0, 2 * y, 2 * x])
        init.copy_(self.position_weights, start)

    def normalize_tokens(self, x: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        if self.is_official:
            heads = x.unflatten(-1, (self.groups, -1))
            x = (heads / torch.sqrt(heads.square().mean(-1, keepdim=True) + self.eps)).flatten(-2)
        # nothing here sees a shift of the whole sequence; without it a large mean is not rounded
        x = x - over_real(x.detach(), real, (1, -1))
        # [batch, ..., groups, tokens, features of a head], of a token's own statistics [batch, ..., 1, tokens, 1]
        heads = x.unflatten(-1, (self.groups, -1)).movedim(1, -2)
        own = torch.var_mean(x, -1, correction=int(self.is_official), keepdim=True)
        own_variance, own_mean = (statistic.unsqueeze(-1).movedim(1, -2) for statistic in own)
        with in_full_precision(x):
            mean, variance = self._around(heads, real if current().on(x) is not None else None)
        behind = current().behind
        places = [heads.shape[-2] - mean.shape[-2] - behind, mean.shape[-2], behind]
        share = torch.sigmoid(self.own_share.to(x.dtype)).view(-1, self.groups, 1, 1)

        def mixed(own: torch.Tensor, around: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
            before, patches, after = own.split(places, -2)
            patches = share * patches + (1 - share) * around
            outside = (part.expand(*patches.shape[:-2], -1, patches.shape[-1]) for part in (before, after))
            before, after = outside
            return torch.cat([before, patches, after], -2)

        mean, variance = mixed(own_mean, mean, share[0]), mixed(own_variance, variance, share[-1])
        normalized: torch.Tensor = (heads - mean) / torch.sqrt(variance + self.eps)
        return normalized.movedim(-2, 1).flatten(-2)

    def _around(self, heads: torch.Tensor, real: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and variance [..., groups, patches, features] of what is around each of the patches of `heads`.

        Args:
            heads (`torch.Tensor`): [batch, ..., groups, tokens, features].
            real (`torch.Tensor`, *optional*): [batch, tokens, ..., 1]; None if all are.
        """
        rows, columns = current().grid_of(heads.shape[-2])
        first = heads.shape[-2] - current().behind - rows * columns
        patches = heads[..., first : first + rows * columns, :]
        counts = torch.ones_like(patches[..., :1], dtype=torch.bool)
        shifts = offsets(rows, columns, heads)
        scores = torch.einsum("ijk,hk->hij", shifts, self.position_weights.to(heads.dtype))
        if real is not None:
            real = real[:, first : first + rows * columns].movedim(1, -1).unsqueeze(-2)
            counts = real.transpose(-1, -2)
            # not -inf: a sequence may have no real token
            scores = scores.masked_fill(~real, torch.finfo(heads.dtype).min)
        weights = torch.softmax(scores, -1)
        # variances do not see the shift of a feature, and are exact where its mean is large
        shift = over_real(patches.detach(), counts, (-2,))
        patches = patches - shift
        mean = weights @ patches
        return mean + shift, (weights @ patches.square() - mean.square()).clamp(min=0.0)

    def extra_repr(self) -> str:
        return f"{self.hidden_size}, groups={self.groups}, is_official={self.is_official}, eps={self.eps}"
