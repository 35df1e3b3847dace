"""The add & norm block of one sublayer."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from .spec import LayerSpec


# A sublayer without its add & norm: from the branch's input and the norm of the slot `mid` to the branch's output.
Branch = Callable[[torch.Tensor, Callable[[torch.Tensor], torch.Tensor]], torch.Tensor]


class AddNorm(nn.Module):
    """One add & norm: the way from the stream through a sublayer and back.

        x -+-> pre -> * pre_scale -> W_in -> core -> mid -> W_out -> drop, out -+-> residual -> post -> y
           +--------------------------------------------------------------------^

    All of `[batch, seq, hidden]`, but for `mid`, which has the width of the sublayer's inside. An empty slot is the
    identity. A norm that the stock layer has too stays at the stock layer's path, so that checkpoints keep their
    keys, and is passed in at call time; the others live here, as `pre_norm`, `mid_norm`, `out_norm`, `post_norm`.

    Args:
        spec (`LayerSpec`): the axes of the layer.
        sublayer (`str`): attention, cross_attention or feed_forward.
        norms (`dict[str, torch.nn.Module]`): the norms that live here, by slot.
        residual (`torch.nn.Module`, *optional*): how stream and branch are combined; None where the sublayers of the
            layer share one, which is then passed in at call time.
        pre_scale (`float`): multiplies the output of the norm in `pre`.
    """

    def __init__(
        self,
        spec: LayerSpec,
        sublayer: str,
        norms: Mapping[str, nn.Module],
        residual: nn.Module | None,
        pre_scale: float,
    ):
        super().__init__()
        self.filled = frozenset(spec.slot_norms(sublayer))
        self.pre_scale = pre_scale
        self.branch_end = ("dropout", "out") if spec.dropout == "before_out" else ("out", "dropout")
        for slot, norm in norms.items():
            self.add_module(f"{slot}_norm", norm)
        # None is replaced by the layer's own at call time
        self.residual_norm: Any = residual

    def forward(
        self,
        x: torch.Tensor,
        branch: Branch,
        dropout: nn.Module,
        stock_norms: Mapping[str, nn.Module],
        residual: nn.Module | None = None,
    ) -> torch.Tensor:
        """The stream after the sublayer.

        Args:
            x (`torch.Tensor`): the stream, [batch, seq, hidden].
            branch (`Branch`): the sublayer.
            dropout (`torch.nn.Module`): the stock dropout on the branch's output.
            stock_norms (`dict[str, torch.nn.Module]`): norms at the stock layer's paths, by slot.
            residual (`torch.nn.Module`, *optional*): the layer's residual, where the sublayers share one.
        """

        def norm(slot: str, y: torch.Tensor) -> torch.Tensor:
            if slot not in self.filled:
                return y
            return stock_norms[slot](y) if slot in stock_norms else getattr(self, f"{slot}_norm")(y)

        u = norm("pre", x)
        if self.pre_scale != 1.0 and "pre" in self.filled:
            u = u * self.pre_scale
        f = branch(u, partial(norm, "mid"))
        for step in self.branch_end:
            f = dropout(f) if step == "dropout" else norm(step, f)
        combine = self.residual_norm if residual is None else residual
        return norm("post", combine(x, f))


class Connections(nn.Module):
    """The add & norm blocks of one layer, and the residual that they share, if they do.

    Args:
        blocks (`dict[str, AddNorm]`): by sublayer: attention, cross_attention, feed_forward.
        residual (`torch.nn.Module`, *optional*): one for all sublayers.
    """

    def __init__(self, blocks: Mapping[str, AddNorm], residual: nn.Module | None):
        super().__init__()
        for name, block in blocks.items():
            self.add_module(name, block)
        self.residual_norm = residual

    def has(self, name: str) -> bool:
        """Whether the layer has the sublayer `name`."""
        return name in self._modules

    def forward(
        self, name: str, x: torch.Tensor, branch: Branch, dropout: nn.Module, stock_norms: Mapping[str, nn.Module]
    ) -> torch.Tensor:
        """The stream after the sublayer `name`; arguments as in `AddNorm.forward`."""
        return getattr(self, name)(x, branch, dropout, stock_norms, self.residual_norm)
