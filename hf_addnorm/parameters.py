"""Which parameters of a model are its add & norm."""

from torch import nn
from transformers import PreTrainedModel

from .models.norms.norm_base import Norm
from .models.residuals.residuals import Residual


def add_norm_parameters(model: PreTrainedModel) -> dict[str, nn.Parameter]:
    """The parameters of an encoder's norms, residuals and streams, by name; in a stock model, of its LayerNorms.

    Args:
        model (`PreTrainedModel`): AddNorm or stock. A head's own parameters are not among them.
    Returns:
        Names as in the state dict, with the parameters, in the model's order.

    To train them alone: `model.base_model.requires_grad_(False)`, then `requires_grad_(True)` on each of these.
    """
    homes = [module for module in model.base_model.modules() if isinstance(module, Norm | Residual | nn.LayerNorm)]
    own = {id(parameter) for home in homes for parameter in home.parameters()}
    return {name: parameter for name, parameter in model.named_parameters() if id(parameter) in own}
