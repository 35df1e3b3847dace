"""Recasting: a stock module's parts, under their own names, in a class that knows more."""

import copy
from typing import TypeVar

from torch import nn
from transformers import PreTrainedModel

from ..base.protocols import StockValue


ModuleT = TypeVar("ModuleT", bound=nn.Module)


def is_of_transformers(cls: type) -> bool:
    """Whether a class is one of Transformers' own."""
    return cls.__module__.partition(".")[0] == "transformers"


def document(cls: type, sentence: str) -> None:
    """Give a class that has no docstring a sentence about the stock class that it recasts, its last base."""
    stock = cls.__bases__[-1]
    if cls.__doc__ is None and is_of_transformers(stock):
        cls.__doc__ = sentence.format(stock=stock.__name__)


def get_part(module: nn.Module, path: str) -> StockValue:
    """The submodule at a dotted path (`get_submodule` without its checks: this runs in every forward)."""
    for name in path.split("."):
        # a wrapper, of an adapter say, hands on what it does not have itself
        module = module._modules[name] if name in module._modules else getattr(module, name)  # type: ignore[assignment]
    return module


def has_part(module: nn.Module, path: str) -> bool:
    """Whether there is a submodule at a dotted path."""
    return any(name == path for name, _ in module.named_modules())


def recast(cls: type[ModuleT], stock: nn.Module, *init_args: object) -> ModuleT:
    """A `cls` made of the parts of `stock`: the same submodules and attributes, no weight drawn again.

    Args:
        cls: a subclass of `type(stock)`.
        stock (`torch.nn.Module`): is not to be used any more afterwards.
        init_args: for `PreTrainedModel.__init__` where `cls` is a model, which keeps state by class.
    """
    module = cls.__new__(cls)
    base: type[nn.Module] = PreTrainedModel if issubclass(cls, PreTrainedModel) else nn.Module
    base.__init__(module, *init_args)
    by_class = set(vars(PreTrainedModel)) | set(module.__dict__) if base is PreTrainedModel else set()
    # what is tied may depend on the config
    by_class.discard("_tied_weights_keys")
    for key, value in stock.__dict__.items():
        if key not in by_class or key in ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"):
            module.__dict__[key] = copy.copy(value) if isinstance(value, (dict, set)) else value
    return module


def recast_at(module: nn.Module, path: str, cls: type[ModuleT]) -> ModuleT:
    """Replace the submodule at a dotted path by a `cls` made of its parts."""
    stock = module.get_submodule(path)
    # an encoder may be a model of its own
    made = recast(cls, stock, *([stock.config] if isinstance(stock, PreTrainedModel) else []))
    module.set_submodule(path, made, strict=True)
    return made
