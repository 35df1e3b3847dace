"""The spec of an add & norm scheme: `config.add_norm`, resolved over every axis."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Literal, TypeVar, cast

from ..base.depth import parse_depth_value
from ..base.protocols import JsonValue, OptionValue
from ..base.registries import DEPTH_RULES, INITS, NORMS, POSITIONS, RESIDUALS, STREAMS, WEIGHTS, WIRINGS
from ..base.registry import ComponentSpec, Fraction, Registry, as_key, one_of, parse_option, to_json, unknown, whole
from ..norms.norm_base import mixes_tokens
from ..streams.streams import AnyStream
from ..streams.wirings import Sequential
from .presets import PRESETS


T = TypeVar("T")

FORMAT_VERSION = 1

SLOTS = ("pre", "q", "k", "v", "qk", "mid", "out", "post")

# where a model may have a norm outside its layers
PLACES = ("embed", "final", "head", "logits")

SUBLAYERS = ("attention", "cross_attention", "feed_forward")

# those of the feed-forward, which has no q, k, v, but something before its activation
_FEED_FORWARD_SLOTS = ("pre", "up", "mid", "out", "post")


# One residual for all sublayers of a layer, or one by sublayer.
Residuals = ComponentSpec | dict[str, ComponentSpec]

# the parsed value of an axis: which type it has depends on the axis, as `LayerSpec` and `AddNormSpec` say
AxisValue = OptionValue
# from what a config says and the field that it stands in, to what it means
Parser = Callable[[object, str], AxisValue]

# A norm slot holds True (the spec's own norm stands here), False (nothing) or a norm of its own.
SlotNorm = bool | ComponentSpec


@dataclass(frozen=True)
class LayerSpec:
    """The axes that one layer may have for itself.

    Args:
        norm (`ComponentSpec`): the norm of every slot that names none of its own.
        attention, cross_attention, feed_forward (`dict[str, SlotNorm]`): the filled slots: pre, q, k, v, qk, up, mid,
            out, post; q, k, v and qk (one norm for q and k) are those of an attention, up (before the activation) is
            that of the feed-forward.
        qkv_width (`str`): the norms in q, k, v, qk take "head" by head, with one gain for all, or the "hidden" size.
        residual (`ComponentSpec` or `dict`): how stream and branch are combined, in all sublayers or by sublayer.
        pre_scale (`float` or `ComponentSpec`): multiplies the output of the norm in `pre`.
        dropout (`str`): "before_out" or "after_out", the branch's dropout relative to the norm in `out`.
        drop_path (`float` or `ComponentSpec`): the probability with which a sample's branch is left out in training.
    """

    norm: ComponentSpec
    attention: dict[str, SlotNorm]
    cross_attention: dict[str, SlotNorm]
    feed_forward: dict[str, SlotNorm]
    qkv_width: str
    residual: Residuals
    pre_scale: float | ComponentSpec
    dropout: str
    drop_path: float | ComponentSpec

    def residual_of(self, sublayer: str) -> ComponentSpec:
        """How `sublayer` combines stream and branch."""
        return self.residual if isinstance(self.residual, ComponentSpec) else self.residual[sublayer]

    def slot_norms(self, sublayer: str) -> dict[str, ComponentSpec]:
        """The norm of every filled slot of `sublayer`."""
        slots = getattr(self, sublayer)
        return {slot: self.norm if norm is True else norm for slot, norm in slots.items() if norm is not False}


def _parse_slot_norm(value: object, where: str, word: str = "") -> SlotNorm:
    if isinstance(value, bool):
        return value
    if value is None:
        return False
    if isinstance(value, (str, Mapping, ComponentSpec)) or hasattr(value, "to_dict"):
        return NORMS.parse(value, where)
    words = f"true, false, {word!r}" if word else "true, false"
    raise ValueError(f"{where} is {value!r}; allowed is {words}, a norm ({', '.join(NORMS)}) or a dict of one.")


def _parse_slots(value: object, where: str, slots: tuple[str, ...] = SLOTS) -> dict[str, SlotNorm]:
    if isinstance(value, (list, tuple)) and all(isinstance(slot, str) for slot in value):
        value = dict.fromkeys(value, True)
    if not isinstance(value, Mapping):
        raise ValueError(
            f"{where} is {value!r}; allowed is a list of slots ({', '.join(slots)}) or a dict from slot to norm."
        )
    for slot in value:
        if slot not in slots:
            raise ValueError(f"{where}: {unknown('slot', slot, slots)}")
    parsed = {slot: _parse_slot_norm(value[slot], f"{where}.{slot}") for slot in slots if slot in value}
    filled: dict[str, SlotNorm] = {slot: norm for slot, norm in parsed.items() if norm is not False}
    if "qk" in filled and not filled.keys().isdisjoint(("q", "k")):
        raise ValueError(
            f"{where} fills {', '.join(filled)}: qk is one norm for q and k; allowed is qk alone, or q and k."
        )
    return filled


def _parse_residual(value: object, where: str, default: Residuals | None = None) -> Residuals:
    """A residual, or a dict from sublayer to residual over `default`; sublayers that it leaves out keep theirs."""
    if not isinstance(value, Mapping) or not any(key in SUBLAYERS for key in value):
        return RESIDUALS.parse(value, where, default=default if isinstance(default, ComponentSpec) else None)
    below = default if isinstance(default, dict) else dict.fromkeys(SUBLAYERS, default or ComponentSpec("add"))
    for key in value:
        if key not in SUBLAYERS:
            raise ValueError(f"{where}: {unknown('sublayer', key, SUBLAYERS)}")
    parsed = below | {key: RESIDUALS.parse(item, f"{where}.{key}", default=below[key]) for key, item in value.items()}
    for name, residual in parsed.items():
        if residual.options.get("share") == "layer":
            raise ValueError(
                f"{where}.{name}.share is 'layer', but the sublayers have their own residuals; allowed is 'sublayer'."
            )
    return parsed


def _parse_place(value: object, where: str, word: str) -> "str | SlotNorm":
    """A place outside the layers: a slot norm, or the word that leaves it to the model."""
    if value == word:
        return word
    if isinstance(value, str) and value not in NORMS:
        raise ValueError(f"{where}: {unknown('norm', value, [word, *NORMS])}")
    return _parse_slot_norm(value, where, word)


def _parse_inits(value: object, where: str) -> list[ComponentSpec]:
    if value in (None, "stock"):
        return []
    values = value if isinstance(value, (list, tuple)) else [value]
    rules = [INITS.parse(rule, f"{where}[{index}]") for index, rule in enumerate(values)]
    seen: dict[str, str] = {}
    for rule in rules:
        for role in INITS.build(rule).roles:
            if role in seen:
                raise ValueError(f"{where}: {seen[role]!r} and {rule.kind!r} both set the start of {role}; keep one.")
            seen[role] = rule.kind
    return rules


def _layer_parsers(default: Mapping[str, AxisValue]) -> dict[str, Parser]:
    """How each axis of a layer is parsed; a dict without "kind" changes the options of `default`'s choice."""

    def choice(registry: Registry[Callable[..., object]], axis: str) -> Parser:
        return lambda value, where: registry.parse(value, where, default=default.get(axis))

    return {
        "norm": choice(NORMS, "norm"),
        "attention": _parse_slots,
        "cross_attention": _parse_slots,
        "feed_forward": partial(_parse_slots, slots=_FEED_FORWARD_SLOTS),
        "qkv_width": partial(parse_option, Literal["head", "hidden"]),
        "residual": partial(_parse_residual, default=default.get("residual")),
        "pre_scale": parse_depth_value,
        "dropout": partial(parse_option, Literal["before_out", "after_out"]),
        "drop_path": parse_depth_value,
    }


