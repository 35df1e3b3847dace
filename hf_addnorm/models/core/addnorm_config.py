"""What the config of every family has: the entry `add_norm`, and the code that travels with a checkpoint."""

import difflib
import functools
import inspect
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from torch import nn

from ..base.protocols import JsonValue, StockValue
from ..base.registry import ComponentSpec
from ..base.whole_file import whole_file, write_whole
from ..norms.norm_base import Norm, build_norm
from ..spec.refusals import check
from ..spec.spec import AddNormSpec
from .adapters import register_with_peft
from .family_facts import FamilyFacts
from .transformers_internals import register_class_names, relative_imports


if TYPE_CHECKING:
    from transformers import PreTrainedConfig
else:
    # at run time not a config itself: as a dataclass it would hide the family's own defaults
    PreTrainedConfig = object


# What an `add_norm` of a config is set with: a preset's name, a dict of axes, a spec or None. Not written as their
# union: Transformers would check a config's field against it, with sentences that say less than those of the spec.
AddNormEntry = JsonValue


@functools.cache
def default_values(config_class: "type[CodeCarryingConfig]") -> dict[str, JsonValue]:
    """The entries of a config of this class that is given none."""
    return config_class().to_dict()


def family_class(config: "CodeCarryingConfig") -> type["CodeCarryingConfig"]:
    """The class whose code a config needs: its own, or where a user derived it from a family's, the family's."""
    return next(cls for cls in type(config).__mro__ if "auto_classes" in vars(cls))


def family_configs(base: "type[CodeCarryingConfig]") -> "list[type[CodeCarryingConfig]]":
    """The config classes that derive from `base` and have models of their own; not what a user derives from one."""
    found: list[type[CodeCarryingConfig]] = []
    for cls in base.__subclasses__():
        # one without is a mixin for several
        found += [cls] if "auto_classes" in vars(cls) else family_configs(cls)
    return found


def flat_neighbours(config: "CodeCarryingConfig") -> dict[str, str]:
    """The files of a config's code as remote code has them: those beside its own that its models import."""
    config_file = Path(str(sys.modules[family_class(config).__module__].__file__))
    source = config_file.with_name(config_file.name.replace("configuration_", "modeling_"))
    # a config that was loaded alone, as remote code, has no modeling file beside it
    files = {str(source), *relative_imports(source)} if source.exists() else set()
    return {Path(file).name: Path(file).read_text() for file in files}


