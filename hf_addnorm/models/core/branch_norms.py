"""Norms inside a sublayer: beside its Linear layers, while the stock forward runs as it is.

A norm is a sibling of the Linear layer that it stands behind or before, never its child or its wrapper: adapters and
quantisers replace a Linear, and a norm that it owned would be lost, or would see another input than the adapter.
"""

from collections.abc import Callable, Mapping
from functools import partial
from types import MethodType
from typing import ClassVar

import torch
from torch import nn

from ..base.fused_roles import join_roles, split_roles
from ..base.protocols import StockValue
from ..streams.streams import Function
from .recasting import document


Roles = str | tuple[str, ...]


def same(x: torch.Tensor, *_: StockValue) -> torch.Tensor:
    """The identity."""
    return x


# slots of norms within a branch
INNER_SLOTS = ("q", "k", "v", "qk", "up", "mid")

# those whose norms take the features of one head
_OF_HEADS = ("q", "k", "v", "qk")

# the slots behind a projection, by its role; qk is one norm for two of them
_BEHIND = {"q": ("q", "qk"), "k": ("k", "qk"), "v": ("v",), "w1": ("up",)}


def slots_beside(roles: tuple[str, ...]) -> frozenset[str]:
    """The slots before and behind a projection with these roles."""
    slots = [("mid",) if role in ("o", "w2") else _BEHIND[role] for role in roles]
    return frozenset().union(*slots)


class BranchNorms:
    """The norms inside one sublayer, by slot: q, k, v, qk, up behind the projections, mid before the output's.

    Args:
        norms (`dict[str, Callable]`): of the filled slots only; others than these are left alone.
        head_size (`int`, *optional*): features of a head, where q, k, v are normalised head by head.
    """

    def __init__(self, norms: Mapping[str, Function], head_size: int | None = None):
        self.norms, self.head_size = norms, head_size

    def norm(self, slot: str, x: torch.Tensor) -> torch.Tensor:
        """`x` after the norm of `slot`; the same `x` where the slot is empty."""
        if slot not in self.norms:
            return x
        norm = self.norms[slot]
        if self.head_size is None or slot not in _OF_HEADS:
            return norm(x)
        by_head: torch.Tensor = x.unflatten(-1, (-1, self.head_size))
        return norm(by_head).flatten(-2)

    def project(self, linear: Function, roles: tuple[str, ...], x: torch.Tensor, blocks: int = 1) -> torch.Tensor:
        """A projection with its norms around it; one with several roles is fused, and each part has its own norm.

        Args:
            linear, roles: the projection.
            x: what it reads.
            blocks (`int`, *optional*, defaults to 1): how often its roles follow each other; see `split_roles`.
        """
        if roles[0] in ("o", "w2"):
            return linear(self.norm("mid", x))
        if roles[0] == "w1":
            return self.norm("up", linear(x))
        parts = split_roles(linear(x), len(roles), blocks, dim=-1)
        return join_roles([self._behind(role, part) for role, part in zip(roles, parts, strict=True)], blocks, dim=-1)

    def _behind(self, role: str, x: torch.Tensor) -> torch.Tensor:
        for slot in _BEHIND[role]:
            x = self.norm(slot, x)
        return x


NO_BRANCH_NORMS = BranchNorms({})


class ModuleView:
    """A module (or a config) as a stock forward sees it while some of its parts are replaced.

    Methods and properties of the module run on the view, so that they see the replaced parts too (one that calls
    `super()` fails: the view is no instance of the module's class). What the forward sets is set on the module.

    Args:
        module: whose forward runs.
        replaced (`dict`): what stands in the place of its parts, by name.
    """

    def __init__(self, module: object, replaced: Mapping[str, object]):
        object.__setattr__(self, "_module", module)
        object.__setattr__(self, "_replaced", replaced)

    def __getattr__(self, name: str) -> StockValue:
        replaced: Mapping[str, object] = self._replaced
        if name in replaced:
            return replaced[name]
        found = getattr(type(self._module), name, None)
        # torch.compile with 2.9 cannot trace this; the properties of a config need not see what is replaced
        if isinstance(found, property) and isinstance(self._module, nn.Module):
            return found.__get__(self)
        value = getattr(self._module, name)
        # torch.compile traces a partial, but no new bound method
        return partial(value.__func__, self) if _is_method_of(value, self._module) else value

    def __setattr__(self, name: str, value: object) -> None:
        if name in self._replaced:
            raise AttributeError(
                f"the forward of {type(self._module).__name__} sets {name!r}, which its add & norm block has replaced."
            )
        setattr(self._module, name, value)