def _parse_index(value: object, where: str) -> list[int]:
    indices: list[JsonValue] = list(value) if isinstance(value, (list, tuple)) else [value]
    if not indices or any(type(index) is not int for index in indices):
        raise ValueError(f"{where} is {value!r}; allowed is a layer's index from 0 (negative from the end) or a list.")
    return indices


def _parse_range(value: object, where: str) -> list[int]:
    bounds = list(value) if isinstance(value, (list, tuple)) else []
    if len(bounds) != 2 or any(type(bound) is not int for bound in bounds) or not 0 <= bounds[0] < bounds[1]:
        raise ValueError(f"{where} is {value!r}; allowed is [start, stop], whole numbers with 0 <= start < stop.")
    return bounds


_fraction = partial(parse_option, Fraction)


def _share(fraction: float, layers: int) -> int:
    """The fraction of the layers, rounded down; 0.29 of 100 is 29, whatever floating point makes of it."""
    return int(round(fraction * layers, 9))


# How an override names its layers: (what its value may be, the layers that it selects in a stack of n).
SELECTORS: dict[str, tuple[Parser, Callable[[JsonValue, int], Iterable[int]]]] = {
    "first": (whole(at_least=1), lambda value, n: range(value)),
    "last": (whole(at_least=1), lambda value, n: range(n - value, n)),
    "index": (_parse_index, lambda value, n: [index + n if index < 0 else index for index in value]),
    "every": (whole(at_least=2), lambda value, n: range(value - 1, n, value)),
    "range": (_parse_range, lambda value, n: range(*value)),
    "first_fraction": (_fraction, lambda value, n: range(_share(value, n))),
    "last_fraction": (_fraction, lambda value, n: range(n - _share(value, n), n)),
}


