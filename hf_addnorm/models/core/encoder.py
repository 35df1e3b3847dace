"""The loop over the layers: layer drop, and the norm of the place `final`."""

from collections.abc import Callable
from functools import wraps
from typing import ClassVar

import torch
import torch.distributed as dist
from torch import nn

from ..base.protocols import StockValue
from ..base.token_mask import TokenMask, running_with
from ..streams.streams import readable
from .branch_norms import ModuleView
from .recasting import document, get_part, is_of_transformers


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
    # whether its layers run dropout, sum and norm by functions of their own in training (see `fused_add_norm.py`)
    fused_add_norm = False
    # whether packed tokens get their padding back behind it: a pooler reads the first token of each row
    unpacks = True
    # the rate of the layer drop, where the stock loop may not skip layers by itself
    layer_drop = 0.0
    stock_forward: ClassVar[Callable[..., StockValue]]

    def __init_subclass__(cls, **kwargs: object):
        super().__init_subclass__(**kwargs)
        cls.stock_forward = staticmethod(cls._stock().forward)
        document(cls, "`{stock}` with the norm of the place `final` after its layers.")

    @classmethod
    def _stock(cls) -> type[nn.Module]:
        """The stock class that it recasts; of a mixin, none of Transformers."""
        stock = (base for base in cls.__mro__ if is_of_transformers(base) and "forward" in vars(base))
        return next(stock, nn.Module)

    def run_layers(self, *args: StockValue, **kwargs: StockValue) -> StockValue:
        """The loop over the layers; the stock one unless a family's layers need to be told their depth."""
        if self.layer_drop == 0.0:
            return self.stock_forward(self, *args, **kwargs)
        # a layer that is skipped still has to begin or end the state, and all processes must skip the same ones
        if self.training:
            kwargs["skipped"] = draw_skipped(self.layer_drop, len(self.layers), args[0].device)
        config = ModuleView(self.config, {"layerdrop": 0.0})
        return self.stock_forward(ModuleView(self, {"config": config}), *args, **kwargs)

    def take_layer_drop(self, config: StockValue) -> None:
        """Skip layers here, not in the stock loop, as often as that does in a model of this config."""
        self.layer_drop = getattr(config, "layerdrop", 0.0)

    def shown(self, states: list[torch.Tensor]) -> list[torch.Tensor]:
        """The hidden states, of which the last one is missing, as a reader of them expects them."""
        return states

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
            states = [readable(state) for state in outputs.hidden_states[:-1]]
            outputs.hidden_states = (*self.shown(states), outputs.last_hidden_state)
        return outputs.to_tuple() if as_tuple else outputs


class AddNormEncoderModel(AddNormEncoder):
    """Mixin for an encoder that is a model of its own within the base model: what is in it starts as in that one.

    x -> layer 1 -> ... -> layer L -> final -> last_hidden_state
    """

    # the model around it says it, with its own layers
    _no_split_modules: StockValue = ()

    def belong_to(self, model: nn.Module) -> None:
        """Let a model start the weights in it."""
        # not as an attribute of a module, which would make it a part
        vars(self)["model_around"] = model

    def _initialize_weights(self, module: nn.Module, is_custom_code: bool = False) -> None:
        vars(self)["model_around"]._initialize_weights(module, is_custom_code)


class AddNormStack(AddNormEncoder):
    """Mixin for a base model that runs the layers by itself, one of several in a model: an encoder or a decoder.

    x -> layer 1 -> ... -> layer L -> final -> last_hidden_state
    """

    # where the norm behind the embeddings is, if that is the first layer
    path_of_embed_norm: str | None = None
    # the rate that the stock loop skips layers with
    layerdrop: StockValue
    device: torch.device

    def __init_subclass__(cls, **kwargs: object):
        stock = cls._stock()
        # not of a class that a user derives from it
        if cls.__bases__[-1] is stock and "forward" not in vars(cls):
            # with the arguments of the stock forward, which generation looks at
            cls.forward = wraps(stock.forward)(AddNormStack.run)  # type: ignore[method-assign, assignment]
        super().__init_subclass__(**kwargs)

    def run(self, *args: StockValue, **kwargs: StockValue) -> StockValue:
        """The forward; the arguments are those of the stock model."""
        if kwargs.get("return_dict") is None:
            kwargs["return_dict"] = getattr(self.config, "return_dict", True)
        return AddNormEncoder.forward(self, *args, **kwargs)

    def run_layers(self, *args: StockValue, **kwargs: StockValue) -> StockValue:
        if self.layer_drop > 0.0 and self.training:
            kwargs["skipped"] = draw_skipped(self.layer_drop, len(self.layers), self.device)
        return self.stock_forward(self, *args, **kwargs)

    def shown(self, states: list[torch.Tensor]) -> list[torch.Tensor]:
        # the first one was taken before the layer, in which a norm may stand behind the embeddings
        if self.path_of_embed_norm is None or not states:
            return states
        return [get_part(self, self.path_of_embed_norm)(states[0]), *states[1:]]

    def take_layer_drop(self, config: StockValue) -> None:
        self.layer_drop, self.layerdrop = self.layer_drop or getattr(self, "layerdrop", 0.0), 0.0


def draw_skipped(rate: float, layers: int, device: torch.device) -> set[int]:
    """The layers that one forward skips, each with probability `rate`: the same on all processes.

    Source: LayerDrop, Fan et al., 2019, arXiv 1909.11556.
    """
    draws = torch.rand(layers)
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        draws = draws.to(device)
        dist.broadcast(draws, src=0)
    return {depth for depth, draw in enumerate(draws.tolist()) if draw < rate}
