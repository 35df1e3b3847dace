"""Independent formulas of the residuals (see norm_references.py)."""

import math

import torch
from norm_references import Reference, l2_norm, length_of, rms_norm, stored_start
from reference_checks import Drawn


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


def gpas(x, f, p, *, place, skip_scale, **_):
    silu = p["gate"] / (1 + torch.exp(-p["gate"]))

    def scaled(z):
        # the value is (1 - silu) z, and z has the gradient of z itself
        return (1 - silu) * z.detach() + (z - z.detach())

    return scaled(skip_scale * x) + f if place == "on_skip" else scaled(skip_scale * x + f)


def sigmoid(x):
    return 1 / (1 + torch.exp(-x))


def muse_gate(x, f, p, *, temperature, eps, **_):
    beta = sigmoid(p["gate"] / temperature)
    rest = 1 - beta**2
    return torch.where(rest > eps, rest, eps) ** 0.5 * x + beta * f


def highway(x, f, p, **_):
    g = sigmoid(x @ p["gate.weight"].T + p["gate.bias"])
    return (1 - g) * x + g * f


def gru_gate(x, f, p, *, relu=True, **_):
    w, u = ({name: p[f"{side}.{name}.weight"].T for name in "rzh"} for side in ("branch", "stream"))
    f = torch.where(f > 0, f, 0.0) if relu else f
    r = sigmoid(f @ w["r"] + p.get("branch.r.bias", 0.0) + x @ u["r"])
    z = sigmoid(f @ w["z"] + x @ u["z"] - p["bias"])
    h = torch.tanh(f @ w["h"] + p.get("branch.h.bias", 0.0) + (r * x) @ u["h"])
    return (1 - z) * x + z * h


def _gru_cell(x, f, p, **_):
    of_f = (f @ p["cell.weight_ih"].T + p["cell.bias_ih"]).chunk(3, -1)
    of_x = (x @ p["cell.weight_hh"].T + p["cell.bias_hh"]).chunk(3, -1)
    r, z = sigmoid(of_f[0] + of_x[0]), sigmoid(of_f[1] + of_x[1])
    return (1 - z) * torch.tanh(of_f[2] + r * of_x[2]) + z * x


def _gru_cell_start(width):
    drawn = Drawn(std=(3 * width) ** -0.5, bound=width**-0.5)
    sides = ("ih", "hh")
    return {f"cell.weight_{side}": ((3 * width, width), drawn) for side in sides} | {
        f"cell.bias_{side}": ((3 * width,), drawn) for side in sides
    }


def _laurel_start(width, *, rank):
    # column j of the paper's A: 1 / sqrt(r D) in the rows i with i mod r = j
    a = torch.tensor([[float(i % rank == j) for i in range(width)] for j in range(rank)]) / math.sqrt(rank * width)
    return {"down.weight": ((rank, width), a), "up.weight": ((width, rank), 0.0)}


def laurel_gemma3n(x, f, p, *, eps, u=None, **_):
    u = x if u is None else u
    low = torch.einsum("...i,ri,or->...o", u, p["down.weight"], p["up.weight"])
    return 2**-0.5 * (x + f + u + rms_norm(low, {"weight": p["map_norm.weight"]}, eps=eps))


def deep_delta(x, f, p, *, value, eps, u=None):
    u = x if u is None else u
    length = length_of(f)
    k = f / torch.where(length > eps, length, eps)
    beta = 2 * sigmoid(u @ p["beta.weight"][0] + p["beta.bias"])[..., None]
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
def normalized_lerp(x, f, p, *, start=0.05, stored="rsqrt_width", eps=1e-12):
    def on_sphere(z):
        return l2_norm(z, {}, eps=eps)

    step = torch.abs(p["weight"] * start / stored_start(stored, x.shape[-1]))
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
        formula=gpas,
        start=lambda width, **_: {"gate": ((1,), 0.0)},
        samples={
            "place": ["after_add", "on_skip"],
            "share": ["layer", "sublayer"],
            "skip_scale": [1.0, _DEPTH_SAMPLES[0]],
        },
    ),
    "muse_gate": Reference(
        formula=muse_gate,
        start=lambda width, *, std, **_: {"gate": ((width,), Drawn(std))},
        # with the small temperature 1 - beta^2 is below both eps for some features
        samples={"temperature": [0.3, 0.15], "eps": [1e-3, 0.1], "std": [0.02, 1.0]},
    ),
    "orthogonal": Reference(formula=_orthogonal, samples={"eps": [1e-6, 0.5]}),
    "highway": Reference(
        formula=highway,
        start=lambda width, *, start: {"gate.weight": _xavier(width), "gate.bias": ((width,), start)},
        samples={"start": [-1.0, {"kind": "linear", "first": -1.0, "last": -3.0}]},
    ),
    "gru_gate": Reference(
        formula=gru_gate,
        start=lambda width, *, start=2.0, biases="z", **_: {
            **{f"{side}.{name}.weight": _xavier(width) for side in ("branch", "stream") for name in "rzh"},
            "bias": ((width,), start),
            **({f"branch.{name}.bias": ((width,), 0.0) for name in "rh"} if biases == "all" else {}),
        },
        samples={"start": [2.0, "admin"], "relu": [True, False], "biases": ["z", "all"]},
    ),
    "gru_cell": Reference(formula=_gru_cell, start=_gru_cell_start, samples={}),
    "normalized_lerp": Reference(
        formula=normalized_lerp,
        start=lambda width, *, stored="rsqrt_width", **_: {"weight": ((width,), stored_start(stored, width))},
        samples={"start": [0.05, 0.9], "stored": ["rsqrt_width", 0.5], "eps": [1e-12, 0.5]},
    ),
    "laurel_lr": Reference(
        formula=lambda x, f, p, **_: f + x + (x @ p["down.weight"].T) @ p["up.weight"].T,
        start=_laurel_start,
        samples={"rank": [3, 1, 7]},
    ),
    "laurel_gemma3n": Reference(
        laurel_gemma3n,
        lambda width, *, rank, **_: {
            **_drawn_linear("down", rank, width),
            **_drawn_linear("up", width, rank),
            "map_norm.weight": ((width,), 1.0),
        },
        {"rank": [3, 7], "eps": [1e-6, 0.5]},
    ),
    "deep_delta": Reference(
        deep_delta,
        lambda width, *, value, **_: {
            key: start
            for name in ("beta", "value")[: 2 if value is None else 1]
            for key, start in {**_drawn_linear(name, 1, width), f"{name}.bias": ((1,), 0.0)}.items()
        },
        {"value": [None, 2.0], "eps": [1e-6, 3.0]},
    ),
}
