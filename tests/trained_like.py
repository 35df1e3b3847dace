"""Models with weights as training leaves them: gains and biases far from their start, some features far larger."""

import torch
from families import FAMILIES


def trained_like(model):
    """The same model in evaluation, its weights drawn."""
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=draw, dtype=torch.float64)
            middle = float(parameter.dim() == 1 and name.endswith(("weight", "alpha")))
            parameter.copy_(middle + noise * (0.5 if parameter.dim() == 1 else 0.3))
            if parameter.dim() == 1 and parameter.numel() == model.config.hidden_size:
                parameter[3] *= 8
        for name, buffer in model.named_buffers():
            if name.endswith("running_var"):
                buffer.copy_(torch.rand(buffer.shape, generator=draw) + 0.5)
            elif name.endswith("running_mean"):
                buffer.copy_(torch.randn(buffer.shape, generator=draw))
    model.tie_weights()
    return model.eval()


def tiny(family, head, add_norm=None, layers=2, **kwargs):
    """A small model of a family in float64, and batches of 12 rows in all."""
    row = FAMILIES[family]
    name = row.config_class.auto_classes[head]
    model = row.model_class(name)(row.config(name, add_norm, num_hidden_layers=layers, **kwargs)).double()
    inputs = {key: value for key, value in row.inputs(name).items() if "label" not in key}
    inputs = {key: value.double() if value.is_floating_point() else value for key, value in inputs.items()}
    count = len(next(iter(inputs.values())))
    return trained_like(model), [inputs] * -(-12 // count)


def outputs(model, batch):
    """The first output."""
    with torch.no_grad():
        return model(**batch)[0]
