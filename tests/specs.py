"""A config small enough for every spec, one spec that uses everything, and where each choice is written."""

import json
import math
import types
import typing
from typing import Annotated, Any, Literal, get_args, get_origin

import pytest

from hf_addnorm import AddNormBertConfig, AddNormSpec
from hf_addnorm.models.base.registries import (
    DEPTH_RULES,
    INITS,
    NORMS,
    POSITIONS,
    RESIDUALS,
    STREAMS,
    WEIGHTS,
    WIRINGS,
)
from hf_addnorm.models.base.registry import Registry


LAYERS = 4
SIZES = {
    "vocab_size": 11,
    "hidden_size": 8,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "max_position_embeddings": 8,
}

# a spec that uses everything that a spec has
EVERYTHING = {
    "preset": "sandwich_ln",
    "variant": "paper",
    "positions": {"kind": "sinusoidal", "length": 300},
    "norm": {"kind": "rms_norm", "zero_centered": True, "eps": 1e-5},
    "embed": {"kind": "layer_norm", "bias": False},
    "attention": {
        "pre": True,
        "q": True,
        "k": {"kind": "layer_norm", "bias": True},
        "v": "none",
        "mid": {"kind": "affine", "groups": "heads", "bias": False},
        "out": "dyt",
    },
    "cross_attention": ["pre", "out"],
    "feed_forward": {"pre": "layer_norm", "up": "learned_scale", "out": True, "post": "none"},
    "final": "layer_norm",
    "head": "rms_norm",
    "logits": {"kind": "affine", "bias": False},
    "qkv_width": "hidden",
    "residual": {
        "kind": "constant",
        "skip_scale": {"kind": "power", "of": "sublayers", "exponent": 0.25},
        "branch_scale": 2,
    },
    "pre_scale": {"kind": "power", "of": "layer", "exponent": -0.5},
    "dropout": "after_out",
    "drop_path": {"kind": "linear", "first": 0.1, "last": 0.5},
    "stream": {"kind": "dual", "scale": 0.5},
    "wiring": {"kind": "parallel", "shared_norm": False},
    "weights": {"kind": "sigma_reparam", "roles": ["q", "w2"], "start": "spectral_norm"},
    "init": ["zero_out_norm", "scaled_output"],
    "layers": [
        {"first": 1, "norm": "dyt"},
        {"last": 1, "attention": ["pre"], "residual": {"kind": "vector", "start": "cait"}},
        {"index": [1, -1], "pre_scale": 0.5},
        {"index": 2, "dropout": "before_out", "qkv_width": "head", "drop_path": 0},
        {"every": 2, "drop_path": 0.25},
        {"range": [0, 2], "feed_forward": {"out": {"kind": "dyt", "alpha_init": 1}}},
        {"first_fraction": 0.5, "cross_attention": []},
        {"index": 1, "residual": {"attention": "highway", "feed_forward": {"kind": "laurel_lr", "rank": 2}}},
        {"last_fraction": 1, "residual": {"kind": "scalar", "share": "layer", "side": "skip", "start": 1}},
    ],
}

# what a residual needs to be that of one sublayer
OF_A_SUBLAYER = {"gpas": {"share": "sublayer"}}

# where in a spec a registry's choices are written, and a spec around one; the last key holds the choice
AXES: dict[str, tuple[Registry, Any]] = {
    "norm": (NORMS, lambda choice: {"norm": choice}),
    "embed": (NORMS, lambda choice: {"embed": choice}),
    "final": (NORMS, lambda choice: {"final": choice}),
    "head": (NORMS, lambda choice: {"head": choice}),
    "logits": (NORMS, lambda choice: {"logits": choice}),
    "attention.mid": (NORMS, lambda choice: {"attention": {"mid": choice}}),
    "attention.q": (NORMS, lambda choice: {"attention": {"q": choice}}),
    "cross_attention.pre": (NORMS, lambda choice: {"cross_attention": {"pre": choice}}),
    "feed_forward.out": (NORMS, lambda choice: {"feed_forward": {"out": choice}}),
    "residual": (RESIDUALS, lambda choice: {"residual": choice}),
    "residual.skip_scale": (DEPTH_RULES, lambda choice: {"residual": {"kind": "constant", "skip_scale": choice}}),
    "residual.start": (DEPTH_RULES, lambda choice: {"residual": {"kind": "vector", "start": choice}}),
    "pre_scale": (DEPTH_RULES, lambda choice: {"preset": "pre_ln", "pre_scale": choice}),
    "drop_path": (DEPTH_RULES, lambda choice: {"drop_path": choice}),
    "positions": (POSITIONS, lambda choice: {"positions": choice}),
    "weights": (WEIGHTS, lambda choice: {"weights": choice}),
    "init[0]": (INITS, lambda choice: {"preset": "sandwich_ln", "init": [choice]}),
    "stream": (STREAMS, lambda choice: {"stream": choice}),
    "wiring": (WIRINGS, lambda choice: {"wiring": choice}),
    "layers[0].norm": (NORMS, lambda choice: {"layers": [{"first": 1, "norm": choice}]}),
    "residual.feed_forward": (
        RESIDUALS,
        lambda choice: {"residual": {"feed_forward": OF_A_SUBLAYER.get(choice["kind"], {}) | choice}},
    ),
    "layers[0].residual": (RESIDUALS, lambda choice: {"layers": [{"first": 1, "residual": choice}]}),
}
# the options that a kind cannot be without
NEEDED = {
    "power": {"of": "layer", "exponent": 1.0},
    "linear": {"last": 0.5},
    "beam": {"side": "skip"},
}


def config(add_norm=None, **kwargs):
    return AddNormBertConfig(**{**SIZES, **kwargs}, add_norm=add_norm)


def parse(value):
    return AddNormSpec.parse(value)


def through_json(spec):
    return json.loads(json.dumps(spec.to_dict(), allow_nan=False))


def refused(value, *words):
    """The sentence with which a config refuses `value`; every one of `words` must be in it."""
    with pytest.raises(ValueError) as error:
        config(value)
    sentence = str(error.value)
    for word in words:
        assert word in sentence, sentence
    return sentence


def accepts(annotation, value) -> bool:
    """Whether an option of this type may be `value`, which is one of those above."""
    if get_origin(annotation) is Annotated and get_args(annotation)[0] is float:
        finite = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        # bounds are tested in words above
        return finite
    if get_origin(annotation) is Annotated:
        return type(value) is int
    if get_origin(annotation) in (typing.Union, types.UnionType):
        return any(accepts(arg, value) for arg in get_args(annotation))
    if get_origin(annotation) is Literal:
        return value in get_args(annotation)
    return annotation is type(value) or (annotation is type(None) and value is None)
