"""An add & norm described in words and drawings, for model cards and the console script."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import cast

from transformers import AutoModel, PreTrainedConfig

from ..catalogue import norms, weights
from ..models.base.protocols import JsonValue
from ..models.base.registry import ComponentSpec, to_json
from ..models.core.addnorm_config import AddNormConfig, CodeCarryingConfig, family_configs
from ..models.core.family_facts import FamilyFacts
from ..models.core.pretrained import AddNormPreTrainedModel
from ..models.spec.presets import PRESETS
from ..models.spec.refusals import WARNINGS
from ..models.spec.spec import AddNormSpec, LayerSpec
from ..without_family import no_family
from .citation import bibtex, sources
from .input_kinds import INPUT_KINDS, InputKind


# what a slot of a sublayer is, in words
SLOTS = {
    "pre": "before the sublayer",
    "q": "on the queries",
    "k": "on the keys",
    "qk": "on queries and keys, one for both",
    "v": "on the values",
    "up": "before the activation",
    "mid": "before the output projection",
    "out": "on the branch, before the sum",
    "post": "after the sum",
}

# the axes that a preset's drawing shows; a spec that changes one of them gets a drawing of its own
_DRAWN = (
    "attention",
    "cross_attention",
    "feed_forward",
    "final",
    "residual",
    "pre_scale",
    "dropout",
    "stream",
    "wiring",
    "layers",
)


def bias_left_to_model(spec: AddNormSpec, norm_bias: bool = True) -> AddNormSpec:
    """The same scheme without what it says of biases of LayerNorms, where the model has the same anyway.

    Args:
        spec (`AddNormSpec`): a scheme.
        norm_bias (`bool`): whether the LayerNorms of the model have a bias where the scheme does not say.
    """
    return AddNormSpec.parse(_bias_left_out(spec.to_dict(), norm_bias))


def _bias_left_out(value: JsonValue, norm_bias: bool) -> JsonValue:
    if isinstance(value, list):
        return [_bias_left_out(item, norm_bias) for item in value]
    if not isinstance(value, dict):
        return value
    found = {key: _bias_left_out(item, norm_bias) for key, item in value.items()}
    is_plain = value.get("kind") == "layer_norm" and value["bias"] is norm_bias
    return found | ({"bias": None} if is_plain else {})


def norm_name(norm: ComponentSpec) -> str:
    """A norm's name, with the options that are not its defaults."""
    plain = {"bias": True} if norm.kind == "layer_norm" else {}
    defaults = {key: (value, plain.get(key, value)) for key, value in norms()[norm.kind].options.items()}
    options = {key: value for key, value in to_json(norm.options).items() if value not in defaults.get(key, ())}
    said = ", ".join(f"{key}={json.dumps(value)}" for key, value in options.items())
    return f"{norm.kind} ({said})" if said else norm.kind


def _words(name: str) -> str:
    return name.replace("_", "-") if name == "cross_attention" else name.replace("feed_forward", "feed-forward")