class CodeCarryingConfig(PreTrainedConfig):
    """Mixin for a config that is saved with its code: a folder loads where this package is not installed."""

    # every Auto class that finds the models of the config, and the model that it finds
    auto_classes: ClassVar[dict[str, str]]
    # from a config to the files of its code, by name; the package, whose own files are not flat, sets another
    code_files: ClassVar[Callable[["CodeCarryingConfig"], dict[str, str]]] = staticmethod(flat_neighbours)
    # the model type of the stock family, if there is one, whose checkpoints load here as they are
    stock_model_type: ClassVar[str]
    # of a model made of others: the entry of the one part whose scheme is meant where one is named for the whole
    add_norm_part: ClassVar[str] = ""

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        if "auto_classes" in vars(cls):
            register_class_names(cls.model_type, cls.auto_classes)

    def parts(self) -> dict[str, PreTrainedConfig]:
        """The configs of the parts by what they are called, of a model that is made of other models."""
        return {}

    def part_types(self) -> set[str]:
        """The model types of the parts, as the table of part families has them."""
        return {config.model_type.removeprefix("addnorm_") for config in self.parts().values()}

    @classmethod
    def get_config_dict(
        cls, *args: StockValue, **kwargs: StockValue
    ) -> tuple[dict[str, JsonValue], dict[str, StockValue]]:
        """As in Transformers; a stock checkpoint of the family counts as one of ours."""
        config_dict, kwargs = super().get_config_dict(*args, **kwargs)
        if config_dict.get("model_type") == getattr(cls, "stock_model_type", cls.model_type):
            config_dict["model_type"] = cls.model_type
        return config_dict, kwargs

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **kwargs: StockValue
    ) -> None:
        """Write config.json with the full `auto_map`, and the code that it names beside it."""
        configuration = family_class(self).__module__.split(".")[-1]
        modeling = configuration.replace("configuration_", "modeling_")
        code = type(self).code_files(self)
        # a class that a user registered for an Auto class, whose file Transformers has just put into the folder
        users = {
            auto: name
            for auto, name in (getattr(self, "auto_map", None) or {}).items()
            if isinstance(name, str)
            and (file := f"{name.rpartition('.')[0]}.py") not in code
            and Path(save_directory, file).is_file()
        }
        self.auto_map = {"AutoConfig": f"{configuration}.{family_class(self).__name__}"}
        self.auto_map |= {auto: f"{modeling}.{name}" for auto, name in self.auto_classes.items()} | users
        super().save_pretrained(save_directory, **kwargs)
        _write_code(code, save_directory)
        if push_to_hub:
            self.push_to_hub(kwargs.pop("repo_id", Path(save_directory).name), **kwargs)

    def save_code(self, save_directory: str | os.PathLike[str]) -> None:
        """Write the code of the config and its models, of which `auto_map` names files."""
        _write_code(type(self).code_files(self), save_directory)

    def to_json_file(self, json_file_path: str | os.PathLike[str], *args: StockValue, **kwargs: StockValue) -> None:
        """As in Transformers; a write that breaks off leaves the file that was there."""
        with whole_file(json_file_path) as partial:
            super().to_json_file(partial, *args, **kwargs)


def _write_code(files: dict[str, str], folder: str | os.PathLike[str]) -> None:
    for name, text in files.items():
        target = Path(folder, name)
        if not target.exists() or target.read_text() != text:
            write_whole(target, text)


# of a family's config; `own` is what its own file says
_DOCSTRING = """`{stock}` with one more entry, `add_norm`: how its layers add and normalise.
{own}
Args:
    add_norm (`str`, `dict` or `AddNormSpec`, *optional*):
        The add & norm scheme: a preset's name (`"pre_ln"`, `"deepnorm"`, ...) or a dict of axes over one
        (`{{"preset": "pre_ln", "norm": "rms_norm"}}`). By default the stock model's. Always read back as a resolved
        [`AddNormSpec`].{more}

Raises:
    ValueError: if `add_norm` names something unknown or contradicts itself.

Examples:

```python
>>> from hf_addnorm import {cls}

>>> config = {cls}(add_norm={{"preset": "pre_ln", "norm": "rms_norm"}})
>>> config.add_norm.norm.kind
'rms_norm'
```"""


