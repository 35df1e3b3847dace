"""What the tests of the references' formulas share: closeness, gradients, samples of options, drawn weights."""

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch


def assert_close(actual: torch.Tensor, expected: torch.Tensor, tolerance: float, what: str = "value") -> None:
    """`|actual - expected| <= tolerance * max|expected|`, the maximum over the last axis: a tiny token counts too."""
    assert actual.shape == expected.shape, f"{what}: shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
    if expected.numel() == 0:
        return
    scale = expected.abs().amax(-1, keepdim=True) if expected.dim() else expected.abs()
    error = (actual.to(expected.dtype) - expected).abs()
    # a row of exact zeros must be met exactly
    worst = torch.where(error == 0, 0.0, error / scale).max().item()
    assert worst <= tolerance, f"{what}: off by {worst:.3g} of the row's maximum, allowed {tolerance:.3g}"


def compare(
    function: Any, reference: Any, *tensors: torch.Tensor, parameters: Any = (), tolerance: float = 1e-10
) -> None:
    """Both give the same, and the same gradients of the tensors that they are given and of `parameters`."""
    results, learned = [], list(parameters)
    for f in (function, reference):
        given = [tensor.clone().requires_grad_() for tensor in tensors]
        y = f(*given)
        cotangent = torch.sin(torch.arange(y.numel(), dtype=y.dtype)).view_as(y)
        results.append((y, *torch.autograd.grad(y, [*given, *learned], cotangent)))
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two, rtol=tolerance, atol=tolerance)


def combinations(samples: Mapping[str, list]) -> Iterator[dict[str, Any]]:
    """Every combination of one sample per option."""
    for values in itertools.product(*samples.values()):
        yield dict(zip(samples, values, strict=True))


@dataclass(frozen=True)
class Drawn:
    """A random start: around 0, with this standard deviation; `bound` is the largest that can be drawn, if any."""

    std: float
    bound: float = math.inf
