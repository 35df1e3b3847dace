"""Independent formulas for the tests, in plain torch: written from the papers, not from the package.

Every table is keyed like the registry that it is the reference of, and the tests compare the keys, so that a new row
without a reference fails. Everything runs in the dtype of its inputs; the tests use float64.

Weights of a whole encoder have neutral names: `layers.{i}.{q,k,v,o,w1,w2}.{weight,bias}`,
`layers.{i}.{attn,cross,ffn}.{pre,mid,out,post}.*`, `layers.{i}.{attn,cross}.{q,k,v}_norm.*`,
`layers.{i}.{attn,cross,ffn}.{alpha,beta,lambda,gate,gate.*}`, `stream.*` (a stream's own norm after the last layer),
`final.*`.
"""

import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
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


def combinations(samples: Mapping[str, list]) -> Iterator[dict[str, Any]]:
    """Every combination of one sample per option."""
    for values in itertools.product(*samples.values()):
        yield dict(zip(samples, values, strict=True))


# --- norms: the function, its parameters' start values, sample values of every option ---


@dataclass(frozen=True)
class Drawn:
    """A random start: around 0, with this standard deviation; `bound` is the largest that can be drawn, if any."""

    std: float
    bound: float = math.inf


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


def _layer_norm(x, p, *, eps, eps_place="inside", variance="biased", **_):
    n = x.shape[-1]
    centred = x - x.sum(-1, keepdim=True) / n
    var = (centred**2).sum(-1, keepdim=True) / (n if variance == "biased" else n - 1)
    return _affine(centred / ((var + eps) ** 0.5 if eps_place == "inside" else var**0.5 + eps), p)


def _rms_norm(x, p, *, eps=1e-6, eps_place="inside", **_):
    mean_square = (x**2).sum(-1, keepdim=True) / x.shape[-1]
    return _affine(x / ((mean_square + eps) ** 0.5 if eps_place == "inside" else mean_square**0.5 + eps), p)


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


def _length(x):
    # where it is 0 its gradient is taken as 0
    square = (x * x).sum(-1, keepdim=True)
    return torch.where(square > 0, torch.where(square > 0, square, 1.0) ** 0.5, 0.0)


def _scale_norm(x, p, *, eps=1e-5, **_):
    length = _length(x)
    return p["scalar_weight"] * x / torch.where(length > eps, length, eps)


def _l2_norm(x, p, *, eps=1e-12, **_):
    length = _length(x)
    return _affine(torch.where(length == 0, 0.0, x / torch.where(length > eps, length, eps)), p)


def _stored(stored, width):
    return 1 / math.sqrt(width) if stored == "rsqrt_width" else stored


def _learned_scale(x, p, *, factor=1.0, stored=1.0, model_width=None, **_):
    width = model_width or x.shape[-1]
    gain = (math.sqrt(width) if factor == "sqrt_width" else factor) / _stored(stored, width)
    return x * p["weight"] * gain


def _scaled_l2_norm(x, p, *, groups=1, stored="rsqrt_width", model_width=None, eps=1e-12, **_):
    size = x.shape[-1] // (HEADS.get(x.shape[-1], 1) if groups == "heads" else groups)
    units = torch.cat([_l2_norm(part, {}, eps=eps) for part in x.split(size, -1)], -1)
    return math.sqrt(size) * p["weight"] * units / _stored(stored, model_width or x.shape[-1])


def _see_dnorm(x, p, *, eps=1e-6, **_):
    token = torch.einsum("...i,i->...", x, p["direction"]).unsqueeze(-1)
    return (torch.tanh(token) * p["alpha"] + p["weight"]) * _rms_norm(x, {}, eps=eps)


def _gated_rms_norm(x, p, *, eps=1e-6, **_):
    y = _rms_norm(x, {"weight": p["weight"]}, eps=eps)
    inner = torch.einsum("...i,ri->...r", y, p["gate_down"])
    gate = torch.einsum("...r,ir->...i", inner / (1 + torch.exp(-inner)), p["gate_up"])
    return y / (1 + torch.exp(-gate))


def _input_scaled_rms_norm(x, p, *, eps=1e-6):
    scaled = x + p["zero_centered_weight"] * x
    return scaled * (torch.einsum("...i,...i->...", scaled, scaled)[..., None] / x.shape[-1] + eps) ** -0.5


def _bhyt_star(x, p, *, alpha_init=2.0, kappa=10.0, eps=1e-6, **_):
    slope = p.get("alpha", alpha_init) / kappa
    z = torch.exp(2 * slope * _rms_norm(x, {}, eps=eps))
    return p["weight"] * (z - 1) / (z + 1)


def _grouped_rms_norm(x, p, *, groups="heads", shared=False, eps=1e-6, **_):
    count = HEADS[x.shape[-1]] if groups == "heads" else groups
    gains = {name: torch.cat([gain] * count) if shared else gain for name, gain in p.items()}
    return _affine(torch.cat([_rms_norm(part, {}, eps=eps) for part in x.chunk(count, -1)], -1), gains)


