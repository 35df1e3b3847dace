"""What is converted: a folder or a model, stock or ours, and what of it is refused before anything is changed."""

import copy
import importlib
import os
from typing import cast

import torch
from torch import nn
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.initialization import no_init_weights

from ..models.base.protocols import StockValue
from ..models.core.addnorm_config import AddNormConfig
from ..models.core.layer import AddNormLayer
from ..models.core.packing import is_packed
from ..models.core.pretrained import AddNormPreTrainedModel
from ..models.norms.norm_base import Norm
from ..models.residuals.residuals import Residual
from ..models.spec.spec import AddNormSpec
from ..models.streams.streams import SingleStream
from ..models.streams.wirings import Sequential


def load_source(model_or_folder: object) -> AddNormPreTrainedModel:
    """The model to convert, as one of ours; a stock one is copied into the family's AddNorm class.

    Raises:
        ValueError: a family or class that has no AddNorm model, a quantised model, or one with an adapter.
        OSError: no such folder, or files that are damaged.
    """
    if isinstance(model_or_folder, (str, os.PathLike)):
        return _of_one_stack(model_from_folder(str(model_or_folder)))
    if not isinstance(model_or_folder, nn.Module):
        kind = type(model_or_folder).__name__
        raise ValueError(f"model_or_folder is a {kind}; allowed is a model, a folder or a name on the Hub.")
    _refuse_wrapped(model_or_folder)
    if isinstance(model_or_folder, AddNormPreTrainedModel):
        return _of_one_stack(model_or_folder)
    return _of_one_stack(_as_ours(cast(PreTrainedModel, model_or_folder)))


def _of_one_stack(model: AddNormPreTrainedModel) -> AddNormPreTrainedModel:
    if model.layouts:
        raise ValueError(
            f"{type(model).__name__} is of a family with an encoder and a decoder, which a conversion does not know "
            "yet; allowed are families with one stack of layers."
        )
    return model


def with_padding(model: AddNormPreTrainedModel) -> AddNormPreTrainedModel:
    """The model, or a copy that runs with padding of one whose tokens are packed: it gives the same."""
    if not is_packed(model.config):
        return model
    padded = copy.deepcopy(model)
    padded.set_packed(False)
    return padded


def _refuse_wrapped(model: nn.Module) -> None:
    adapted = hasattr(model, "peft_config") or any(hasattr(module, "base_layer") for module in model.modules())
    if adapted:
        raise ValueError(
            "the model has an adapter of PEFT beside its weights; allowed is one without: merge_and_unload() first."
        )
    weights = [p for p in model.parameters() if not p.is_floating_point()]
    if getattr(model, "is_quantized", False) or getattr(model, "hf_quantizer", None) is not None or weights:
        raise ValueError("the model is quantised, and such weights cannot be rewritten; allowed is floating point.")


def _our_class(name: str) -> type[AddNormPreTrainedModel]:
    package = importlib.import_module(__package__.rpartition(".")[0])
    ours = name if name.startswith("AddNorm") else f"AddNorm{name}"
    found: type[AddNormPreTrainedModel] | None = getattr(package, ours, None)
    if found is None or not issubclass(found, AddNormPreTrainedModel):
        raise ValueError(f"{name} has no AddNorm model; allowed are the models of the families in docs/families.md.")
    return found


def model_from_folder(folder: str) -> AddNormPreTrainedModel:
    """What a folder or a repository holds, stock or ours, as one of ours.

    Raises:
        ValueError: a class that has no AddNorm model, or a quantised model.
        OSError: no such folder, or files that are damaged.
    """
    config = AutoConfig.from_pretrained(folder)
    names: list[str] = getattr(config, "architectures", None) or []
    if not names:
        raise ValueError(f"{folder} does not say of which class its model is (architectures in config.json).")
    if getattr(config, "quantization_config", None) is not None:
        raise ValueError(f"{folder} is quantised, and its weights cannot be read; allowed is floating point.")
    model: AddNormPreTrainedModel = _our_class(names[0]).from_pretrained(folder)
    return model


