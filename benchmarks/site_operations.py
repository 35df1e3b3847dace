"""What the operations cost that the place is made of where a sublayer is added.

    python benchmarks/site_operations.py [--rounds 20] [--json FILE] [--note TEXT]

For [16, 128, 384] in float32. Masks of dropout: of random bytes, as `set_fused_add_norm` has them, of 16-bit numbers,
of uniform numbers, and torch's. Functions: torch's tanh, sigmoid and erf. LayerNorm: forward and backward alone. The
figure is how many times as fast as seven copies of such a tensor they are: the floor of the place in training.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from add_norm_site import RATE, SHAPE, copies
from interleaved import ratios, run, seconds_of

from hf_addnorm.models.core.byte_dropout import keep_mask


def of_16_bits(numbers: torch.Tensor) -> torch.Tensor:
    return numbers.random_(-(2**15), 2**15).ge_(round(RATE * 2**16) - 2**15)


def of_uniform_numbers(numbers: torch.Tensor) -> torch.Tensor:
    return numbers.uniform_() >= RATE


def layer_norm(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, gradient: torch.Tensor) -> None:
    norm = torch.nn.functional.layer_norm(x, weight.shape, weight, bias)
    norm.backward(gradient)
    x.grad = weight.grad = bias.grad = None


def measure(rounds: int) -> dict[str, Any]:
    x, to = torch.randn(SHAPE), torch.empty(SHAPE)
    weight, bias = (torch.randn(SHAPE[-1], requires_grad=True) for _ in range(2))
    groups: dict[str, dict[str, Callable[[], Any]]] = {
        "mask": {
            "bytes": partial(keep_mask, x, RATE),
            "16 bits": partial(of_16_bits, torch.empty(SHAPE, dtype=torch.int16)),
            "uniform": partial(of_uniform_numbers, torch.empty(SHAPE)),
            "torch": partial(torch.empty(SHAPE).bernoulli_, 1 - RATE),
        },
        "function": {name: partial(getattr(torch, name), x, out=to) for name in ("tanh", "sigmoid", "erf")},
        "norm": {"LayerNorm": partial(layer_norm, x.clone().requires_grad_(), weight, bias, torch.randn(SHAPE))},
    }
    figures = {}
    for case, candidates in groups.items():
        with_floor = {"copies": partial(copies, x, to, 7)} | candidates
        figures[case] = ratios([seconds_of(with_floor) for _ in range(rounds + 2)][2:], "copies")
    return figures


if __name__ == "__main__":
    run("site_operations", measure, __doc__ or "", rounds=20)
