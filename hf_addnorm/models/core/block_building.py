"""What the add & norm blocks of a model's layers are built of."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import nn

from ..base.depth import Position, StackPositions
from ..base.registry import ComponentSpec
from ..residuals.residuals import Residual
from ..spec.spec import AddNormSpec, LayerSpec
from ..streams.streams import NewNorm
from .addnorm_config import AddNormConfig
from .layer_add_norm import LayerAddNorm, StreamModules, SublayerAddNorm


@dataclass(frozen=True)
class BuiltNorm:
    """A norm of a slot.

    Args:
        choice (`ComponentSpec`): what the spec says.
        module (`torch.nn.Module`): the norm.
    """

    choice: ComponentSpec
    module: nn.Module


# of a sublayer, from its name and its norms by slot: the slots that count as filled, the norms that its block holds
PlaceNorms = Callable[[str, dict[str, BuiltNorm]], tuple[set[str], dict[str, nn.Module]]]


class BlockBuilder:
    """Builds the parts of add & norm blocks; what is the same for all layers of a model is worked out once.

    Args:
        spec (`AddNormSpec`): the scheme.
        config (`AddNormConfig`): the model's config.
    """

    def __init__(self, spec: AddNormSpec, config: AddNormConfig):
        self.spec, self.config = spec, config
        self.layers, self.names = config.add_norm_depth(), config.add_norm_sublayers()
        self.stream, self.wiring = spec.build_stream(), spec.build_wiring()
        self.positions = StackPositions(self.layers, self.names, self.wiring)
        self.mixes_tokens, self.asks_model = bool(spec.token_norms(self.layers)), spec.asks_model(self.layers)

    def layer_spec(self, depth: int) -> LayerSpec:
        """The axes of the layer at `depth`."""
        return self.spec.layer(depth, self.layers)

    def head_size(self, spec: LayerSpec) -> int | None:
        """Features of a head, where q, k, v are normalised head by head."""
        return self.config.add_norm_head_size() if spec.qkv_width == "head" else None

    def build_layer(self, depth: int, place: PlaceNorms) -> LayerAddNorm:
        """The blocks of the layer at `depth`.

        Args:
            depth (`int`): the layer's index.
            place (`Callable`): decides which norms of a sublayer its block holds itself.
        """
        spec, shared, positions = self.layer_spec(depth), None, self.positions.of_layer(depth)
        blocks: dict[str, SublayerAddNorm] = {}
        for name, position in positions.items():
            filled, norms = place(name, self.build_norms(spec, name))
            residual = self.build_residual(spec, name, position)
            if spec.residual_of(name).options.get("share") == "layer":
                shared, residual = shared or residual, None
            blocks[name] = SublayerAddNorm(spec, position, filled, norms, residual, self.head_size(spec))
        first, modules = positions[self.names[0]], self.build_stream_modules(depth)
        return LayerAddNorm(blocks, shared, self.stream, self.wiring, first, modules)

    def build_norms(self, spec: LayerSpec, name: str) -> dict[str, BuiltNorm]:
        """The norms of a sublayer, by slot; of the slots that the wiring uses."""
        norms: dict[str, BuiltNorm] = {}
        for slot, choice in spec.slot_norms(name).items():
            if self.wiring.uses(slot, self.names.index(name), len(self.names)):
                module = self._build_norm(choice, self.config.slot_width(name, slot, spec.qkv_width))
                module.add_norm_role = f"{slot}_norm"  # type: ignore[assignment]
                norms[slot] = BuiltNorm(choice, module)
        return norms

    def build_residual(self, spec: LayerSpec, name: str, position: Position) -> Residual | None:
        """How a sublayer reads the stream and writes to it; None where the wiring has another one write."""
        if not self.wiring.writes(self.names.index(name), len(self.names)):
            return None
        choice, width = spec.residual_of(name), self.config.hidden_size
        return self.stream.build_residual(choice, width, position, self._new_norm(spec.norm))

    def build_stream_modules(self, depth: int) -> StreamModules:
        """What the stream itself has in the layer at `depth`."""
        stream, width = self.stream, self.config.hidden_size
        is_last, new_norm = depth == self.layers - 1, self._new_norm(self.stream.own_norm(self.spec.norm))
        return StreamModules(
            stream.build_entry_modules(width) if depth == 0 else {},
            stream.build_exit_modules(width, new_norm) if is_last else None,
            stream.build_layer_part(width, self.positions.of_layer(depth)[self.names[0]]),
        )

    def _new_norm(self, choice: ComponentSpec) -> NewNorm:
        return partial(AddNormConfig.build_norm, self.config, choice)

    def _build_norm(self, choice: ComponentSpec, width: int) -> nn.Module:
        return AddNormConfig.build_norm(self.config, choice, width)
