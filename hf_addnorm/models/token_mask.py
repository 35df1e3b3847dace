"""Which tokens are real, for the norms that take statistics over tokens.

Only the model's entry knows it: layers are given masks of other shapes, or none. So the entry says it for the time of
one forward, and a layer is handed it as an argument, which lasts until a checkpoint's recomputation.
"""

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import torch


class TokenMask:
    """What a model knows about its tokens during one forward.

    Args:
        mask (`torch.Tensor`, *optional*): [batch, seq], true for a real token; None if all are real. With a cache it
            is longer than the tokens, and its end counts.
        problem (`str`): why the mask that the model was given does not say it; empty if it does.
    """

    def __init__(self, mask: torch.Tensor | None, problem: str = ""):
        self.mask, self.problem = mask, problem

    @classmethod
    def of(cls, attention_mask: Any) -> "TokenMask":
        """From what a model is given as `attention_mask`."""
        if attention_mask is None:
            return cls(None)
        if isinstance(attention_mask, torch.Tensor) and attention_mask.dim() == 2:
            return cls(attention_mask.bool())
        shape = f"of shape {list(attention_mask.shape)}" if isinstance(attention_mask, torch.Tensor) else "no tensor"
        return cls(
            None,
            f"a norm that takes statistics over tokens needs attention_mask as [batch, seq]; it is {shape}, from "
            "which the real tokens cannot be read.",
        )

    def on(self, x: torch.Tensor) -> torch.Tensor | None:
        """The mask of the tokens of `x` [batch, seq, ..., features], [batch, seq, 1, ...]; None: all are real.

        Raises:
            ValueError: if it cannot be had, though the model was given one.
        """
        if self.problem:
            raise ValueError(self.problem)
        if self.mask is None:
            return None
        mask = self.mask[:, -x.shape[1] :]
        if mask.shape != x.shape[:2]:
            raise ValueError(
                f"a norm that takes statistics over tokens was given {list(x.shape)}, and attention_mask is "
                f"{list(self.mask.shape)}: they do not name the same tokens."
            )
        return mask.view(*mask.shape, *[1] * (x.dim() - 2))


_UNKNOWN = TokenMask(None)
_current: ContextVar[TokenMask] = ContextVar("token_mask", default=_UNKNOWN)
# a ContextVar cannot be traced
_traced: list[TokenMask] = [_UNKNOWN]


def current() -> TokenMask:
    """What the model that runs now knows; outside of one, all tokens are real."""
    return _traced[-1] if torch.compiler.is_compiling() else _current.get()


def running_with(tokens: TokenMask, function: Callable, *args: Any, **kwargs: Any) -> Any:
    """`function(*args, **kwargs)`, with `tokens` as the current ones."""
    if torch.compiler.is_compiling():
        _traced.append(tokens)
        try:
            return function(*args, **kwargs)
        finally:
            _traced.pop()
    before = _current.set(tokens)
    try:
        return function(*args, **kwargs)
    finally:
        _current.reset(before)
