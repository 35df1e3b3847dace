"""What every layer of an encoder does to the stream, and what gradient reaches it."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional


def probe(model: nn.Module, layers: nn.ModuleList, batch: dict[str, torch.Tensor]) -> dict[str, list[float]]:
    """One forward and backward pass; leaves neither gradients nor hooks behind.

    Args:
        model: gives a loss for the batch.
        layers: its layers; of one that gives a tuple, the first entry is the stream.
        batch: inputs and labels.
    Returns:
        by layer: ``gradient``, the norm over all its parameters; ``rms`` of what it gives; ``change``, the norm of the
        difference to what it was given, relative to the latter's; ``cosine`` of the two, mean over the tokens.
    """
    found: dict[str, list[float]] = {name: [] for name in ("gradient", "rms", "change", "cosine")}

    def measure(layer: nn.Module, args: tuple, output: Any) -> None:
        x, y = ((value[0] if isinstance(value, tuple) else value).detach().float() for value in (args[0], output))
        found["rms"].append(y.square().mean().sqrt().item())
        found["change"].append(((y - x).norm() / x.norm()).item())
        found["cosine"].append(functional.cosine_similarity(x, y, dim=-1).mean().item())

    hooks = [layer.register_forward_hook(measure) for layer in layers]
    try:
        model(**batch).loss.backward()
    finally:
        for hook in hooks:
            hook.remove()
    for layer in layers:
        gradients = [parameter.grad for parameter in layer.parameters() if parameter.grad is not None]
        found["gradient"].append(torch.stack(torch._foreach_norm(gradients)).norm().item())
    model.zero_grad()
    return found
