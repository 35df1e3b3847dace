"""The add & norm blocks of one layer."""

from collections.abc import Callable, Collection, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import nn
from transformers.pytorch_utils import apply_chunking_to_forward

from ..base.depth import Position, at_depth
from ..base.token_mask import current
from ..residuals.residuals import Add, BorrowedVector, Residual, VectorResidual
from ..spec.spec import LayerSpec
from ..streams.streams import AnyStream, Function, HiddenStates, Kept, SingleStream, State
from ..streams.wirings import Sequential
from .branch_norms import INNER_SLOTS, NO_BRANCH_NORMS, BranchNorms, same
from .fused_add_norm import FusedAddNorm, FusedDropout
from .untouched import is_untouched


# A sublayer without its add & norm: from the branch's input and the norms inside it to the branch's output.
Branch = Callable[[torch.Tensor, BranchNorms], torch.Tensor]

# what a residual is called in a checkpoint
_RESIDUAL_NAMES = ("residual_norm", "residual_gate")


def add_residual(block: nn.Module, residual: Residual | None) -> str | None:
    """Make `residual`, if there is one, a part of `block`, under its name in a checkpoint, which is returned."""
    if residual is None:
        return None
    block.add_module(residual.checkpoint_name, residual)
    return residual.checkpoint_name


def residual_of_block(block: nn.Module) -> Residual | None:
    """The residual that is a part of `block`, or None."""
    found = (block._modules[name] for name in _RESIDUAL_NAMES if name in block._modules)
    return next(found, None)  # type: ignore[return-value]


class SublayerAddNorm(nn.Module):
    """What one sublayer's add & norm is made of: the way from the stream through the sublayer and back.

        x -+-> pre -> * pre_scale -> q, k, v -> core -> mid -> o -> drop, out -> drop path -+-> residual -> post -> y
           +--------------------------------------------------------------------------------^

    All of `[batch, seq, hidden]`, but for `mid` and `up` (behind w1), which have the width of the sublayer's inside,
    and q, k, v, which are normalised head by head or over their whole width. The slot `qk` is one norm for q and for
    k. An empty slot is the identity. A norm that the stock layer has
    too stays at the stock layer's path, so that checkpoints keep their keys, and is passed in at call time; the others
    live here, as `pre_norm`, `q_norm`, ..., `post_norm`. `SublayerCall` runs it.

    Args:
        spec (`LayerSpec`): the axes of the layer.
        position (`Position`): where the sublayer stands.
        filled (`set[str]`): the slots that have a norm.
        norms (`dict[str, torch.nn.Module]`): those of them that live here, by slot.
        residual (`Residual`, *optional*): how the stream is read and written; None where another sublayer of the
            layer has it.
        head_size (`int`, *optional*): features of a head, where q, k, v are normalised head by head.
    """

    def __init__(
        self,
        spec: LayerSpec,
        position: Position,
        filled: Set[str],
        norms: Mapping[str, nn.Module],
        residual: Residual | None,
        head_size: int | None,
    ):
        super().__init__()
        self.filled, self.head_size = frozenset(filled), head_size
        # multiplies the output of the norm in `pre`; the probability with which a sample's branch is left out
        self.pre_scale, self.drop_path = at_depth(spec.pre_scale, position), at_depth(spec.drop_path, position)
        self.drops_before_out = spec.dropout == "before_out"
        self.own_slots = {slot: f"{slot}_norm" for slot in norms}
        self.stock_slots = tuple(slot for slot in sorted(filled) if slot not in norms)
        self.inner_slots = tuple(slot for slot in INNER_SLOTS if slot in filled)
        # asked here, not of the residual in a forward: a tool may have wrapped it by then
        self.residual_reads_input = residual is not None and residual.reads_input
        for slot, norm in norms.items():
            self.add_module(self.own_slots[slot], norm)
        # without one it is the layer's own
        self.residual_name = add_residual(self, residual)

    def borrow_factor(self) -> BorrowedVector | None:
        """Let the residual use the stock layer's factor instead of one of its own, if it has one on the branch."""
        residual = residual_of_block(self)
        if type(residual) is not VectorResidual or residual.side != "branch":
            return None
        borrowed = BorrowedVector(residual.start)
        add_residual(self, borrowed)
        return borrowed

    @property
    def is_plain(self) -> bool:
        """Whether it has nothing that a stock layer has not: norms at its paths alone, a sum, a factor of its own."""
        # without one another sublayer of the layer writes what this one adds, too
        is_sum = type(residual_of_block(self)) in (Add, BorrowedVector, type(None)) and self.pre_scale == 1.0
        return is_sum and not self.own_slots

    def extra_repr(self) -> str:
        parts = {"pre_scale": (self.pre_scale, 1.0), "drop_path": (self.drop_path, 0.0)}
        return ", ".join(f"{name}={value:.6g}" for name, (value, idle) in parts.items() if value != idle)