@dataclass(frozen=True)
class Override:
    """Axes that some layers have for themselves.

    Args:
        selector (`str`): "first", "last" (a number of layers), "index" (one or several), "every" (the layers k, 2k,
            3k, ..., counted from 1), "range" ([start, stop]), "first_fraction" or "last_fraction" (of the depth,
            rounded down).
        value: the selector's value.
        axes (`dict`): the changed axes of `LayerSpec`.
    """

    selector: str
    value: JsonValue
    axes: dict[str, AxisValue]

    @classmethod
    def parse(cls, value: object, where: str, default: Mapping[str, AxisValue]) -> "Override":
        """From `{selector: value, axis: ...}`."""
        if not isinstance(value, Mapping):
            raise ValueError(f"{where} is {value!r}; allowed is a dict with one of {one_of(SELECTORS)} and the axes.")
        parsers = _layer_parsers(default)
        for key in value:
            if key not in SELECTORS and key not in parsers:
                raise ValueError(f"{where}: {unknown('key', key, [*SELECTORS, *parsers])}")
        chosen = [key for key in value if key in SELECTORS]
        if len(chosen) != 1:
            raise ValueError(f"{where} names {len(chosen)} of {one_of(SELECTORS)}; allowed is exactly one.")
        axes = {key: parsers[key](value[key], f"{where}.{key}") for key in parsers if key in value}
        if not axes:
            raise ValueError(f"{where} selects layers but changes nothing; allowed are {', '.join(parsers)}.")
        parse_value, _ = SELECTORS[chosen[0]]
        return cls(chosen[0], parse_value(value[chosen[0]], f"{where}.{chosen[0]}"), axes)

    def layers(self, layers: int) -> list[int]:
        """The selected indices in a stack of `layers`.

        Raises:
            ValueError: if one lies outside of it.
        """
        _, select = SELECTORS[self.selector]
        selected = list(select(self.value, layers))
        outside = [index for index in selected if not 0 <= index < layers]
        if outside:
            raise ValueError(
                f"add_norm.layers: {{{self.selector!r}: {self.value!r}}} selects layers outside of 0..{layers - 1}; "
                f"the model has {layers}."
            )
        return selected

    def to_dict(self) -> dict[str, JsonValue]:
        """JSON form."""
        return {key: to_json(item) for key, item in {self.selector: self.value, **self.axes}.items()}


