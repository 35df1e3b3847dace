"""Registries: norms, residuals and other components by their published name, with typed options.

A registry maps a published name to a factory. The factory's keyword-only parameters are the options a config may
give it: their annotations are the types, their defaults the defaults. Nothing else describes an option.
"""

import difflib
import inspect
import math
import re
import types
import typing
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Generic, Literal, TypeVar, cast

from .protocols import HasContradictions, JsonValue, OptionValue


# what a registry holds, what it holds that was just defined, and what such a thing makes
FactoryT_co = TypeVar("FactoryT_co", bound=Callable[..., object], covariant=True)
DefinedT = TypeVar("DefinedT", bound=Callable[..., object])
MadeT = TypeVar("MadeT")
OptionT = TypeVar("OptionT")


def one_of(names: Iterable[object]) -> str:
    """`a, b or c`, for the end of an error's sentence."""
    *most, last = [str(name) for name in names]
    return f"{', '.join(most)} or {last}" if most else last


def unknown(what: str, name: object, known: Iterable[object]) -> str:
    """The sentence for an unknown name: the nearest known ones first, then all of them."""
    names = [str(item) for item in known]
    near = difflib.get_close_matches(str(name), names, n=3, cutoff=0.5)
    hint = f" Did you mean {one_of(near)}?" if near else ""
    return f"unknown {what} {name!r}.{hint} Known: {', '.join(names)}."


@dataclass(frozen=True)
class ComponentSpec:
    """A name of a registry with all of its options: what a config stores for one axis.

    Args:
        kind (`str`): the registered name.
        options (`dict`): every option of that name, in JSON types or nested choices.
    """

    kind: str
    options: dict[str, OptionValue] = field(default_factory=dict)

    def __hash__(self) -> int:
        return hash((self.kind, as_key(self.options)))

    def to_dict(self) -> dict[str, JsonValue]:
        """JSON form: `{"kind": name, option: value, ...}`."""
        return {"kind": self.kind} | {key: to_json(value) for key, value in self.options.items()}


def as_key(value: object) -> Hashable:
    """`value` in a form that can be the key of a dict: equal values are one key."""
    if isinstance(value, dict):
        return frozenset([(key, as_key(item)) for key, item in value.items()])
    return tuple(map(as_key, value)) if isinstance(value, (list, tuple)) else value


def to_json(value: object) -> JsonValue:
    """The JSON form of a spec, a component or a value that holds some."""
    if hasattr(value, "to_dict"):
        return value.to_dict()
    if isinstance(value, Mapping):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    return value


@dataclass(frozen=True)
class OptionType(Generic[OptionT]):
    """The type of an option that says more than Python's types do; use as `Annotated[type, OptionType(...)]`.

    Args:
        allowed (`str`): what such an option may be, in words.
        parse (`Callable`): the option from what a config says and the name of its place there. Raises a ValueError
            for what is not allowed.
    """

    allowed: str
    parse: Callable[[object, str], OptionT]

    def __call__(self, value: object, where: str) -> OptionT:
        return self.parse(value, where)


def number(
    *, above: float | None = None, at_least: float | None = None, at_most: float | None = None
) -> OptionType[float]:
    """An option that is a finite number within bounds; use as `Annotated[float, number(above=0)]`."""
    bounds = [f"above {above}"] * (above is not None) + [f"at least {at_least}"] * (at_least is not None)
    bounds += [f"at most {at_most}"] * (at_most is not None)
    allowed = "a number, " + " and ".join(["finite", *bounds])

    def parse(value: object, where: str) -> float:
        if (
            not isinstance(value, (int, float))
            or isinstance(value, bool)
            or not math.isfinite(value)
            or (above is not None and value <= above)
            or (at_least is not None and value < at_least)
            or (at_most is not None and value > at_most)
        ):
            raise ValueError(f"{where} is {value!r}; allowed is {allowed}.")
        return float(value)

    return OptionType(allowed, parse)


def whole(*, at_least: int) -> OptionType[int]:
    """An option that is a whole number with a lower bound; use as `Annotated[int, whole(at_least=1)]`."""
    allowed = f"a whole number, at least {at_least}"

    def parse(value: object, where: str) -> int:
        if type(value) is not int or value < at_least:
            raise ValueError(f"{where} is {value!r}; allowed is {allowed}.")
        return value

    return OptionType(allowed, parse)


Finite = Annotated[float, number()]
Positive = Annotated[float, number(above=0)]
Fraction = Annotated[float, number(above=0, at_most=1)]


_IN_WORDS: dict[object, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a string",
    type(None): "null",
}


