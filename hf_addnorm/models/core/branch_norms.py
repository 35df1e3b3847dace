"""Norms inside a sublayer: beside its Linear layers, while the stock forward runs as it is.

A norm is a sibling of the Linear layer that it stands behind or before, never its child or its wrapper: adapters and
quantisers replace a Linear, and a norm that it owned would be lost, or would see another input than the adapter.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar

import torch
from torch import nn

from .recasting import document


Roles = str | tuple[str, ...]


def same(x: torch.Tensor, *_: Any) -> torch.Tensor:
    """The identity."""
    return x


# the slots behind a projection, by its role; qk is one norm for two of them
_BEHIND = {"q": ("q", "qk"), "k": ("k", "qk"), "v": ("v",), "w1": ("up",)}


class BranchNorms:
    """The norms inside one sublayer, by slot: q, k, v, qk, up behind the projections, mid before the output's.

    Args:
        norms (`dict[str, Callable]`): of the filled slots only.
    """

    def __init__(self, norms: Mapping[str, Callable[[torch.Tensor], torch.Tensor]]):
        self.norms = norms

    def norm(self, slot: str, x: torch.Tensor) -> torch.Tensor:
        """`x` after the norm of `slot`; the same `x` where the slot is empty."""
        return self.norms[slot](x) if slot in self.norms else x

    def project(self, linear: nn.Module, roles: tuple[str, ...], x: torch.Tensor) -> torch.Tensor:
        """A projection with its norms around it; one with several roles is fused, and each part has its own norm."""
        if roles[0] in ("o", "w2"):
            return linear(self.norm("mid", x))
        if roles[0] == "w1":
            return self.norm("up", linear(x))
        parts = linear(x).chunk(len(roles), dim=-1)
        return torch.cat([self._behind(role, part) for role, part in zip(roles, parts, strict=True)], dim=-1)

    def _behind(self, role: str, x: torch.Tensor) -> torch.Tensor:
        for slot in _BEHIND[role]:
            x = self.norm(slot, x)
        return x

    def touches(self, roles: tuple[str, ...]) -> bool:
        """Whether a projection with these roles has a norm beside it."""
        slots = ("mid",) if roles[0] in ("o", "w2") else [slot for role in roles for slot in _BEHIND[role]]
        return any(slot in self.norms for slot in slots)


class ModuleView:
    """A module (or a config) as a stock forward sees it while some of its parts are replaced."""

    def __init__(self, module: Any, replaced: Mapping[str, Any]):
        self._module = module
        self._replaced = replaced

    def __getattr__(self, name: str) -> Any:
        replaced = self._replaced
        if name in replaced:
            return replaced[name]
        return getattr(self._module, name)


class WithBranchNorms(nn.Module):
    """Mixin for a stock attention or feed-forward class, which runs with norms beside its Linear layers.

        x -> q, k, v -> their norms -> core -> mid -> o -> branch's output        (or w1 -> up -> core -> mid -> w2)

    The class that mixes it in names its Linear layers, and the parts of the stock forward that belong to the add &
    norm block instead: the dropout on its output, say. `forward` takes the stock arguments and `branch_norms`.
    """

    linear_roles: ClassVar[dict[str, Roles]]
    left_to_block: ClassVar[tuple[str, ...]] = ()
    stock_forward: ClassVar[Callable[..., Any]]

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        stock: Any = cls.__mro__[cls.__mro__.index(WithBranchNorms) + 1]
        cls.stock_forward = staticmethod(stock.forward)
        document(cls, "`{stock}` with norms beside its Linear layers, whose roles are `linear_roles`.")

    def replaced(self, branch_norms: BranchNorms) -> dict[str, Callable]:
        """What the stock forward sees in the place of its parts, by name."""
        parts: dict[str, Callable] = dict.fromkeys(self.left_to_block, same)
        for name, roles in self.linear_roles.items():
            roles = as_tuple(roles)
            if branch_norms.touches(roles):
                parts[name] = partial(branch_norms.project, getattr(self, name), roles)
        return parts

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        parts = self.replaced(kwargs.pop("branch_norms", BranchNorms({})))
        return self.stock_forward(ModuleView(self, parts) if parts else self, *args, **kwargs)


def as_tuple(roles: Roles) -> tuple[str, ...]:
    """One role or several, as a tuple."""
    return (roles,) if isinstance(roles, str) else roles
