"""Whether the weights of a checkpoint mean the same function in another add & norm.

It is tried, not looked up: the add & norm of both schemes runs alone, in a stack as deep and wide as the model, around
branches that are drawn at random and are the same in both. So a scheme that is registered later needs no entry here.
"""

import copy
from collections.abc import Collection, Iterable
from functools import partial
from typing import Protocol, cast

import torch
from torch import nn
from transformers.utils import logging

from ..base.registries import WEIGHTS
from ..norms.norm_base import Norm
from ..residuals.residuals import Residual
from ..spec.spec import AddNormSpec, SlotNorm
from ..streams.streams import HiddenStates
from ..weights.weight_transforms import transforms
from .addnorm_config import AddNormConfig
from .block_building import BlockBuilder, BuiltNorm
from .branch_norms import INNER_SLOTS, BranchNorms
from .family_layout import FamilyLayout
from .layer_add_norm import Branch, LayerAddNorm, SublayerCall


logger = logging.get_logger(__name__)

# of the branches that are drawn: features inside, and the role of the layer that writes to the stream
_INSIDE = 4
_WRITES = {"attention": "o", "cross_attention": "o", "feed_forward": "w2"}
# the sizes of the tokens: beside a small one, an eps counts
_SIZES = (1.0, 1.0, 0.1, 0.02)
# largest difference that counts as none, in parts of a token's largest value: some gates start near the identity
_TOLERANCE = 1e-2


class HasLayout(Protocol):
    """A model of a family."""

    @property
    def stack_configs(self) -> dict[str, AddNormConfig]: ...

    def layout_of(self, config: AddNormConfig) -> FamilyLayout:
        """The layout of a model of this config."""
        ...


def warn_of_another_function(model: HasLayout, checkpoint: object, before: AddNormConfig) -> None:
    """Say, for each stack of layers, that a checkpoint's weights are read by another add & norm, if that is another
    function.

    Args:
        model (`AddNormPreTrainedModel`): as loaded.
        checkpoint: what it was loaded from.
        before (`AddNormConfig`): the config of what the weights were trained as.
    """
    for name, config in model.stack_configs.items():
        # as remote code, a config may be of another copy of these files
        trained = AddNormSpec.parse(before.add_norm_stack(name).add_norm)
        read = AddNormSpec.parse(config.add_norm)
        if not is_another_function(config, model.layout_of(config), trained, read):
            continue
        layers, where = config.add_norm_depth(), f" ({name})" if name else ""
        said = [f"{spec.short()!r} ({_kinds(spec, layers)})" for spec in (trained, read)]
        logger.warning(
            f"{type(model).__name__}{where}: the weights of {checkpoint} were trained with the add & norm {said[0]} "
            f"and are read by {said[1]}. The model computes another function than before, until it is trained with it."
        )


def _kinds(spec: AddNormSpec, layers: int) -> str:
    """The kinds of norm in it, for a sentence."""
    return ", ".join(dict.fromkeys(norm.kind for _, norm in spec.norms(layers))) or "no norm"


def is_another_function(config: AddNormConfig, layout: FamilyLayout, before: AddNormSpec, after: AddNormSpec) -> bool:
    """Whether the weights of a model with `before` make another function with `after`, as evaluation computes it.

    What a scheme has beside them has its start values.

    Args:
        config: of the model.
        layout: of its family.
        before, after (`AddNormSpec`): the scheme that the weights were trained with, and that of the model.
    """
    if before == after:
        return False
    if _stated(before, config) != _stated(after, config):
        return True
    # the caller's random numbers, device and dtype are left alone
    with torch.random.fork_rng(devices=[]), torch.device("cpu"), torch.no_grad():
        torch.manual_seed(0)
        old, new = (AddNormAlone(config, layout, spec) for spec in (before, after))
        for parameter in old.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        new.take(old)
        sizes = torch.tensor(_SIZES, dtype=torch.float64)[:, None]
        x = sizes * (torch.randn(1, len(_SIZES), int(config.hidden_size), dtype=torch.float64) + 0.5)
        expected, found = old(x), new(x)
        differences = (found - expected).abs().amax(-1) / expected.abs().amax(-1)
        # written so that no number counts as a difference
        return not bool((differences <= _TOLERANCE).all())


