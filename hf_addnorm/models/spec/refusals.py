"""What a model cannot have, specs whose axes contradict each other or the model; and what is unusual, warned about."""

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import nn
from transformers.utils import logging

from ..base.depth import Position, StackPositions, at_depth
from ..base.protocols import OptionValue
from ..base.registries import INITS, RESIDUALS, WEIGHTS
from ..base.registry import ComponentSpec, one_of
from ..norms.norm_base import has_gain, is_a
from ..norms.pointwise_norms import PointwiseNorm
from ..streams.streams import AnyStream
from ..streams.wirings import Sequential
from .spec import PLACES, AddNormSpec, LayerSpec


logger = logging.get_logger(__name__)

# Axes that act through slots: (axis, the value that does nothing, the slots, what the axis does).
_THROUGH_SLOTS = (
    ("dropout", "before_out", ("out",), "names the side of the norm in the slot out"),
    ("pre_scale", 1.0, ("pre",), "scales the norm in the slot pre"),
    ("qkv_width", "head", ("q", "k", "v", "qk"), "says what the norms in the slots q, k, v, qk take"),
)
_SLOT_AXES = {axis for axis, *_ in _THROUGH_SLOTS}


class ModelFacts(Protocol):
    """What is known of a family without its models."""

    @property
    def no_positions(self) -> str:
        """Why what is added for a token's position cannot be replaced."""
        ...

    @property
    def no_tables(self) -> str:
        """Why there are no tables of embeddings, where there are none."""
        ...


class ModelConfig(Protocol):
    """What a scheme is checked against: a family's config, whose methods say what these do."""

    @property
    def facts(self) -> ModelFacts: ...

    @property
    def hidden_size(self) -> int: ...

    def add_norm_depth(self) -> int: ...

    def add_norm_sublayers(self) -> list[str]: ...

    def add_norm_is_causal(self) -> bool: ...

    def add_norm_has_position_table(self) -> bool: ...

    def add_norm_has_tables(self) -> bool: ...

    def add_norm_stays_on_sphere(self) -> bool: ...

    def add_norm_is_normed_behind(self) -> bool: ...

    def slot_width(self, sublayer: str, slot: str, qkv_width: str) -> int: ...

    def place_width(self, place: str) -> int: ...

    def build_norm(self, norm: ComponentSpec, width: int | None = None) -> nn.Module: ...

    @property
    def stack_name(self) -> str: ...

    def add_norm_sentence(self, sentence: str) -> str: ...


@dataclass(frozen=True)
class Refusal:
    """A scheme that has no meaning in some models.

    Args:
        find (`Callable`): from spec and config to the refused values, each with the field that it stands in.
        reason (`str`): the mathematical reason; `{stream}` stands for the kind of the stream, `{positions}` for what
            the family says of its positions.
        allowed (`str`): what is allowed instead.
    """

    find: Callable[[AddNormSpec, ModelConfig], list[tuple[str, ComponentSpec]]]
    reason: str
    allowed: str


REFUSALS: dict[str, Refusal] = {
    "token_norm_in_a_causal_model": Refusal(
        lambda spec, config: spec.token_norms(config.add_norm_depth()) if config.add_norm_is_causal() else [],
        "its statistics over tokens would let a token see the later ones, which a causal model predicts from it",
        "a norm of each token by itself",
    ),
    "positions_in_the_attention": Refusal(
        lambda spec, config: (
            []
            if spec.positions.kind == "stock" or config.add_norm_has_position_table()
            else [("add_norm.positions", spec.positions)]
        ),
        "{positions}",
        "'stock'",
    ),
    "tables_that_are_not_there": Refusal(
        lambda spec, config: (
            []
            if config.add_norm_has_tables()
            else [("add_norm.init", rule) for rule in spec.init if INITS.build(rule).needs_tables]
        ),
        "it draws the tables of the embeddings, and {tables}",
        "another init rule",
    ),
    "words_that_are_not_there": Refusal(
        lambda spec, config: (
            [("add_norm.weights", spec.weights)]
            if WEIGHTS[spec.weights.kind].words_only and not config.add_norm_has_tables()
            else []
        ),
        "it is for the table of the words, and {tables}",
        "another weight transform",
    ),
    "zero_out_norm_on_rep_bn": Refusal(
        lambda spec, config: (
            [
                (where, norm)
                for where, norm in spec.norms(config.add_norm_depth())
                if where.endswith(".out") and norm.kind == "rep_bn"
            ]
            if any(rule.kind == "zero_out_norm" for rule in spec.init)
            else []
        ),
        "add_norm.init is to start it at 0 (zero_out_norm), but with gain and bias 0 its output is alpha * x",
        "another norm there, or another init rule",
    ),
    "off_the_sphere": Refusal(
        lambda spec, config: (
            [("add_norm.preset", ComponentSpec(spec.preset))]
            if spec.preset == "ngpt" and not config.add_norm_stays_on_sphere()
            else []
        ),
        "all vectors of nGPT are unit vectors, and its scores are cosines with a gain; this model projects its "
        "embeddings, rotates q and k or adds something else behind the norms that make them so",
        "another preset",
    ),
    "skips_over_several_streams": Refusal(
        lambda spec, config: (
            [("add_norm.wiring", spec.wiring)] if spec.build_wiring().skips and not spec.build_stream().is_one else []
        ),
        "it takes the layer's input around a sublayer, and with several streams, as in {stream!r}, that input is not "
        "one tensor, and each of them carries it already",
        "a stream of one tensor (single, dense), or another wiring",
    ),
    "residual_over_several_streams": Refusal(
        lambda spec, config: (
            [(where, residual) for where, residual in spec.residuals() if residual.kind != "add"]
            if spec.build_stream().owns_residual
            else []
        ),
        "it weighs one stream and one branch, and the stream {stream!r} has weights of its own for what a sublayer "
        "adds to each of its streams",
        "'add'",
    ),
}


