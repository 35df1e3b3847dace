"""Which parameters and modules of a model are its add & norm, by the names that PEFT and others ask for."""

from torch import nn
from transformers import PreTrainedModel

from .models.core.layer import AddNormLayer
from .models.core.recasting import get_part
from .models.norms.norm_base import Norm
from .models.norms.running_norms import RunningNorm
from .models.residuals.residuals import Residual


_OURS = (Norm, Residual, nn.LayerNorm)


def add_norm_parameters(model: PreTrainedModel) -> dict[str, nn.Parameter]:
    """The parameters of an encoder's norms, residuals and streams, by name; in a stock model, of its LayerNorms.

    Args:
        model (`PreTrainedModel`): AddNorm or stock. A head's own parameters are not among them.
    Returns:
        Names as in the state dict, with the parameters, in the model's order.

    To train them alone: `model.base_model.requires_grad_(False)`, then `requires_grad_(True)` on each of these.
    """
    homes = [module for module in model.base_model.modules() if isinstance(module, _OURS)]
    layers = [module for module in model.base_model.modules() if isinstance(module, AddNormLayer)]
    factors = [layer.borrowed_factor(name) for layer in layers for name in layer.sublayers]
    own = {id(parameter) for home in homes for parameter in home.parameters()} | {id(factor) for factor in factors}
    return {name: parameter for name, parameter in model.named_parameters() if id(parameter) in own}


def ln_tuning_names(model: PreTrainedModel) -> dict[str, list[str]]:
    """The modules of an encoder's add & norm, as PEFT's tuning of norms is told of them.

    `peft.LNTuningConfig(**ln_tuning_names(model))` trains every parameter of the add & norm, and no other.

    Args:
        model (`PreTrainedModel`): AddNorm or stock. A head's own norms are not among them.
    Returns:
        `target_modules`: the norms, and all else that has a `weight`, which PEFT can put back into the model;
        `modules_to_save`: what has other parameters alone: residuals, parts of a stream, norms with another gain,
        a stock layer's factors. Those of BEiT, which are parameters of the layer itself, cannot be named.
        Names from `model`, in its order; of a module in another one of them, the outer one's.
    """
    homes = {id(module) for module in model.base_model.modules() if isinstance(module, _OURS)}
    homes |= {id(factor) for factor in _factor_modules(model)}
    names = _names(model.base_model, model, homes)
    targets = [name for name in names if isinstance(getattr(model.get_submodule(name), "weight", None), nn.Parameter)]
    return {"target_modules": targets, "modules_to_save": [name for name in names if name not in targets]}


def norms_with_statistics(model: PreTrainedModel) -> list[str]:
    """The names of a model's norms that keep running statistics (`batch_norm` and others); often none.

    An adapter is saved without the statistics of its model, unless PEFT is told of their modules:
    `LoraConfig(modules_to_save=...)`.

    Args:
        model (`PreTrainedModel`): AddNorm or stock.
    Returns:
        Names from `model`, in its order; of a module in another one of them, the outer one's.
    """
    return _names(model, model, {id(module) for module in model.modules() if isinstance(module, RunningNorm)})


def _factor_modules(model: PreTrainedModel) -> list[nn.Module]:
    """The modules of stock layers that hold a factor which a residual uses, and nothing else."""
    layers = [module for module in model.base_model.modules() if isinstance(module, AddNormLayer)]
    paths = [(layer, path) for layer in layers for path in layer.borrowed]
    return [part for layer, path in paths if isinstance(part := get_part(layer, path), nn.Module)]


def _names(home: nn.Module, model: nn.Module, wanted: set[int]) -> list[str]:
    """The names, from `model`, of the outermost of the wanted modules in `home` that have parameters."""
    inside = set(home.modules())
    names: list[str] = []
    for name, module in model.named_modules():
        is_inner = bool(names) and name.startswith(f"{names[-1]}.")
        if id(module) in wanted and module in inside and not is_inner and list(module.parameters()):
            names.append(name)
    return names