def _stated(spec: AddNormSpec, config: AddNormConfig) -> list[object]:
    """What the stack of `AddNormAlone` leaves out: norms inside a branch or in a head, positions, inner weights."""
    layers, names = config.add_norm_depth(), config.add_norm_sublayers()
    inside = [
        [
            {slot: norm for slot, norm in layer.slot_norms(name).items() if slot in INNER_SLOTS}
            for name in names
            if layer.slot_norms(name).keys() & INNER_SLOTS
        ]
        for layer in spec.by_layer(layers)
    ]
    positions = "stock" if spec.positions.kind == "learned" else spec.positions
    head = "stock" if spec.head == "stock" else spec.place_norm(spec.head)
    roles: Collection[str] = spec.weights.options.get("roles") or WEIGHTS[spec.weights.kind].possible_roles
    weights = spec.weights if set(roles) - set(_WRITES.values()) else None
    return [inside, positions, head, spec.place_norm(spec.logits), weights]


def _outside_branch(name: str, norms: dict[str, BuiltNorm]) -> tuple[set[str], dict[str, nn.Module]]:
    """The norms of a sublayer that are not inside its branch."""
    found = {slot: norm.module for slot, norm in norms.items() if slot not in INNER_SLOTS}
    return set(found), found


class AddNormAlone(nn.Module):
    """The add & norm of a model without the rest: its branches are drawn, and there are no embeddings.

    Args:
        config: of the model; with another `add_norm`, it is copied.
        layout: of its family.
        spec (`AddNormSpec`): the scheme.
    """

    def __init__(self, config: AddNormConfig, layout: FamilyLayout, spec: AddNormSpec):
        super().__init__()
        config = copy.deepcopy(config)
        config.add_norm = spec
        self.builder, self.spec = BlockBuilder(spec, config), spec
        self.layers = nn.ModuleList(
            self.builder.build_layer(depth, _outside_branch) for depth in range(self.builder.layers)
        )
        self.embed, self.final = self._place(spec.embed), self._place(spec.final)
        if layout.embed_norm is None and spec.embed in ("auto", False):
            self.embed = nn.Identity()
        for module in self.modules():
            if isinstance(module, (Norm, Residual)):
                module.reset_parameters()
        self.double().eval()

    def _place(self, place: str | SlotNorm) -> nn.Module:
        norm = self.spec.place_norm(place)
        return nn.Identity() if norm is None else AddNormConfig.build_norm(self.builder.config, norm)

    def take(self, other: "AddNormAlone") -> None:
        """Load what another one has under the same name and of the same shape, as a checkpoint is loaded."""
        own = self.state_dict()
        found = {key: value for key, value in other.state_dict().items() if key in own}
        self.load_state_dict(
            {key: value for key, value in found.items() if own[key].shape == value.shape}, strict=False
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """From the sum of the embeddings to the last hidden state, [batch, seq, hidden]."""
        generator = torch.Generator().manual_seed(1)
        state: HiddenStates = self.embed(x)
        for layer in cast(Iterable[LayerAddNorm], self.layers):
            state = layer(state, partial(self._make_calls, x.shape[-1], generator))
        last: torch.Tensor = self.final(state)
        return last

    def _make_calls(self, width: int, generator: torch.Generator, layer: LayerAddNorm) -> list[SublayerCall]:
        return [
            SublayerCall(layer, name, self._branch(name, width, generator), None, {}) for name in self.builder.names
        ]

    def _branch(self, name: str, width: int, generator: torch.Generator) -> Branch:
        draw = partial(torch.randn, generator=generator, dtype=torch.float64)
        into, weight, bias = draw(_INSIDE, width) / width**0.5, draw(width, _INSIDE) / 2, draw(width) / 2
        for transform in transforms(self.spec.weights, (_WRITES[name],), width, _INSIDE) or ():
            transform.double().start(weight)
            bias = transform.of_bias(bias) if transform.has_bias_too else bias
            weight = transform(weight)

        def branch(u: torch.Tensor, norms: BranchNorms) -> torch.Tensor:
            return nn.functional.linear(nn.functional.linear(u, into).tanh(), weight, bias)

        return branch
