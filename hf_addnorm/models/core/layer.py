"""A family's layer: how a stock layer is recast, and how its sublayers run through their add & norm blocks."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial, wraps
from math import isclose
from typing import ClassVar, cast

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from ..base.depth import Position
from ..base.packed_tokens import PackedTokens
from ..base.protocols import StockValue
from ..base.registry import ComponentSpec
from ..base.token_mask import TokenMask, current, running_with
from ..norms.norm_base import mixes_tokens
from ..spec.spec import AddNormSpec
from ..streams.streams import Function, LayerState
from ..streams.wirings import Sequential
from ..weights.weight_transforms import Transformed, linear_size, transformed_class, transforms
from .block_building import BlockBuilder, BuiltNorm
from .branch_norms import WithBranchNorms
from .family_layout import SublayerLayout
from .fused_add_norm import fused_dropout
from .layer_add_norm import Branch, LayerAddNorm, SublayerAddNorm, SublayerCall
from .recasting import document, get_part, is_of_transformers, recast_at
from .token_hooks import Forward, pass_token_mask, takes_token_mask


@dataclass(frozen=True, slots=True)
class BlocksOfDepth:
    """The blocks of the depth that a shared layer is run at, as an argument of its forward.

    Not the module itself: tools that put a module elsewhere than its input move the modules among its arguments too.
    """

    blocks: LayerAddNorm


def _as_stock_or(forward: Forward) -> Forward:
    """A layer's forward that is the stock one where the spec says the same: hooks on all of its parts run then."""

    @wraps(forward)
    def as_stock_or(self: "AddNormLayer", *args: StockValue, **kwargs: StockValue) -> StockValue:
        packed: PackedTokens | None = kwargs.get("packed")
        if packed is not None and packed.first_only:
            # said here, not by the model alone: a checkpoint may run the layer again, within a backward
            tokens = TokenMask(None, packed=packed) if current().packed is None else current()
            return running_with(tokens, forward, self, *args, **kwargs)
        as_stock = self.runs_as_stock and not self.fused_add_norm
        return self.stock_forward(self, *args, **kwargs) if as_stock else forward(self, *args, **kwargs)

    return as_stock_or