def describe(annotation: object) -> str:
    """Say in words what a type annotation allows, for an error's sentence."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return one_of([repr(arg) for arg in args])
    if origin in (typing.Union, types.UnionType):
        return one_of([describe(arg) for arg in args])
    names: dict[object, str] = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "a string",
        type(None): "null",
    }
    if origin is Annotated:
        return str(args[1].allowed)
    return names.get(annotation, str(annotation))


def parse_option(annotation: object, value: object, where: str) -> OptionValue:
    """Check and convert the value of an option by its annotation.

    Raises:
        ValueError: if it is not allowed; the sentence names `where`, the value and what is allowed.
    """
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return args[1](value, where)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        errors = []
        for arg in args:
            try:
                return parse_option(arg, value, where)
            except ValueError as error:
                errors.append(error)
        raise ValueError(f"{where} is {value!r}; allowed is {describe(annotation)}.") from errors[0]
    if origin is Literal and any(value is arg or (type(value) is type(arg) and value == arg) for arg in args):
        return value
    if annotation is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if isinstance(annotation, type) and type(value) is annotation:
        return value
    raise ValueError(f"{where} is {value!r}; allowed is {describe(annotation)}.")


class Registry(Mapping[str, FactoryT_co]):
    """Factories by published name: classes, or functions that make something.

    Args:
        what (`str`): what one entry is, as it stands in an error's sentence ("norm", "residual", ...).
    """

    def __init__(self, what: str):
        self.what = what
        self._factories: dict[str, FactoryT_co] = {}
        self._options: dict[str, dict[str, inspect.Parameter]] = {}
        # the names whose files are saved with a checkpoint
        self.travelling: set[str] = set()

    def __getitem__(self, name: str) -> FactoryT_co:
        if name not in self._factories:
            raise KeyError(unknown(self.what, name, self._factories))
        return self._factories[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._factories)

    def __len__(self) -> int:
        return len(self._factories)

    def register(self, name: str, *, travels: bool = False) -> Callable[[DefinedT], DefinedT]:
        """Decorator that adds a class or function under `name`.

        Args:
            name (`str`): what a spec calls it.
            travels (`bool`): for a component from outside this package: its file is saved with every checkpoint that
                uses it. A checkpoint that uses one without it is not saved.
        Raises:
            ValueError: if the name is taken, or is not lower case with underscores.
        """
        if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name):
            raise ValueError(f"the {self.what} name {name!r} must be lower case with underscores, like 'rms_norm'.")
        if name in self._factories:
            raise ValueError(f"the {self.what} name {name!r} is taken by {self._factories[name]!r}.")

        def add(factory: DefinedT) -> DefinedT:
            self._factories[name] = cast(FactoryT_co, factory)
            self._options.pop(name, None)
            if travels:
                self.travelling.add(name)
            return factory

        return add

    def options(self, name: str) -> dict[str, inspect.Parameter]:
        """The options of `name`: the keyword-only parameters of its factory, annotations resolved."""
        if name not in self._options:
            factory = self[name]
            target = factory.__init__ if inspect.isclass(factory) else factory
            hints = typing.get_type_hints(target, include_extras=True)
            self._options[name] = {
                key: parameter.replace(annotation=hints[key])
                for key, parameter in inspect.signature(factory).parameters.items()
                if parameter.kind is inspect.Parameter.KEYWORD_ONLY
            }
        return self._options[name]

    def parse(self, value: object, where: str, default: ComponentSpec | None = None) -> ComponentSpec:
        """Read what a config says about a component: a name, or a dict `{"kind": name, option: value}`.

        Args:
            value: what the user wrote.
            where (`str`): the field it was written in, for the error.
            default (`ComponentSpec`, *optional*): a dict without "kind" changes options of this choice.
        Raises:
            ValueError: unknown name, unknown option, wrong type or range, options that contradict each other.
        """
        kind, given = self._kind_and_options(value, where, default)
        options = self.options(kind)
        for key in given:
            if key not in options:
                known = unknown("option", key, options) if options else f"unknown option {key!r}: it takes none."
                raise ValueError(f"{where} ({kind}): {known}")
        missing = [key for key, option in options.items() if option.default is option.empty and key not in given]
        if missing:
            raise ValueError(f"{where} ({kind}): the option {missing[0]!r} has no default and must be given.")
        parsed = {
            key: parse_option(option.annotation, given.get(key, option.default), f"{where}.{key}")
            for key, option in options.items()
        }
        # a static method of a class, an attribute of a function
        factory = self[kind]
        if isinstance(factory, HasContradictions) and (sentence := factory.contradiction(**parsed)) is not None:
            raise ValueError(f"{where} ({kind}): {sentence}")
        return ComponentSpec(kind, parsed)

    def _kind_and_options(
        self, value: object, where: str, default: ComponentSpec | None
    ) -> tuple[str, dict[str, OptionValue]]:
        """The name in what a user wrote, and the options beside it as they stand there."""
        if hasattr(value, "to_dict"):
            value = value.to_dict()
        if isinstance(value, str):
            value = {"kind": value}
        if not isinstance(value, Mapping):
            raise ValueError(
                f"{where} is {value!r}; allowed is the name of a {self.what} ({', '.join(self)}) or a dict of one."
            )
        given = dict(value)
        kind = given.pop("kind", None)
        if kind is None:
            if default is None:
                raise ValueError(f"{where} is {value!r}: it needs a 'kind', one of {', '.join(self)}.")
            kind, given = default.kind, default.options | given
        if not isinstance(kind, str) or kind not in self:
            raise ValueError(f"{where}: {unknown(self.what, kind, self)}")
        return kind, given

    def build(self: "Registry[Callable[..., MadeT]]", choice: ComponentSpec, *args: object) -> MadeT:
        """Make the component: the registered class or function, called with `args` and the options of `choice`."""
        return self[choice.kind](*args, **choice.options)
