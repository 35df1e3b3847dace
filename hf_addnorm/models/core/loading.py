"""Weights on disk that are damaged."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


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