@dataclass(frozen=True)
class Unusual:
    """A scheme that runs, and that is likely not to do what is hoped for.

    Args:
        find (`Callable`): from spec and config to the unusual values, each with the field that it stands in.
        reason (`str`): why it is unusual.
        usual (`str`): what is published instead.
    """

    find: Callable[[AddNormSpec, ModelConfig], list[tuple[str, ComponentSpec]]]
    reason: str
    usual: str


WARNINGS: dict[str, Unusual] = {
    "bounded_norm_in_post": Unusual(
        lambda spec, config: [
            (where, norm)
            for where, norm in spec.norms(config.add_norm_depth())
            if where.endswith(".post") and is_a(norm, PointwiseNorm)
        ],
        "it bounds each feature of the whole stream, and squashes what the stream carries again in every layer",
        "this kind of norm in the slot pre, in front of the sublayers, and after the last layer",
    ),
    "pre_norm_without_a_final_one": Unusual(
        lambda spec, config: _unnormed_ends(spec, config),
        "nothing normalises the stream, which grows with every layer, before it leaves the last one",
        "a norm there: final",
    ),
}


def _unnormed_ends(spec: AddNormSpec, config: ModelConfig) -> list[tuple[str, ComponentSpec]]:
    depth, last = config.add_norm_depth(), config.add_norm_sublayers()[-1]
    filled = spec.layer(depth - 1, depth).slot_norms(last)
    ends_normed = spec.final is not False or "post" in filled or bool(spec.build_stream().norms)
    ends_normed = ends_normed or config.add_norm_is_normed_behind()
    return [] if ends_normed or "pre" not in filled else [(f"add_norm.{last}.pre", filled["pre"])]


def warn(spec: AddNormSpec, config: ModelConfig) -> None:
    """Warn, once in a process, about what is unusual in a spec that a model of `config` can have."""
    for unusual in WARNINGS.values():
        found = dict.fromkeys(f"{where} is {value.kind!r}" for where, value in unusual.find(spec, config))
        if found:
            sentence = f"{', '.join(found)}: {unusual.reason}; usual is {unusual.usual}."
            logger.warning_once(config.add_norm_sentence(sentence))


def check(spec: AddNormSpec, config: ModelConfig) -> None:
    """Refuse a spec for a model of `config`, or warn about it; once, as long as the config stays the same."""
    # what changes while a model is built or loaded has nothing to do with it
    facts = {key: value for key, value in vars(config).items() if key[0] != "_" and key not in _NO_FACTS}
    checked: list[tuple[type, dict[str, OptionValue]]] = spec.once(("checked", config.stack_name), list)
    if (type(config), facts) not in checked:
        try:
            refuse(spec, config)
        except ValueError as error:
            raise ValueError(config.add_norm_sentence(str(error))) from error.__cause__
        warn(spec, config)
        checked[:] = [(type(config), facts)]


_NO_FACTS = (
    "add_norm",
    "add_norm_decoder",
    "architectures",
    "auto_map",
    "dtype",
    "id2label",
    "label2id",
    "transformers_version",
)


