"""Weights on disk: files that are damaged, and the layout of keys that a stock family has there."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import PreTrainedModel
from transformers.conversion_mapping import (
    get_checkpoint_conversion_mapping,
    register_checkpoint_conversion_mapping,
)

from .recasting import is_of_transformers


try:
    from safetensors import SafetensorError
except ImportError:  # never with a Transformers that loads safetensors

    class SafetensorError(Exception):  # type: ignore[no-redef]
        """Stands for the error that cannot be raised then."""


@contextmanager
def reraise_damaged_weights(checkpoint: Any) -> Iterator[None]:
    """Weights that cannot be read while `checkpoint` is loaded become an `OSError` that names it."""
    try:
        yield
    except SafetensorError as error:
        raise OSError(
            f"the weights of {checkpoint} are truncated or damaged ({error}): copy or download them again."
        ) from error


def register_key_layout(cls: type[PreTrainedModel]) -> None:
    """Let Transformers know in which layout of keys the checkpoints of a model class are on disk.

    Some families have an older layout there, and Transformers looks it up by the name of a class, then by model type.
    A user's class may have the name of another family's: so this is said again before each load and save.
    """
    layouts = (
        get_checkpoint_conversion_mapping(stock.__name__) for stock in cls.__mro__[1:] if is_of_transformers(stock)
    )
    layout = next((layout for layout in layouts if layout is not None), None)
    if layout is not None or get_checkpoint_conversion_mapping(cls.__name__) is not None:
        register_checkpoint_conversion_mapping(cls.__name__, layout or [], overwrite=True)
    config_class: Any = cls.config_class
    by_type = get_checkpoint_conversion_mapping(getattr(config_class, "stock_model_type", None))
    if by_type is not None:
        register_checkpoint_conversion_mapping(config_class.model_type, by_type, overwrite=True)
