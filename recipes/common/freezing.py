"""How deep in a model each parameter is: what is frozen by it, and learning rates that fall with the depth."""

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from accelerate import Accelerator
from torch import nn
from transformers import CONFIG_MAPPING, MODEL_MAPPING, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from hf_addnorm.models.core.pretrained import AddNormPreTrainedModel

from .config import RunConfig
from .errors import UserError, one_line


@dataclass(frozen=True)
class Height:
    """Where a parameter stands among the layers of its encoder.

    Args:
        level: 0 for embeddings and all else before the first layer, 1 to the number of layers, then what is above.
        top: the level of what is above the last layer: final norm, pooler, head.
    """

    level: int
    top: int


@dataclass(frozen=True)
class _Parts:
    # paths from the base model; the layers in the order in which they run, a shared one several times
    layers: list[str]
    encoder: str
    below: tuple[str, ...]
    above: tuple[str, ...]


def heights(model: nn.Module) -> dict[str, Height]:
    """The height of every parameter, by name.

    Every encoder of a model has heights of its own (the decoder, too); those of a sequence of encoders go on from one
    to the next. A layer that runs at several depths (ALBERT) has that of the last of them, and its add & norm of a
    depth that depth's.

    Raises:
        UserError: where a model's layers are is not known.
    """
    bases = [
        base
        for base in model.modules()
        if isinstance(base, PreTrainedModel) and base.base_model is base and _parts(base) is not None
    ]
    # an encoder may be a model of its own, of which its base model says where the layers are
    bases = [base for base in bases if not any(base is not other and base in other.modules() for other in bases)]
    if not bases:
        kind = type(getattr(model, "base_model", model)).__name__
        raise UserError(f"where the layers of a {kind} are is not known: neither layers nor embeddings can be chosen")
    in_turn = getattr(getattr(model, "config", None), "arrangement", None) == "sequence"
    counts = [len(_parts(base).layers) for base in bases]
    top = sum(counts) + 1 if in_turn else max(counts) + 1
    found = {name: Height(top, top) for name, _ in model.named_parameters()}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    offset = 0
    for base, count in zip(bases, counts, strict=True):
        own_top = top if in_turn else count + 1
        for parameter, level in _levels(base).items():
            # a table that the output layer shares may come under that one's name, and is a table all the same
            if (full := names.get(id(parameter))) is not None:
                # what follows an encoder that is not the last one of a sequence belongs to its last layer
                last = offset + count if in_turn and offset + count + 1 < top else own_top
                found[full] = Height(min(offset + level, last), own_top)
        offset += count if in_turn else 0
    return found


def _parts(base: PreTrainedModel) -> _Parts | None:
    """Where the layers are: as the family says, for its stock model too; else a list of them."""
    family = f"addnorm_{base.config.model_type.replace('-', '_')}"
    if isinstance(base, AddNormPreTrainedModel):
        model_class, stack = type(base), base.stack_name
        config = base.stack_configs.get(stack)
    elif family in CONFIG_MAPPING:
        config_class = CONFIG_MAPPING[family]
        # of a stock model that has several stacks of layers, or is one of them: the end of its class's name
        stack = next((name for name in config_class.facts.stacks if type(base).__name__.lower().endswith(name)), "")
        if type(base).__name__.endswith("Stack"):
            stack = "decoder" if base.config.is_decoder else "encoder"
        model_class = MODEL_MAPPING[config_class]
        config = config_class.from_dict(base.config.to_dict()).add_norm_stack(stack) if stack else base.config
        config = config if stack or not config_class.facts.stacks else None
    else:
        return _list_of_layers(base)
    if config is None:
        # its layers are those of models in it
        return None
    layout = model_class.layout_of(config)
    below = [*layout.embeddings, layout.embed_norm, layout.position_table]
    above = [layout.final_norm, f"{layout.encoder}.final_norm".lstrip(".")]
    return _Parts(layout.layers(config), layout.encoder, *(tuple(filter(None, at)) for at in (below, above)))


def _list_of_layers(base: PreTrainedModel) -> _Parts | None:
    """A list as long as the config says."""
    size = getattr(base.config, "num_hidden_layers", None)
    for path, module in base.named_modules():
        of_layers = isinstance(module, nn.ModuleList) and len(module) == size
        if of_layers and all(isinstance(layer, GradientCheckpointingLayer) for layer in module):
            return _Parts([f"{path}.{n}" for n in range(size)], "", (), ())
    return None