def refuse(spec: AddNormSpec, config: ModelConfig) -> None:
    """Refuse a spec that a model of `config` cannot have.

    Args:
        spec (`AddNormSpec`): the scheme.
        config (`AddNormConfig`): the model's config.
    Raises:
        ValueError: an override for layers that are not there, an axis that does nothing, a norm that does not fit its
            place, a depth rule without a value, starts that no gradient leaves. The sentence names field and value.
    """
    depth, names = config.add_norm_depth(), config.add_norm_sublayers()
    layers = list(spec.distinct_layers(depth).values())
    wiring = spec.build_wiring()
    for refusal in REFUSALS.values():
        for where, value in refusal.find(spec, config):
            facts = config.facts
            reason = refusal.reason.format(
                stream=spec.stream.kind, positions=facts.no_positions, tables=facts.no_tables
            )
            raise ValueError(f"{where} is {value.kind!r}: {reason}; allowed is {refusal.allowed}.")
    _refuse_idle_axes(spec, depth, names, wiring)
    _refuse_unused_slots(layers, names, wiring)
    _refuse_unused_residuals(layers, names, wiring)
    with torch.device("meta"):
        _refuse_starts(spec, layers, names, config)
        _refuse_layers(spec, config)
        _refuse_places(spec, config)


def _refuse_layers(spec: AddNormSpec, config: ModelConfig) -> None:
    """Refuse numbers that a layer's position makes impossible, and parts that do not fit."""
    depth, names = config.add_norm_depth(), config.add_norm_sublayers()
    stack = StackPositions(depth, names, spec.build_wiring())
    trial = _Trial(spec.build_stream(), config)
    first, by_layer = spec.distinct_layers(depth), spec.by_layer(depth)
    last = {id(layer): index for index, layer in enumerate(by_layer)}
    by_rule = {id(layer): {name: _depth_rules(layer, name) for name in names} for layer in first.values()}
    for index, layer in enumerate(by_layer):
        at_ends = index in first or index == last[id(layer)]
        if at_ends or any(by_rule[id(layer)].values()):
            for name, position in stack.of_layer(index).items():
                for axis, rule in by_rule[id(layer)][name].items():
                    _refuse_value(axis, at_depth(rule, position, f"add_norm.{axis}"), position)
                if at_ends:
                    _refuse_value("drop_path", layer.drop_path, position)
                    trial.build(layer, name, position)


class _Trial:
    """Builds the parts of layers to see whether they fit, each of those that are equal once.

    Args:
        stream: the state that runs through the layers.
        config (`AddNormConfig`): the model's config.
    """

    def __init__(self, stream: AnyStream, config: ModelConfig):
        self.stream, self.config = stream, config
        self.tried: set[Hashable] = set()

    def build(self, layer: LayerSpec, name: str, position: Position) -> None:
        """Build what a sublayer has at a position."""
        residual = layer.residual_of(name)
        # a stream may give the first sublayer of a stack, or of a layer, something else
        own = (residual, name, position.layer == 0, layer.norm if self.stream.has_norms_in_layers else None)
        if own not in self.tried:
            self.tried.add(own)
            new_norm = partial(self.config.build_norm, layer.norm)
            try:
                self.stream.build_residual(residual, self.config.hidden_size, position, new_norm)
            except ValueError as error:
                raise ValueError(f"add_norm.residual ({residual.kind}): {error}") from None
        for slot, norm in layer.slot_norms(name).items():
            width = self.config.slot_width(name, slot, layer.qkv_width)
            if (norm, width) not in self.tried:
                self.tried.add((norm, width))
                _build(norm, self.config, f"add_norm.{name}.{slot}", width)


def _refuse_places(spec: AddNormSpec, config: ModelConfig) -> None:
    for place in PLACES:
        placed = spec.place_norm(getattr(spec, place))
        if placed is not None:
            _build(placed, config, f"add_norm.{place}", config.place_width(place))
    if spec.build_stream().norms:
        _build(spec.norm, config, "add_norm.norm", config.hidden_size)