@dataclass(frozen=True)
class Description:
    """A description of one add & norm.

    Args:
        title (`str`): which encoder it is of, in a model that has several.
        spec (`AddNormSpec`): the scheme.
        config (`AddNormConfig`, *optional*): the model's; without it the depth is not known.
    """

    title: str
    spec: AddNormSpec
    config: AddNormConfig | None = None

    @property
    def add_norm(self) -> str:
        """The config's entry, as Python."""
        text = json.dumps(self._said.short())
        return text.replace("true", "True").replace("false", "False").replace("null", "None")

    @property
    def changes(self) -> dict[str, JsonValue]:
        """The axes in which it is not the preset."""
        said = self._said.short()
        return {} if isinstance(said, str) else {key: said[key] for key in said if key not in ("preset", "variant")}

    @property
    def as_drawn(self) -> bool:
        """Whether the preset's drawing and formula are those of this spec."""
        names_norm = "norm" in PRESETS[self.spec.preset].spec and "norm" in self.changes
        return not names_norm and not set(self.changes) & set(_DRAWN)

    @property
    def formula(self) -> str:
        """One sublayer as a formula."""
        if self.as_drawn:
            return PRESETS[self.spec.preset].formula
        lines = [f"{where}: {formula}" for where, formula in self._by_place(_formula)]
        return "\n".join([*lines, *self._beyond()])

    @property
    def flow(self) -> str:
        """One sublayer as a drawing."""
        if self.as_drawn:
            return PRESETS[self.spec.preset].flow
        drawings = [drawing.replace("WHERE", where) for where, drawing in self._by_place(_draw)]
        return "\n".join([*drawings, *self._beyond()])

    @property
    def norm(self) -> str:
        """What stands for N in a formula."""
        return norm_name(self.spec.norm)

    @property
    def norms(self) -> dict[str, str]:
        """The kinds of norm in it, with a line about each."""
        of_all = self._plain().norms(1) if self.depth is None else self.spec.norms(self.depth)
        kinds = dict.fromkeys(norm.kind for _, norm in of_all)
        return {kind: norms()[kind].summary.replace("``", "`") for kind in kinds}

    @property
    def explained(self) -> dict[str, str]:
        """The norms and what is done to the weights, with a line about each."""
        kind = self.spec.weights.kind
        transform = {} if kind == "none" else {kind: weights()[kind].summary.replace("``", "`")}
        return self.norms | transform

    @property
    def note(self) -> str:
        """What a user of the preset must know."""
        return PRESETS[self.spec.preset].note

    @property
    def warnings(self) -> list[str]:
        """Sentences about what is unusual in this scheme, for this model."""
        if self.config is None:
            return []
        found = []
        for unusual in WARNINGS.values():
            where = dict.fromkeys(
                f"`{where}` is `{value.kind}`" for where, value in unusual.find(self.spec, self.config)
            )
            if where:
                found.append(f"{', '.join(where)}: {unusual.reason}; usual is {unusual.usual}.")
        return found

    @property
    def sources(self) -> list[str]:
        """The papers, of the preset and of what else is in it."""
        changed = self.changes
        parts = [("norm", kind) for kind in self.norms if "norm" in changed or kind != "layer_norm"]
        parts += [("residual", choice.kind) for _, choice in self.spec.residuals() if "residual" in changed]
        for axis, name in (("stream", "stream"), ("wiring", "wiring"), ("weights", "weight transform")):
            if axis in changed:
                parts.append((name, getattr(self.spec, axis).kind))
        return sources(self.spec.preset, parts)

    @property
    def bibtex(self) -> str:
        """The same as BibTeX; empty where no paper has it."""
        return bibtex(self.sources)

    @property
    def depth(self) -> int | None:
        """The number of layers, where it is known."""
        return None if self.config is None else self.config.add_norm_depth()

    @property
    def _said(self) -> AddNormSpec:
        return bias_left_to_model(self.spec, getattr(self.config, "norm_bias", True))

    @property
    def _by_layer(self) -> bool:
        return bool(self.spec.layers)

    def _layers(self) -> Iterator[tuple[str, LayerSpec]]:
        """Every run of equal layers, with its name."""
        if self.depth is None:
            # which layers an exception is about depends on the depth
            yield ("every layer" if not self._by_layer else "layers without an exception"), self._plain().layer(0, 1)
            return
        specs = [self.spec.layer(index, self.depth) for index in range(self.depth)]
        start = 0
        for layer, group in groupby(specs):
            count = len(list(group))
            number = f"layer {start + 1}" if count == 1 else f"layers {start + 1} to {start + count}"
            yield ("every layer" if count == self.depth > 1 else number), layer
            start += count

    def _plain(self) -> AddNormSpec:
        return AddNormSpec.parse(self.spec.to_dict() | {"layers": []})

    @property
    def _sublayers(self) -> list[str]:
        return ["attention", "feed_forward"] if self.config is None else self.config.add_norm_sublayers()

    def _by_place(self, say: Callable[[LayerSpec, str], str]) -> Iterator[tuple[str, str]]:
        """Apply `say` to every run of equal layers: once if all sublayers give the same text, else by sublayer."""
        for where, layer in self._layers():
            said = {name: say(layer, name) for name in self._sublayers}
            if len(set(said.values())) == 1:
                yield where, said[self._sublayers[0]]
            else:
                yield from ((f"{where}, {_words(name)}", text) for name, text in said.items())

    def _beyond(self) -> list[str]:
        """Stream, wiring and final norm, which are not in the drawing of a sublayer."""
        said = [
            f"{axis}: {json.dumps(to_json(getattr(self.spec, axis)))}"
            for axis, plain in (("stream", "single"), ("wiring", "sequential"))
            if getattr(self.spec, axis).kind != plain
        ]
        final = self.spec.place_norm(self.spec.final)
        return said + ([f"after the last layer: {norm_name(final)}"] if final else [])

    def places(self) -> list[tuple[str, str]]:
        """Where norms sit: (place, norms), the layers in runs of equal ones."""
        rows = []
        embed = self.spec.place_norm(self.spec.embed)
        if self.config is not None and self.spec.embed == "auto" and not _has_embed_norm(self.config):
            embed = None
        if self.config is None and self.spec.embed == "auto" and embed:
            rows.append(("after the embeddings", f"{norm_name(embed)}, where the stock model has a norm"))
        else:
            rows.append(("after the embeddings", norm_name(embed) if embed else "none"))
        rows += self._by_place(_norms_in)
        if self.depth is None and self._by_layer:
            rows.append(("exceptions", json.dumps([override.to_dict() for override in self.spec.layers])))
        final = self.spec.place_norm(self.spec.final)
        rows.append(("after the last layer", norm_name(final) if final else "none"))
        if self.spec.head != "stock":
            head = self.spec.place_norm(self.spec.head)
            rows.append(("in the head", norm_name(head) if head else "none"))
        if logits := self.spec.place_norm(self.spec.logits):
            rows.append(("on the logits", norm_name(logits)))
        return rows


