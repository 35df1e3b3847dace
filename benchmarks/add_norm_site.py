"""What the place costs where a sublayer is added: dropout, sum and norm, beside the same with LayerNorm.

    python benchmarks/add_norm_site.py [--rounds 20] [--json FILE] [--note TEXT]

On [16, 128, 384] in float32: `norm(x + dropout(f))`, in inference forward alone, in training forward and backward with
a dropout of 0.1, which is torch's, or that of `set_fused_add_norm`; the latter also on [32, 128, 768], which no cache
holds. The figure is how many times as fast as with LayerNorm a norm is. `copies` is the floor: as many tensors of this
size as the site must read and write at least (3 forward, 7 with the backward), as copies of one. Where dropout is
fused, `torch_dropout` is LayerNorm with torch's.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from interleaved import ratios, run, seconds_of
from torch import nn

from hf_addnorm.models.base.registries import NORMS
from hf_addnorm.models.core.byte_dropout import dropped_sum


SHAPE, LARGE = (16, 128, 384), (32, 128, 768)
RATE = 0.1
KINDS: dict[str, dict[str, Any]] = {
    "rms_norm": {},
    "dyt": {},
    "derf": {},
    "affine": {},
    "group_norm": {"groups": 12},
    "scale_norm": {},
    "batch_norm": {},
}


def norms(width: int) -> dict[str, nn.Module]:
    made: dict[str, nn.Module] = {"layer_norm": nn.LayerNorm(width, eps=1e-12)}
    for kind, options in KINDS.items():
        made[kind] = NORMS.build(NORMS.parse({"kind": kind, **options}, "norm"), width)
        made[kind].reset_parameters()
        # as in a model whose stock norm is LayerNorm
        made[kind].fuses = True  # type: ignore[assignment]
    return made


Sum = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def inferred(x: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
    return x + f


def dropped(x: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
    return x + nn.functional.dropout(f, RATE)


def fused(x: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
    total = dropped_sum(x, f, RATE)
    assert total is not None
    return total


def site(norm: nn.Module, add: Sum, x: torch.Tensor, f: torch.Tensor, gradient: torch.Tensor | None) -> None:
    y = norm(add(x, f))
    if gradient is not None:
        y.backward(gradient)
        x.grad = f.grad = None


def copies(x: torch.Tensor, to: torch.Tensor, tensors: int) -> None:
    # a copy reads one tensor and writes one
    for _ in range(tensors // 2):
        to.copy_(x)
    if tensors % 2:
        half = len(x) // 2
        to[:half].copy_(x[:half])


CASES: dict[str, tuple[Sum, tuple[int, ...]]] = {
    "inference": (inferred, SHAPE),
    "training": (dropped, SHAPE),
    "training, fused": (fused, SHAPE),
    "training, fused, large": (fused, LARGE),
}


def measure(rounds: int) -> dict[str, Any]:
    figures = {}
    for case, (add, shape) in CASES.items():
        training, made = add is not inferred, norms(shape[-1])
        x, f = (torch.randn(shape, requires_grad=training) for _ in range(2))
        gradient = torch.randn(shape) if training else None
        candidates: dict[str, Callable[[], None]] = {
            name: partial(site, norm.train(training), add, x, f, gradient) for name, norm in made.items()
        }
        if add is fused:
            candidates["torch_dropout"] = partial(site, made["layer_norm"], dropped, x, f, gradient)
        candidates["copies"] = partial(copies, x.detach(), torch.empty(shape), 7 if training else 3)
        times = []
        for _ in range(rounds + 2):
            with torch.set_grad_enabled(training):
                times.append(seconds_of(candidates))
        figures[case] = ratios(times[2:], "layer_norm")
    return figures


if __name__ == "__main__":
    run("add_norm_site", measure, __doc__ or "", rounds=20)
