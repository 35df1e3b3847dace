"""Every norm in half precision at the ends of its range, forward and backward, against itself in float64.

The numbers are ones that float16 and bfloat16 hold exactly. What float64 itself gives is compared with formulas in
test_norms and test_token_norms.
"""

import copy

import pytest
import torch

from hf_addnorm.models.base.registries import NORMS
from hf_addnorm.models.base.token_mask import TokenMask, running_with
from hf_addnorm.models.norms.norm_base import build_norm, mixes_tokens


WIDTH, HEADS = 24, 4
SHAPE = (4, 7, WIDTH)
# the options with which a kind does what it does not by default
OPTIONS = {
    "layer_norm": [{}, {"zero_centered": True}, {"eps_place": "outside", "variance": "unbiased"}],
    "rms_norm": [{}, {"eps": 1e-12}, {"eps_place": "outside", "eps": 1e-8}],
    "ada_norm": [{}, {"k": 0.0, "detach": True}],
    "instance_norm": [{}, {"variance": "unbiased"}],
    "contra_norm": [{}, {"identity": True}, {"over": "features"}],
    "sum_norm": [{}, {"over": "tokens"}, {"over": "tokens", "signed": False}],
    "power_norm": [{}, {"variant": "official", "groups": "heads"}],
    "unified_norm": [{}, {"variant": "official"}],
    "dynamic_token_norm": [{}, {"variant": "official"}],
    "progressive_rep_bn": [{"iterations": 3}],
}
NORMS_TRIED = [
    pytest.param(kind, options, id="-".join([kind, *(f"{key}={value}" for key, value in options.items())]))
    for kind in NORMS
    for options in OPTIONS.get(kind, [{}])
]
HALVES = [torch.float16, torch.bfloat16]


# torch's tanh gives the derivative 1 - tanh^2, which near 0 is what float32 leaves of 1
SATURATING = {"dyt": 2e-3, "bhyt_star": 2e-3}


def drawn(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _outlier():
    x = drawn(*SHAPE)
    x[..., 3] = 60000.0
    return x


INPUTS = {
    "near the largest": lambda: (55000 + 3000 * drawn(*SHAPE)).clamp(max=65000) * drawn(*SHAPE).sign(),
    "all near the largest": lambda: (62000 + 1000 * drawn(*SHAPE)).clamp(max=65504),
    "below 1e-6": lambda: 3e-7 * drawn(*SHAPE),
    "one feature is an outlier": _outlier,
    "every token is constant": lambda: torch.linspace(-1000, 1000, 28).view(4, 7, 1).expand(SHAPE).clone(),
    "all tokens are constant": lambda: torch.full(SHAPE, 0.1),
    "all tokens are the same": lambda: (3 * drawn(WIDTH) + 100).expand(SHAPE).clone(),
    "far from 0": lambda: 1000 + drawn(*SHAPE),
    "zero": lambda: torch.zeros(SHAPE),
}


def differentiate(norm, x, real, cotangent):
    z = x.clone().requires_grad_()
    y = running_with(TokenMask(real), norm, z)
    grads = torch.autograd.grad(y, [z, *norm.parameters()], cotangent.to(y.dtype), allow_unused=True)
    named = zip(["x", *(name for name, _ in norm.named_parameters())], grads, strict=True)
    return y.detach(), {name: grad for name, grad in named if grad is not None}


def close(actual, expected, what, of_order=0.0, share=4e-5):
    """Rounded once, beside a share of the largest value of its token or of its feature, or of `of_order`.

    What is too large for the dtype may be infinite.
    """
    limits = torch.finfo(actual.dtype)
    fits = expected.abs() <= limits.max
    sizes = torch.where(fits, expected.abs(), 0.0)
    scale = sizes.amax(-1, keepdim=True)
    if expected.dim() == 3:
        scale = torch.maximum(scale, sizes.amax((0, 1), keepdim=True))
    allowed = limits.eps * sizes + share * scale.clamp(min=of_order) + limits.smallest_normal * limits.eps
    error = torch.where(fits, (actual.double() - expected).abs(), 0.0)
    times = (error / allowed).nan_to_num(float("inf")).flatten()
    at = times.argmax()
    if times[at] > 1:
        pytest.fail(
            f"{what}: {actual.flatten()[at]:.6g} where {expected.flatten()[at]:.6g} is right, off by {times[at]:.3g} "
            "times what is allowed",
            pytrace=False,
        )


@pytest.mark.parametrize("case", INPUTS)
@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize(("kind", "options"), NORMS_TRIED)
def test_half_precision(kind, options, dtype, case):
    if kind == "layer_norm" and not options:
        pytest.skip("torch's own LayerNorm, which stays stock's bit for bit: its backward keeps statistics in half")
    norm = build_norm(NORMS.parse({"kind": kind, **options}, "norm"), WIDTH, eps=1e-12, bias=True, groups=HEADS)
    if hasattr(norm, "reset_parameters"):
        norm.reset_parameters()
    for name, parameter in norm.named_parameters():
        if name.split(".")[-1] in ("weight", "bias", "zero_centered_weight"):
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    norm = norm.to(dtype)
    x = INPUTS[case]().to(dtype)
    real = torch.arange(7) < torch.tensor([7, 7, 4, 1]).unsqueeze(-1)
    x[~real] = 777.0
    # eighths: the same numbers in every dtype
    cotangent = drawn(*SHAPE, seed=2).mul(8).round().div(8) * real.unsqueeze(-1)
    y_expected, grads_expected = differentiate(copy.deepcopy(norm).double(), x.double(), real, cotangent)
    y, grads = differentiate(norm, x, real, cotangent)
    assert y.dtype == dtype
    close(*(torch.where(real.unsqueeze(-1), z, 0.0) for z in (y, y_expected)), "y")
    assert grads.keys() == grads_expected.keys()
    for name, grad in grads_expected.items():
        # a parameter's is a sum over all tokens and features, of terms of the order of 1
        close(grads[name], grad, f"grad.{name}", of_order=SATURATING.get(kind, 0.0) if name == "x" else 10.0)


@pytest.mark.parametrize("mean", [1e3, 1e4])
@pytest.mark.parametrize(
    ("kind", "options"),
    [row.values for row in NORMS_TRIED if mixes_tokens(NORMS.parse({"kind": row.values[0], **row.values[1]}, "norm"))],
)
def test_padding_takes_no_part_in_what_is_rounded(kind, options, mean):
    """In float32, tokens far from 0 beside padded ones: a shift that padding takes part in would be off."""
    torch.manual_seed(0)
    norm = build_norm(NORMS.parse({"kind": kind, **options}, "norm"), WIDTH, groups=HEADS)
    norm.reset_parameters()
    x, real = (mean + drawn(4, 64, WIDTH)).float(), torch.zeros(4, 64, dtype=torch.bool)
    real[:, :6] = True
    x[~real] = 0.0
    cotangent = drawn(4, 64, WIDTH, seed=2) * real.unsqueeze(-1)
    y_expected, grads_expected = differentiate(copy.deepcopy(norm).double(), x.double(), real, cotangent)
    y, grads = differentiate(norm, x, real, cotangent)
    # half of the last digit of what is subtracted, against deviations of the order of 1
    close(y[real], y_expected[real], "y", share=1e-7 * mean)
    close(grads["x"][real], grads_expected["x"][real], "grad.x", share=4e-7 * mean)