class AddNormConfig(CodeCarryingConfig):
    """Mixin for a family's config.

    `add_norm` accepts the name of a preset, a dict of axes or a spec, wherever it is set, and always holds a
    validated `AddNormSpec`; the JSON form is the resolved spec.

    Raises:
        ValueError: for anything in `add_norm` that is not known or contradicts itself, and for a near-miss of the
            key `add_norm` itself.
    """

    # what is known of the family without its models
    facts: ClassVar[FamilyFacts] = FamilyFacts()
    # the entries of an add & norm
    add_norm_entries: ClassVar[tuple[str, ...]] = ("add_norm",)
    # about those beside `add_norm`, for the docstring of a family's config
    add_norm_docstring: ClassVar[str] = ""
    # of the config of one of several stacks of layers: its name
    stack_name: ClassVar[str] = ""

    if TYPE_CHECKING:
        # a family's config has this as a field, None by default; parsed on assignment, whatever it is set with
        @property
        def add_norm(self) -> AddNormSpec: ...

        @add_norm.setter
        def add_norm(self, value: AddNormSpec | str | Mapping[str, JsonValue] | None) -> None: ...

        # each family's own entries
        def __init__(self, **entries: StockValue) -> None: ...

        # every family's stock config has them, under these names at least
        hidden_size: int = 0
        intermediate_size: int = 0
        num_hidden_layers: int = 0
        num_attention_heads: int = 0

    def __init_subclass__(cls, **kwargs: object) -> None:
        # a family's own config, not one that a user derives from it
        if "auto_classes" in vars(cls):
            stock: type[PreTrainedConfig] = next(base for base in cls.__mro__[1:] if "model_type" in vars(base))
            cls.stock_model_type = stock.model_type
            own = f"\n{inspect.cleandoc(cls.__doc__)}\n" if cls.__doc__ else ""
            cls.__doc__ = _DOCSTRING.format(
                stock=stock.__name__, cls=cls.__name__, own=own, more=cls.add_norm_docstring
            )
        super().__init_subclass__(**kwargs)

    def __post_init__(self, **kwargs: StockValue) -> None:
        super().__post_init__(**kwargs)
        self.check_add_norm()

    def __setattr__(self, key: str, value: StockValue) -> None:
        if key == "add_norm":
            value = AddNormSpec.parse(value, self.stock_add_norm())
        elif not hasattr(type(self), key):
            refuse_near_miss(key, self.add_norm_entries)
        super().__setattr__(key, value)

    @classmethod
    def from_dict(cls, config_dict: dict[str, JsonValue], **kwargs: StockValue) -> StockValue:
        """As in Transformers; overrides are checked like the config's own keys."""
        for key in kwargs:
            refuse_near_miss(key, cls.add_norm_entries)
        # as an override, None says nothing
        kwargs = {key: value for key, value in kwargs.items() if (key, value) != ("add_norm", None)}
        result = super().from_dict(config_dict, **kwargs)
        (result[0] if isinstance(result, tuple) else result).check_add_norm()
        return result

    def add_norm_stacks(self) -> "dict[str, AddNormConfig]":
        """The configs of the model's stacks of layers, by name; of the only one, which has none, the config itself."""
        return {self.stack_name: self}

    def add_norm_stack(self, name: str) -> "AddNormConfig":
        """One of them, also where this config is that of a model without it."""
        return self

    def check_add_norm(self) -> None:
        """Refuse what the model cannot have, and warn about what is unusual, once for each stack of layers."""
        for stack in self.add_norm_stacks().values():
            check(AddNormSpec.parse(stack.add_norm), stack)

    @property
    def add_norm_entry(self) -> str:
        """The entry of the model's config that says this stack's scheme."""
        return "add_norm"

    def add_norm_sentence(self, sentence: str) -> str:
        """A sentence about this stack's `add_norm`, which may be another entry of the whole model's config."""
        return sentence

    def add_norm_sublayers(self) -> list[str]:
        """The sublayers of every layer, in the order in which they run."""
        # a family that has none takes the entry as it takes any other, and heeds it as little as its stock model
        can = hasattr(type(self), "add_cross_attention")
        cross = ["cross_attention"] if can and getattr(self, "add_cross_attention", False) else []
        return ["attention", *cross, "feed_forward"]

    def add_norm_has_position_table(self) -> bool:
        """Whether the stock model adds a table's row to the embeddings for a token's position."""
        return self.facts.position_table

    def add_norm_has_tables(self) -> bool:
        """Whether the inputs are numbers of tokens, whose embeddings are tables."""
        return self.facts.inputs == "text"

    def add_norm_depth(self) -> int:
        """The number of layers that a hidden state runs through."""
        return self.num_hidden_layers

    def stock_add_norm(self) -> dict[str, JsonValue]:
        """The spec that is the stock model."""
        return {"preset": "post_ln"}

    def add_norm_stays_on_sphere(self) -> bool:
        """Whether unit vectors after the embeddings' norm reach the layers as such, and q and k behind their norms
        the scores, which are `q k^T / sqrt(d)`, d the size of a head: what nGPT's formula needs.
        """
        return True

    def add_norm_is_normed_behind(self) -> bool:
        """Whether the stock model normalises what it gives by a norm that is not in the place `final`."""
        return False

    def add_norm_eps(self) -> float:
        """The eps of the stock norms."""
        eps: float = getattr(self, self.facts.norm_eps)
        return eps

    def add_norm_is_causal(self) -> bool:
        """Whether a token may not see later ones."""
        return bool(getattr(self, "is_decoder", False))

    def add_norm_head_size(self) -> int:
        """Features of one attention head."""
        return self.hidden_size // self.num_attention_heads

    def slot_width(self, sublayer: str, slot: str, qkv_width: str) -> int:
        """The number of features that the norm in a slot takes."""
        if slot in ("q", "k", "v", "qk") and qkv_width == "head":
            return self.add_norm_head_size()
        inside = sublayer == "feed_forward" and slot in ("up", "mid")
        return self.intermediate_size if inside else self.hidden_size

    def place_width(self, place: str) -> int:
        """The number of features in a place outside the layers; of `logits`, for a model that has them."""
        width: int = getattr(self, "vocab_size", self.hidden_size) if place == "logits" else self.hidden_size
        return width

    def build_norm(self, norm: ComponentSpec, width: int | None = None) -> nn.Module:
        """The module of a norm of this model, `width` features wide (`hidden_size` by default)."""
        from_model = {
            "eps": self.add_norm_eps(),
            "bias": getattr(self, "norm_bias", True),
            "groups": self.num_attention_heads,
            "model_width": self.hidden_size,
        }
        built = build_norm(norm, width or self.hidden_size, **from_model)
        if isinstance(built, Norm):
            # a norm that the stock model has keeps its gradients, to the last bit
            built.fuses = norm.kind not in _norm_kinds(json.dumps(self.stock_add_norm()), self.add_norm_depth())
        return built

    def add_norm_has_stock_norms(self) -> bool:
        """Whether every norm that the stock model has in its layers or after them is there, of whatever kind."""
        spec, stock, depth = self.add_norm, AddNormSpec.parse(self.stock_add_norm()), self.add_norm_depth()
        pairs = zip(spec.by_layer(depth), stock.by_layer(depth), strict=True)
        return bool(spec.place_norm(spec.final) or not stock.place_norm(stock.final)) and all(
            set(theirs.slot_norms(name)) <= set(ours.slot_norms(name))
            for ours, theirs in pairs
            for name in self.add_norm_sublayers()
        )

    def __repr__(self) -> str:
        # what differs from the family's defaults; of the spec, what differs from its preset
        plain = default_values(family_class(self))  # type: ignore[arg-type]
        shown = {key: value for key, value in self.to_dict().items() if key not in plain or plain[key] != value}
        shown |= {key: spec.short() for key in self.add_norm_entries if (spec := getattr(self, key)) is not None}
        return f"{type(self).__name__} {json.dumps(shown, indent=2, sort_keys=True, default=str)}"

    def to_dict(self) -> dict[str, JsonValue]:
        """As in Transformers; `add_norm` in its JSON form."""
        # PEFT looks up a model type right after it has asked the config for this, however late it was imported
        if "peft" in sys.modules:
            register_with_peft(self.model_type, self.stock_model_type, self.add_norm_has_stock_norms())
        return super().to_dict() | {"add_norm": self.add_norm.to_dict()}


@functools.cache
def _norm_kinds(add_norm: str, layers: int) -> frozenset[str]:
    """The kinds of norm in a spec, which is given as JSON, of a model with so many layers."""
    return frozenset(norm.kind for _, norm in AddNormSpec.parse(json.loads(add_norm)).norms(layers))


def refuse_near_miss(key: str, known: Sequence[str]) -> None:
    """Refuse a config key that is almost one of `known`: it would be kept, and say nothing."""
    near = [entry for entry in known if sorted(entry.split("_")) == sorted(key.lower().split("_"))]
    near += difflib.get_close_matches(key.lower(), known, n=1, cutoff=0.75)
    if key not in known and near:
        raise ValueError(f"unknown config key {key!r}. Did you mean {near[0]!r}?")