def _group_norm(x, p, *, groups="heads", eps=1e-5, **_):
    groups = HEADS[x.shape[-1]] if groups == "heads" else groups
    parts = [_layer_norm(part, {}, eps=eps) for part in x.split(x.shape[-1] // groups, dim=-1)]
    return _affine(torch.cat(parts, dim=-1), p)


def _input_scaled(x, p, eps):
    p = dict(p)
    scaled = _affine_map(x, {"weight": p.pop("input_weight")})
    return _layer_norm(scaled, p, eps=eps)


def _ada_norm(x, p, *, scale=1.0, k=0.1, detach=False, eps=1e-5):
    mean, std = x.mean(-1, keepdim=True), x.std(-1, keepdim=True)
    if detach:
        mean, std = mean.detach(), std.detach()
    n = (x - mean) / (std + eps)
    return scale * (1 - k * n.detach()) * n


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
        formula=lambda x, p, *, eps, **options: _layer_norm(x, p, eps=MODEL_EPS if eps is None else eps, **options),
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
        formula=_rms_norm,
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
        _l2_norm,
        lambda width, *, gain, **_: _gain_and_bias(width, gain=gain, bias=False),
        {"gain": [False, True], "eps": [1e-12, 0.5]},
    ),
    "learned_scale": Reference(
        _learned_scale,
        lambda width, *, stored, model_width, **_: {"weight": ((width,), _stored(stored, model_width or width))},
        {"factor": [1.0, "sqrt_width", 3.0], "stored": [1.0, "rsqrt_width", 0.5], "model_width": [None, 7]},
    ),
    "scaled_l2_norm": Reference(
        _scaled_l2_norm,
        lambda width, *, stored, model_width, **_: {"weight": ((width,), _stored(stored, model_width or width))},
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
        _input_scaled_rms_norm, lambda width, **_: {"zero_centered_weight": ((width,), 0.0)}, {"eps": [1e-6, 1e-3]}
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


# --- depth: from (layer and sublayer k counted from 1, their numbers) to a number ---


def _power(layer, layers, k, sublayers, *, of, exponent, times=1.0, factor=1.0, log_of=False):
    n = times * {"layer": layer, "layers": layers, "sublayer": k, "sublayers": sublayers}[of]
    return factor * math.pow(math.log(n) if log_of else n, exponent)


def _cait(layer, layers, k, sublayers):
    for deepest, value in ((18, 1e-1), (24, 1e-5)):
        if layers <= deepest:
            return value
    return 1e-6


def _ramp(layer, layers, k, sublayers, *, last, first=0.0):
    # weighted by the distances to both ends
    return last if layers == 1 else ((layers - layer) * first + (layer - 1) * last) / (layers - 1)


def _beam(layer, layers, k, sublayers, *, side):
    # the sublayer k adds the term k + 1
    branch = 1 / (k + 1)
    return math.sqrt(1 - branch if side == "skip" else branch)


DEPTH_REFERENCES: dict[str, Callable[..., float]] = {
    "power": _power,
    "linear": _ramp,
    "cait": _cait,
    # admin-torch's O(log n)
    "admin": lambda layer, layers, k, sublayers: math.sqrt((sublayers + 1) / math.log(sublayers + 1) - 1),
    "beam": _beam,
    # DeepNet, table 2: (2N)^1/4 or (3M)^1/4; the encoder of an encoder-decoder 0.81 (N^4 M)^1/16
    "deepnorm": lambda layer, layers, k, sublayers, *, decoder_layers=None: (
        sublayers**0.25 if decoder_layers is None else 0.81 * layers**0.25 * decoder_layers**0.0625
    ),
}


def depth_value(value: Any, layer: int, layers: int, k: int, sublayers: int) -> float:
    """The number that an option stands for: itself, or a depth rule by name or dict."""
    if value is None or isinstance(value, (int, float)):
        return value
    options = {"kind": value} if isinstance(value, str) else dict(value)
    return DEPTH_REFERENCES[options.pop("kind")](layer, layers, k, sublayers, **options)


# --- residuals ---

_DEPTH_SAMPLES = [
    {"kind": "power", "of": "sublayers", "exponent": 0.25},
    {"kind": "power", "of": "layer", "exponent": -1},
]


def _learned(x, f, p, *, side, **_):
    (factor,) = p.values()
    return x + factor * f if side == "branch" else factor * x + f


_LEARNED_SAMPLES = {
    "start": [0.0, 0.3, "cait", *_DEPTH_SAMPLES],
    "share": ["sublayer", "layer"],
    "side": ["branch", "skip"],
}


def _gpas(x, f, p, *, place, skip_scale, **_):
    silu = p["gate"] / (1 + torch.exp(-p["gate"]))

    def scaled(z):
        # the value is (1 - silu) z, and z has the gradient of z itself
        return (1 - silu) * z.detach() + (z - z.detach())

    return scaled(skip_scale * x) + f if place == "on_skip" else scaled(skip_scale * x + f)


def _sigmoid(x):
    return 1 / (1 + torch.exp(-x))


def _muse_gate(x, f, p, *, temperature, eps, **_):
    beta = _sigmoid(p["gate"] / temperature)
    rest = 1 - beta**2
    return torch.where(rest > eps, rest, eps) ** 0.5 * x + beta * f


def _highway(x, f, p, **_):
    g = _sigmoid(x @ p["gate.weight"].T + p["gate.bias"])
    return (1 - g) * x + g * f


def _gru_gate(x, f, p, *, relu=True, **_):
    w, u = ({name: p[f"{side}.{name}.weight"].T for name in "rzh"} for side in ("branch", "stream"))
    f = torch.where(f > 0, f, 0.0) if relu else f
    r = _sigmoid(f @ w["r"] + x @ u["r"])
    z = _sigmoid(f @ w["z"] + x @ u["z"] - p["bias"])
    h = torch.tanh(f @ w["h"] + (r * x) @ u["h"])
    return (1 - z) * x + z * h


def _laurel_start(width, *, rank):
    # column j of the paper's A: 1 / sqrt(r D) in the rows i with i mod r = j
    a = torch.tensor([[float(i % rank == j) for i in range(width)] for j in range(rank)]) / math.sqrt(rank * width)
    return {"down.weight": ((rank, width), a), "up.weight": ((width, rank), 0.0)}


def _laurel_gemma3n(x, f, p, *, eps, u=None, **_):
    u = x if u is None else u
    low = torch.einsum("...i,ri,or->...o", u, p["down.weight"], p["up.weight"])
    return 2**-0.5 * (x + f + u + _rms_norm(low, {"weight": p["map_norm.weight"]}, eps=eps))


def _deep_delta(x, f, p, *, value, eps, u=None):
    u = x if u is None else u
    length = _length(f)
    k = f / torch.where(length > eps, length, eps)
    beta = 2 * _sigmoid(u @ p["beta.weight"][0] + p["beta.bias"])[..., None]
    v = x @ p["value.weight"].T + p["value.bias"] if value is None else value
    return x - beta * k * torch.einsum("...i,...i->...", k, x)[..., None] + beta * v * k


def _drawn_linear(name, *shape):
    return {f"{name}.weight": (shape, Drawn(0.02))}


def _orthogonal(x, f, p, *, eps):
    # token by token
    dot, square = torch.einsum("...d,...d->...", x, f), torch.einsum("...d,...d->...", x, x)
    return x + f - (dot / (square + eps))[..., None] * x


def _xavier(width):
    # uniform within sqrt(6 / (fan_in + fan_out))
    return (width, width), Drawn(std=width**-0.5, bound=math.sqrt(3 / width))


# here the formula's constants and the start values are those that the depth rules came out as
def _normalized_lerp(x, f, p, *, start=0.05, stored="rsqrt_width", eps=1e-12):
    def on_sphere(z):
        return _l2_norm(z, {}, eps=eps)

    step = torch.abs(p["weight"] * start / _stored(stored, x.shape[-1]))
    return on_sphere((1 - step) * on_sphere(x) + step * on_sphere(f))


RESIDUAL_REFERENCES = {
    "add": Reference(formula=lambda x, f, p: x + f),
    "constant": Reference(
        formula=lambda x, f, p, *, skip_scale, branch_scale: skip_scale * x + branch_scale * f,
        samples={"skip_scale": [1.0, 2.5, *_DEPTH_SAMPLES], "branch_scale": [1.0, 0.5, *_DEPTH_SAMPLES]},
    ),
    "scalar": Reference(_learned, lambda width, *, start, **_: {"alpha": ((1,), start)}, _LEARNED_SAMPLES),
    "vector": Reference(_learned, lambda width, *, start, **_: {"weight": ((width,), start)}, _LEARNED_SAMPLES),
    "admin": Reference(
        formula=lambda x, f, p, **_: p["weight"] * x + f,
        start=lambda width, *, start: {"weight": ((width,), start)},
        samples={"start": [1.0, "admin", *_DEPTH_SAMPLES]},
    ),
    "affine": Reference(
        formula=lambda x, f, p: (x + p["skip_bias"]) * p["skip_weight"] + (f + p["branch_bias"]) * p["branch_weight"],
        start=lambda width: {
            f"{side}_{name}": ((width,), value)
            for side in ("skip", "branch")
            for name, value in (("weight", 1.0), ("bias", 0.0))
        },
    ),
    "gpas": Reference(
        formula=_gpas,
        start=lambda width, **_: {"gate": ((1,), 0.0)},
        samples={
            "place": ["after_add", "on_skip"],
            "share": ["layer", "sublayer"],
            "skip_scale": [1.0, _DEPTH_SAMPLES[0]],
        },
    ),
    "muse_gate": Reference(
        formula=_muse_gate,
        start=lambda width, *, std, **_: {"gate": ((width,), Drawn(std))},
        # with the small temperature 1 - beta^2 is below both eps for some features
        samples={"temperature": [0.3, 0.15], "eps": [1e-3, 0.1], "std": [0.02, 1.0]},
    ),
    "orthogonal": Reference(formula=_orthogonal, samples={"eps": [1e-6, 0.5]}),
    "highway": Reference(
        formula=_highway,
        start=lambda width, *, start: {"gate.weight": _xavier(width), "gate.bias": ((width,), start)},
        samples={"start": [-1.0, {"kind": "linear", "first": -1.0, "last": -3.0}]},
    ),
    "gru_gate": Reference(
        formula=_gru_gate,
        start=lambda width, *, start, **_: {
            **{f"{side}.{name}.weight": _xavier(width) for side in ("branch", "stream") for name in "rzh"},
            "bias": ((width,), start),
        },
        samples={"start": [2.0, "admin"], "relu": [True, False]},
    ),
    "normalized_lerp": Reference(
        formula=_normalized_lerp,
        start=lambda width, *, stored="rsqrt_width", **_: {"weight": ((width,), _stored(stored, width))},
        samples={"start": [0.05, 0.9], "stored": ["rsqrt_width", 0.5], "eps": [1e-12, 0.5]},
    ),
    "laurel_lr": Reference(
        formula=lambda x, f, p, **_: f + x + (x @ p["down.weight"].T) @ p["up.weight"].T,
        start=_laurel_start,
        samples={"rank": [3, 1, 7]},
    ),
    "laurel_gemma3n": Reference(
        _laurel_gemma3n,
        lambda width, *, rank, **_: {
            **_drawn_linear("down", rank, width),
            **_drawn_linear("up", width, rank),
            "map_norm.weight": ((width,), 1.0),
        },
        {"rank": [3, 7], "eps": [1e-6, 0.5]},
    ),
    "deep_delta": Reference(
        _deep_delta,
        lambda width, *, value, **_: {
            key: start
            for name in ("beta", "value")[: 2 if value is None else 1]
            for key, start in {**_drawn_linear(name, 1, width), f"{name}.bias": ((1,), 0.0)}.items()
        },
        {"value": [None, 2.0], "eps": [1e-6, 3.0]},
    ),
}


# --- init rules: the factor on the weights of some roles, and the draw that it multiplies ---


@dataclass(frozen=True)
class InitReference:
    """What an init rule does: the roles whose weight it multiplies, and by how much with L layers and n sublayers.

    `factor` may ask for the layer too, from 1. `base` is the draw that is multiplied by default, and `bases` are all
    that the rule offers; `zeroes` are the roles whose every parameter starts such that the gain and the bias are 0;
    `table` is the deviation of an embedding table, from its width and the number of layers. `options` are values to
    try besides the defaults, and the formula with them.
    """

    roles: tuple[str, ...] = ()
    factor: Callable[..., float] = lambda layers, sublayers: 1.0
    base: str = "stock"
    bases: tuple[str, ...] = ("stock",)
    zeroes: tuple[str, ...] = ()
    table: Callable[[int, int], float] | None = None
    options: dict[str, Any] = field(default_factory=dict)
    factor_with_options: Callable[..., float] | None = None


ALL_WEIGHTS = ("q", "k", "v", "o", "w1", "w2")
XAVIER_OR_STOCK = ("xavier_normal", "stock")

INIT_REFERENCES = {
    # GPT-2: "scale the weights of residual layers at initialization by 1/sqrt(N), N the number of residual layers"
    "scaled_output": InitReference(("o", "w2"), lambda layers, n, layer: 1 / math.sqrt(n)),
    # DeepNet, table 2: encoder (8N)^-1/4 of 2N sublayers, decoder of an encoder-decoder (12M)^-1/4 of 3M, its encoder
    # 0.87 (N^4 M)^-1/16
    "deepnorm": InitReference(
        ("v", "o", "w1", "w2"),
        lambda layers, n, layer: (4 * n) ** -0.25,
        "xavier_normal",
        XAVIER_OR_STOCK,
        options={"decoder_layers": 5},
        factor_with_options=lambda layers, n, layer: 0.87 / (layers**4 * 5) ** 0.0625,
    ),
    # Magneto, figure 2: encoder sqrt(log 2N), decoder with cross-attention sqrt(log 3M), its encoder
    # sqrt(1/3 log 3M log 2N)
    "sub_ln": InitReference(
        ("v", "o", "w1", "w2"),
        lambda layers, n, layer: math.sqrt(math.log(n)),
        "xavier_normal",
        XAVIER_OR_STOCK,
        options={"decoder_layers": 5},
        factor_with_options=lambda layers, n, layer: math.sqrt(math.log(15) * math.log(2 * layers) / 3),
    ),
    # B2T, the authors' rescaling_init: every weight of a layer times L^-1/2, in encoder and decoder
    "b2t": InitReference(ALL_WEIGHTS, lambda layers, n, layer: 1 / math.sqrt(layers)),
    # DS-Init: uniform with the bound sqrt(6 / (in + out)) / sqrt(l)
    "ds_init": InitReference(
        ALL_WEIGHTS,
        lambda layers, n, layer: 1 / math.sqrt(layer),
        "xavier_uniform",
        ("xavier_uniform",),
        options={"exponent": -0.25},
        factor_with_options=lambda layers, n, layer: layer**-0.25,
    ),
    # OLMo's code: std 1 / sqrt(d), of attn_out and ff_out 1 / sqrt(2 d (layer_id + 1)), with d the fan in
    "mitchell": InitReference(
        ("o", "w2"), lambda layers, n, layer: 1 / math.sqrt(2 * layer), "fan_in_normal", ("fan_in_normal",)
    ),
    # T-Fixup, section 3.2: 0.67 N^-1/4 in the encoder, (9N)^-1/4 in the decoder and for the embeddings N(0, d^-1/2)
    "t_fixup": InitReference(
        ("v", "o", "w1", "w2"),
        lambda layers, n, layer: 0.67 / layers**0.25 if n == 2 * layers else 1 / (9 * layers) ** 0.25,
        "xavier_normal",
        ("xavier_normal",),
        table=lambda width, layers: 1 / math.sqrt(width) / (9 * layers) ** 0.25,
    ),
    # Transformers without Tears: U(-0.01, 0.01), whose deviation is a third of the root of 3 of the bound
    "small_embeddings": InitReference(table=lambda width, layers: 0.01 / math.sqrt(3), options={"bound": 0.02}),
    # nGPT: unit vectors in d dimensions, whose entries have the variance 1/d
    "unit_vectors": InitReference(table=lambda width, layers: 1 / math.sqrt(width)),
    # Swin V2: gain and bias of the norm after the branch start at 0
    "zero_out_norm": InitReference(zeroes=("out_norm",)),
}


# --- whole encoders ---


def _linear(w: Mapping[str, torch.Tensor], name: str, x: torch.Tensor) -> torch.Tensor:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


ACTIVATIONS = {
    "gelu": lambda x: 0.5 * x * (1 + torch.erf(x / math.sqrt(2))),
    "relu": lambda x: torch.where(x > 0, x, 0.0),
}


def _same(x: torch.Tensor) -> torch.Tensor:
    return x


def _attention(w, prefix, u, memory, heads, allowed, mid=_same, whole=lambda role, y: y, per_head=lambda role, y: y):
    """`whole` and `per_head` act on q, k and v, before and after they are cut into heads."""
    head = u.shape[-1] // heads
    q, k, v = (whole(role, _linear(w, f"{prefix}{role}", u if role == "q" else memory)) for role in "qkv")
    outputs = []
    # one head at a time: slow and plain
    for h in range(heads):
        part = slice(h * head, (h + 1) * head)
        q_h, k_h, v_h = (per_head(role, y[..., part]) for role, y in zip("qkv", (q, k, v), strict=True))
        scores = q_h @ k_h.transpose(-1, -2) / math.sqrt(head)
        weights = torch.softmax(scores.masked_fill(~allowed, -math.inf), dim=-1)
        outputs.append(weights @ v_h)
    return _linear(w, f"{prefix}o", mid(torch.cat(outputs, dim=-1)))


@dataclass(frozen=True)
class Site:
    """One sublayer of one layer, as the formulas below see it."""

    name: str
    layer: int
    layers: int
    sublayers: int
    heads: int
    branch: Callable[..., torch.Tensor]
    drop: Callable[[torch.Tensor], torch.Tensor]
    params: Callable[[str], dict[str, torch.Tensor]]
    norm_of: Callable[[torch.Tensor, dict[str, torch.Tensor]], torch.Tensor]

    def norm(self, slot: str, x: torch.Tensor) -> torch.Tensor:
        return self.norm_of(x, self.params(slot))

    def scale(self, name: str) -> torch.Tensor:
        return self.params(name)[""]

    @property
    def number(self) -> int:
        """Which sublayer of the whole stack this is, from 1."""
        per_layer = self.sublayers // self.layers
        return (self.layer - 1) * per_layer + {"attn": 1, "cross": 2, "ffn": per_layer}[self.name]


def _post_ln(x, s):
    return s.norm("post", x + s.drop(s.branch(x)))


def _pre_ln(x, s):
    return x + s.drop(s.branch(s.norm("pre", x)))


def _sandwich_ln(x, s):
    return x + s.norm("out", s.drop(s.branch(s.norm("pre", x))))


def _res_post_norm(x, s):
    return x + s.norm("out", s.drop(s.branch(x)))


def _sub_ln(x, s):
    return x + s.drop(s.branch(s.norm("pre", x), mid=lambda y: s.norm("mid", y)))


def _normformer(x, s):
    if s.name == "ffn":
        return _sub_ln(x, s)

    def head_scale(y):
        gains = s.params("mid")["weight"]
        return torch.cat([part * gain for part, gain in zip(y.chunk(len(gains), -1), gains, strict=True)], -1)

    return x + s.drop(s.norm("out", s.branch(s.norm("pre", x), mid=head_scale)))


def _normformer_of_the_code(x, s):
    if s.name == "ffn":
        return _normformer_scaled(x, s)
    norm = s.params("out")
    gains = norm.pop("input_weight")
    f = s.branch(s.norm("pre", x))
    scaled = torch.cat([part * gain for part, gain in zip(f.chunk(len(gains), -1), gains, strict=True)], -1)
    return x + s.drop(s.norm_of(scaled, norm))


def _mix_ln(x, s):
    return _post_ln(x, s) if s.layer <= s.layers // 4 else _pre_ln(x, s)


def _layer_norm_scaling(x, s):
    return x + s.drop(s.branch(s.norm("pre", x) / math.sqrt(s.layer)))


def _deepnorm(x, s):
    # (2L)^(1/4) in an encoder, (3M)^(1/4) in a decoder with cross-attention
    return s.norm("post", s.sublayers**0.25 * x + s.drop(s.branch(x)))


def _rezero(x, s):
    return x + s.scale("alpha") * s.drop(s.branch(x))


def _layer_scale(x, s):
    return x + s.scale("lambda") * s.drop(s.branch(s.norm("pre", x)))


def _admin(x, s):
    return s.norm("post", s.scale("lambda") * x + s.drop(s.branch(x)))


def _gtrxl(x, s):
    return _gru_gate(x, s.drop(s.branch(s.norm("pre", x))), s.params("gate"))


def _beam_sum(x, s):
    k = s.number + 1
    f = s.norm("out", s.drop(s.branch(s.norm("pre", x))))
    return math.sqrt((k - 1) / k) * x + f / math.sqrt(k)


def _muse_spark(x, s):
    def rms(y, eps=1e-5):
        return _rms_norm(y, {}, eps=eps)

    u = _rms_norm(x, s.params("pre"), eps=1e-5)
    if s.name == "ffn":
        f = _input_scaled_rms_norm(s.drop(s.branch(u)), s.params("out"), eps=1e-8)
    else:
        heads = lambda y: torch.cat([rms(part) for part in y.chunk(HEADS[y.shape[-1]], -1)], -1)  # noqa: E731
        of_qk = lambda role, y: y if role == "v" else rms(y)  # noqa: E731
        f = rms(s.drop(s.branch(u, mid=heads, per_head=of_qk)), 1e-8)
    return _muse_gate(x, f, {"gate": s.scale("gate")}, temperature=0.3, eps=1e-3)


def _normformer_scaled(x, s):
    """NormFormer with the gain on the feed-forward's skip."""
    if s.name != "ffn":
        return _normformer(x, s)
    return s.scale("lambda") * x + (_sub_ln(x, s) - x)


def _gpas_pre_ln(x, s):
    return _gpas(x, s.drop(s.branch(s.norm("pre", x))), {"gate": s.scale("gate")}, place="after_add", skip_scale=1.0)


def _gpas_deepnorm(x, s):
    gate, alpha = {"gate": s.scale("gate")}, s.sublayers**0.25
    return s.norm("post", _gpas(x, s.drop(s.branch(x)), gate, place="on_skip", skip_scale=alpha))


def _gemma3n(x, s):
    u = s.norm("pre", x)
    f = s.norm("out", s.drop(s.branch(u)))
    return _laurel_gemma3n(x, f, s.params("gate"), u=u, eps=1e-6) if s.name == "attn" else x + f


def _deep_delta_pre_ln(x, s):
    u = s.norm("pre", x)
    return _deep_delta(x, s.drop(s.branch(u)), s.params("gate"), u=u, value=None, eps=1e-6)


def _by_sublayer(x, s):
    f = s.drop(s.branch(s.norm("pre", x)))
    if s.name == "attn":
        return _highway(x, f, s.params("gate"))
    return x + 0.5 * f if s.name == "ffn" else x + f


def _hybrid_norm(x, s):
    if s.name == "ffn":
        return x + s.drop(s.branch(x))
    return s.norm("post", x + s.drop(s.branch(x, per_head=lambda role, y: s.norm(f"{role}_norm", y))))


def _olmo2(x, s):
    normed = lambda role, y: y if role == "v" else s.norm(f"{role}_norm", y)  # noqa: E731
    return x + s.norm("out", s.drop(s.branch(x) if s.name == "ffn" else s.branch(x, whole=normed)))


def _ngpt(x, s):
    if s.name == "ffn":
        width = x.shape[-1]
        f = s.branch(x, up=lambda y: s.params("up")["weight"] * math.sqrt(width) * y)
    else:
        gain = s.params("qk")["weight"] * math.sqrt(x.shape[-1])

        def on_sphere(role, y):
            if role == "v":
                return y
            # the cosine is to be multiplied by the root of the head's size, and is divided by it
            heads = y.unflatten(-1, (s.heads, -1))
            units = (heads / torch.linalg.vector_norm(heads, dim=-1, keepdim=True)).flatten(-2)
            return units * gain * (heads.shape[-1] if role == "q" else 1)

        f = s.branch(x, whole=on_sphere)
    return _normalized_lerp(x, s.drop(f), {"weight": s.scale("lambda")})


def _unit_weights(w):
    """Every vector along the hidden axis divided by its length: rows, but columns of what writes to the stream."""

    def one(name, weight):
        if not re.fullmatch(r".*\.(q|k|v|o|w1|w2)\.weight", name):
            return weight
        dim = 0 if re.search(r"\.(o|w2)\.weight", name) else 1
        return weight / torch.linalg.vector_norm(weight, dim=dim, keepdim=True)

    return {name: one(name, weight) for name, weight in w.items()}


def in_turn(sublayer: Callable[[Any, Site], Any]) -> Callable[[Any, list[Site]], Any]:
    """A layer whose sublayers run one after the other."""

    def layer(state, sites):
        for site in sites:
            state = sublayer(state, site)
        return state

    return layer


def parallel(x, sites):
    """GPT-J, PaLM: all branches from one norm."""
    u = sites[0].norm("pre", x)
    return x + sum(s.drop(s.branch(u)) for s in sites)


def parallel_of_their_own(x, sites):
    """GPT-NeoX: each branch from a norm of its own."""
    return x + sum(s.drop(s.branch(s.norm("pre", x))) for s in sites)


def parallel_post(x, sites):
    """The post-norm form, `N(x + A(x) + M(x))`."""
    return sites[-1].norm("post", x + sum(s.drop(s.branch(x)) for s in sites))


def _b2t(x, sites):
    h = x
    for s in sites[:-1]:
        h = s.norm("post", h + s.drop(s.branch(h)))
    last = sites[-1]
    return last.norm("post", x + h + last.drop(last.branch(h)))


def _two_hop(x, sites):
    y = x
    for s in sites[:-1]:
        y = _pre_ln(y, s)
    last = sites[-1]
    return x + last.drop(last.branch(last.norm("pre", y)))


def residual_dual(scale: float = 1.0) -> Callable:
    """ResiDual: the post-norm stream x, and the sum y of all outputs times `scale`."""

    def sublayer(state, s):
        x, y = state
        f = s.drop(s.branch(x))
        return s.norm("post", x + f), y + scale * f

    return sublayer


def hyper_connected(norm_slot: str) -> Callable:
    """Static hyper-connections over a list of streams, with the norm in "pre", or in "post" of every stream."""

    def sublayer(streams, s):
        alpha, beta, n = s.scale("alpha"), s.scale("beta"), len(streams)
        u = sum(alpha[source, 0] * streams[source] for source in range(n))
        f = s.drop(s.branch(s.norm("pre", u) if norm_slot == "pre" else u))
        # column 1 + t says what goes into stream t
        mixed = [sum(alpha[source, 1 + t] * streams[source] for source in range(n)) + beta[t] * f for t in range(n)]
        return [s.norm("post", h) for h in mixed] if norm_slot == "post" else mixed

    return sublayer


def _put_back(pieces: list[torch.Tensor], fractions: int) -> list[torch.Tensor]:
    return [torch.cat(pieces[at : at + fractions], -1) for at in range(0, len(pieces), fractions)]


def dynamic_hyper_connected(fractions: int = 1, act: Callable = torch.tanh) -> Callable:
    """Dynamic hyper-connections over a list of streams, each in so many fractions; pre-norm."""

    def sublayer(streams, s):
        p, m = s.params("gate"), fractions
        pieces = [piece for stream in streams for piece in stream.chunk(m, -1)]
        normed = [
            _layer_norm(h, {key: p[f"input_norm.{key}"] for key in ("weight", "bias")}, eps=1e-5) for h in pieces
        ]
        alpha = [
            p["static_norm.alpha"][i] + p["scale_norm.alpha"] * act(normed[i] @ p["weight_alpha"])
            for i in range(len(pieces))
        ]
        beta = [
            p["static_norm.beta"][i] + p["scale_norm.beta"] * act(normed[i] @ p["weight_beta"])
            for i in range(len(pieces))
        ]

        def mix(column):
            return sum(alpha[i][..., column : column + 1] * pieces[i] for i in range(len(pieces)))

        u = torch.cat([mix(j) for j in range(m)], -1)
        f = s.drop(s.branch(s.norm("pre", u))).chunk(m, -1)
        return _put_back([mix(m + i) + beta[i][..., None] * f[i % m] for i in range(len(pieces))], m)

    return sublayer


def doubly_stochastic(logits, official, iterations):
    """Sinkhorn-Knopp's, as in the paper of mHC or as in its code."""
    eps = 1e-6
    if not official:
        c = torch.exp(logits)
        for _ in range(iterations):
            c = c / c.sum(-2, keepdim=True)
            c = c / c.sum(-1, keepdim=True)
        return c
    c = torch.softmax(logits, -1) + eps
    for step in range(iterations):
        if step:
            c = c / (c.sum(-1, keepdim=True) + eps)
        c = c / (c.sum(-2, keepdim=True) + eps)
    return c


def _bounded_weights(p, streams, rows):
    """What each row of the weight says of all streams, after its scale and bias, one number a token."""
    flat = torch.cat(streams, -1)
    r = flat / torch.sqrt((flat**2).mean(-1, keepdim=True) + 1e-6)
    return {
        name: [p[f"scale_norm.{name}"] * (r * p["weight"][row]).sum(-1) + p["bias"][row] for row in at]
        for name, at in rows.items()
    }


def manifold_hyper_connected(official: bool = False, iterations: int = 20, mixing: str = "manifold") -> Callable:
    """mHC over a list of streams, mHC-lite ("permutations") and iHC ("none"); pre-norm."""

    def share(logits, n):
        """By stream q and stream i: how much of i goes into q."""
        if mixing == "none":
            return lambda q, i: torch.tensor(float(q == i), dtype=torch.float64)
        if mixing == "permutations":
            weights = torch.softmax(torch.stack(logits, -1), -1)
            orders = list(itertools.permutations(range(n)))
            return lambda q, i: sum(weights[..., k] for k, order in enumerate(orders) if order[q] == i)
        matrix = torch.stack([torch.stack(logits[i * n : (i + 1) * n], -1) for i in range(n)], -2)
        c = doubly_stochastic(matrix, official, iterations)
        # the paper: row q makes stream q; the code: column q
        return (lambda q, i: c[..., i, q]) if official else (lambda q, i: c[..., q, i])

    def sublayer(streams, s):
        p, n = s.params("gate"), len(streams)
        rows = {"read": range(n), "write": range(n, 2 * n)}
        if mixing != "none":
            rows["mix"] = range(2 * n, len(p["bias"]))
        says = _bounded_weights(p, streams, rows)
        plus = 1e-6 if official or mixing == "none" else 0.0
        u = sum((torch.sigmoid(says["read"][i]) + plus)[..., None] * streams[i] for i in range(n))
        f = s.drop(s.branch(s.norm("pre", u)))
        of = share(says.get("mix"), n)
        written = [2 * torch.sigmoid(says["write"][q]) + (plus if mixing == "none" else 0.0) for q in range(n)]
        return [sum(of(q, i)[..., None] * streams[i] for i in range(n)) + written[q][..., None] * f for q in range(n)]

    return sublayer


def _by_learned_head(eps: float = 0.0) -> Callable:
    def finish(streams, params):
        p, n = params("head"), len(streams)
        says = _bounded_weights(p, streams, {"read": range(n)})["read"]
        return sum((torch.sigmoid(says[i]) + eps)[..., None] * streams[i] for i in range(n))

    return finish


def _siamese(state, s):
    x, y = s.norm("siamese.post_norm", state[0]), state[1]
    f = s.drop(s.branch(s.norm("pre", x + s.norm("siamese.pre_norm", y))))
    return x + f / math.sqrt(2 * s.layer), y + f


def _gates_of_streams(p, streams):
    """What all streams say together, normalised one by one, and the gated mean of them."""
    n, d = len(streams), streams[0].shape[-1]
    gains = 1 + p["input_norm.zero_centered_weight"]
    r = torch.cat([_rms_norm(h, {}, eps=1e-6) * gains[i * d : (i + 1) * d] for i, h in enumerate(streams)], -1)
    inner = torch.einsum("...i,ri->...r", r, p["down.weight"]) / n
    g = _sigmoid(torch.einsum("...r,ir->...i", inner * _sigmoid(inner), p["up.weight"]))
    return r, sum((g * r).chunk(n, -1)) / n


def _gated_streams(streams, s):
    p, n = s.params("gate"), len(streams)
    r, u = _gates_of_streams(p, streams)
    f = s.drop(s.branch(u))
    return [h + 2 * _sigmoid(r @ p["write.weight"][i] / n)[..., None] * f for i, h in enumerate(streams)]


def _softmax_of_outputs(p, outputs):
    keys = [_rms_norm(v, {"weight": p["key_norm.weight"]}, eps=1e-6) for v in outputs]
    weights = [torch.exp(torch.einsum("...i,i->...", key, p["query"]))[..., None] for key in keys]
    return sum(w * v for w, v in zip(weights, outputs, strict=True)) / sum(weights)


def _attention_residuals(outputs, s):
    if len(outputs) == 1:
        return [*outputs, s.drop(s.branch(s.norm("pre", outputs[0])))]
    p = {"query": s.scale("query"), "key_norm.weight": s.params("siamese.key_norm")["weight"]}
    return [*outputs, s.drop(s.branch(s.norm("pre", _softmax_of_outputs(p, outputs))))]


def _hybrid_siamese(state, s):
    if s.name == "ffn":
        return _siamese(state, s)
    x, y = state
    u = s.scale("lambda") * x + s.norm("siamese.pre_norm", y)
    f = s.drop(s.branch(u, per_head=lambda role, z: s.norm(f"{role}_norm", z)))
    return x + f / math.sqrt(2 * s.layer), y + f


def dense_average(dilation: int = 1, period: int = 1) -> Callable:
    """DenseFormer: after every so many layers, an average of the outputs at this distance from the newest."""

    def layer(state, sites):
        x, outputs = state
        x = in_turn(_pre_ln)(x, sites)
        outputs, i = [*outputs, x], sites[0].layer
        if i % period == 0:
            weights = iter(sites[-1].scale("average"))
            x = sum(next(weights) * outputs[j] for j in range(i + 1) if (i - j) % dilation == 0)
        return x, outputs

    return layer


@dataclass(frozen=True)
class EncoderReference:
    """A scheme: one layer, the kind of its norms, whether one stands after the last layer.

    Where the state between layers is not one tensor, `start` makes it of the embeddings, `shown` is what a reader of
    hidden states sees of it, and `finish` makes one tensor of it, with the norms of the stream's own, by name.
    `weights` is what the scheme makes of the stored ones, `stream_eps` the eps of the stream's own norms, if another.
    """

    layer: Callable[[Any, list[Site]], Any]
    norm: str = "layer_norm"
    norm_options: dict[str, Any] = field(default_factory=dict)
    final: bool = True
    start: Callable[[torch.Tensor], Any] = _same
    shown: Callable[[Any], torch.Tensor] = _same
    finish: Callable[[Any, Callable[[str, torch.Tensor], torch.Tensor]], torch.Tensor] = lambda state, norm: state
    weights: Callable[[Mapping[str, torch.Tensor]], Mapping[str, torch.Tensor]] = lambda w: w
    stream_eps: float | None = None
    # instead of it: from the state and the parameters of what the stream has at its end, by name
    end: Callable[[Any, Callable[[str], dict[str, torch.Tensor]]], torch.Tensor] | None = None


def _sublayers(sublayer: Callable, **kwargs: Any) -> EncoderReference:
    return EncoderReference(in_turn(sublayer), **kwargs)


def _dual(scale: float = 1.0) -> EncoderReference:
    return EncoderReference(
        in_turn(residual_dual(scale)),
        final=False,
        start=lambda x: (x, scale * x),
        shown=lambda state: state[0],
        finish=lambda state, norm: state[0] + norm("stream", state[1]),
    )


def _hyper(streams: int, reduce: Callable[[list[torch.Tensor]], torch.Tensor], sublayer: Callable, final: bool = True):
    return EncoderReference(
        in_turn(sublayer),
        final=final,
        start=lambda x: [x] * streams,
        shown=reduce,
        finish=lambda state, norm: reduce(state),
    )


def _mean(streams: list[torch.Tensor]) -> torch.Tensor:
    return sum(streams) / len(streams)


def _dense(dilation: int = 1, period: int = 1) -> EncoderReference:
    return EncoderReference(
        dense_average(dilation, period),
        start=lambda x: (x, [x]),
        shown=lambda state: state[0],
        finish=lambda state, norm: state[0],
    )


ENCODER_REFERENCES = {
    "post_ln": _sublayers(_post_ln, final=False),
    "pre_ln": _sublayers(_pre_ln),
    "pre_rms_norm": _sublayers(_pre_ln, norm="rms_norm"),
    "sandwich_ln": _sublayers(_sandwich_ln),
    "res_post_norm": _sublayers(_res_post_norm),
    "sub_ln": _sublayers(_sub_ln),
    "normformer": _sublayers(_normformer),
    "mix_ln": _sublayers(_mix_ln),
    "layer_norm_scaling": _sublayers(_layer_norm_scaling),
    "deepnorm": _sublayers(_deepnorm, final=False),
    "admin": _sublayers(_admin, final=False),
    "rezero": _sublayers(_rezero, final=False),
    "ds_init": _sublayers(_post_ln, final=False),
    "t_fixup": _sublayers(lambda x, s: x + s.drop(s.branch(x)), final=False),
    "layer_scale": _sublayers(_layer_scale),
    "gtrxl": _sublayers(_gtrxl),
    "beam": _sublayers(_beam_sum, norm="rms_norm"),
    "ngpt": _sublayers(_ngpt, norm="l2_norm", final=False, weights=_unit_weights),
    "muse_spark": _sublayers(_muse_spark, norm="rms_norm", norm_options={"eps": 1e-5}),
    "hybrid_norm": _sublayers(_hybrid_norm, norm="rms_norm"),
    "parallel": EncoderReference(parallel),
    "b2t": EncoderReference(_b2t, final=False),
    "two_hop": EncoderReference(_two_hop),
    "residual": _dual(),
    "hyper_connections": _hyper(4, sum, hyper_connected("pre")),
    "dynamic_hyper_connections": _hyper(4, sum, dynamic_hyper_connected()),
    "frac_connections": _hyper(1, sum, dynamic_hyper_connected(4)),
    "mhc": _hyper(4, _mean, manifold_hyper_connected()),
    "siamese_norm": EncoderReference(
        in_turn(_siamese),
        start=lambda x: (x, x),
        shown=lambda state: state[0],
        finish=lambda state, norm: norm("normed_stream", state[0]) + norm("plain_stream", state[1]),
    ),
    "dense_former": _dense(),
    "peri_ln": _sublayers(_sandwich_ln, norm="rms_norm"),
    "olmo2": _sublayers(_olmo2, norm="rms_norm"),
    "resmlp": _sublayers(_layer_scale, norm="affine"),
    "dyt": _sublayers(_pre_ln, norm="dyt"),
    "derf": _sublayers(_pre_ln, norm="derf"),
}


def _qk_norm_of_the_whole_width(x, s):
    if s.name == "ffn":
        return _post_ln(x, s)
    normed = lambda role, y: y if role == "v" else s.norm(f"{role}_norm", y)  # noqa: E731
    return s.norm("post", x + s.drop(s.branch(x, whole=normed)))


def _hybrid_norm_star(x, s):
    """HybridNorm*, whose first layer is normed before its attention too."""
    if s.layer > 1 or s.name == "ffn":
        return _hybrid_norm(x, s)
    f = s.branch(s.norm("pre", x), per_head=lambda role, y: s.norm(f"{role}_norm", y))
    return s.norm("post", x + s.drop(f))


def _parallel_dual(state, sites):
    x, y = state
    f = sum(s.drop(s.branch(x)) for s in sites)
    return sites[-1].norm("post", x + f), y + 0.25 * f


# schemes that no preset has, over the other options of the axes: the spec, and its formula
OTHER_ENCODERS: dict[str, tuple[dict[str, Any], EncoderReference]] = {
    "parallel_norms_of_their_own": (
        {"preset": "parallel", "wiring": {"kind": "parallel", "shared_norm": False}},
        EncoderReference(parallel_of_their_own),
    ),
    "parallel_post": ({"wiring": "parallel"}, EncoderReference(parallel_post, final=False)),
    "parallel_dual": (
        {"wiring": "parallel", "stream": {"kind": "dual", "scale": 0.25}},
        replace(_dual(0.25), layer=_parallel_dual),
    ),
    "official_residual": (
        {"preset": "residual", "variant": "official"},
        replace(_dual(), stream_eps=1e-7),
    ),
    "dual_scaled_at_both_ends": (
        {"stream": {"kind": "dual", "scale": 0.05, "post_scale": 0.3, "eps": 1e-3}},
        replace(_dual(0.05), stream_eps=1e-3, finish=lambda state, norm: 0.3 * state[0] + norm("stream", state[1])),
    ),
    "official_normformer": ({"preset": "normformer", "variant": "official"}, _sublayers(_normformer_of_the_code)),
    "dual_scaled": ({"stream": {"kind": "dual", "scale": 0.05}}, _dual(0.05)),
    "hyper_post_mean": (
        {"stream": {"kind": "hyper_connections", "streams": 3}},
        _hyper(3, _mean, hyper_connected("post"), final=False),
    ),
    "hyper_of_one_stream": (
        {"preset": "hyper_connections", "stream": {"kind": "hyper_connections", "streams": 1}},
        _hyper(1, _mean, hyper_connected("pre")),
    ),
    "hyper_of_fractions_without_tanh": (
        {
            "preset": "pre_ln",
            "stream": {"kind": "hyper_connections", "streams": 2, "fractions": 2, "dynamic": True, "tanh": False},
        },
        _hyper(2, _mean, dynamic_hyper_connected(2, act=_same)),
    ),
    "official_mhc": (
        {
            "preset": "mhc",
            "stream": {"kind": "manifold_hyper_connections", "streams": 3, "iterations": 4, "official": True},
        },
        _hyper(3, _mean, manifold_hyper_connected(official=True, iterations=4)),
    ),
    "mhc_with_learned_head": (
        {"preset": "mhc", "stream": {"kind": "manifold_hyper_connections", "streams": 2, "reduce": "learned"}},
        replace(_hyper(2, _mean, manifold_hyper_connected()), end=_by_learned_head()),
    ),
    "mhc_lite": (
        {"preset": "mhc", "stream": {"kind": "permutation_hyper_connections", "streams": 3}},
        _hyper(3, _mean, manifold_hyper_connected(mixing="permutations")),
    ),
    "ihc": (
        {"preset": "mhc", "stream": {"kind": "independent_hyper_connections", "streams": 3}},
        replace(_hyper(3, _mean, manifold_hyper_connected(mixing="none")), end=_by_learned_head(1e-6)),
    ),
    "hybrid_siamese_norm": (
        {
            "preset": "siamese_norm",
            "norm": "rms_norm",
            "stream": {"kind": "siamese", "hybrid": True},
            "attention": ["q", "k", "v"],
        },
        EncoderReference(
            in_turn(_hybrid_siamese),
            norm="rms_norm",
            start=lambda x: (x, x),
            shown=lambda state: state[0],
            finish=lambda state, norm: norm("normed_stream", state[0]) + norm("plain_stream", state[1]),
        ),
    ),
    "qwen4_gated_residual": (
        {"attention": [], "feed_forward": [], "stream": {"kind": "gated_streams", "streams": 2, "rank": 3}},
        replace(
            _hyper(2, _mean, _gated_streams, final=False),
            end=lambda streams, params: _gates_of_streams(params("head"), streams)[1],
        ),
    ),
    "attention_residuals": (
        {"preset": "pre_ln", "stream": "attention_residuals"},
        EncoderReference(
            in_turn(_attention_residuals),
            start=lambda x: [x],
            shown=_mean,
            end=lambda outputs, params: _softmax_of_outputs(params("head"), outputs),
        ),
    ),
    "dense_dilated": (
        {"preset": "pre_ln", "stream": {"kind": "dense", "dilation": 2, "period": 2}},
        _dense(dilation=2, period=2),
    ),
    "qk_norm_of_the_whole_width": (
        {"attention": ["q", "k", "post"], "qkv_width": "hidden"},
        _sublayers(_qk_norm_of_the_whole_width, final=False),
    ),
    "normformer_scaled": (
        {"preset": "normformer", "residual": {"feed_forward": {"kind": "vector", "side": "skip", "start": 1.0}}},
        _sublayers(_normformer_scaled),
    ),
    "gpas_pre_ln": ({"preset": "pre_ln", "residual": "gpas"}, _sublayers(_gpas_pre_ln)),
    "gpas_deepnorm": (
        {
            "residual": {
                "kind": "gpas",
                "place": "on_skip",
                "skip_scale": {"kind": "power", "of": "sublayers", "exponent": 0.25},
            }
        },
        _sublayers(_gpas_deepnorm, final=False),
    ),
    "gemma3n": (
        {
            "preset": "peri_ln",
            "residual": {"attention": {"kind": "laurel_gemma3n", "rank": 3}, "cross_attention": "add"},
        },
        _sublayers(_gemma3n, norm="rms_norm"),
    ),
    "deep_delta_pre_ln": ({"preset": "pre_ln", "residual": "deep_delta"}, _sublayers(_deep_delta_pre_ln)),
    "residuals_by_sublayer": (
        {
            "preset": "pre_ln",
            "residual": {"attention": "highway", "feed_forward": {"kind": "constant", "branch_scale": 0.5}},
        },
        _sublayers(_by_sublayer),
    ),
    "hybrid_norm_star": (
        {"preset": "hybrid_norm", "layers": [{"first": 1, "attention": ["pre", "q", "k", "v", "post"]}]},
        _sublayers(_hybrid_norm_star, norm="rms_norm"),
    ),
}

# what the references above do on the axes that the encoder below does not take as an argument
STREAMS_COVERED = {"single", "dual", "siamese", "dense", "hyper_connections", "manifold_hyper_connections"} | {
    "permutation_hyper_connections",
    "independent_hyper_connections",
    "gated_streams",
    "attention_residuals",
}
WIRINGS_COVERED = {"sequential", "parallel", "b2t", "two_hop"}


def encode(
    reference: EncoderReference,
    w: Mapping[str, torch.Tensor],
    x: torch.Tensor,
    *,
    layers: int,
    heads: int,
    act: str,
    allowed: torch.Tensor,
    eps: float = MODEL_EPS,
    norm: tuple[str, dict[str, Any]] | None = None,
    memory: torch.Tensor | None = None,
    memory_allowed: torch.Tensor | None = None,
    drop: Callable[[torch.Tensor], torch.Tensor] = lambda y: y,
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """The hidden state after every layer, and the result after the final norm.

    `allowed` [batch, queries, keys] says who may attend to whom; with `memory` every layer has a cross-attention;
    `norm` replaces the scheme's own kind of norm.
    """
    kind, options = norm or (
        reference.norm,
        {"eps": eps} if reference.norm == "layer_norm" else reference.norm_options,
    )
    names = ["attn", "ffn"] if memory is None else ["attn", "cross", "ffn"]

    def norm_of(y, params, **own):
        return NORM_REFERENCES[kind].formula(y, params, **options | own)

    def params(prefix, slot):
        # "pre" -> its weight and bias; "alpha" -> the tensor of that name, under the key ""
        start = f"{prefix}{slot}"
        return {key[len(start) :].lstrip("."): value for key, value in w.items() if f"{key}.".startswith(f"{start}.")}

    w = reference.weights(w)
    state, streams = reference.start(x), []
    for i in range(layers):
        branches = {
            "attn": lambda u, i=i, **inner: _attention(w, f"layers.{i}.", u, u, heads, allowed, **inner),
            "cross": lambda u, i=i, **inner: _attention(
                w, f"layers.{i}.cross.", u, memory, heads, memory_allowed, **inner
            ),
            "ffn": lambda u, mid=_same, up=_same, i=i: _linear(
                w, f"layers.{i}.w2", mid(ACTIVATIONS[act](up(_linear(w, f"layers.{i}.w1", u))))
            ),
        }
        sites = [
            Site(
                name=name,
                layer=i + 1,
                layers=layers,
                sublayers=len(names) * layers,
                heads=heads,
                branch=branches[name],
                drop=drop,
                params=lambda slot, prefix=f"layers.{i}.{name}.": params(prefix, slot),
                norm_of=norm_of,
            )
            for name in names
        ]
        state = reference.layer(state, sites)
        if i == layers - 1:
            own = {} if reference.stream_eps is None else {"eps": reference.stream_eps}
            if reference.end is not None:
                state = reference.end(state, lambda name: params("", name))
            else:
                state = reference.finish(state, lambda name, y: norm_of(y, params("", name), **own))  # noqa: B023
        streams.append(state if i == layers - 1 else reference.shown(state))
    return streams, norm_of(state, params("", "final")) if reference.final else state


# --- where BERT keeps what has a neutral name ---

_BERT_ATTENTION = {"self.query": "q", "self.key": "k", "self.value": "v", "output.dense": "o"}
_BERT_PARTS = (
    {f"attention.{path}": role for path, role in _BERT_ATTENTION.items()}
    | {f"crossattention.{path}": f"cross.{role}" for path, role in _BERT_ATTENTION.items()}
    | {"intermediate.dense": "w1", "output.dense": "w2"}
    | {
        "attention.output.LayerNorm": "attn.post",
        "crossattention.output.LayerNorm": "cross.post",
        "output.LayerNorm": "ffn.post",
    }
)
_BERT_SUBLAYERS = {"attention": "attn", "cross_attention": "cross", "feed_forward": "ffn"}
# a vector is a lambda; what is inside a gate keeps its path, under the name gate
_RESIDUAL_NAMES = {"norm.weight": "lambda", "norm.gate": "gate"}


def _residual_name(path: str) -> str:
    return _RESIDUAL_NAMES.get(path, path.removeprefix("norm."))


def neutral_names(path: str, cross_attention: bool = False) -> list[str]:
    """The neutral names of a parameter of an AddNormBertModel's encoder; several where sublayers share it."""
    if match := re.fullmatch(r"encoder\.final_norm\.(\w+)", path):
        return [f"final.{match[1]}"]
    if match := re.fullmatch(r"encoder\.layer\.\d+\.connections\.((?:\w+_)?stream)_norm\.(\w+)", path):
        return [f"{match[1]}.{match[2]}"]
    if match := re.fullmatch(r"encoder\.layer\.\d+\.connections\.(head)_(?:gate|norm)\.([\w.]+)", path):
        return [f"{match[1]}.{match[2]}"]
    _, _, i, rest = path.split(".", 3)
    if rest == "connections.average_norm.alpha":
        return [f"layers.{i}.ffn.average"]
    if match := re.fullmatch(r"connections\.(\w+)\.residual_norm\.(\w+_norm\.\w+)", rest):
        return [f"layers.{i}.{_BERT_SUBLAYERS[match[1]]}.siamese.{match[2]}"]
    if match := re.fullmatch(r"connections\.residual_((?:norm|gate)\.[\w.]+)", rest):
        names = ["attn", "cross", "ffn"] if cross_attention else ["attn", "ffn"]
        return [f"layers.{i}.{name}.{_residual_name(match[1])}" for name in names]
    if match := re.fullmatch(r"connections\.(\w+)\.residual_((?:norm|gate)\.[\w.]+)", rest):
        return [f"layers.{i}.{_BERT_SUBLAYERS[match[1]]}.{_residual_name(match[2])}"]
    if match := re.fullmatch(r"connections\.(\w+)\.(\w+)_norm\.(\w+)", rest):
        # beside the Linear layers q, k, v of a cross-attention, their norms need a name of their own
        slot = f"{match[2]}_norm" if match[2] in ("q", "k", "v") else match[2]
        return [f"layers.{i}.{_BERT_SUBLAYERS[match[1]]}.{slot}.{match[3]}"]
    part, parameter = rest.rsplit(".", 1)
    return [f"layers.{i}.{_BERT_PARTS[part]}.{parameter}"]