class SublayerCall:
    """One sublayer during one forward: its block, its branch and the parts of the stock layer that they use.

        state -> read -> x -> enter -> u -> leave (branch, drop, out) -> f -> write -> state

    Parts are looked up in every forward: adapters and quantisers replace them.

    Args:
        layer (`LayerAddNorm`): the add & norm of the layer.
        name (`str`): the sublayer.
        branch (`Branch`): the sublayer without its add & norm.
        dropout (`Callable`, *optional*): the stock dropout on the branch's output.
        stock_parts (`dict[str, Callable]`): what is at the stock layer's paths: norms, by slot; as "factor", what
            multiplies the branch for a residual that borrows it.
        chunk (`tuple[int, int]`, *optional*): size and axis of the chunks that the sublayer runs in; it is heeded
            only where they are independent of each other.
    """

    def __init__(
        self,
        layer: "LayerAddNorm",
        name: str,
        branch: Branch,
        dropout: Function | None,
        stock_parts: Mapping[str, Function],
        chunk: tuple[int, int] | None = None,
    ):
        block: SublayerAddNorm = layer._modules[name]  # type: ignore[assignment]
        parts: Mapping[str, nn.Module] = block._modules  # type: ignore[assignment]
        self.block, self.stream, self.branch, self.dropout = block, layer.stream, branch, dropout
        # a residual, or what a tool has put in its place
        self.residual: Callable[..., object] | None = (
            parts[block.residual_name] if block.residual_name else layer.residual
        )
        self.norms: dict[str, Function] = {}
        for slot in block.stock_slots:
            self.norms[slot] = stock_parts[slot]
        for slot, norm_name in block.own_slots.items():
            self.norms[slot] = parts[norm_name]
        self.branch_norms = BranchNorms(self.norms, block.head_size) if block.inner_slots else NO_BRANCH_NORMS
        in_pieces = chunk is not None and chunk[0] > 0 and not layer.stream.is_tuple and block.drop_path == 0
        self.chunk = chunk if in_pieces else None
        # stochastic depth acts on what is added: behind a factor, unless it is that of several branches
        self.drops_last = False
        if "factor" in stock_parts and self.residual is not None:
            self.drops_last = layer.wiring.writes(0, len(layer.names))
            self.residual = partial(self.residual, stock=partial(self._scale, stock_parts["factor"]))
        # what the branch was given, for a residual that reads it
        self.branch_input: torch.Tensor | None = None
        if isinstance(dropout, FusedDropout) and self._sums_dropout(layer):
            self.residual = FusedAddNorm(dropout, cast(Residual, self.residual), self.norms.pop("post", None))
            self.dropout = None

    def _sums_dropout(self, layer: "LayerAddNorm") -> bool:
        """Whether what the residual adds to one stream is what dropout gives, and nobody looks at either."""
        block, residual = self.block, self.residual
        one_by_one = type(layer.stream) is SingleStream and type(layer.wiring) is Sequential  # type: ignore[comparison-overlap]
        drops_last = block.drop_path == 0 and not (block.drops_before_out and "out" in self.norms)
        summed = isinstance(residual, Residual) and residual.scales() is not None and is_untouched(residual)
        return type(self) is SublayerCall and one_by_one and drops_last and summed

    def read(self, state: State) -> tuple[torch.Tensor, Kept]:
        """What the sublayer takes from the state, and what `write` needs of it."""
        return self.stream.read(state, self.residual)

    def enter(self, x: torch.Tensor) -> torch.Tensor:
        """From there to the branch's input."""
        if "pre" not in self.norms:
            return x
        u = self.norms["pre"](x)
        return u if self.block.pre_scale == 1.0 else u * self.block.pre_scale

    def leave(self, u: torch.Tensor) -> torch.Tensor:
        """From the branch's input to what is written."""
        block, dropout = self.block, self.dropout
        self.branch_input = u
        f = self.branch(u, self.branch_norms)
        if dropout is not None and block.drops_before_out:
            f = dropout(f)
        if "out" in self.norms:
            f = self.norms["out"](f)
        if dropout is not None and not block.drops_before_out:
            f = dropout(f)
        drops = block.training and block.drop_path > 0 and not self.drops_last
        return drop_path(f, block.drop_path) if drops else f

    def _scale(self, factor: Function, f: torch.Tensor) -> torch.Tensor:
        scaled = factor(f)
        drops = self.block.training and self.block.drop_path > 0 and self.drops_last
        return drop_path(scaled, self.block.drop_path) if drops else scaled

    def output(self, x: torch.Tensor) -> torch.Tensor:
        """From what was read to what is written."""
        return self.leave(self.enter(x))

    def write(self, kept: Kept, f: torch.Tensor, also: torch.Tensor | None = None) -> State:
        """The state with `f` in it, after the norm in `post`; `also` is added before that norm."""
        post: Function = self.norms.get("post", same)
        residual: Callable[..., object] | None = self.residual
        if also is not None:
            post = partial(_norm_of_sum, post, also)
        if residual is not None and self.block.residual_reads_input:
            residual = partial(residual, branch_input=self.branch_input)
        return self.stream.write(kept, f, residual, post)

    def step(self, state: State) -> State:
        """The state after the sublayer."""
        if self.chunk is not None:
            # only where the state is one tensor
            return apply_chunking_to_forward(self._step, *self.chunk, state)  # type: ignore[arg-type, return-value]
        return self._step(state)

    def _step(self, state: State) -> State:
        x, kept = self.stream.read(state, self.residual)
        return self.write(kept, self.leave(self.enter(x)))


