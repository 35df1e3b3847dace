"""Independent formulas of what depends on the depth: numbers and start weights (see norm_references.py)."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


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
        lambda layers, n, layer: 0.67 / layers**0.25 if n <= 2 * layers else 1 / (9 * layers) ** 0.25,
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
