"""Specs beyond the presets, so that every axis of the spec is in the generated suites."""

from typing import Any


OTHER_SPECS: dict[str, Any] = {
    "post_rms": {"preset": "post_ln", "norm": "rms_norm"},
    "post_dyt_everywhere": {"norm": "dyt", "head": True, "final": True},
    "zero_centered": {"preset": "pre_ln", "norm": {"kind": "rms_norm", "zero_centered": True}},
    "std_form": {"norm": {"kind": "layer_norm", "eps_place": "outside", "variance": "unbiased", "eps": 1e-6}},
    # all kinds of norm of one token that start without a draw
    "norm_of_each_kind": {
        # in every family: where branches meet in one sum, it has one norm behind it
        "wiring": "sequential",
        "norm": {"kind": "layer_norm", "zero_centered": True},
        "attention": {
            "pre": "scale_norm",
            "q": "l2_norm",
            "k": {"kind": "prms_norm", "fraction": 0.5},
            "v": "input_scaled_rms_norm",
            "mid": {"kind": "grouped_rms_norm", "shared": True},
            "out": "see_dnorm",
            "post": {"kind": "sum_norm", "signed": False},
        },
        "feed_forward": {
            "pre": "ada_norm",
            "mid": "isru",
            "out": {"kind": "fixed_sigma", "sigma": 2.0},
            "post": "center_norm",
        },
        "embed": "group_norm",
        "head": {"kind": "bhyt_star", "learned": True},
        "final": "derf",
    },
    # and all kinds of norm over tokens without a state
    "norm_over_tokens_of_each_kind": {
        "norm": "instance_norm",
        "attention": {
            "pre": "contra_norm",
            "q": {"kind": "sum_norm", "over": "tokens", "signed": False},
            "mid": {"kind": "contra_norm", "over": "features"},
            "post": {"kind": "dynamic_token_norm", "variant": "official"},
        },
        "feed_forward": {"pre": {"kind": "instance_norm", "variance": "unbiased"}, "post": "sequence_group_norm"},
        "embed": "dynamic_token_norm",
        "final": "layer_norm",
    },
    "no_norms": {"attention": [], "feed_forward": [], "embed": False, "head": False},
    "all_slots": {
        "wiring": "sequential",
        "attention": {"pre": True, "mid": "rms_norm", "out": "dyt", "post": {"kind": "layer_norm", "bias": False}},
        "feed_forward": ["pre", "mid", "out", "post"],
        "dropout": "after_out",
        "final": "affine",
    },
    "skip_init": {"preset": "pre_ln", "residual": {"kind": "scalar", "share": "sublayer"}},
    "scaled_branch": {
        "preset": "pre_ln",
        "residual": {"kind": "constant", "branch_scale": {"kind": "power", "of": "layers", "exponent": -0.5}},
        "init": ["scaled_output"],
    },
    "official_normformer": {"preset": "normformer", "variant": "official"},
    "norms_of_whole_q_and_k": {"preset": "pre_ln", "attention": ["pre", "q", "k"], "qkv_width": "hidden"},
    "stochastic_depth": {"preset": "pre_ln", "drop_path": {"kind": "linear", "last": 0.2}},
    "learned_skip": {"residual": {"kind": "vector", "side": "skip", "start": 1.0, "share": "layer"}},
    "every_residual": {
        "preset": "pre_ln",
        "residual": {"attention": "highway", "feed_forward": {"kind": "laurel_lr", "rank": 4}},
        "layers": [
            {
                "index": 0,
                "residual": {"attention": {"kind": "laurel_gemma3n", "rank": 4}, "feed_forward": "deep_delta"},
            },
            {"index": 1, "residual": {"attention": "orthogonal", "feed_forward": "gru_cell"}},
            {"index": -2, "residual": {"attention": "muse_gate", "feed_forward": "affine"}},
            {"index": -1, "residual": {"kind": "gpas", "place": "on_skip"}},
        ],
    },
    "mhc_lite": {"preset": "mhc", "stream": {"kind": "permutation_hyper_connections", "streams": 3}},
    "ihc": {"preset": "mhc", "stream": "independent_hyper_connections"},
    "qwen4_gated_residual": {"attention": [], "feed_forward": [], "stream": {"kind": "gated_streams", "rank": 4}},
    "attention_residuals": {"preset": "pre_rms_norm", "stream": "attention_residuals"},
    "nanochat": {
        "preset": "pre_rms_norm",
        "norm": {"kind": "rms_norm", "gain": False},
        "stream": "embedding_skip",
    },
    "altup": {"preset": "pre_rms_norm", "stream": {"kind": "altup", "streams": 3, "active": 1}},
    "hybrid_siamese_norm": {
        "preset": "siamese_norm",
        "norm": "rms_norm",
        "stream": {"kind": "siamese", "hybrid": True},
        "attention": ["q", "k", "v"],
    },
    "stream_without_a_mean": {
        "preset": "pre_rms_norm",
        "norm": {"kind": "rms_norm", "bias": True},
        "embed": {"kind": "fixed_sigma", "gain": False, "bias": False},
        "weights": "zero_mean_output",
    },
    "by_layer": {
        "preset": "pre_ln",
        "layers": [
            {"index": 0, "attention": [], "residual": {"kind": "constant", "skip_scale": 0.5}},
            {"last": 2, "norm": "rms_norm", "feed_forward": ["pre", "out"]},
        ],
    },
}