def _norm_of_sum(norm: Function, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return norm(y + x)


@dataclass(frozen=True)
class StreamModules:
    """What the stream itself has in one layer.

    Args:
        entry (`dict[str, torch.nn.Module]`): before the first layer; empty in another one.
        exit (`dict[str, torch.nn.Module]`, *optional*): after the last layer; None in another one.
        layer_part (`Residual`, *optional*): what acts on the stream where the layer begins and ends.
    """

    entry: Mapping[str, nn.Module]
    exit: Mapping[str, nn.Module] | None
    layer_part: Residual | None


MakeCalls = Callable[["LayerAddNorm"], Sequence[SublayerCall]]


class LayerAddNorm(nn.Module):
    """The add & norm blocks of one layer at one depth, how they meet, and what they share.

    Args:
        blocks (`dict[str, SublayerAddNorm]`): by sublayer: attention, cross_attention, feed_forward.
        residual (`Residual`, *optional*): one for all sublayers.
        stream, wiring: the state that runs through the layers; how the sublayers meet.
        position (`Position`): that of the layer's first sublayer.
        stream_modules (`StreamModules`): what the stream itself has here.
    """

    def __init__(
        self,
        blocks: Mapping[str, SublayerAddNorm],
        residual: Residual | None,
        stream: AnyStream,
        wiring: Sequential,
        position: Position,
        stream_modules: StreamModules,
    ):
        super().__init__()
        for name, block in blocks.items():
            self.add_module(name, block)
        self.names = tuple(blocks)
        self.residual_name = add_residual(self, residual)
        for name, part in {**stream_modules.entry, **(stream_modules.exit or {})}.items():
            self.add_module(name, part)
        self.layer_part_name = add_residual(self, stream_modules.layer_part)
        self.stream, self.wiring, self.position = stream, wiring, position
        self.last = stream_modules.exit is not None
        self.entry_modules, self.exit_modules = tuple(stream_modules.entry), tuple(stream_modules.exit or ())

    @property
    def residual(self) -> Residual | None:
        """The residual of all sublayers, or None where each has its own."""
        return None if self.residual_name is None else self._modules[self.residual_name]  # type: ignore[return-value]

    @property
    def layer_part(self) -> Residual | None:
        """What acts on the stream where the layer begins and ends, or None."""
        return None if self.layer_part_name is None else self._modules[self.layer_part_name]  # type: ignore[return-value]

    @property
    def is_plain(self) -> bool:
        """Whether the stream is a tensor to which the sublayers add, however they meet, with norms at stock paths."""
        blocks = list(self.children())
        return (
            type(self.stream) is SingleStream  # type: ignore[comparison-overlap]
            and self.residual_name is None
            and all(isinstance(block, SublayerAddNorm) and block.is_plain for block in blocks)
        )

    def forward(
        self, hidden: HiddenStates, make_calls: MakeCalls, then: Function | None = None, skipped: Collection[int] = ()
    ) -> HiddenStates:
        """The hidden states after the layer, from those before it.

        No argument is a module: tools that put a module elsewhere than its input move what they find in its arguments.

        Args:
            hidden: those before it.
            make_calls (`Callable`): makes the calls of the layer's sublayers, in order, from these blocks, which may
                be a copy: a wrapper has its own.
            then (`Callable`, *optional*): its output is added to the stream at the layer's end.
            skipped (`Collection[int]`): the depths at which a layer is left out: there the state stays as it is.
        """
        calls: Sequence[SublayerCall] = [] if self.position.layer in skipped else make_calls(self)
        state = self.step(self.enter(hidden), calls, then)
        if self.last:
            return self.stream.finish(state, *[getattr(self, name) for name in self.exit_modules])
        return self.stream.leave(state)

    def put_embed_norm(self, norm: nn.Module) -> None:
        """Have the norm behind the embeddings, in the first layer, where the stock model has no place for it."""
        self.embed_norm = norm

    def enter(self, hidden: HiddenStates) -> State:
        """The state, from what the layer is given."""
        if "embed_norm" in self._modules:
            hidden = self.embed_norm(hidden)
        if not self.entry_modules:
            return self.stream.enter(hidden)
        return self.stream.enter(hidden, *[getattr(self, name) for name in self.entry_modules])

    def step(self, state: State, calls: Sequence[SublayerCall], then: Function | None = None) -> State:
        """The state after the layer, from that before it; `forward` says the rest."""
        part = self._modules.get(self.layer_part_name) if self.layer_part_name and calls else None
        state = self.stream.begin_layer(state, part)
        packed = current().packed if self.last and calls else None
        if packed is not None and packed.first_only:
            # only what reads the others runs for all tokens
            before = cast(State, packed.firsts(cast(torch.Tensor, calls[0].step(state))))
            state, calls = before, calls[1:]
        if calls:
            state = self.wiring(state, calls)
        if calls and then is not None:
            x, kept = self.stream.read(state)
            state = self.stream.write(kept, then(x), None, same)
        return self.stream.end_layer(state, part, self.position)


def in_chunks(function: Function, chunk: tuple[int, int] | None, x: torch.Tensor) -> torch.Tensor:
    """`function(x)`, computed in chunks of some size along some axis; size 0 and None mean in one piece."""
    if chunk is None or chunk[0] == 0:
        return function(x)
    whole: torch.Tensor = apply_chunking_to_forward(function, *chunk, x)
    return whole


def drop_path(f: torch.Tensor, rate: float) -> torch.Tensor:
    """Stochastic depth: zero for a sample with probability `rate`, else divided by `1 - rate`.

    Where tokens are packed, a sample is a sequence. In float32 these are the draws and the bits of Transformers' own
    layers; a half-precision branch has draws in float32, as small rates have no place among fewer numbers.

    Source: Huang et al., 2016, arXiv 1603.09382; scaled in training as in Larsson et al., 2016, arXiv 1605.07648.
    """
    if rate == 0.0:
        return f
    packed, wide = current().packed, torch.promote_types(f.dtype, torch.float32)
    shape = (f.shape[0], *[1] * (f.dim() - 1)) if packed is None else (len(packed.lengths),)
    keep = torch.floor(torch.rand(shape, dtype=wide, device=f.device) + (1 - rate)).to(f.dtype)
    return f.div(1 - rate) * (keep if packed is None else packed.per_token(keep, f))