@dataclass(frozen=True)
class AddNormSpec:
    """An add & norm scheme over all of its axes. Build one with `AddNormSpec.parse`.

    Args:
        format_version (`int`): version of this format.
        preset, variant (`str`): the row that the axes started from, and whether in the "paper"'s form or in that of
            the authors' "official" code. For people: of one that is a whole (`Preset.whole`) alone it is a statement,
            and then every axis is the row's.
        norm (`ComponentSpec`): the norm of every place that names none of its own.
        positions (`ComponentSpec`): what is added to the embeddings for a token's position.
        embed (`"auto"` or `SlotNorm`): after the sum of the embeddings; "auto": where the stock model has a norm.
        attention, feed_forward (`dict`): filled slots of the sublayers.
        cross_attention (`dict` or `None`): likewise, by default as `attention`.
        final (`SlotNorm`): after the last layer.
        head (`"stock"` or `SlotNorm`): the heads' own norms; "stock" leaves them alone.
        logits (`SlotNorm`): on the logits of a language model, where the model has its head.
        qkv_width (`str`): the norms in q, k, v, qk take "head" by head, or the "hidden" size.
        residual (`ComponentSpec` or `dict`): how stream and branch are combined, in all sublayers or by sublayer.
        pre_scale (`float` or `ComponentSpec`): multiplies the output of the norm in `pre`.
        dropout (`str`): the branch's dropout, "before_out" or "after_out" relative to the norm in `out`.
        drop_path (`float` or `ComponentSpec`): stochastic depth, the probability that a sample's branch is left out.
        stream, wiring (`ComponentSpec`): the state that runs through the layers; how a layer's sublayers meet.
        weights (`ComponentSpec`): what is done to the weights, of Linear layers and others, in every forward.
        init (`list[ComponentSpec]`): rules for the start weights; empty is the stock init.
        layers (`list[Override]`): per-layer exceptions, later ones win.
    """

    format_version: int
    preset: str
    variant: str
    norm: ComponentSpec
    positions: ComponentSpec
    embed: str | SlotNorm
    attention: dict[str, SlotNorm]
    cross_attention: dict[str, SlotNorm] | None
    feed_forward: dict[str, SlotNorm]
    final: SlotNorm
    head: str | SlotNorm
    logits: SlotNorm
    qkv_width: str
    residual: Residuals
    pre_scale: float | ComponentSpec
    dropout: str
    drop_path: float | ComponentSpec
    stream: ComponentSpec
    wiring: ComponentSpec
    weights: ComponentSpec
    init: list[ComponentSpec]
    layers: list[Override]

    @classmethod
    def parse(cls, value: object, default: Mapping[str, JsonValue] | None = None) -> "AddNormSpec":
        """A spec from what a user or a config.json wrote.

        Args:
            value: the name of a preset, a dict of axes (over its "preset", or `default`), a spec, or None.
            default (`dict`, *optional*, defaults to `{"preset": "post_ln"}`): the stock form of the family.
        Raises:
            ValueError: unknown key, unknown name (the nearest known ones are named), value not allowed, axes that
                contradict each other, or a format newer than this version reads.
        """
        if isinstance(value, cls):
            return value
        given = _as_axes(value, default or {"preset": "post_ln"}, [f.name for f in fields(cls)])
        preset = given["preset"]
        if not isinstance(preset, str) or preset not in PRESETS:
            raise ValueError(f"add_norm.preset: {unknown('preset', preset, PRESETS)}")
        row = PRESETS[preset]
        axes = _axes(row.spec, _axes(_STOCK_AXES, {}))
        variant = _parse_variant(given.get("variant", "paper"), preset)
        if variant == "official":
            axes = _axes(row.official, axes)
        own = axes
        axes = _axes({key: item for key, item in given.items() if key not in _NO_AXES}, axes)
        if row.whole:
            _refuse_changes(preset, axes, own)
        return cls(format_version=FORMAT_VERSION, preset=preset, variant=variant, **axes)

    def __getstate__(self) -> dict[str, AxisValue]:
        return {key: value for key, value in vars(self).items() if key != "_kept"}

    def once(self, what: Hashable, compute: Callable[[], T]) -> T:
        """What `compute()` gives, computed at the first call for `what`; it must follow from the spec alone."""
        kept: dict[Hashable, T] = vars(self).setdefault("_kept", {})
        if what not in kept:
            kept[what] = compute()
        return kept[what]

    def layer(self, index: int, layers: int) -> LayerSpec:
        """What layer `index` of `layers` has.

        Raises:
            ValueError: if an override selects layers that the stack does not have.
        """
        return self.by_layer(layers)[index]

    def by_layer(self, layers: int) -> list[LayerSpec]:
        """What each layer of a stack of `layers` has; layers with the same exceptions, or none, share one object.

        Raises:
            ValueError: if an override selects layers that the stack does not have.
        """
        return self.once(("layers", layers), partial(self._resolve, layers))

    def distinct_layers(self, layers: int) -> dict[int, LayerSpec]:
        """The different ones of them, by the first layer that has each."""
        return self.once(("distinct", layers), lambda: _first_of_each(self.by_layer(layers)))

    def _resolve(self, layers: int) -> list[LayerSpec]:
        plain = {f.name: getattr(self, f.name) for f in fields(LayerSpec)}
        changed: list[tuple[int, ...]] = [()] * layers
        # overrides that say the same count as one
        numbers: dict[Hashable, int] = {}
        axes_of: list[dict[str, AxisValue]] = []
        for override in self.layers:
            number = numbers.setdefault(as_key(override.axes), len(axes_of))
            axes_of.append(override.axes)
            for index in override.layers(layers):
                changed[index] += (number,)
        made: dict[tuple[int, ...], LayerSpec] = {}
        for chosen in changed:
            if chosen not in made:
                axes = dict(plain)
                for number in chosen:
                    axes |= axes_of[number]
                if axes["cross_attention"] is None:
                    axes["cross_attention"] = axes["attention"]
                made[chosen] = LayerSpec(**axes)
        return [made[chosen] for chosen in changed]

    def residuals(self) -> Iterator[tuple[str, ComponentSpec]]:
        """Every residual, and where it stands."""
        given = {"add_norm.residual": self.residual} | {
            f"add_norm.layers[{index}].residual": override.axes["residual"]
            for index, override in enumerate(self.layers)
            if "residual" in override.axes
        }
        for where, residual in given.items():
            if isinstance(residual, ComponentSpec):
                yield where, residual
            else:
                yield from ((f"{where}.{name}", choice) for name, choice in residual.items())

    def norms(self, layers: int) -> Iterator[tuple[str, ComponentSpec]]:
        """Every norm of a model with so many layers, and where it stands; once for all layers that are the same."""
        for place in PLACES:
            if (norm := self.place_norm(getattr(self, place))) is not None:
                yield f"add_norm.{place}", norm
        stream = self.build_stream()
        if stream.norms:
            yield "add_norm.norm", self.norm
        for layer in self.distinct_layers(layers).values():
            if stream.has_norms_in_layers:
                yield "add_norm.norm", layer.norm
            for name in SUBLAYERS:
                for slot, norm in layer.slot_norms(name).items():
                    yield f"add_norm.{name}.{slot}", norm

    def token_norms(self, layers: int) -> list[tuple[str, ComponentSpec]]:
        """Those of them that look at more than one token."""
        return self.once(("token_norms", layers), lambda: [it for it in self.norms(layers) if mixes_tokens(it[1])])

    def asks_model(self, layers: int) -> bool:
        """Whether something in it asks what the model knows during a forward."""
        drops = any(layer.drop_path != 0 for layer in self.distinct_layers(layers).values())
        return drops or bool(self.token_norms(layers)) or WEIGHTS[self.weights.kind].iterates

    def build_stream(self) -> AnyStream:
        """The state that runs through the layers."""
        return cast(AnyStream, STREAMS.build(self.stream))

    def build_wiring(self) -> Sequential:
        """How the sublayers of a layer meet."""
        return cast(Sequential, WIRINGS.build(self.wiring))

    def place_norm(self, place: "str | SlotNorm") -> ComponentSpec | None:
        """The norm of one of the `PLACES` outside the layers, or None."""
        if isinstance(place, ComponentSpec):
            return place
        return self.norm if place in (True, "auto") else None

    def short(self) -> str | dict[str, JsonValue]:
        """The least that a config has to say to mean this spec: a preset's name, or a dict of what differs from it."""
        form: dict[str, JsonValue] = {"preset": self.preset} | (
            {} if self.variant == "paper" else {"variant": self.variant}
        )
        plain = AddNormSpec.parse(form).to_dict()
        changed = {axis: value for axis, value in self.to_dict().items() if value != plain[axis]}
        form |= {axis: _short(axis, value) for axis, value in changed.items()}
        return form if len(form) > 1 else self.preset

    def __repr__(self) -> str:
        return f"AddNormSpec.parse({self.short()!r})"

    def to_dict(self) -> dict[str, JsonValue]:
        """JSON form: every axis, resolved. `AddNormSpec.parse(spec.to_dict()) == spec`."""
        return {
            f.name: [override.to_dict() for override in self.layers]
            if f.name == "layers"
            else to_json(getattr(self, f.name))
            for f in fields(self)
        }