def _levels(base: PreTrainedModel) -> dict[nn.Parameter, int]:
    parts = _parts(base)
    assert parts is not None
    depths = {path: depth for depth, path in enumerate(parts.layers, start=1)}
    # add & norm of every depth, where layers are shared
    depths |= {f"{parts.encoder}.connections.{depth - 1}": depth for depth in range(1, len(parts.layers) + 1)}
    tables = {id(module.weight) for module in base.modules() if isinstance(module, nn.Embedding)}
    names, found, top = [name for name, _ in base.named_parameters()], {}, len(parts.layers) + 1
    first = next(place for place, name in enumerate(names) if _inside(name, depths))
    for place, (name, parameter) in enumerate(base.named_parameters()):
        if at := _inside(name, depths):
            found[parameter] = depths[at]
        elif _inside(name, parts.above):
            found[parameter] = top
        else:
            # an encoder that is not the whole model holds nothing else that comes after its layers
            in_encoder = parts.encoder and _inside(name, [parts.encoder])
            before = place < first or id(parameter) in tables or in_encoder or _inside(name, parts.below)
            found[parameter] = 0 if before else top
    return found


def _inside(name: str, paths: Iterable[str]) -> str | None:
    return next((path for path in paths if name.startswith(f"{path}.")), None)


def freeze(model: PreTrainedModel, config: RunConfig) -> None:
    """Freeze the parameters that the config names.

    Raises:
        UserError: more layers than there are, a pattern that names no parameter, nothing left to train.
    """
    chosen: set[str] = set()
    if config.freeze_embeddings or config.freeze_layers:
        where = heights(model)
        layers = min(height.top for height in where.values()) - 1
        if config.freeze_layers > layers:
            raise UserError(f"freeze_layers is {config.freeze_layers}, and the model has {layers}")
        lowest, highest = 0 if config.freeze_embeddings else 1, config.freeze_layers
        chosen = {name for name, height in where.items() if lowest <= height.level <= highest}
    parameters = dict(model.named_parameters())
    for pattern in config.freeze:
        named = {name for name in parameters if fnmatchcase(name, pattern)}
        if not named:
            shown = one_line(", ".join(parameters), 160)
            raise UserError(f"freeze has {pattern!r}, which is no parameter's name; there are {shown}")
        chosen |= named
    for name in chosen:
        parameters[name].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in parameters.values()):
        raise UserError("freeze leaves nothing to train")


def say_what_is_trained(model: nn.Module, config: RunConfig, accelerator: Accelerator) -> dict[str, Any]:
    """Say in one line what is frozen, and at which rates the layers are trained; the entries of the result."""
    parameters = list(model.parameters())
    frozen = sum(parameter.numel() for parameter in parameters if not parameter.requires_grad)
    total, record = sum(parameter.numel() for parameter in parameters), {}
    if frozen:
        why = [
            "all but the add & norm and the head" if config.train_only else "",
            "all but the adapters and the head" if config.lora else "",
            "the embeddings" if config.freeze_embeddings else "",
            f"the first {config.freeze_layers} layers" if config.freeze_layers else "",
            *config.freeze,
        ]
        said = f"{', '.join(filter(None, why))}: {frozen:,} of {total:,} parameters"
        accelerator.print(f"frozen: {said}")
        record["frozen"] = said
    if config.layer_decay < 1:
        levels = sorted(set(heights(model).values()), key=lambda height: height.level - height.top)
        rates = {_named(height): config.learning_rate * _factor(config, height) for height in levels}
        accelerator.print("learning rates: " + ", ".join(f"{name} {rate:.3g}" for name, rate in rates.items()))
        record["learning_rates"] = rates
    return record


def _named(height: Height) -> str:
    below = "embeddings" if height.level == 0 else f"layer {height.level}"
    return "above the layers" if height.level == height.top else below


def _factor(config: RunConfig, height: Height) -> float:
    return config.layer_decay ** (height.top - height.level)


def with_rates(model: nn.Module, groups: list[dict[str, Any]], config: RunConfig) -> list[dict[str, Any]]:
    """Split an optimizer's groups so that each layer has its own learning rate, as ``layer_decay`` says.

    What is above the last layer has the full rate, the last layer that times ``layer_decay``, and so on down.

    Source: Howard & Ruder, "Universal Language Model Fine-tuning", 2018, arXiv 1801.06146 (rates by layer); Clark et
    al., "ELECTRA", 2020, arXiv 2003.10555 (the form).
    """
    if config.layer_decay == 1:
        return groups
    where, names = heights(model), {id(parameter): name for name, parameter in model.named_parameters()}
    split = []
    for group in groups:
        by_factor: dict[float, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            by_factor.setdefault(_factor(config, where[names[id(parameter)]]), []).append(parameter)
        split += [
            group | {"params": parameters, "lr": config.learning_rate * factor}
            for factor, parameters in by_factor.items()
        ]
    return split