def _build(norm: ComponentSpec, config: ModelConfig, where: str, width: int) -> nn.Module:
    try:
        return config.build_norm(norm, width)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _refuse_unused_slots(layers: list[LayerSpec], names: list[str], wiring: Sequential) -> None:
    """Refuse norms that a wiring passes by, unless the same norm stands where it goes."""
    for layer in layers:
        for order, name in enumerate(names):
            for slot, norm in layer.slot_norms(name).items():
                if wiring.uses(slot, order, len(names)):
                    continue
                used = [
                    layer.slot_norms(other).get(slot)
                    for place, other in enumerate(names)
                    if wiring.uses(slot, place, len(names))
                ]
                if norm not in used:
                    raise ValueError(
                        f"add_norm.{name}.{slot} is {norm.kind!r}, and the wiring does not run it: the slot {slot} of "
                        f"a layer is that of {names[0] if slot == 'pre' else names[-1]}."
                    )


def _refuse_unused_residuals(layers: list[LayerSpec], names: list[str], wiring: Sequential) -> None:
    """Refuse a residual of a sublayer that does not write to the stream, unless it is that of the one that does."""
    for layer in layers:
        for order, name in enumerate(names):
            residual, last = layer.residual_of(name), layer.residual_of(names[-1])
            if not wiring.writes(order, len(names)) and residual != last:
                raise ValueError(
                    f"add_norm.residual.{name} is {residual.kind!r}, and the wiring does not run it: a layer writes "
                    f"to the stream once, with the residual of {names[-1]}."
                )


def _refuse_idle_axes(spec: AddNormSpec, depth: int, names: list[str], wiring: Sequential) -> None:
    by_layer = spec.by_layer(depth)
    origins: list[tuple[str, dict[str, OptionValue], Iterable[LayerSpec]]] = [
        ("add_norm", vars(spec), spec.distinct_layers(depth).values())
    ]
    for number, override in enumerate(spec.layers):
        if not _SLOT_AXES.isdisjoint(override.axes):
            chosen = [by_layer[index] for index in override.layers(depth)]
            origins.append((f"add_norm.layers[{number}]", override.axes, chosen))
    for axis, idle, slots, does in _THROUGH_SLOTS:
        for where, axes, layers in origins:
            value = axes.get(axis, idle)
            if value != idle and not any(
                slot in layer.slot_norms(name) and wiring.uses(slot, order, len(names))
                for layer in layers
                for order, name in enumerate(names)
                for slot in slots
            ):
                raise ValueError(
                    f"{where}.{axis} is {value!r}: it {does}, and no slot {one_of(slots)} is filled; allowed is "
                    f"{idle!r}."
                )


def _refuse_starts(spec: AddNormSpec, layers: list[LayerSpec], names: list[str], config: ModelConfig) -> None:
    if "zero_out_norm" not in [rule.kind for rule in spec.init]:
        return
    where = "add_norm.init: 'zero_out_norm' starts the norms of the slot out at 0"
    norms = [layer.slot_norms(name)["out"] for layer in layers for name in names if "out" in layer.slot_norms(name)]
    if not norms:
        raise ValueError(f"{where}, but no slot out is filled.")
    for norm in norms:
        if not has_gain(_build(norm, config, "add_norm", config.hidden_size)):
            raise ValueError(f"{where}, but {norm.to_dict()} has no gain to start there.")
    for choice in (layer.residual_of(name) for layer in layers for name in names):
        options = choice.options
        if RESIDUALS[choice.kind].needs_output:
            raise ValueError(
                f"{where}, and add_norm.residual ({choice.kind}) gives a branch no gradient where it is 0: it would "
                "never learn; allowed is another residual."
            )
        if options.get("side") == "branch" and options["start"] == 0:
            raise ValueError(
                f"{where}, and add_norm.residual starts the factor on the branch at 0: of two zeros in a row neither "
                "ever gets a gradient; keep one."
            )
        if options.get("relu"):
            raise ValueError(
                f"{where}, and add_norm.residual takes their output through a ReLU, without a gradient at 0: the "
                "branch would never learn; allowed is 'relu': false."
            )


def _depth_rules(layer: LayerSpec, name: str) -> dict[str, ComponentSpec]:
    """What depends on the depth in a sublayer, by the axis or the option that says it."""
    options = {f"residual.{option}": value for option, value in layer.residual_of(name).options.items()}
    values = options | {"pre_scale": layer.pre_scale, "drop_path": layer.drop_path}
    return {axis: value for axis, value in values.items() if isinstance(value, ComponentSpec)}


def _refuse_value(axis: str, value: float | ComponentSpec, position: Position) -> None:
    if axis == "drop_path" and not isinstance(value, ComponentSpec) and not 0 <= value < 1:
        raise ValueError(
            f"add_norm.drop_path is {value:.6g} in layer {position.layer + 1}; allowed is a number, at least 0 "
            "and below 1."
        )
