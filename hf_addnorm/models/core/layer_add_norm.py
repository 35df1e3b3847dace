"""The add & norm blocks of one layer."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import apply_chunking_to_forward

from ..spec.spec import LayerSpec
from ..streams.streams import LayerState
from .branch_norms import BranchNorms, same


# A sublayer without its add & norm: from the branch's input and the norms inside it to the branch's output.
Branch = Callable[[torch.Tensor, BranchNorms], torch.Tensor]

# norms of the slots within the branch
_INNER = ("q", "k", "v", "qk", "up", "mid")

# what a residual is called in a checkpoint
_RESIDUAL_NAMES = ("residual_norm", "residual_gate")


def add_residual(block: nn.Module, residual: Any) -> None:
    """Make `residual`, if there is one, a part of `block`, under its name in a checkpoint."""
    if residual is not None:
        block.add_module(residual.checkpoint_name, residual)


def residual_of_block(block: nn.Module) -> Any:
    """The residual that is a part of `block`, or None."""
    return next(
        (block._modules[checkpoint_name] for checkpoint_name in _RESIDUAL_NAMES if checkpoint_name in block._modules),
        None,
    )


class SublayerAddNorm(nn.Module):
    """What one sublayer's add & norm is made of: the way from the stream through the sublayer and back.

        x -+-> pre -> * pre_scale -> q, k, v -> core -> mid -> o -> drop, out -> drop path -+-> residual -> post -> y
           +--------------------------------------------------------------------------------^

    All of `[batch, seq, hidden]`, but for `mid` and `up` (behind w1), which have the width of the sublayer's inside,
    and q, k, v, which are normalised head by head or over their whole width. The slot `qk` is one norm for q and for
    k. An empty slot is the identity. A norm that the stock layer has
    too stays at the stock layer's path, so that checkpoints keep their keys, and is passed in at call time; the others
    live here, as `pre_norm`, `q_norm`, ..., `post_norm`.

    Args:
        spec (`LayerSpec`): the axes of the layer.
        filled (`set[str]`): the slots that have a norm.
        norms (`dict[str, torch.nn.Module]`): those of them that live here, by slot.
        residual (`torch.nn.Module`, *optional*): how the stream is read and written; None where another sublayer of
            the layer has it.
        pre_scale (`float`): multiplies the output of the norm in `pre`.
        drop_path (`float`): probability with which a sample's branch is left out in training.
        head_size (`int`, *optional*): features of a head, where q, k, v are normalised head by head.
    """

    def __init__(
        self,
        spec: LayerSpec,
        filled: set[str],
        norms: Mapping[str, nn.Module],
        residual: nn.Module | None,
        pre_scale: float,
        drop_path: float,
        head_size: int | None,
    ):
        super().__init__()
        self.filled = frozenset(filled)
        self.inner_slots = tuple(slot for slot in _INNER if slot in filled)
        self.pre_scale, self.drop_path, self.head_size = pre_scale, drop_path, head_size
        self.branch_end = ("dropout", "out") if spec.dropout == "before_out" else ("out", "dropout")
        for slot, norm in norms.items():
            self.add_module(f"{slot}_norm", norm)
        # without one it is the layer's own
        add_residual(self, residual)

    def norm(self, slot: str, x: torch.Tensor, stock_norms: Mapping[str, nn.Module]) -> torch.Tensor:
        """`x` after the norm of `slot`; the same `x` where the slot is empty."""
        if slot not in self.filled:
            return x
        norm = self._modules.get(f"{slot}_norm") or stock_norms[slot]
        if slot in ("q", "k", "v", "qk") and self.head_size is not None:
            return norm(x.unflatten(-1, (-1, self.head_size))).flatten(-2)
        return norm(x)

    def extra_repr(self) -> str:
        parts = {"pre_scale": (self.pre_scale, 1.0), "drop_path": (self.drop_path, 0.0)}
        return ", ".join(f"{name}={value:.6g}" for name, (value, idle) in parts.items() if value != idle)


class SublayerCall:
    """One sublayer during one forward: its block, its branch and the parts of the stock layer that they use.

    Args:
        block (`SublayerAddNorm`): the block.
        stream: the kind of state that runs through the layers.
        residual: the block's residual, or the layer's.
        branch (`Branch`): the sublayer.
        dropout (`torch.nn.Module`, *optional*): the stock dropout on the branch's output.
        stock_norms (`dict[str, torch.nn.Module]`): norms at the stock layer's paths, by slot.
        chunk (`tuple[int, int]`, *optional*): size and axis of the chunks that the sublayer runs in.
    """

    def __init__(
        self,
        block: SublayerAddNorm,
        stream: Any,
        residual: Any,
        branch: Branch,
        dropout: nn.Module | None,
        stock_norms: Mapping[str, nn.Module],
        chunk: tuple[int, int] | None,
    ):
        self.block, self.stream, self.residual = block, stream, residual
        self.branch, self.dropout, self.stock_norms = branch, dropout, stock_norms
        self.chunk = chunk
        # what the branch was given, for a residual that reads it
        self.branch_input: torch.Tensor | None = None

    def norm(self, slot: str, x: torch.Tensor) -> torch.Tensor:
        """`x` after the norm of `slot`."""
        return self.block.norm(slot, x, self.stock_norms)

    def read(self, state: Any) -> tuple[torch.Tensor, Any]:
        """What the sublayer takes from the state, and what `write` needs of it."""
        return self.stream.read(state, self.residual)

    def enter(self, x: torch.Tensor) -> torch.Tensor:
        """From there to the branch's input."""
        u = self.norm("pre", x)
        return u * self.block.pre_scale if self.block.pre_scale != 1.0 and "pre" in self.block.filled else u

    def leave(self, u: torch.Tensor) -> torch.Tensor:
        """From the branch's input to what is written."""
        self.branch_input = u
        f = self.branch(u, BranchNorms({slot: partial(self.norm, slot) for slot in self.block.inner_slots}))
        for step in self.block.branch_end:
            if step == "out":
                f = self.norm("out", f)
            elif self.dropout is not None:
                f = self.dropout(f)
        return drop_path(f, self.block.drop_path) if self.block.training else f

    def output(self, x: torch.Tensor) -> torch.Tensor:
        """From what was read to what is written."""
        return self.leave(self.enter(x))

    def write(self, kept: Any, f: torch.Tensor, also: torch.Tensor | None = None) -> Any:
        """The state with `f` in it, after the norm in `post`; `also` is added before that norm."""
        post = partial(self.norm, "post") if also is None else lambda y: self.norm("post", y + also)
        residual = self.residual
        if getattr(residual, "reads_input", False):
            residual = partial(residual, branch_input=self.branch_input)
        return self.stream.write(kept, f, residual, post)

    def step(self, state: Any) -> Any:
        """The state after the sublayer."""
        return in_chunks(self._step, self.chunk, state)

    def _step(self, state: Any) -> Any:
        x, kept = self.read(state)
        return self.write(kept, self.output(x))


