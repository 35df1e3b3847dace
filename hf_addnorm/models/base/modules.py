"""Which modules of a model have what a protocol asks for."""

from collections.abc import Iterator
from typing import TypeVar

from torch import nn


Asked = TypeVar("Asked")


def modules_with(model: nn.Module, protocol: type[Asked]) -> Iterator[Asked]:
    """The model's modules that have what the protocol asks for: those of one class all have it, or none of them.

    `isinstance` alone would try the protocol's attributes on each of thousands of modules, which is slow.
    """
    fits: dict[type[nn.Module], bool] = {}
    for module in model.modules():
        kind = type(module)
        if kind not in fits:
            fits[kind] = isinstance(module, protocol)
        if fits[kind]:
            yield module  # type: ignore[misc]
