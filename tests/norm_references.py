"""Independent formulas of the norms, in plain torch: written from the papers, not from the package.

Every table of references is keyed like the registry that it is the reference of, and the tests compare the keys, so
that a new row without a reference fails. Everything runs in the dtype of its inputs; the tests use float64.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from reference_checks import Drawn


# --- norms: the function, its parameters' start values, sample values of every option ---


@dataclass(frozen=True)
class Reference:
    """One row of a registry.

    `formula` takes the tensors, then the parameters by name, then the options; `start` gives (shape, value) of every
    parameter from the width and the options, with a `Drawn` where the value is random; `samples` has values to try for
    every option; `contradicts` says which combinations must be refused.
    """

    formula: Callable[..., Any]
    start: Callable[..., dict[str, tuple[tuple[int, ...], Any]]] = lambda width, **_: {}
    samples: dict[str, list] = field(default_factory=dict)
    contradicts: Callable[..., bool] = lambda **_: False


def _affine(y: torch.Tensor, p: Mapping[str, torch.Tensor]) -> torch.Tensor:
    if "weight" in p:
        y = y * p["weight"]
    if "zero_centered_weight" in p:
        y = y * (1 + p["zero_centered_weight"])
    return y + p["bias"] if "bias" in p else y


def layer_norm(x, p, *, eps, eps_place="inside", variance="biased", **_):
    n = x.shape[-1]
    centred = x - x.sum(-1, keepdim=True) / n
    var = (centred**2).sum(-1, keepdim=True) / (n if variance == "biased" else n - 1)
    return _affine(centred / ((var + eps) ** 0.5 if eps_place == "inside" else var**0.5 + eps), p)


def rms_norm(x, p, *, eps=1e-6, eps_place="inside", **_):
    mean_square = (x**2).sum(-1, keepdim=True) / x.shape[-1]
    return _affine(x / ((mean_square + eps) ** 0.5 if eps_place == "inside" else mean_square**0.5 + eps), p)


def _crms_norm(x, p, *, eps=1e-5):
    # as LayerNorm of the token with the feature that makes its mean 0, of which the last is not kept
    whole = torch.cat([x, -x.sum(-1, keepdim=True)], -1)
    return layer_norm(whole, p, eps=eps)[..., :-1]


def _dyt(x, p, **_):
    return _affine(torch.tanh(p["alpha"] * x), p)


def _affine_map(x, p, **_):
    # group g of G owns the contiguous features g * width / G up to (g + 1) * width / G
    count = p["weight"].shape[0]
    features = torch.arange(x.shape[-1]) // (x.shape[-1] // count)
    return _affine(x, {**p, "weight": p["weight"][features]})


def _prms_norm(x, p, *, fraction=0.0625, eps=1e-8, eps_place="outside", **_):
    k = max(1, math.floor(fraction * x.shape[-1] + 1e-9))
    mean_square = sum(x[..., i : i + 1] ** 2 for i in range(k)) / k
    return _affine(x / ((mean_square + eps) ** 0.5 if eps_place == "inside" else mean_square**0.5 + eps), p)


def length_of(x):
    # where it is 0 its gradient is taken as 0
    square = (x * x).sum(-1, keepdim=True)
    return torch.where(square > 0, torch.where(square > 0, square, 1.0) ** 0.5, 0.0)


def _scale_norm(x, p, *, eps=1e-5, **_):
    length = length_of(x)
    return p["scalar_weight"] * x / torch.where(length > eps, length, eps)


def l2_norm(x, p, *, eps=1e-12, **_):
    length = length_of(x)
    return _affine(torch.where(length == 0, 0.0, x / torch.where(length > eps, length, eps)), p)


def stored_start(stored, width):
    return 1 / math.sqrt(width) if stored == "rsqrt_width" else stored


def _learned_scale(x, p, *, factor=1.0, stored=1.0, model_width=None, **_):
    width = model_width or x.shape[-1]
    gain = (math.sqrt(width) if factor == "sqrt_width" else factor) / stored_start(stored, width)
    return x * p["weight"] * gain


def _scaled_l2_norm(x, p, *, groups=1, stored="rsqrt_width", model_width=None, eps=1e-12, **_):
    size = x.shape[-1] // (HEADS.get(x.shape[-1], 1) if groups == "heads" else groups)
    units = torch.cat([l2_norm(part, {}, eps=eps) for part in x.split(size, -1)], -1)
    return math.sqrt(size) * p["weight"] * units / stored_start(stored, model_width or x.shape[-1])


def _see_dnorm(x, p, *, eps=1e-6, **_):
    token = torch.einsum("...i,i->...", x, p["direction"]).unsqueeze(-1)
    return (torch.tanh(token) * p["alpha"] + p["weight"]) * rms_norm(x, {}, eps=eps)


def _gated_rms_norm(x, p, *, eps=1e-6, **_):
    y = rms_norm(x, {"weight": p["weight"]}, eps=eps)
    branch_norms = torch.einsum("...i,ri->...r", y, p["gate_down"])
    gate = torch.einsum("...r,ir->...i", branch_norms / (1 + torch.exp(-branch_norms)), p["gate_up"])
    return y / (1 + torch.exp(-gate))


def input_scaled_rms_norm(x, p, *, eps=1e-6):
    scaled = x + p["zero_centered_weight"] * x
    return scaled * (torch.einsum("...i,...i->...", scaled, scaled)[..., None] / x.shape[-1] + eps) ** -0.5


def _bhyt_star(x, p, *, alpha_init=2.0, kappa=10.0, eps=1e-6, **_):
    slope = p.get("alpha", alpha_init) / kappa
    z = torch.exp(2 * slope * rms_norm(x, {}, eps=eps))
    return p["weight"] * (z - 1) / (z + 1)


def _grouped_rms_norm(x, p, *, groups="heads", shared=False, eps=1e-6, **_):
    count = HEADS[x.shape[-1]] if groups == "heads" else groups
    gains = {name: torch.cat([gain] * count) if shared else gain for name, gain in p.items()}
    return _affine(torch.cat([rms_norm(part, {}, eps=eps) for part in x.chunk(count, -1)], -1), gains)


def _group_norm(x, p, *, groups="heads", eps=1e-5, **_):
    groups = HEADS[x.shape[-1]] if groups == "heads" else groups
    parts = [layer_norm(part, {}, eps=eps) for part in x.split(x.shape[-1] // groups, dim=-1)]
    return _affine(torch.cat(parts, dim=-1), p)


def _input_scaled(x, p, eps):
    p = dict(p)
    scaled = _affine_map(x, {"weight": p.pop("input_weight")})
    return layer_norm(scaled, p, eps=eps)


def _ada_norm(x, p, *, scale=1.0, k=0.1, detach=False, eps=1e-5):
    mean, std = x.mean(-1, keepdim=True), x.std(-1, keepdim=True)
    if detach:
        mean, std = mean.detach(), std.detach()
    n = (x - mean) / (std + eps)
    return scale * (1 - k * n.detach()) * n


def _zero_mean_layer_norm(x, p, *, eps, **_):
    y = layer_norm(x, p, eps=MODEL_EPS if eps is None else eps)
    return y - y.sum(-1, keepdim=True) / y.shape[-1]


def _center_norm(x, p, **_):
    n = x.shape[-1]
    return _affine(n / (n - 1) * (x - x.sum(-1, keepdim=True) / n), p)


def _fixed_sigma(x, p, *, sigma=1.0, **_):
    return _affine((x - x.sum(-1, keepdim=True) / x.shape[-1]) / sigma, p)


def _derf(x, p, **_):
    return _affine(torch.erf(p["alpha"] * x + p["shift"]), p)


def _isru(x, p, **_):
    z = p["alpha"] * x + p["shift"]
    return _affine(z / (z**2 + 1) ** 0.5, p)


def sum_norm(x, p, *, axis=-1, signed=True, eps=1e-2, **_):
    """Over an axis; a denominator that the floor replaces is a constant."""
    total = (x if signed else x.abs()).sum(axis, keepdim=True)
    floor = torch.tensor(eps, dtype=x.dtype) * torch.where(total >= 0, 1, -1)
    return _affine(x / torch.where(abs(total) > eps, total, floor), p)


def _squashing(width, *, alpha_init, shift_init=None, **_):
    shift = {} if shift_init is None else {"shift": ((1,), shift_init)}
    return {"alpha": ((1,), alpha_init)} | shift | _gain_and_bias(width)


def _gain_and_bias(width, *, gain=True, bias=True, zero_centered=False, **_):
    start = {}
    bias = MODEL_BIAS if bias is None else bias
    if gain:
        start |= {"zero_centered_weight": ((width,), 0.0)} if zero_centered else {"weight": ((width,), 1.0)}
    return start | ({"bias": ((width,), 0.0)} if bias else {})


# "heads" stands for this many in a width of: 12 -> 4, 7 -> 7, 33 -> 3; 20 is the inner width of an encoder of 12
HEADS = {12: 4, 7: 7, 33: 3, 20: 4}
# BERT's own
MODEL_EPS, MODEL_BIAS = 1e-12, True

NORM_REFERENCES = {
    "layer_norm": Reference(
        formula=lambda x, p, *, eps, **options: layer_norm(x, p, eps=MODEL_EPS if eps is None else eps, **options),
        start=_gain_and_bias,
        samples={
            "gain": [True, False],
            "bias": [None, True, False],
            "zero_centered": [False, True],
            "eps": [None, 1e-3],
            "eps_place": ["inside", "outside"],
            "variance": ["biased", "unbiased"],
        },
        contradicts=lambda *, gain, zero_centered, **_: zero_centered and not gain,
    ),
    "zero_mean_layer_norm": Reference(
        _zero_mean_layer_norm, _gain_and_bias, {"bias": [None, True, False], "eps": [None, 1e-3]}
    ),
    "input_scaled_layer_norm": Reference(
        lambda x, p, *, eps, **_: _input_scaled(x, p, MODEL_EPS if eps is None else eps),
        lambda width, *, groups, bias, **_: {
            **_gain_and_bias(width, bias=bias),
            "input_weight": ((HEADS[width] if groups == "heads" else groups or width,), 1.0),
        },
        {"groups": [None, "heads"], "bias": [None, True, False], "eps": [None, 1e-3]},
    ),
    "group_norm": Reference(
        _group_norm,
        _gain_and_bias,
        {"groups": ["heads", 1], "gain": [True, False], "bias": [True, False], "eps": [1e-5, 1e-3]},
    ),
    "ada_norm": Reference(
        _ada_norm, samples={"scale": [1.0, 2.0], "k": [0.1, 0.0], "detach": [False, True], "eps": [1e-5, 1e-3]}
    ),
    "center_norm": Reference(_center_norm, _gain_and_bias, {"gain": [True, False], "bias": [True, False]}),
    "fixed_sigma": Reference(
        _fixed_sigma, _gain_and_bias, {"sigma": [1.0, 0.3], "gain": [True, False], "bias": [True, False]}
    ),
    "rms_norm": Reference(
        formula=rms_norm,
        start=_gain_and_bias,
        samples={
            "gain": [True, False],
            "bias": [False, True],
            "zero_centered": [False, True],
            "eps": [1e-12, 1e-3],
            "eps_place": ["inside", "outside"],
        },
        contradicts=lambda *, gain, zero_centered, **_: zero_centered and not gain,
    ),
    "crms_norm": Reference(_crms_norm, samples={"eps": [1e-5, 1e-3]}),
    "prms_norm": Reference(
        formula=_prms_norm,
        start=lambda width, *, bias=False, **options: _gain_and_bias(width, bias=bias, **options),
        samples={
            "fraction": [0.0625, 0.5],
            "gain": [True, False],
            "bias": [False, True],
            "zero_centered": [False, True],
            "eps": [1e-3],
            "eps_place": ["inside", "outside"],
        },
        contradicts=lambda *, gain, zero_centered, **_: zero_centered and not gain,
    ),
    "grouped_rms_norm": Reference(
        _grouped_rms_norm,
        lambda width, *, groups, shared, **options: _gain_and_bias(
            width // (HEADS[width] if groups == "heads" else groups) if shared else width, bias=False, **options
        ),
        {
            "groups": ["heads", 1],
            "gain": [True, False],
            "shared": [False, True],
            "zero_centered": [False, True],
            "eps": [1e-3],
        },
        contradicts=lambda *, gain, shared, zero_centered, **_: (shared or zero_centered) and not gain,
    ),
    "scale_norm": Reference(
        _scale_norm,
        lambda width, *, start, **_: {"scalar_weight": ((1,), math.sqrt(width) if start is None else start)},
        {"start": [None, 1.0], "eps": [1e-5, 0.5]},
    ),
    "l2_norm": Reference(
        l2_norm,
        lambda width, *, gain, **_: _gain_and_bias(width, gain=gain, bias=False),
        {"gain": [False, True], "eps": [1e-12, 0.5]},
    ),
    "learned_scale": Reference(
        _learned_scale,
        lambda width, *, stored, model_width, **_: {"weight": ((width,), stored_start(stored, model_width or width))},
        {"factor": [1.0, "sqrt_width", 3.0], "stored": [1.0, "rsqrt_width", 0.5], "model_width": [None, 7]},
    ),
    "scaled_l2_norm": Reference(
        _scaled_l2_norm,
        lambda width, *, stored, model_width, **_: {"weight": ((width,), stored_start(stored, model_width or width))},
        # a vector of one feature is its sign, whose gradient is rounding; by heads: in the encoder of nGPT
        {"groups": [1], "stored": ["rsqrt_width", 0.5], "model_width": [None, 7], "eps": [1e-12, 0.5]},
    ),
    "see_dnorm": Reference(
        _see_dnorm,
        lambda width, **_: {"weight": ((width,), 1.0), "direction": ((width,), 0.0), "alpha": ((width,), 1.0)},
        {"eps": [1e-6, 1e-3]},
    ),
    "gated_rms_norm": Reference(
        _gated_rms_norm,
        lambda width, *, rank, **_: {
            "weight": ((width,), 1.0),
            "gate_down": ((rank, width), Drawn(0.02)),
            "gate_up": ((width, rank), Drawn(0.02)),
        },
        {"rank": [16, 1], "eps": [1e-6, 1e-3]},
    ),
    "input_scaled_rms_norm": Reference(
        input_scaled_rms_norm, lambda width, **_: {"zero_centered_weight": ((width,), 0.0)}, {"eps": [1e-6, 1e-3]}
    ),
    "bhyt_star": Reference(
        _bhyt_star,
        lambda width, *, alpha_init, learned, **_: (
            {"weight": ((width,), 1.0)} | ({"alpha": ((1,), alpha_init)} if learned else {})
        ),
        {"alpha_init": [2.0, 5.0], "learned": [False, True], "kappa": [10.0, 1.0], "eps": [1e-6]},
    ),
    "sum_norm": Reference(
        sum_norm,
        lambda width, *, gain, bias, **_: _gain_and_bias(width, gain=gain, bias=bias),
        {
            "over": ["features", "tokens"],
            "signed": [True, False],
            "eps": [1e-2, 1.0],
            "gain": [True, False],
            "bias": [False, True],
        },
    ),
    "dyt": Reference(_dyt, _squashing, {"alpha_init": [0.5, 2.0]}),
    "derf": Reference(_derf, _squashing, {"alpha_init": [0.5, 2.0], "shift_init": [0.0, -0.25]}),
    "isru": Reference(_isru, _squashing, {"alpha_init": [0.5, 2.0], "shift_init": [0.0, -0.25]}),
    "affine": Reference(
        formula=_affine_map,
        start=lambda width, *, bias, groups, start: (
            {
                "weight": (
                    ({None: width, "heads": HEADS.get(width)}.get(groups, groups),),
                    math.sqrt(width) if start == "root_of_width" else start,
                )
            }
            | ({"bias": ((width,), 0.0)} if bias else {})
        ),
        samples={"bias": [True, False], "groups": [None, 1, "heads"], "start": [1.0, "root_of_width"]},
    ),
    "none": Reference(formula=lambda x, p: x),
}
