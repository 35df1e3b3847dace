"""Everything private of Transformers that is used here, with what it is for and what breaks if it moves.

Functions below are the only place that names it. What a class of ours overrides, or sets for Transformers to read, has
to stand in that class:

- `PreTrainedModel._init_weights`, `_initialize_weights`: our start values are written there. If they move, weights
  that a checkpoint lacks hold whatever was in memory.
- `PreTrainedModel._set_gradient_checkpointing`: reentrant checkpointing is refused there where it loses gradients. If
  it moves, it loses them silently.
- `PreTrainedModel._get_resized_lm_head`, `_resize_token_embeddings`: an output layer, and the tables of all parts of a
  stack, are resized with what is ours there. If they move, a resized model lacks the norm of its logits.
- `PushToHubMixin._upload_modified_files`: a push is one commit with a card there. If it moves, a push is as in
  Transformers.
- `PreTrainedModel._tied_weights_keys`, `_supports_sdpa` and its like: what is tied, and how attention may run. If they
  move, a model does not tie its head, or refuses an implementation of attention.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeVar, cast

import transformers
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.conversion_mapping import get_checkpoint_conversion_mapping, register_checkpoint_conversion_mapping
from transformers.dynamic_module_utils import get_relative_import_files
from transformers.loss.loss_utils import fixed_cross_entropy
from transformers.utils.generic import can_return_tuple as _can_return_tuple

from ..base.modules import modules_with
from ..base.protocols import KeepsFloat32, StockValue
from .recasting import is_of_transformers


__all__ = ["can_return_tuple", "fixed_cross_entropy"]

ForwardT = TypeVar("ForwardT", bound=Callable[..., object])


def can_return_tuple(forward: ForwardT) -> ForwardT:
    """Transformers' decorator of a forward that gives a tuple where `return_dict` is false, with its type.

    If it moves, the heads of stacks and encoder-decoders cannot be imported.
    """
    return cast(ForwardT, _can_return_tuple(forward))


def register_key_layout(cls: type[PreTrainedModel]) -> None:
    """Let Transformers know in which layout of keys the checkpoints of a model class are on disk.

    Some families have an older layout there, and Transformers looks it up by the name of a class, then by model type.
    A user's class may have the name of another family's: so this is said again before each load and save. If the
    table moves, the layers of these families (ViT and others) are missing after a checkpoint of the Hub is loaded.
    """
    layouts = (
        get_checkpoint_conversion_mapping(stock.__name__) for stock in cls.__mro__[1:] if is_of_transformers(stock)
    )
    layout = next((layout for layout in layouts if layout is not None), None)
    if layout is not None or get_checkpoint_conversion_mapping(cls.__name__) is not None:
        register_checkpoint_conversion_mapping(cls.__name__, layout or [], overwrite=True)
    config_class: StockValue = cls.config_class
    by_type = get_checkpoint_conversion_mapping(getattr(config_class, "stock_model_type", None))
    if by_type is not None:
        register_checkpoint_conversion_mapping(config_class.model_type, by_type, overwrite=True)


def register_class_names(model_type: str, auto_classes: Mapping[str, str]) -> None:
    """Put the models of a family into the tables of Transformers that are read by the *name* of a model's class.

    With label smoothing, Trainer shifts the labels of those that are named as causal language models, of no others.
    A pipeline logs an error about a name that it does not find, and that of speech recognition takes such a model for
    one of characters by frame (CTC). If the tables move, label smoothing trains a causal language model to repeat its
    input, and that pipeline fails with Whisper.

    Args:
        model_type (`str`): the family.
        auto_classes (`Mapping[str, str]`): the name of a model, by that of the Auto class that finds it.
    """
    for auto, name in auto_classes.items():
        # this Transformers may not have it yet
        if (auto_class := getattr(transformers, auto, None)) is not None:
            auto_class._model_mapping._model_mapping.setdefault(model_type, name)


def relative_imports(source: Path) -> set[str]:
    """The files that a file of remote code imports beside itself, directly or not, as Transformers finds them.

    If it moves, a checkpoint that was loaded as remote code is saved without its code.
    """
    return set(get_relative_import_files(source))


def mark_not_started(module: nn.Module) -> None:
    """Let Transformers start a module's weights once more.

    It marks what it has started as `_is_hf_initialized`. If that moves, a layer keeps the stock start, without the
    scheme's init rules.
    """
    module._is_hf_initialized = False  # type: ignore[assignment]


def keep_whole(model: PreTrainedModel, layers: Iterable[str]) -> None:
    """Let no layer of ours be split between devices or FSDP's units, as no stock one is.

    `_no_split_modules` has names of classes, of which each must be there. If it moves, a device map may cut a layer.

    Args:
        model: all of it.
        layers: the names of our layers' classes.
    """
    present = {type(module).__name__ for module in model.modules()}
    model._no_split_modules = {*layers, *(model._no_split_modules or ())} & present


def keep_in_float32(model: PreTrainedModel) -> None:
    """Let the parameters that modules say must stay in float32 (`keep_in_float32`) do so in a half-precision model.

    `_keep_in_fp32_modules_strict` has patterns of their names. If it moves, gates and statistics are rounded.
    """
    keeping = modules_with(model, KeepsFloat32)  # type: ignore[type-abstract]
    names = {name for module in keeping for name in module.keep_in_float32}
    model._keep_in_fp32_modules_strict = {*(model._keep_in_fp32_modules_strict or ()), *names}


def attention_of(config: PreTrainedConfig) -> str | None:
    """The implementation of attention that a model of this config runs.

    If `_attn_implementation` moves, a model of several models starts with another one than its parts.
    """
    implementation: str | None = config._attn_implementation
    return implementation


def use_attention(config: PreTrainedConfig, implementation: str | None) -> None:
    """Set what `attention_of` gives."""
    config._attn_implementation = implementation


def from_config(cls: type[PreTrainedModel], config: PreTrainedConfig, **kwargs: StockValue) -> StockValue:
    """A new model in a dtype and with an implementation of attention.

    `_from_config` is what `AutoModel.from_config` calls. If it moves, a stack cannot be made of trained encoders.
    """
    return cls._from_config(config, **kwargs)
