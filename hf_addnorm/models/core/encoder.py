"""The loop over the layers: layer drop, and the norm of the place `final`."""

from collections.abc import Callable
from typing import ClassVar

import torch
import torch.distributed as dist
from torch import nn

from ..base.protocols import StockValue
from ..base.token_mask import TokenMask, running_with
from .branch_norms import ModuleView
from .recasting import document


class AddNormEncoder(nn.Module):
    """Mixin for a family's encoder: the stock loop over the layers, then the norm of the place `final`.

    x -> layer 1 -> ... -> layer L -> final -> last_hidden_state
    """

    final_norm: nn.Module
    config: StockValue
    layers: nn.ModuleList
    # where the mask that the encoder is given, and no other, counts tokens: sound
    reads_tokens = False
    # whether it has the blocks of all depths, as `connections`: layers may be shared
    holds_connections = False
    # whether that loop may leave them out, as all layers run as in the stock model
    runs_as_stock = False
    # whether packed tokens get their padding back behind it: a pooler reads the first token of each row
    unpacks = True
    # the rate of the layer drop, where the stock loop may not skip layers by itself
    layer_drop = 0.0
    stock_forward: ClassVar[Callable[..., StockValue]]

    def __init_subclass__(cls, **kwargs: object):
        super().__init_subclass__(**kwargs)
        stock: type[nn.Module] = cls.__mro__[cls.__mro__.index(AddNormEncoder) + 1]
        cls.stock_forward = staticmethod(stock.forward)
        document(cls, "`{stock}` with the norm of the place `final` after its layers.")

    def run_layers(self, *args: StockValue, **kwargs: StockValue) -> StockValue:
        """The loop over the layers; the stock one unless a family's layers need to be told their depth."""
        if self.layer_drop == 0.0:
            return self.stock_forward(self, *args, **kwargs)
        # a layer that is skipped still has to begin or end the state, and all processes must skip the same ones
        if self.training:
            kwargs["skipped"] = draw_skipped(self.layer_drop, len(self.layers), args[0].device)
        config = ModuleView(self.config, {"layerdrop": 0.0})
        return self.stock_forward(ModuleView(self, {"config": config}), *args, **kwargs)

    def forward(self, *args: StockValue, **kwargs: StockValue) -> StockValue:
        as_tuple = kwargs.get("return_dict") is False
        kwargs |= {"return_dict": True} if as_tuple else {}
        if self.reads_tokens:
            tokens = TokenMask.of(kwargs.get("attention_mask"))
            outputs = running_with(tokens, self.run_layers, *args, **kwargs)
        else:
            outputs = self.run_layers(*args, **kwargs)
        outputs.last_hidden_state = self.final_norm(outputs.last_hidden_state)
        if kwargs.get("packed") is not None and self.unpacks:
            outputs.last_hidden_state = kwargs["packed"].unpack(outputs.last_hidden_state)
        if outputs.get("hidden_states"):
            # a loop that collects them itself: the readable part of each, and the last one normed
            states = [state[0] if isinstance(state, tuple) else state for state in outputs.hidden_states[:-1]]
            outputs.hidden_states = (*states, outputs.last_hidden_state)
        return outputs.to_tuple() if as_tuple else outputs


def draw_skipped(rate: float, layers: int, device: torch.device) -> set[int]:
    """The layers that one forward skips, each with probability `rate`: the same on all processes.

    Source: LayerDrop, Fan et al., 2019, arXiv 1909.11556.
    """
    draws = torch.rand(layers)
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        draws = draws.to(device)
        dist.broadcast(draws, src=0)
    return {depth for depth, draw in enumerate(draws.tolist()) if draw < rate}