def _norms_in(layer: LayerSpec, name: str) -> str:
    filled = [f"{norm_name(norm)} {SLOTS[slot]} ({slot})" for slot, norm in layer.slot_norms(name).items()]
    return "; ".join(filled) or "none"


def _formula(layer: LayerSpec, name: str) -> str:
    filled = {slot: norm.kind for slot, norm in layer.slot_norms(name).items()}
    inside = [f"{slot}: {filled[slot]}" for slot in ("q", "k", "qk", "v", "up", "mid") if slot in filled]
    text = f"{filled['pre']}(x)" if "pre" in filled else "x"
    if layer.pre_scale != 1.0:
        text = f"pre_scale * {text}"
    text = f"F[{', '.join(inside)}]({text})" if inside else f"F({text})"
    text = f"{filled['out']}({text})" if "out" in filled else text
    kind = layer.residual_of(name).kind
    text = f"x + {text}" if kind == "add" else f"{kind}(x, {text})"
    return f"x <- {filled['post']}({text})" if "post" in filled else f"x <- {text}"


def _draw(layer: LayerSpec, name: str) -> str:
    filled = {slot: norm.kind for slot, norm in layer.slot_norms(name).items()}
    kind = layer.residual_of(name).kind
    if name == "feed_forward":
        up, mid = ([filled[slot]] if slot in filled else [] for slot in ("up", "mid"))
        core = ["W_1", *up, "act", *mid, "W_2"] if up or mid else ["F"]
    elif filled.keys() & {"q", "k", "qk", "v", "mid"}:
        filled |= {slot: filled["qk"] for slot in ("q", "k") if "qk" in filled}
        projections = ", ".join(f"{slot}: {filled[slot]}" if slot in filled else slot for slot in ("q", "k", "v"))
        core = [projections, "core", *([filled["mid"]] if "mid" in filled else []), "W_o"]
    else:
        core = ["F"]
    before = [filled["pre"]] if "pre" in filled else []
    if layer.pre_scale != 1.0:
        before.append("* pre_scale")
    ends = ["drop", filled["out"]] if "out" in filled else ["drop"]
    if layer.dropout == "after_out":
        ends.reverse()
    sum_ = "+" if kind == "add" else kind
    after = [filled["post"]] if "post" in filled else []
    top = " -> ".join(["x -+-", *before, *core, *ends, sum_, *after, "x"]).replace("x -+- ->", "x -+->", 1)
    left = top[: len(top) - len(" -> ".join([sum_, *after, "x"]))]
    return f"{top}   (WHERE)\n   +{'-' * (len(left) - 4)}^"


