"""What one part expects of another, as types: values from outside, what registered classes say about themselves."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable


# What JSON can say: null, true, false, a number, a string, a list or a dict of such.
JsonValue = Any

# The value of a component's option: JSON, a component, or a list or dict of them; the option's annotation says which.
OptionValue = Any

# A module of a stock model, whose parts have the names that they have there.
StockModule = Any

# An argument or an output of a stock model or layer, which is passed on as it came.
StockValue = Any

# torch's context between a forward and its backward, which holds whatever they give it.
AutogradContext = Any


class HasConfig(Protocol):
    """A model, of which only the config is needed."""

    config: Any


@runtime_checkable
class MayAddLoss(Protocol):
    """A module that says whether it adds to the loss of its model (see `auxiliary_loss.py`)."""

    adds_loss: bool


@runtime_checkable
class KeepsFloat32(Protocol):
    """A module of which some parameters or buffers stay in float32 in a half-precision model."""

    # patterns of their names
    keep_in_float32: tuple[str, ...]


@runtime_checkable
class HasContradictions(Protocol):
    """A registered class or function, some of whose options exclude each other."""

    # the sentence that says which ones of all options do, or None
    contradiction: Callable[..., str | None]


class WritesToStream(Protocol):
    """A wiring, which says which sublayers of a layer add their output to the stream."""

    def writes(self, order: int, sublayers: int) -> bool:
        """Whether the sublayer number `order` (from 0) of a layer's `sublayers` does."""
        ...


class ComponentClass(Protocol):
    """A class or function in a registry, which makes a component from its options."""

    def __call__(self, *args: Any, **options: OptionValue) -> Any:
        """The component."""
        ...


class ResidualClass(ComponentClass, Protocol):
    """A registered residual: a class derived from `Residual`, whose attributes say what it needs."""

    # whether a model's `calibrate` can set its start
    calibrates: bool
    # whether a branch that gives exactly 0 gets no gradient from it
    needs_output: bool


class WeightTransformClass(ComponentClass, Protocol):
    """A registered weight transform: a class derived from `WeightTransform`, whose attributes say what it is for."""

    # whether a training forward changes it
    iterates: bool
    # whether of the embeddings' tables it is for that of the words alone
    words_only: bool
    possible_roles: tuple[str, ...]