class AddNormLayer(GradientCheckpointingLayer):
    """Mixin for a family's layer: runs its sublayers through their add & norm blocks.

        x -> attention's block -> (cross-attention's block) -> feed-forward's block -> x

    The class that mixes it in sets `sublayers` and says what the branches are.
    """

    sublayers: ClassVar[dict[str, SublayerLayout]]
    # the blocks; of a shared layer the encoder has them
    connections: LayerAddNorm
    # whether a norm in it takes statistics over tokens
    mixes_tokens = False
    # whether it is told what its model knows during a forward
    has_token_hook = False
    # whether the stock forward runs: what it does is what the spec says
    runs_as_stock = False
    stock_forward: ClassVar[Forward]
    # whether in training its dropouts, sums and norms run by functions of their own (see `fused_add_norm.py`)
    fused_add_norm = False
    # makes a sublayer's call; a tool that watches a layer puts its own there, and `runs_as_stock` off
    call_class: Callable[..., SublayerCall] = SublayerCall

    def __init_subclass__(cls, **kwargs: object):
        if "forward" in vars(cls):
            cls.forward = takes_token_mask(_as_stock_or(cls.forward))
        stock = [base for base in cls.__mro__ if is_of_transformers(base) and "forward" in vars(base)]
        if stock:
            cls.stock_forward = staticmethod(vars(stock[0])["forward"])
        super().__init_subclass__(**kwargs)
        document(cls, "`{stock}` whose sublayers run through add & norm blocks.")

    @property
    def added_last(self) -> nn.Module | None:
        """What the stock layer adds to the stream behind its sublayers, if it has anything of the kind."""
        return None

    def is_as_stock(self, blocks: LayerAddNorm) -> bool:
        """Whether the stock forward does what these blocks say; all depths must have been installed."""
        if self.mixes_tokens or self.transformed or not blocks.is_plain or not self.has_stock_wiring(blocks.wiring):
            return False
        return all(
            {slot for slot, path in self.sublayers[name].norms.items() if self.stock_choices[path] is not None}
            == set(cast(SublayerAddNorm, block).stock_slots)
            and isclose(cast(SublayerAddNorm, block).drop_path, self._stock_drop_path(name))
            for name, block in blocks.named_children()
        )

    def has_stock_wiring(self, wiring: Sequential) -> bool:
        """Whether the sublayers of the stock layer meet as a wiring says."""
        return type(wiring) is Sequential

    def _stock_drop_path(self, name: str) -> float:
        """The rate of the stock layer's own stochastic depth."""
        path = self.sublayers[name].drop_path
        return 0.0 if path is None else getattr(get_part(self, path), "drop_prob", 0.0)

    def recast_parts(self, spec: AddNormSpec, names: list[str]) -> None:
        """Let the parts of the named sublayers that run with norms inside, or with transformed weights, be recast."""
        # what the stock layer's paths hold by now: a norm that several depths may share, or nothing
        self.stock_choices: dict[str, ComponentSpec | None] = {}
        # by path: a Linear may be replaced later, by an adapter or a quantiser
        self.add_norm_linears: dict[str, tuple[tuple[str, ...], Position]] = {}
        self.transformed: list[str] = []
        # the start of each factor of the stock layer that a residual uses, by path
        self.borrowed: dict[str, float] = {}
        for name in names:
            for path, cls in self.sublayers[name].parts.items():
                recast_at(self, path, cls)
            for path, roles in self.sublayers[name].roles().items():
                stock = self.get_submodule(path)
                if (found := transforms(spec.weights, roles, *linear_size(stock))) is not None:
                    self.transformed.append(path)
                    made = recast_at(self, path, transformed_class(stock))
                    made.weight_norm, made.blocks = nn.ModuleList(found), self.blocks_of(path)

    def blocks_of(self, path: str) -> int:
        """How often the roles of a fused Linear layer follow each other in its output features."""
        home, _, name = path.rpartition(".")
        part = get_part(self, home) if home else None
        return part.blocks_of(name) if isinstance(part, WithBranchNorms) else 1

    def install_add_norm(self, builder: BlockBuilder, depth: int) -> LayerAddNorm:
        """The blocks of this layer at `depth`; norms that the stock layer has too go to its paths."""
        for name, position in builder.positions.of_layer(depth).items():
            for path, roles in self.sublayers[name].roles().items():
                self.add_norm_linears.setdefault(path, (roles, position))
        self.mixes_tokens = self.mixes_tokens or builder.mixes_tokens
        if builder.asks_model and not self.has_token_hook:
            self.has_token_hook = True
            self.register_forward_pre_hook(pass_token_mask, with_kwargs=True)
        # asked here, not of the blocks in a forward: a tool may have wrapped them by then
        self.installed = tuple(builder.positions.of_layer(depth))
        blocks = builder.build_layer(depth, self._place_norms)
        for name in self.installed:
            self._lend_factor(name, get_part(blocks, name))
        return blocks

    def _lend_factor(self, name: str, block: SublayerAddNorm) -> None:
        """Let a residual `vector` use the stock layer's factor on a sublayer's branch; else take that away."""
        path = self.sublayers[name].factor
        if path is None or not isinstance(get_part(self, path), (nn.Module, nn.Parameter)):
            return
        if (borrowed := block.borrow_factor()) is not None:
            self.borrowed[path] = borrowed.start
        elif isinstance(get_part(self, path), nn.Module):
            self.set_submodule(path, nn.Identity(), strict=True)
        else:
            # as a stock layer without it has
            delattr(self, path)
            setattr(self, path, 1.0)

    def borrowed_factor(self, name: str) -> nn.Parameter | None:
        """The stock layer's factor on a sublayer's branch, where the residual uses it."""
        path = self.sublayers[name].factor
        if path not in self.borrowed:
            return None
        factor: nn.Parameter | nn.Module = get_part(self, path)
        return next(factor.parameters()) if isinstance(factor, nn.Module) else factor

    def start_factors(self) -> None:
        """Write the documented start values of the stock factors that residuals use."""
        for name in self.installed:
            if (factor := self.borrowed_factor(name)) is not None:
                nn.init.constant_(factor, self.borrowed[cast(str, self.sublayers[name].factor)])

    def _place_norms(self, name: str, norms: dict[str, BuiltNorm]) -> tuple[set[str], dict[str, nn.Module]]:
        """Put norms at the stock layer's paths; all slots, and the norms that have no place there, are returned."""
        own = {slot: norm.module for slot, norm in norms.items()}
        for slot, path in self.sublayers[name].norms.items():
            choice, held = norms[slot].choice if slot in norms else None, self.stock_choices.get(path)
            if held is None:
                self.set_submodule(path, own.pop(slot) if slot in own else nn.Identity(), strict=True)
                self.stock_choices[path] = choice
            # at another depth of a shared layer, the same norm is shared as in the stock model; not its statistics
            elif choice == held and not mixes_tokens(held):
                del own[slot]
        return set(norms), own

    def run(
        self,
        hidden_states: LayerState,
        branches: Mapping[str, Branch],
        connections: "BlocksOfDepth | None" = None,
        chunk: tuple[int, int] | None = None,
        then: Function | None = None,
        skipped: Collection[int] = (),
    ) -> LayerState:
        """The hidden states after the layer.

        Args:
            hidden_states: those before it.
            branches (`dict[str, Branch]`): the sublayers that run, in order.
            connections (`BlocksOfDepth`, *optional*): the blocks, where they are not the layer's own.
            chunk (`tuple[int, int]`, *optional*): size and axis of the chunks that the feed-forward runs in.
            then (`Callable`, *optional*): something that the stock layer adds to the stream at its end; not a module,
                see `LayerAddNorm.forward`.
            skipped (`Collection[int]`): the depths at which a layer is left out of this forward.
        """
        for path in self.transformed:
            linear = get_part(self, path)
            if not isinstance(getattr(linear, "base_layer", linear), Transformed):
                raise RuntimeError(
                    f"{path} has been replaced by a {type(linear).__name__}, which does not transform its weight as "
                    "add_norm.weights says: a model with weight transforms cannot be quantised so."
                )
        blocks = self.connections if connections is None else connections.blocks
        return blocks(hidden_states, partial(self._make_calls, branches, chunk), then, skipped)

    def _make_calls(
        self, branches: Mapping[str, Branch], chunk: tuple[int, int] | None, blocks: LayerAddNorm
    ) -> list[SublayerCall]:
        calls = []
        for name, branch in branches.items():
            parts, block = self.sublayers[name], cast(SublayerAddNorm, blocks._modules[name])
            stock_parts: dict[str, Function] = {}
            for slot in block.stock_slots:
                stock_parts[slot] = get_part(self, parts.norms[slot])
            if parts.factor in self.borrowed:
                # a module is called: tools that keep its parameter elsewhere fetch it then
                factor = get_part(self, parts.factor)
                stock_parts["factor"] = factor if isinstance(factor, nn.Module) else partial(torch.mul, factor)
            dropout = None if parts.dropout is None else get_part(self, parts.dropout)
            if self.fused_add_norm and self.training:
                dropout = fused_dropout(dropout) or dropout
            if isinstance(dropout, float):
                # some stock layers have the rate alone
                dropout = partial(nn.functional.dropout, p=dropout, training=self.training)
            in_chunks = chunk if name == "feed_forward" and not self.mixes_tokens else None
            calls.append(self.call_class(blocks, name, branch, dropout, stock_parts, in_chunks))
        return calls

    def require_cross_attention(self) -> None:
        """Refuse an encoder's hidden states where there is nothing to read them."""
        if "cross_attention" not in self.installed:
            raise ValueError(
                "encoder_hidden_states were passed, but the model has no cross-attention: build it with "
                "config.add_cross_attention=True."
            )


def finite_in_float16(state: LayerState) -> LayerState:
    """The state after a layer, with what is too large for float16 as large as that can be, less room for a sum."""
    if isinstance(state, tuple):
        return tuple(cast(torch.Tensor, finite_in_float16(part)) for part in state)
    if state.dtype != torch.float16:
        return state
    largest = torch.finfo(state.dtype).max - 1000
    return state.clamp(-largest, largest)