# what the components of an axis are registered in; those of any other axis are norms
_REGISTRIES: dict[str, Registry[Callable[..., object]]] = {
    "positions": POSITIONS,
    "residual": RESIDUALS,
    "pre_scale": DEPTH_RULES,
    "drop_path": DEPTH_RULES,
    "stream": STREAMS,
    "wiring": WIRINGS,
    "weights": WEIGHTS,
    "init": INITS,
}


def _short(axis: str, value: JsonValue) -> JsonValue:
    """The JSON form of an axis, without the options that have their default."""
    if isinstance(value, list):
        return [_short(axis, item) for item in value]
    if not isinstance(value, dict):
        return value
    if "kind" not in value:
        # of an override by axis, of slots and of residuals by sublayer
        short = {key: _short(key if axis == "layers" else axis, item) for key, item in value.items()}
        return list(short) if axis in SUBLAYERS and all(norm is True for norm in short.values()) else short
    kind, options = value["kind"], _REGISTRIES.get(axis, NORMS).options(value["kind"])
    given = {key: item for key, item in value.items() if key != "kind" and item != to_json(options[key].default)}
    return {"kind": kind, **given} if given else kind


_NO_AXES = ("format_version", "preset", "variant")


def _first_of_each(layers: list[LayerSpec]) -> dict[int, LayerSpec]:
    found: dict[int, tuple[int, LayerSpec]] = {}
    for index, layer in enumerate(layers):
        found.setdefault(id(layer), (index, layer))
    return dict(found.values())


