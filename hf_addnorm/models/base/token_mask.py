"""What norms over tokens need to know during a forward: which tokens are real, and where they stand in an image.

Only the model's entry knows it: layers are given masks of other shapes, or none. So the entry says it for the time of
one forward, and a layer is handed it as an argument, which lasts until a checkpoint's recomputation.
"""

from collections.abc import Callable
from typing import cast

import torch
from torch import nn

from .forward_context import ForwardContext, Returned, recomputing
from .packed_tokens import PackedTokens


class TokenMask:
    """What a model knows about its tokens during one forward.

    Args:
        mask (`torch.Tensor`, *optional*): [batch, seq], true for a real token; None if all are real. With a cache it
            is longer than the tokens, and its end counts.
        problem (`str`): why the mask that the model was given does not say it; empty if it does.
        grid (`tuple[int, int]`, *optional*): rows and columns of an image's patches, which are the last tokens but
            those `behind`; None for a sequence.
        packed (`PackedTokens`, *optional*): where the tokens stand in the batch, if they come without padding.
        behind (`int`): the number of tokens behind the patches.
    """

    def __init__(
        self,
        mask: torch.Tensor | None,
        problem: str = "",
        grid: tuple[int, int] | None = None,
        packed: PackedTokens | None = None,
        behind: int = 0,
    ):
        self.mask, self.problem, self.grid, self.packed = mask, problem, grid, packed
        self.behind = behind if grid is not None else 0
        self._kept: dict[nn.Module, list[object]] = {}
        self._asked: dict[nn.Module, int] = {}

    @classmethod
    def of(cls, attention_mask: object, grid: tuple[int, int] | None = None, behind: int = 0) -> "TokenMask":
        """Make the mask from the `attention_mask` of a model, and the grid of an image's patches."""
        if attention_mask is None:
            return cls(None, grid=grid, behind=behind)
        if isinstance(attention_mask, torch.Tensor) and attention_mask.dim() == 2:
            return cls(attention_mask.bool(), grid=grid, behind=behind)
        shape = f"of shape {list(attention_mask.shape)}" if isinstance(attention_mask, torch.Tensor) else "no tensor"
        return cls(
            None,
            f"a norm that takes statistics over tokens needs attention_mask as [batch, seq]; it is {shape}, from "
            "which the real tokens cannot be read.",
        )

    def grid_of(self, tokens: int) -> tuple[int, int]:
        """Rows and columns of the grid of patches among `tokens` tokens; a sequence is one row.

        Raises:
            ValueError: if there are fewer.
        """
        rows, columns = self.grid or (1, tokens)
        if rows * columns > tokens - self.behind:
            raise ValueError(
                f"a norm that knows where its tokens stand was given {tokens}, and the image has {rows} x {columns} "
                f"patches{f' and {self.behind} tokens behind them' if self.behind else ''}."
            )
        return rows, columns

    def on(self, x: torch.Tensor) -> torch.Tensor | None:
        """The mask [batch, seq, 1, ...] for `x` [batch, seq, ..., features], true where real; None if all tokens are.

        Raises:
            ValueError: if it cannot be had, though the model was given one.
        """
        if self.problem:
            raise ValueError(self.problem)
        # packed tokens are all real; in rows, one for each sequence, they have padding again
        given = self.mask if self.packed is None else self._of_rows(x)
        if given is None:
            return None
        mask = given[:, -x.shape[1] :]
        if mask.shape != x.shape[:2]:
            raise ValueError(
                f"a norm that takes statistics over tokens was given {list(x.shape)}, and attention_mask is "
                f"{list(given.shape)}: they do not name the same tokens."
            )
        return mask.view(*mask.shape, *[1] * (x.dim() - 2))

    def _of_rows(self, x: torch.Tensor) -> torch.Tensor | None:
        if self.packed is None or x.shape[:2] == (1, self.packed.total):
            return None
        return self.packed.rows

    def once(self, owner: nn.Module, compute: Callable[[], Returned]) -> Returned | None:
        """Run `compute()` once in a forward; in a recomputation of gradient checkpointing, return the same result.

        Args:
            owner (`torch.nn.Module`): who asks; it must ask in the same order each time.
            compute (`Callable`): is called once per forward; what it gives must not change later.
        Returns:
            None in a recomputation that knows nothing of the forward.
        """
        if torch.compiler.is_compiling():
            return compute()
        kept = self._kept.setdefault(owner, [])
        if not recomputing():
            made = compute()
            kept.append(made)
            return made
        self._asked[owner] = self._asked.get(owner, -1) + 1
        return cast(Returned, kept[self._asked[owner] % len(kept)]) if kept else None


class _NoModel(TokenMask):
    """The token mask outside of a model: all tokens are real, and nothing is kept for a recomputation."""

    def once(self, owner: nn.Module, compute: Callable[[], Returned]) -> Returned | None:
        return None if recomputing() else compute()


_tokens: ForwardContext[TokenMask] = ForwardContext("token_mask", _NoModel(None))

current = _tokens.get
running_with = _tokens.running_with
