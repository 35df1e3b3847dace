"""What the place costs where a sublayer is added: dropout, sum and norm, beside the same with LayerNorm.

    python benchmarks/add_norm_site.py [--rounds 20] [--json FILE] [--note TEXT]

On [16, 128, 384] in float32: `norm(x + dropout(f))`, in evaluation forward alone, in training forward and backward
with a dropout of 0.1. The figure is how many times as fast as with LayerNorm a norm is; `copies` is the floor: as many
tensors of this size as the site must read and write at least (3 forward, 7 with the backward), as copies of one.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from interleaved import ratios, run, seconds_of
from torch import nn

from hf_addnorm.models.base.registries import NORMS


SHAPE = (16, 128, 384)
KINDS: dict[str, dict[str, Any]] = {
    "rms_norm": {},
    "dyt": {},
    "derf": {},
    "affine": {},
    "group_norm": {"groups": 12},
    "scale_norm": {},
    "batch_norm": {},
}


def norms() -> dict[str, nn.Module]:
    made: dict[str, nn.Module] = {"layer_norm": nn.LayerNorm(SHAPE[-1], eps=1e-12)}
    for kind, options in KINDS.items():
        made[kind] = NORMS.build(NORMS.parse({"kind": kind, **options}, "norm"), SHAPE[-1])
        made[kind].reset_parameters()
        # as in a model whose stock norm is LayerNorm
        made[kind].fuses = True  # type: ignore[assignment]
    return made


def site(norm: nn.Module, x: torch.Tensor, f: torch.Tensor, gradient: torch.Tensor | None) -> None:
    y = norm(x + nn.functional.dropout(f, 0.1, training=gradient is not None))
    if gradient is not None:
        y.backward(gradient)
        x.grad = f.grad = None


def copies(x: torch.Tensor, to: torch.Tensor, tensors: int) -> None:
    # a copy reads one tensor and writes one
    for _ in range(tensors // 2):
        to.copy_(x)
    if tensors % 2:
        to[: SHAPE[0] // 2].copy_(x[: SHAPE[0] // 2])


def measure(rounds: int) -> dict[str, Any]:
    made, figures = norms(), {}
    for training in (False, True):
        x, f = (torch.randn(SHAPE, requires_grad=training) for _ in range(2))
        gradient = torch.randn(SHAPE) if training else None
        candidates: dict[str, Callable[[], None]] = {
            name: partial(site, norm.train(training), x, f, gradient) for name, norm in made.items()
        }
        candidates["copies"] = partial(copies, x.detach(), torch.empty(SHAPE), 7 if training else 3)
        times = []
        for _ in range(rounds + 2):
            with torch.set_grad_enabled(training):
                times.append(seconds_of(candidates))
        figures["training" if training else "inference"] = ratios(times[2:], "layer_norm")
    return figures


if __name__ == "__main__":
    run("add_norm_site", measure, __doc__ or "", rounds=20)