def _as_axes(value: object, default: Mapping[str, JsonValue], known: list[str]) -> Mapping[str, JsonValue]:
    """What a user or a config.json wrote, as a dict of `known` keys with a preset (by default that of `default`).

    Raises:
        ValueError: as `AddNormSpec.parse`.
    """
    if hasattr(value, "to_dict"):
        value = value.to_dict()
    if value is None:
        value = default
    if isinstance(value, str):
        value = {"preset": value}
    if not isinstance(value, Mapping):
        raise ValueError(f"add_norm is {value!r}; allowed is a preset's name ({', '.join(PRESETS)}) or a dict.")
    version = value.get("format_version", FORMAT_VERSION)
    if type(version) is not int or version < 1:
        raise ValueError(f"add_norm.format_version is {version!r}; allowed is a whole number up to {FORMAT_VERSION}.")
    if version > FORMAT_VERSION:
        raise ValueError(
            f"add_norm.format_version is {version}, but this version of hf_addnorm reads up to {FORMAT_VERSION}; "
            f"a newer hf_addnorm is needed."
        )
    for key in value:
        if key not in known:
            raise ValueError(f"add_norm: {unknown('key', key, known)}")
    return value if "preset" in value else {**default, **value}


def _parse_variant(value: object, preset: str) -> str:
    variant: str = parse_option(Literal["paper", "official"], value, "add_norm.variant")
    if variant == "official" and not PRESETS[preset].official:
        raise ValueError(
            f"add_norm.variant is 'official', and the authors' code of {preset!r} has no form of its own; those that "
            f"have are {one_of(name for name, row in PRESETS.items() if row.official)}."
        )
    return variant


def _refuse_changes(preset: str, axes: Mapping[str, AxisValue], own: Mapping[str, AxisValue]) -> None:
    """Refuse other axes than a preset's own."""
    for axis, value in axes.items():
        if value != own[axis]:
            raise ValueError(
                f"add_norm.{axis} is {to_json(value)!r}: {preset!r} is one whole, whose parts hold for each other; "
                f"allowed is {to_json(own[axis])!r}, or its parts, by their own names, over another preset."
            )


_STOCK_AXES = {
    "norm": "layer_norm",
    "positions": "stock",
    "embed": "auto",
    "attention": ["post"],
    "cross_attention": None,
    "feed_forward": ["post"],
    "final": False,
    "head": "stock",
    "logits": False,
    "qkv_width": "head",
    "residual": "add",
    "pre_scale": 1.0,
    "dropout": "before_out",
    "drop_path": 0.0,
    "stream": "single",
    "wiring": "sequential",
    "weights": "none",
    "init": [],
    "layers": [],
}


def _axes(given: Mapping[str, JsonValue], below: Mapping[str, AxisValue]) -> dict[str, AxisValue]:
    """`below` with the axes of `given` parsed over it."""
    parsers: dict[str, Parser] = {
        **_layer_parsers(below),
        "cross_attention": lambda value, where: None if value is None else _parse_slots(value, where),
        "embed": partial(_parse_place, word="auto"),
        "final": _parse_slot_norm,
        "head": partial(_parse_place, word="stock"),
        "logits": _parse_slot_norm,
        "positions": POSITIONS.parse,
        "stream": STREAMS.parse,
        "wiring": WIRINGS.parse,
        "weights": WEIGHTS.parse,
        "init": _parse_inits,
    }
    axes = dict(below) | {
        key: parsers[key](value, f"add_norm.{key}") for key, value in given.items() if key != "layers"
    }
    if "layers" in given:
        overrides = given["layers"]
        if not isinstance(overrides, (list, tuple)):
            raise ValueError(f"add_norm.layers is {overrides!r}; allowed is a list of dicts.")
        axes["layers"] = [
            Override.parse(override, f"add_norm.layers[{index}]", axes) for index, override in enumerate(overrides)
        ]
    return axes
