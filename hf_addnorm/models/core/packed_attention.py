"""The attention implementation "packed": each sequence of a packed batch attends to itself alone.

It is registered with Transformers, as `sdpa` is, and holds for every family whose attention asks there. The model's
entry says where the sequences are, in the argument `packed`; without it, this is `sdpa`.
"""

from collections.abc import Callable
from typing import cast

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface

from ..base.packed_tokens import PackedTokens
from ..base.protocols import StockValue
from .byte_dropout import byte_dropout


# kernels of GPUs for sequences of several lengths: of a package, and of torch from 2.10 on
try:
    from flash_attn import flash_attn_varlen_func  # type: ignore[import-not-found]
except ImportError:
    flash_attn_varlen_func = None
try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:
    varlen_attn = None  # type: ignore[assignment]

# the name of the implementation
PACKED = "packed"

_sdpa = AttentionInterface()["sdpa"]


def packed_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    packed: PackedTokens | None = None,
    **kwargs: StockValue,
) -> tuple[torch.Tensor, None]:
    """Attention within each sequence, of [1, heads, total, features] each; [1, total, heads, features] comes out.

    Args:
        module (`torch.nn.Module`): the stock attention, which says whether it is causal.
        attention_mask (`torch.Tensor`, *optional*): heeded only where tokens are not packed.
        packed (`PackedTokens`, *optional*): where the sequences are; None where tokens are not packed.
        kwargs: those of Transformers: scaling, dropout, is_causal, sliding_window.
    """
    if packed is None:
        return cast(tuple[torch.Tensor, None], _sdpa(module, query, key, value, attention_mask, **kwargs))
    is_causal, dropout = kwargs.get("is_causal"), kwargs.get("dropout", 0.0)
    call = _Call(
        bool(getattr(module, "is_causal", False) if is_causal is None else is_causal),
        dropout,
        kwargs.get("scaling") or query.shape[-1] ** -0.5,
        kwargs.get("sliding_window"),
        getattr(module, "fused_add_norm", False),
    )
    # [total, heads, features]
    q, k, v = (x.squeeze(0).transpose(0, 1) for x in (query, key, value))
    has_kernel = query.is_cuda and query.dtype in (torch.float16, torch.bfloat16) and packed.is_gapless
    if has_kernel and flash_attn_varlen_func is not None:
        return call.by_flash_attention(q, k, v, packed).unsqueeze(0), None
    if has_kernel and varlen_attn is not None and dropout == 0:
        return call.by_varlen_attention(q, k, v, packed).unsqueeze(0), None
    return call.by_groups(q, k, v, packed).unsqueeze(0), None


class _Call:
    """One call of attention: what is the same for all sequences.

    Args:
        is_causal (`bool`): whether a token does not see later ones.
        dropout (`float`): of the weights.
        scaling (`float`): of the scores.
        window (`int`, *optional*): a token sees those that are nearer than so many places.
        draws_bytes (`bool`): whether the dropout's mask on a CPU is made of random bytes.
    """

    def __init__(
        self, is_causal: bool, dropout: float, scaling: float, window: int | None = None, draws_bytes: bool = False
    ):
        self.is_causal, self.dropout, self.scaling, self.window = is_causal, dropout, scaling, window
        self.drop = byte_dropout if draws_bytes else nn.functional.dropout

    def by_groups(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, packed: PackedTokens
    ) -> torch.Tensor:
        """The sequences of one length at a time, without padding; all [total, heads, features]."""
        groups, outputs = packed.groups, []
        sizes = [length * number for length, number in groups]
        columns: StockValue = packed.columns.split(sizes) if self._needs_places(packed) else len(sizes) * [None]
        parts = zip(query.split(sizes), key.split(sizes), value.split(sizes), columns, strict=True)
        for (length, number), (q, k, v, places) in zip(groups, parts, strict=True):
            # [number, heads, length, features]
            q, k, v = (x.unflatten(0, (number, length)).transpose(1, 2) for x in (q, k, v))
            seen = None if places is None else self._seen(places.view(number, length))
            outputs.append(self._attend(q, k, v, seen).transpose(1, 2).flatten(0, 1))
        return torch.cat(outputs) if len(outputs) > 1 else outputs[0]

    def _needs_places(self, packed: PackedTokens) -> bool:
        return self.window is not None and packed.longest > self.window

    def _seen(self, places: torch.Tensor) -> torch.Tensor:
        """[number, 1, length, length], true where a token sees another one; `places` [number, length]."""
        behind = places.unsqueeze(2) - places.unsqueeze(1)
        seen = behind.abs() < cast(int, self.window)
        return (seen & (behind >= 0) if self.is_causal else seen).unsqueeze(1)

    def _attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, seen: torch.Tensor | None
    ) -> torch.Tensor:
        """Attention in a batch without padding; `seen` says what is seen, beside what is causal."""
        # with torch's backward it takes 1.2 to 3.8 times as long as these products in half precision on a CPU
        is_slow = query.requires_grad and query.dtype in (torch.float16, torch.bfloat16)
        if query.is_cuda or (self.dropout == 0 and not is_slow):
            return nn.functional.scaled_dot_product_attention(
                query,
                key,
                value,
                attn_mask=seen,
                dropout_p=self.dropout,
                scale=self.scaling,
                is_causal=self.is_causal and seen is None,
            )
        # with dropout, torch has no fused kernel on a CPU, and what it does instead is slower than this
        scores = query @ key.transpose(-1, -2) * self.scaling
        if seen is None and self.is_causal:
            seen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        if seen is not None:
            scores = scores.masked_fill(~seen, float("-inf"))
        weights = self.drop(torch.softmax(scores, -1), self.dropout)
        return weights.to(value.dtype) @ value

    def by_flash_attention(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, packed: PackedTokens
    ) -> torch.Tensor:
        """All sequences at once, by the package flash-attn."""
        longest = packed.lengths[-1]
        attend = cast(Callable[..., torch.Tensor], flash_attn_varlen_func)
        return attend(
            query,
            key,
            value,
            packed.bounds,
            packed.bounds,
            longest,
            longest,
            dropout_p=self.dropout,
            softmax_scale=self.scaling,
            causal=self.is_causal,
            window_size=self._window_size(),
        )

    def by_varlen_attention(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, packed: PackedTokens
    ) -> torch.Tensor:
        """All sequences at once, by torch, which has no dropout there."""
        longest, (before, behind) = packed.lengths[-1], self._window_size()
        size = (before, 0 if self.is_causal else behind)
        attend, bounds = cast(Callable[..., torch.Tensor], varlen_attn), packed.bounds
        return attend(query, key, value, bounds, bounds, longest, longest, scale=self.scaling, window_size=size)

    def _window_size(self) -> tuple[int, int]:
        """Tokens that are seen before and behind; -1 means all."""
        return (-1, -1) if self.window is None else (self.window - 1, self.window - 1)


AttentionInterface.register(PACKED, packed_attention)
# where tokens are not packed, it takes the masks of sdpa
AttentionMaskInterface.register(PACKED, AttentionMaskInterface()["sdpa"])
