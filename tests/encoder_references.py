"""Independent formulas of whole encoders, a row for every preset (see sublayer_references.py)."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from norm_references import MODEL_EPS, NORM_REFERENCES, rms_norm
from sublayer_references import (
    ACTIVATIONS,
    SublayerCall,
    admin,
    altup,
    altup_end,
    altup_start,
    attention,
    attention_residuals,
    b2t,
    beam_sum,
    by_learned_head,
    by_sublayer,
    deep_delta_pre_ln,
    deepnorm,
    dense_average,
    dynamic_hyper_connected,
    embedding_skip,
    gated_streams,
    gates_of_streams,
    gemma3n,
    gpas_deepnorm,
    gpas_pre_ln,
    gtrxl,
    hybrid_norm,
    hybrid_siamese,
    hyper_connected,
    in_turn,
    layer_norm_scaling,
    layer_scale,
    linear,
    manifold_hyper_connected,
    mix_ln,
    muse_spark,
    ngpt,
    normformer,
    normformer_of_the_code,
    normformer_scaled,
    olmo2,
    parallel,
    parallel_of_their_own,
    parallel_post,
    post_ln,
    pre_ln,
    res_post_norm,
    residual_dual,
    rezero,
    same,
    sandwich_ln,
    siamese,
    softmax_of_outputs,
    sub_ln,
    two_hop,
    unit_weights,
)


@dataclass(frozen=True)
class EncoderReference:
    """A scheme: one layer, the kind of its norms, whether one stands after the last layer.

    Where the state between layers is not one tensor, `start` makes it of the embeddings, `shown` is what a reader of
    hidden states sees of it, and `finish` makes one tensor of it, with the norms of the stream's own, by name.
    `weights` is what the scheme makes of the stored ones, `stream_eps` the eps of the stream's own norms, if another.
    """

    layer: Callable[[Any, list[SublayerCall]], Any]
    norm: str = "layer_norm"
    norm_options: dict[str, Any] = field(default_factory=dict)
    final: bool = True
    start: Callable[[torch.Tensor], Any] = same
    shown: Callable[[Any], torch.Tensor] = same
    finish: Callable[[Any, Callable[[str, torch.Tensor], torch.Tensor]], torch.Tensor] = lambda state, norm: state
    weights: Callable[[Mapping[str, torch.Tensor]], Mapping[str, torch.Tensor]] = lambda w: w
    stream_eps: float | None = None
    # instead of it: the same with the parameters of what the stream has at its start, by name
    begin: Callable[[torch.Tensor, Callable[[str], dict[str, torch.Tensor]]], Any] | None = None
    # instead of `finish`: from the state and the parameters of what the stream has at its end, by name
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


def _altup(sublayer: Callable, streams: int, active: int) -> EncoderReference:
    return EncoderReference(
        altup(in_turn(sublayer), active),
        norm="rms_norm",
        begin=altup_start(streams, active),
        shown=lambda state: state[active],
        end=altup_end(active),
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
    "post_ln": _sublayers(post_ln, final=False),
    "pre_ln": _sublayers(pre_ln),
    "pre_rms_norm": _sublayers(pre_ln, norm="rms_norm"),
    "sandwich_ln": _sublayers(sandwich_ln),
    "res_post_norm": _sublayers(res_post_norm),
    "sub_ln": _sublayers(sub_ln),
    "normformer": _sublayers(normformer),
    "mix_ln": _sublayers(mix_ln),
    "layer_norm_scaling": _sublayers(layer_norm_scaling),
    "deepnorm": _sublayers(deepnorm, final=False),
    "admin": _sublayers(admin, final=False),
    "rezero": _sublayers(rezero, final=False),
    "ds_init": _sublayers(post_ln, final=False),
    "t_fixup": _sublayers(lambda x, s: x + s.drop(s.branch(x)), final=False),
    "layer_scale": _sublayers(layer_scale),
    "gtrxl": _sublayers(gtrxl),
    "beam": _sublayers(beam_sum, norm="rms_norm"),
    "ngpt": _sublayers(ngpt, norm="l2_norm", final=False, weights=unit_weights),
    "muse_spark": _sublayers(muse_spark, norm="rms_norm", norm_options={"eps": 1e-5}),
    "hybrid_norm": _sublayers(hybrid_norm, norm="rms_norm"),
    "parallel": EncoderReference(parallel),
    "b2t": EncoderReference(b2t, final=False),
    "two_hop": EncoderReference(two_hop),
    "residual": _dual(),
    "hyper_connections": _hyper(4, sum, hyper_connected("pre")),
    "dynamic_hyper_connections": _hyper(4, sum, dynamic_hyper_connected()),
    "frac_connections": _hyper(1, sum, dynamic_hyper_connected(4)),
    "mhc": _hyper(4, _mean, manifold_hyper_connected()),
    "siamese_norm": EncoderReference(
        in_turn(siamese),
        start=lambda x: (x, x),
        shown=lambda state: state[0],
        finish=lambda state, norm: norm("normed_stream", state[0]) + norm("plain_stream", state[1]),
    ),
    "dense_former": _dense(),
    "peri_ln": _sublayers(sandwich_ln, norm="rms_norm"),
    "olmo2": _sublayers(olmo2, norm="rms_norm"),
    "resmlp": _sublayers(layer_scale, norm="affine"),
    "dyt": _sublayers(pre_ln, norm="dyt"),
    "derf": _sublayers(pre_ln, norm="derf"),
}


def _qk_norm_of_the_whole_width(x, s):
    if s.name == "ffn":
        return post_ln(x, s)
    normed = lambda role, y: y if role == "v" else s.norm(f"{role}_norm", y)  # noqa: E731
    return s.norm("post", x + s.drop(s.branch(x, whole=normed)))


def _hybrid_norm_star(x, s):
    """HybridNorm*, whose first layer is normed before its attention too."""
    if s.layer > 1 or s.name == "ffn":
        return hybrid_norm(x, s)
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
    "official_normformer": ({"preset": "normformer", "variant": "official"}, _sublayers(normformer_of_the_code)),
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
        _hyper(2, _mean, dynamic_hyper_connected(2, act=same)),
    ),
    "hyper_with_rms_norm_and_three_scales": (
        {
            "preset": "dynamic_hyper_connections",
            "stream": {
                "kind": "hyper_connections",
                "streams": 2,
                "dynamic": True,
                "norm": "rms_norm",
                "eps": 1e-3,
                "scales": "three",
                "scale_start": 0.2,
            },
        },
        _hyper(2, _mean, dynamic_hyper_connected(norm=rms_norm, eps=1e-3)),
    ),
    "hyper_with_layer_norm_without_bias": (
        {
            "preset": "pre_ln",
            "stream": {"kind": "hyper_connections", "streams": 2, "fractions": 2, "dynamic": True}
            | {"norm": "layer_norm_without_bias", "scales": "three"},
        },
        _hyper(2, _mean, dynamic_hyper_connected(2)),
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
        replace(_hyper(2, _mean, manifold_hyper_connected()), end=by_learned_head()),
    ),
    "mhc_lite": (
        {"preset": "mhc", "stream": {"kind": "permutation_hyper_connections", "streams": 3}},
        _hyper(3, _mean, manifold_hyper_connected(mixing="permutations")),
    ),
    "ihc": (
        {"preset": "mhc", "stream": {"kind": "independent_hyper_connections", "streams": 3}},
        replace(_hyper(3, _mean, manifold_hyper_connected(mixing="none")), end=by_learned_head(1e-6)),
    ),
    "hybrid_siamese_norm": (
        {
            "preset": "siamese_norm",
            "norm": "rms_norm",
            "stream": {"kind": "siamese", "hybrid": True},
            "attention": ["q", "k", "v"],
        },
        EncoderReference(
            in_turn(hybrid_siamese),
            norm="rms_norm",
            start=lambda x: (x, x),
            shown=lambda state: state[0],
            finish=lambda state, norm: norm("normed_stream", state[0]) + norm("plain_stream", state[1]),
        ),
    ),
    "qwen4_gated_residual": (
        {"attention": [], "feed_forward": [], "stream": {"kind": "gated_streams", "streams": 2, "rank": 3}},
        replace(
            _hyper(2, _mean, gated_streams, final=False),
            end=lambda streams, params: gates_of_streams(params("head"), streams)[1],
        ),
    ),
    "attention_residuals": (
        {"preset": "pre_ln", "stream": "attention_residuals"},
        EncoderReference(
            in_turn(attention_residuals),
            start=lambda x: [x],
            shown=_mean,
            end=lambda outputs, params: softmax_of_outputs(params("head"), outputs),
        ),
    ),
    "nanochat": (
        {"preset": "pre_rms_norm", "norm": {"kind": "rms_norm", "gain": False}, "stream": "embedding_skip"},
        EncoderReference(
            embedding_skip(in_turn(pre_ln)),
            norm="rms_norm",
            start=lambda x: (x, x, x),
            shown=lambda state: state[0],
            end=lambda state, params: state[0] - params("backout")["weight"] * state[2],
        ),
    ),
    "nanochat_without_backout": (
        {
            "preset": "pre_ln",
            "stream": {"kind": "embedding_skip", "scale": 1.0, "embedding_scale": 0.0, "backout": None},
        },
        EncoderReference(
            embedding_skip(in_turn(pre_ln), middle=False),
            start=lambda x: (x, x, x),
            shown=lambda state: state[0],
            end=lambda state, params: state[0],
        ),
    ),
    "altup": (
        {"preset": "pre_rms_norm", "stream": "altup"},
        _altup(pre_ln, streams=4, active=0),
    ),
    "altup_of_gemma3n": (
        {
            "preset": "peri_ln",
            "residual": {"attention": {"kind": "laurel_gemma3n", "rank": 3}, "cross_attention": "add"},
            "stream": {"kind": "altup", "streams": 3, "active": 1},
        },
        _altup(gemma3n, streams=3, active=1),
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
        _sublayers(normformer_scaled),
    ),
    "gpas_pre_ln": ({"preset": "pre_ln", "residual": "gpas"}, _sublayers(gpas_pre_ln)),
    "gpas_deepnorm": (
        {
            "residual": {
                "kind": "gpas",
                "place": "on_skip",
                "skip_scale": {"kind": "power", "of": "sublayers", "exponent": 0.25},
            }
        },
        _sublayers(gpas_deepnorm, final=False),
    ),
    "gemma3n": (
        {
            "preset": "peri_ln",
            "residual": {"attention": {"kind": "laurel_gemma3n", "rank": 3}, "cross_attention": "add"},
        },
        _sublayers(gemma3n, norm="rms_norm"),
    ),
    "deep_delta_pre_ln": ({"preset": "pre_ln", "residual": "deep_delta"}, _sublayers(deep_delta_pre_ln)),
    "residuals_by_sublayer": (
        {
            "preset": "pre_ln",
            "residual": {"attention": "highway", "feed_forward": {"kind": "constant", "branch_scale": 0.5}},
        },
        _sublayers(by_sublayer),
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
    "embedding_skip",
    "altup",
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
    state = reference.start(x) if reference.begin is None else reference.begin(x, lambda name: params("", name))
    streams = []
    for i in range(layers):
        branches = {
            "attn": lambda u, i=i, **branch_norms: attention(w, f"layers.{i}.", u, u, heads, allowed, **branch_norms),
            "cross": lambda u, i=i, **branch_norms: attention(
                w, f"layers.{i}.cross.", u, memory, heads, memory_allowed, **branch_norms
            ),
            "ffn": lambda u, mid=same, up=same, i=i: linear(
                w, f"layers.{i}.w2", mid(ACTIVATIONS[act](up(linear(w, f"layers.{i}.w1", u))))
            ),
        }
        sites = [
            SublayerCall(
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
    ends = r"encoder\.layer\.\d+\.connections\.(start|head|backout)_(?:gate|norm)\.([\w.]+)"
    if match := re.fullmatch(ends, path):
        return [f"{match[1]}.{match[2]}"]
    _, _, i, rest = path.split(".", 3)
    if rest == "connections.average_norm.alpha":
        return [f"layers.{i}.ffn.average"]
    if match := re.fullmatch(r"connections\.(begin|layer)_(?:gate|norm)\.([\w.]+)", rest):
        return [f"layers.{i}.ffn.{match[1]}.{match[2]}"]
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