def _as_ours(model: PreTrainedModel) -> AddNormPreTrainedModel:
    cls = _our_class(type(model).__name__)
    config_class = cast(type[AddNormConfig], cls.config_class)
    entries = {key: value for key, value in model.config.to_dict().items() if key != "model_type"}
    ours: AddNormPreTrainedModel = cls(config_class.from_dict(entries))
    ours.load_state_dict(model.state_dict())
    return moved(ours, model.device, model.dtype)


def moved(model: AddNormPreTrainedModel, device: torch.device, dtype: torch.dtype) -> AddNormPreTrainedModel:
    """The model on a device, in a dtype."""
    nn.Module.to(model, device=device, dtype=dtype)
    return model


def load_tokenizer(model_or_folder: object) -> PreTrainedTokenizerBase | None:
    """The tokenizer of a folder, or None."""
    if not isinstance(model_or_folder, (str, os.PathLike)):
        return None
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(str(model_or_folder))
    except (OSError, ValueError):
        return None
    return tokenizer


def refuse_scheme(spec: AddNormSpec, what: str) -> None:
    """Refuse a scheme that no rule and no calibration knows.

    Raises:
        ValueError: in a sentence that names the axis.
    """
    if not isinstance(spec.build_stream(), SingleStream) and spec.stream.kind != "dual":
        raise ValueError(
            f"the {what}'s add_norm.stream is {spec.stream.kind!r}; allowed is 'single', and 'dual' for a target."
        )
    if what == "source" and spec.stream.kind == "dual":
        raise ValueError("the source's add_norm.stream is 'dual'; allowed is 'single' there.")
    if type(spec.build_wiring()) is not Sequential:
        raise ValueError(f"the {what}'s add_norm.wiring is {spec.wiring.kind!r}; allowed is 'sequential'.")


def refuse_axes(before: AddNormSpec, after: AddNormSpec, layers: int) -> None:
    """Refuse a change of what is no add & norm of the stream: positions, heads, logits, weights, norms of q and k.

    Raises:
        ValueError: in a sentence that names the axis and both values.
    """
    for axis in ("positions", "head", "logits", "weights"):
        old, new = getattr(before, axis), getattr(after, axis)
        same = {"stock", "learned"}
        if old != new and not {getattr(old, "kind", old), getattr(new, "kind", new)} <= same:
            raise ValueError(
                f"add_norm.{axis} would change from {_said(old)} to {_said(new)}, which a conversion does not reach; "
                f"allowed is {_said(old)}."
            )
    for index in range(layers):
        for name in ("attention", "feed_forward"):
            old_norms, new_norms = (spec.layer(index, layers).slot_norms(name) for spec in (before, after))
            for slot in ("q", "k", "v", "qk", "up", "mid"):
                if old_norms.get(slot) != new_norms.get(slot):
                    raise ValueError(
                        f"add_norm.{name}.{slot} would change from {_said(old_norms.get(slot))} to "
                        f"{_said(new_norms.get(slot))}: a norm inside a branch has no start there that keeps what the "
                        "model knows."
                    )


def _said(value: StockValue) -> str:
    return repr("nothing" if value is None else getattr(value, "kind", value))


def fresh(source: AddNormPreTrainedModel, spec: AddNormSpec, dtype: torch.dtype) -> AddNormPreTrainedModel:
    """A new model of the source's class with another add & norm, in evaluation.

    Norms and residuals have their start values. Nothing else has: it is the source's to give.

    Raises:
        ValueError: if the spec and the model's config contradict each other.
    """
    config = type(source.config).from_dict(copy.deepcopy(source.config.to_dict()) | {"add_norm": spec.to_dict()})
    with no_init_weights():
        model: AddNormPreTrainedModel = type(source)(config)
    for module in model.modules():
        if isinstance(module, (Norm, Residual, nn.LayerNorm)):
            module.reset_parameters()
        if isinstance(module, AddNormLayer):
            module.start_factors()
    model.eval()
    return moved(model, source.device, dtype)