class LayerAddNorm(nn.Module):
    """The add & norm blocks of one layer at one depth, how they meet, and what they share.

    Args:
        blocks (`dict[str, SublayerAddNorm]`): by sublayer: attention, cross_attention, feed_forward.
        residual (`torch.nn.Module`, *optional*): one for all sublayers.
        stream, wiring: the state that runs through the layers; how the sublayers meet.
        depth (`int`): the layer's index.
        entry_modules, exit_modules (`dict[str, torch.nn.Module]`, *optional*): the stream's own modules, before the
            first layer and after the last one; None in another layer.
        layer_part (`torch.nn.Module`, *optional*): what acts on the stream where the layer begins and ends.
    """

    def __init__(
        self,
        blocks: Mapping[str, SublayerAddNorm],
        residual: nn.Module | None,
        stream: Any,
        wiring: Any,
        depth: int,
        entry_modules: Mapping[str, nn.Module] | None,
        exit_modules: Mapping[str, nn.Module] | None,
        layer_part: Any,
    ):
        super().__init__()
        for name, block in blocks.items():
            self.add_module(name, block)
        add_residual(self, residual)
        for name, part in {**(entry_modules or {}), **(exit_modules or {})}.items():
            self.add_module(name, part)
        self.layer_part_name = None if layer_part is None else layer_part.checkpoint_name
        if layer_part is not None:
            self.add_module(layer_part.checkpoint_name, layer_part)
        self.stream, self.wiring, self.depth, self.last = stream, wiring, depth, exit_modules is not None
        self.entry_modules, self.exit_modules = tuple(entry_modules or ()), tuple(exit_modules or ())

    @property
    def layer_part(self) -> Any:
        """What acts on the stream where the layer begins and ends, or None."""
        return None if self.layer_part_name is None else self._modules[self.layer_part_name]

    def has(self, name: str) -> bool:
        """Whether the layer has the sublayer `name`."""
        return name in self._modules

    def call(self, name: str, branch: Branch, dropout: Any, stock_norms: Any, chunk: Any) -> SublayerCall:
        """The sublayer `name` for one forward; in chunks only where they are independent of each other."""
        block: Any = getattr(self, name)
        if self.stream.is_tuple or block.drop_path > 0:
            chunk = None
        residual = residual_of_block(self) or residual_of_block(block)
        return SublayerCall(block, self.stream, residual, branch, dropout, stock_norms, chunk)

    def forward(self, hidden: LayerState, calls: list[SublayerCall], then: Any = None) -> LayerState:
        """The hidden states after the layer, from those before it; `then` is added to the stream at its end.

        Without calls the layer is skipped: the state stays as it is.
        """
        state = self.step(self.enter(hidden), calls, then)
        if self.last:
            return self.stream.finish(state, *(getattr(self, name) for name in self.exit_modules))
        return self.stream.leave(state)

    def enter(self, hidden: LayerState) -> Any:
        """The state, from what the layer is given."""
        return self.stream.enter(hidden, *(getattr(self, name) for name in self.entry_modules))

    def step(self, state: Any, calls: list[SublayerCall], then: Any = None) -> Any:
        """The state after the layer, from that before it; `forward` says the rest."""
        part = self.layer_part if calls else None
        state = self.stream.begin_layer(state, part)
        if calls:
            state = self.wiring(state, calls)
        if calls and then is not None:
            x, kept = self.stream.read(state)
            state = self.stream.write(kept, then(x), None, same)
        return self.stream.end_layer(state, part)


def in_chunks(function: Callable, chunk: tuple[int, int] | None, x: Any) -> Any:
    """`function(x)`, computed in chunks of some size along some axis; size 0 and None mean in one piece."""
    if chunk is None or chunk[0] == 0:
        return function(x)
    return apply_chunking_to_forward(function, *chunk, x)


def drop_path(f: torch.Tensor, rate: float) -> torch.Tensor:
    """Stochastic depth: zero for a sample with probability `rate`, else divided by `1 - rate`.

    Source: Huang et al., 2016, arXiv 1603.09382; scaled in training as in Larsson et al., 2016, arXiv 1605.07648.
    """
    if rate == 0.0:
        return f
    keep = torch.rand(f.shape[0], *[1] * (f.dim() - 1), device=f.device) >= rate
    return f * (keep.to(f.dtype) / (1 - rate))