def _is_method_of(value: object, owner: object) -> bool:
    return isinstance(value, MethodType) and value.__self__ is owner


class ProjectionView:
    """A Linear layer with its norms around it, for a stock forward that looks at the weight of the layer, too.

    Args:
        linear (`torch.nn.Linear`): the layer.
        project (`Callable`): what stands in its place.
    """

    def __init__(self, linear: StockValue, project: Callable[..., torch.Tensor]):
        self.linear, self.project = linear, project

    @property
    def weight(self) -> torch.Tensor:
        """The layer's own."""
        weight: torch.Tensor = self.linear.weight
        return weight

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.project(x)


class WithBranchNorms(nn.Module):
    """Mixin for a stock attention or feed-forward class, which runs with norms beside its Linear layers.

        x -> q, k, v -> their norms -> core -> mid -> o -> branch's output        (or w1 -> up -> core -> mid -> w2)

    The class that mixes it in names its Linear layers, and the parts of the stock forward that belong to the add &
    norm block instead: the dropout on its output, say. `forward` takes the stock arguments and `branch_norms`;
    without them the stock forward runs as it is, with its dropout.
    """

    linear_roles: ClassVar[dict[str, Roles]]
    left_to_block: ClassVar[tuple[str, ...]] = ()
    # the Linear layers whose weights the stock forward looks at
    looked_at: ClassVar[tuple[str, ...]] = ()
    stock_forward: ClassVar[Callable[..., StockValue]]
    # whether dropout draws as `fused_add_norm.py` says
    fused_add_norm = False
    # each Linear layer with its roles and the slots beside it
    linear_slots: ClassVar[list[tuple[str, tuple[str, ...], frozenset[str]]]]

    def __init_subclass__(cls, **kwargs: object):
        super().__init_subclass__(**kwargs)
        stock: type[nn.Module] = cls.__mro__[cls.__mro__.index(WithBranchNorms) + 1]
        cls.stock_forward = staticmethod(stock.forward)
        if "linear_roles" in vars(cls):
            all_roles = {name: as_tuple(roles) for name, roles in cls.linear_roles.items()}
            cls.linear_slots = [(name, roles, slots_beside(roles)) for name, roles in all_roles.items()]
        document(cls, "`{stock}` with norms beside its Linear layers, whose roles are `linear_roles`.")

    def blocks_of(self, name: str) -> int:
        """How often the roles of a fused Linear layer follow each other in its output features."""
        return 1

    def replaced(self, branch_norms: BranchNorms) -> dict[str, StockValue]:
        """What the stock forward sees in the place of its parts, by name."""
        parts: dict[str, StockValue] = dict.fromkeys(self.left_to_block, same)
        for name, roles, slots in self.linear_slots:
            if not slots.isdisjoint(branch_norms.norms):
                project = partial(branch_norms.project, getattr(self, name), roles, blocks=self.blocks_of(name))
                parts[name] = ProjectionView(getattr(self, name), project) if name in self.looked_at else project
        return parts

    def forward(self, *args: StockValue, branch_norms: BranchNorms | None = None, **kwargs: StockValue) -> StockValue:
        parts = None if branch_norms is None else self.replaced(branch_norms)
        return self.stock_forward(ModuleView(self, parts) if parts else self, *args, **kwargs)


def as_tuple(roles: Roles) -> tuple[str, ...]:
    """One role or several, as a tuple."""
    return (roles,) if isinstance(roles, str) else roles