def _has_embed_norm(config: AddNormConfig) -> bool:
    return _base_class(config).layout_of(config).embed_norm is not None


def _base_class(config: AddNormConfig) -> type[AddNormPreTrainedModel]:
    return cast(type[AddNormPreTrainedModel], AutoModel._model_mapping[type(config)])


def families() -> dict[str, type[AddNormConfig]]:
    """The families' config classes, by their stock model type."""
    found = cast(list[type[AddNormConfig]], family_configs(AddNormConfig))
    return {config_class.stock_model_type: config_class for config_class in found}


def has_family(config: PreTrainedConfig) -> bool:
    """Whether it is the config of an AddNorm model, or of a stock one that has an AddNorm version."""
    return bool(described(config)) or config.model_type in families()


def as_ours(config: PreTrainedConfig) -> PreTrainedConfig:
    """A config of ours: a stock one of a family becomes that family's, with the stock scheme.

    Raises:
        ValueError: for a config of a model that has no add & norm of ours.
    """
    if described(config):
        return config
    family = families().get(config.model_type)
    if family is None:
        raise ValueError(f"this is a {config.model_type!r} model, {no_family(config.model_type, families())}")
    ours: AddNormConfig = family.from_dict(config.to_dict())
    return ours


def models_of(config: PreTrainedConfig) -> dict[str, PreTrainedConfig]:
    """The configs that a model's config is made of, by what they are called; "" for one that is made of no others."""
    parts = config.parts() if isinstance(config, CodeCarryingConfig) else {}
    # Transformers' own too
    if not parts and hasattr(config, "encoder") and hasattr(config, "decoder"):
        parts = {"encoder": config.encoder, "decoder": config.decoder}
    return parts or {"": config}


def facts_of(config: PreTrainedConfig) -> FamilyFacts:
    """What is known of a model's family, ours or stock; of one that is made of others, what it reads; of any other
    model, what holds for most that read text.
    """
    first = next(iter(models_of(config).values()))
    if first is not config:
        return FamilyFacts(inputs=facts_of(first).inputs)
    family = type(config) if isinstance(config, AddNormConfig) else families().get(config.model_type)
    return FamilyFacts() if family is None else family.facts


def input_kind(config: PreTrainedConfig) -> InputKind:
    """What a model reads."""
    return INPUT_KINDS[facts_of(config).inputs]


def described(config: PreTrainedConfig) -> list[Description]:
    """One description for a model, one for every encoder of a stack, one each for encoder and decoder."""
    return [
        Description(title or name, stack.add_norm, stack)
        for title, part in models_of(config).items()
        if isinstance(part, AddNormConfig)
        for name, stack in part.add_norm_stacks().items()
    ]


def family_of(model: str) -> type[AddNormConfig] | None:
    """The family of a model's class, ours or stock, by its name."""
    name = model if model.startswith("AddNorm") else f"AddNorm{model}"
    found = [family for family in families().values() if name in family.auto_classes.values()]
    return found[0] if found else None


def stock_spec(model: str) -> AddNormSpec:
    """The stock scheme of a model's class; that of BERT where the family is not known."""
    family = family_of(model)
    return AddNormSpec.parse(None, None if family is None else family(add_norm=None).stock_add_norm())
