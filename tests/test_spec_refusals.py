"""What a spec is refused for and in which words, and what it is only warned about."""

import dataclasses
import logging
import math
from typing import Any

import pytest
from families import slow_unless
from specs import AXES, NEEDED, accepts, config, parse, refused

from hf_addnorm import AddNormBertModel
from hf_addnorm.models.base.registries import DEPTH_RULES, INITS, NORMS, STREAMS, WIRINGS
from hf_addnorm.models.spec import refusals
from hf_addnorm.models.spec.presets import PRESETS
from hf_addnorm.models.spec.spec import FORMAT_VERSION, SELECTORS, SLOTS


# --- refusals ---

_ALLOWED = "allowed is"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        # the spec itself
        (3, ["add_norm is 3", _ALLOWED, "preset's name", "dict"]),
        (["pre_ln"], ["add_norm is ['pre_ln']", _ALLOWED]),
        (True, ["add_norm is True", _ALLOWED]),
        ("pre_nl", ["add_norm.preset", "unknown preset 'pre_nl'", "Did you mean pre_ln", *PRESETS]),
        ("Pre_LN", ["add_norm.preset", "'Pre_LN'", "Known:"]),
        ({"preset": None}, ["add_norm.preset", "None", "Known:"]),
        ({"preset": ["pre_ln"]}, ["add_norm.preset", "['pre_ln']", "Known:"]),
        ({"nrom": "dyt"}, ["add_norm", "unknown key 'nrom'", "Did you mean norm", "feed_forward"]),
        ({"attn": []}, ["unknown key 'attn'", "attention"]),
        ({"kind": "pre_ln"}, ["unknown key 'kind'", "preset"]),
        # the format
        ({"format_version": FORMAT_VERSION + 1}, ["format_version", f"up to {FORMAT_VERSION}", "newer hf_addnorm"]),
        # a newer format is refused as such, before what it has in it
        ({"format_version": 99, "preset": "from_the_future", "new_axis": 1}, ["format_version is 99", "newer"]),
        ({"format_version": 0}, ["format_version is 0", _ALLOWED]),
        ({"format_version": True}, ["format_version is True", _ALLOWED]),
        ({"format_version": 1.0}, ["format_version is 1.0", _ALLOWED]),
        ({"format_version": "1"}, ["format_version is '1'", _ALLOWED]),
        ({"format_version": None}, ["format_version is None", _ALLOWED]),
        # names
        ({"norm": "layernorm"}, ["add_norm.norm", "unknown norm 'layernorm'", "Did you mean layer_norm", "rms_norm"]),
        ({"norm": None}, ["add_norm.norm is None", _ALLOWED, *NORMS]),
        ({"norm": {"kind": "dty"}}, ["add_norm.norm", "'dty'", "Did you mean dyt"]),
        ({"norm": {"kind": 1}}, ["add_norm.norm", "1", "Known:"]),
        ({"residual": "ad"}, ["add_norm.residual", "'ad'", "Did you mean add"]),
        ({"init": "depnorm"}, ["add_norm.init[0]", "'depnorm'", "Did you mean deepnorm"]),
        ({"init": ["scaled_output", "z_fixup"]}, ["add_norm.init[1]", "'z_fixup'", "Did you mean t_fixup", *INITS]),
        ({"init": {"base": "stock"}}, ["add_norm.init[0]", "'kind'", *INITS]),
        ({"stream": "duel"}, ["add_norm.stream", "unknown stream 'duel'", "Did you mean dual", *STREAMS]),
        ({"stream": {"kind": "hyper_connection"}}, ["add_norm.stream", "Did you mean hyper_connections", *STREAMS]),
        ({"stream": None}, ["add_norm.stream is None", _ALLOWED, *STREAMS]),
        ({"stream": {"streams": 2}}, ["add_norm.stream", "'kind'", *STREAMS]),
        ({"wiring": "paralel"}, ["add_norm.wiring", "unknown wiring 'paralel'", "Did you mean parallel", *WIRINGS]),
        ({"wiring": ["b2t"]}, ["add_norm.wiring is ['b2t']", _ALLOWED, *WIRINGS]),
        ({"embed": "none_"}, ["add_norm.embed", "'none_'", "auto", *NORMS]),
        ({"head": "auto"}, ["add_norm.head", "'auto'", "stock", *NORMS]),
        ({"final": "auto"}, ["add_norm.final", "'auto'", *NORMS]),
        # options
        ({"norm": {"kind": "rms_norm", "epsilon": 1}}, ["add_norm.norm (rms_norm)", "'epsilon'", "eps", "gain"]),
        ({"norm": {"alpha_init": 1}}, ["add_norm.norm (layer_norm)", "'alpha_init'", "variance"]),
        ({"norm": {"kind": "none", "eps": 1}}, ["add_norm.norm (none)", "'eps'", "takes none"]),
        ({"norm": {"eps_place": "insde"}}, ["add_norm.norm.eps_place is 'insde'", "'inside' or 'outside'"]),
        ({"norm": {"bias": 1}}, ["add_norm.norm.bias is 1", "true or false"]),
        ({"norm": {"kind": "dyt", "alpha_init": 0}}, ["add_norm.norm.alpha_init is 0", "above 0"]),
        ({"norm": {"kind": "dyt", "alpha_init": True}}, ["add_norm.norm.alpha_init is True", "a number"]),
        ({"norm": {"kind": "rms_norm", "eps": math.nan}}, ["add_norm.norm.eps is nan", "a number"]),
        ({"norm": {"kind": "rms_norm", "eps": math.inf}}, ["add_norm.norm.eps is inf", "a number"]),
        ({"norm": {"kind": "affine", "groups": "head"}}, ["add_norm.norm.groups is 'head'", "'heads'", "null"]),
        ({"residual": {"share": "layer"}}, ["add_norm.residual (add)", "'share'", "takes none"]),
        ({"residual": {"kind": "scalar", "side": "left"}}, ["add_norm.residual.side is 'left'", "'branch' or 'skip'"]),
        (
            {"residual": {"kind": "constant", "skip_scale": {"kind": "power", "of": "layer"}}},
            ["add_norm.residual.skip_scale (power)", "'exponent'", "must be given"],
        ),
        (
            {"residual": {"kind": "constant", "skip_scale": {"kind": "power", "of": "depth", "exponent": 1}}},
            ["add_norm.residual.skip_scale.of is 'depth'", "'sublayers'"],
        ),
        ({"residual": {"kind": "constant", "branch_scale": -math.inf}}, ["branch_scale is -inf", "a number"]),
        ({"pre_scale": "half"}, ["add_norm.pre_scale", "'half'", *DEPTH_RULES]),
        ({"dropout": "after"}, ["add_norm.dropout is 'after'", "'before_out' or 'after_out'"]),
        ({"dropout": 0.1}, ["add_norm.dropout is 0.1", "'before_out'"]),
        ({"drop_path": {"kind": "linear"}}, ["add_norm.drop_path (linear)", "'last'", "must be given"]),
        ({"drop_path": {"kind": "linear", "last": 0.1, "of": 1}}, ["add_norm.drop_path (linear)", "'of'", "first"]),
        ({"drop_path": "half"}, ["add_norm.drop_path", "'half'", *DEPTH_RULES]),
        ({"drop_path": True}, ["add_norm.drop_path is True", "a number"]),
        ({"drop_path": None}, ["add_norm.drop_path is None", "a number"]),
        ({"qkv_width": "heads"}, ["add_norm.qkv_width is 'heads'", "'head' or 'hidden'"]),
        ({"qkv_width": 4}, ["add_norm.qkv_width is 4", "'head' or 'hidden'"]),
        ({"stream": {"kind": "hyper_connections", "streams": 0}}, ["add_norm.stream.streams is 0", "at least 1"]),
        ({"stream": {"kind": "hyper_connections", "streams": 2.0}}, ["stream.streams is 2.0", "a whole number"]),
        ({"stream": {"kind": "hyper_connections", "reduce": "max"}}, ["stream.reduce is 'max'", "'mean' or 'sum'"]),
        ({"stream": {"kind": "dual", "scale": math.inf}}, ["add_norm.stream.scale is inf", "finite"]),
        ({"stream": {"kind": "single", "scale": 1}}, ["add_norm.stream (single)", "'scale'", "takes none"]),
        ({"wiring": {"kind": "parallel", "shared_norm": 1}}, ["wiring.shared_norm is 1", "true or false"]),
        ({"wiring": {"kind": "b2t", "shared_norm": True}}, ["add_norm.wiring (b2t)", "'shared_norm'", "takes none"]),
        # probabilities, at every depth
        ({"drop_path": 1}, ["add_norm.drop_path is 1", "at least 0", "below 1"]),
        ({"drop_path": -0.1}, ["add_norm.drop_path is -0.1", "at least 0"]),
        ({"drop_path": {"kind": "linear", "last": 1.5}}, ["add_norm.drop_path is 1 in layer 3", "below 1"]),
        ({"drop_path": {"kind": "linear", "first": -0.3, "last": 0.3}}, ["drop_path is -0.3 in layer 1"]),
        ({"drop_path": 0.2, "layers": [{"index": 2, "drop_path": 1.0}]}, ["drop_path is 1 in layer 3", "below 1"]),
        # slots
        ({"attention": "pre"}, ["add_norm.attention is 'pre'", _ALLOWED, *SLOTS]),
        ({"attention": None}, ["add_norm.attention is None", _ALLOWED, *SLOTS]),
        ({"attention": ["prae"]}, ["add_norm.attention", "unknown slot 'prae'", "Did you mean pre", *SLOTS]),
        ({"attention": ["pre", 1]}, ["add_norm.attention", "['pre', 1]", *SLOTS]),
        ({"feed_forward": {"q": True}}, ["add_norm.feed_forward", "unknown slot 'q'", "pre, up, mid, out, post"]),
        ({"feed_forward": ["post", "k"]}, ["add_norm.feed_forward", "unknown slot 'k'", "pre, up, mid, out, post"]),
        (
            {"layers": [{"first": 1, "feed_forward": {"v": "dyt"}}]},
            ["add_norm.layers[0].feed_forward", "unknown slot 'v'", "pre, up, mid, out, post"],
        ),
        ({"cross_attention": ["Q"]}, ["add_norm.cross_attention", "unknown slot 'Q'", *SLOTS]),
        ({"cross_attention": 1}, ["add_norm.cross_attention is 1", _ALLOWED, *SLOTS]),
        ({"attention": {"pre": "dty"}}, ["add_norm.attention.pre", "'dty'", "Did you mean dyt"]),
        ({"attention": {"pre": 1}}, ["add_norm.attention.pre is 1", _ALLOWED, *NORMS]),
        ({"attention": {"pre": {"eps": 1e-5}}}, ["add_norm.attention.pre", "'kind'", *NORMS]),
        # layers
        ({"layers": {"first": 1}}, ["add_norm.layers is {'first': 1}", "a list of dicts"]),
        ({"layers": None}, ["add_norm.layers is None", "a list of dicts"]),
        ({"layers": ["first"]}, ["add_norm.layers[0] is 'first'", *SELECTORS]),
        ({"layers": [{"first": 1}]}, ["add_norm.layers[0]", "changes nothing", "attention"]),
        ({"layers": [{"norm": "dyt"}]}, ["add_norm.layers[0]", "0 of", *SELECTORS, "exactly one"]),
        ({"layers": [{"first": 1, "last": 1, "norm": "dyt"}]}, ["add_norm.layers[0]", "2 of", "exactly one"]),
        (
            {"layers": [{"first": 1, "norm": "dyt"}, {"lst": 1}]},
            ["add_norm.layers[1]", "'lst'", "last"],
        ),
        ({"layers": [{"first": 1, "final": True}]}, ["add_norm.layers[0]", "unknown key 'final'", "pre_scale"]),
        ({"layers": [{"first": 1, "stream": "dual"}]}, ["add_norm.layers[0]", "unknown key 'stream'", "drop_path"]),
        ({"layers": [{"first": 1, "wiring": "b2t"}]}, ["add_norm.layers[0]", "unknown key 'wiring'", "drop_path"]),
        ({"layers": [{"first": 1, "qkv_width": "all"}]}, ["layers[0].qkv_width is 'all'", "'head' or 'hidden'"]),
        ({"layers": [{"first": 0, "norm": "dyt"}]}, ["add_norm.layers[0].first is 0", "at least 1"]),
        ({"layers": [{"first": True, "norm": "dyt"}]}, ["add_norm.layers[0].first is True", "whole number"]),
        ({"layers": [{"last": 1.0, "norm": "dyt"}]}, ["add_norm.layers[0].last is 1.0", "whole number"]),
        ({"layers": [{"index": "0", "norm": "dyt"}]}, ["add_norm.layers[0].index is '0'", _ALLOWED, "index"]),
        ({"layers": [{"index": [], "norm": "dyt"}]}, ["add_norm.layers[0].index is []", _ALLOWED]),
        ({"layers": [{"index": [0, True], "norm": "dyt"}]}, ["add_norm.layers[0].index is [0, True]", _ALLOWED]),
        ({"layers": [{"range": [2, 2], "norm": "dyt"}]}, ["add_norm.layers[0].range is [2, 2]", "start < stop"]),
        ({"layers": [{"range": [-1, 2], "norm": "dyt"}]}, ["add_norm.layers[0].range is [-1, 2]", "0 <= start"]),
        ({"layers": [{"range": 2, "norm": "dyt"}]}, ["add_norm.layers[0].range is 2", "[start, stop]"]),
        (
            {"layers": [{"first_fraction": 0, "norm": "dyt"}]},
            ["first_fraction is 0", "above 0", "at most 1"],
        ),
        ({"layers": [{"last_fraction": 1.5, "norm": "dyt"}]}, ["layers[0].last_fraction is 1.5", "at most 1"]),
        ({"layers": [{"first": 1, "norm": "dty"}]}, ["add_norm.layers[0].norm", "'dty'", "Did you mean dyt"]),
        ({"layers": [{"first": 1, "cross_attention": None}]}, ["add_norm.layers[0].cross_attention is None", *SLOTS]),
        # contradictions
        (
            {"norm": {"kind": "rms_norm", "gain": False, "zero_centered": True}},
            ["add_norm.norm (rms_norm)", "zero_centered", "gain is false"],
        ),
        ({"init": "zero_out_norm"}, ["add_norm.init", "'zero_out_norm'", "slot out"]),
        ({"preset": "pre_ln", "dropout": "after_out"}, ["add_norm.dropout is 'after_out'", "slot out", "before_out"]),
        ({"pre_scale": 0.5}, ["add_norm.pre_scale", "slot pre", "allowed is 1"]),
        ({"pre_scale": "cait"}, ["add_norm.pre_scale", "slot pre"]),
        ({"init": ["deepnorm", "scaled_output"]}, ["add_norm.init", "'deepnorm'", "'scaled_output'", "keep one"]),
        ({"init": ["sub_ln", {"kind": "deepnorm", "base": "stock"}]}, ["add_norm.init", "'sub_ln'", "'deepnorm'"]),
        ({"init": ["scaled_output", "scaled_output"]}, ["add_norm.init", "'scaled_output'", "keep one"]),
        ({"preset": "deepnorm", "init": ["deepnorm", "sub_ln"]}, ["add_norm.init", "'deepnorm'", "'sub_ln'"]),
        ({"init": ["scaled_output", "b2t"]}, ["add_norm.init", "'scaled_output'", "'b2t'", "keep one"]),
        *(
            ({"stream": stream, **residual}, [f"add_norm{where}.residual", stream, "'add'"])
            for stream in ("siamese", "hyper_connections", "manifold_hyper_connections")
            for where, residual in (
                ("", {"residual": "vector"}),
                ("", {"residual": {"kind": "constant", "skip_scale": 2}}),
                (".layers[0]", {"layers": [{"last": 1, "residual": "scalar"}]}),
            )
        ),
        (
            {"stream": "hyper_connections", "residual": {"feed_forward": "highway"}},
            ["add_norm.residual", "hyper_connections", "'add'"],
        ),
        (
            {"residual": {"attention": "add", "feed_froward": "add"}},
            ["add_norm.residual", "Did you mean feed_forward"],
        ),
        ({"residual": {"attention": "gpas"}}, ["add_norm.residual.attention.share is 'layer'", "'sublayer'"]),
        (
            {"preset": "rezero", "residual": {"feed_forward": "add"}},
            ["add_norm.residual.attention.share is 'layer'", "'sublayer'"],
        ),
        ({"residual": {"attention": {"kind": "vectr"}}}, ["add_norm.residual.attention", "Did you mean vector"]),
        (
            {"preset": "parallel", "residual": {"attention": "vector"}},
            ["add_norm.residual.attention is 'vector'", "wiring", "feed_forward"],
        ),
        (
            {"preset": "res_post_norm", "residual": "deep_delta"},
            ["add_norm.init", "'zero_out_norm'", "deep_delta", "no gradient"],
        ),
        (
            {"preset": "res_post_norm", "residual": "gru_gate"},
            ["add_norm.init", "'zero_out_norm'", "ReLU", "'relu': false"],
        ),
        ({"residual": {"kind": "laurel_lr", "rank": 64}}, ["add_norm.residual (laurel_lr)", "rank is 64", "at most"]),
        ({"residual": {"kind": "constant", "skip_scale": "beam"}}, ["add_norm.residual.skip_scale (beam)", "'side'"]),
        ({"wiring": "two_hop", "stream": "siamese"}, ["add_norm.wiring", "two_hop", "several streams", "siamese"]),
        ({"preset": "pre_ln", "variant": "official"}, ["add_norm.variant", "'pre_ln'", "deepnorm", "mhc"]),
        ({"preset": "deepnorm", "variant": "authors"}, ["add_norm.variant", "'authors'", "'paper' or 'official'"]),
        ({"stream": {"kind": "hyper_connections", "tanh": False}}, ["add_norm.stream", "tanh", "dynamic"]),
        (
            {"stream": {"kind": "hyper_connections", "norm": "rms_norm"}},
            ["add_norm.stream", "norm is", "dynamic is false"],
        ),
        (
            {"stream": {"kind": "hyper_connections", "scales": "three"}},
            ["add_norm.stream", "scales is", "dynamic is false"],
        ),
        ({"stream": {"kind": "manifold_hyper_connections", "streams": 1}}, ["stream.streams is 1", "at least 2"]),
        ({"layers": [{"every": 1, "attention": []}]}, ["add_norm.layers[0].every is 1", "at least 2"]),
        ({"preset": "b2t", "stream": "dual"}, ["add_norm.wiring", "b2t", "several streams", "dual"]),
        ({"wiring": "b2t", "stream": "hyper_connections"}, ["add_norm.wiring", "b2t", "several streams", "hyper"]),
    ],
    ids=str,
)
def test_is_refused_in_words(value, words):
    sentence = refused(value, *words)
    # one sentence or two, ended
    assert sentence.endswith(".")
    assert "\n" not in sentence


def test_contradictions_consider_the_overrides():
    # a slot that only some layers fill is filled
    assert parse({"dropout": "after_out", "layers": [{"first": 1, "attention": ["out"]}]}).dropout == "after_out"
    assert parse({"pre_scale": 0.5, "layers": [{"last": 1, "attention": ["pre"]}]}).pre_scale == 0.5
    assert parse({"init": "zero_out_norm", "layers": [{"last": 1, "feed_forward": ["out"]}]}).init


# options are typed: whatever is not of the type is refused with the field, the value and what is allowed

_OF_NO_TYPE: list[Any] = [[], {"a": 1}, "?", object(), -1.5, math.nan, math.inf, True, None, 0]


def _wrong_options(registry):
    """(kind, option, the values that are not of its type), all of a registry."""
    for kind in registry:
        for name, option in registry.options(kind).items():
            yield kind, name, [value for value in _OF_NO_TYPE if not accepts(option.annotation, value)]


def _refuse(axis, kind, name, value):
    choice = {"kind": kind, **NEEDED.get(kind, {}), name: value}
    refused(AXES[axis][1](choice), f"add_norm.{axis}", name, repr(value))


# the first axis of each registry is in every run
_FIRST = {id(registry): axis for axis, (registry, _) in reversed(AXES.items())}.values()


@pytest.mark.parametrize("axis", [slow_unless(axis in _FIRST, axis) for axis in AXES])
def test_options_of_the_wrong_type_are_refused(axis):
    for kind, name, values in _wrong_options(AXES[axis][0]):
        for value in values:
            _refuse(axis, kind, name, value)


@pytest.mark.parametrize("axis", [axis for axis in AXES if axis not in _FIRST])
def test_an_option_of_a_wrong_type_is_refused_on_every_axis(axis):
    """Every option with one value; `slow` has all of them."""
    for index, (kind, name, values) in enumerate(_wrong_options(AXES[axis][0])):
        _refuse(axis, kind, name, values[index % len(values)])


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"norm": {"kind": "layer_norm", "eps": -1}}, ["add_norm.norm.eps is -1", "above 0", "null"]),
        ({"norm": {"kind": "affine", "groups": 0}}, ["add_norm.norm.groups is 0", "at least 1", "'heads'", "null"]),
        ({"residual": {"kind": "scalar", "start": None}}, ["add_norm.residual.start is None", "a number"]),
        ({"residual": {"kind": "scalar", "start": "0.5"}}, ["add_norm.residual.start", "'0.5'", "a number"]),
        ({"norm": {"kind": "rms_norm", "eps": math.nan}}, ["add_norm.norm.eps is nan", "finite"]),
        ({"attention": {"pre": 1}}, ["add_norm.attention.pre is 1", "true", "false"]),
        ({"embed": 1}, ["add_norm.embed is 1", "true", "false", "auto"]),
    ],
    ids=str,
)
def test_all_that_is_allowed_is_named(value, words):
    refused(value, *words)


@pytest.mark.parametrize("slots", [["pre", ["mid"]], [{"pre": "rms_norm"}]], ids=str)
def test_a_list_of_anything_but_names_is_refused_in_words(slots):
    refused({"attention": slots}, "add_norm.attention", "allowed is", *SLOTS)


@pytest.mark.parametrize(
    ("value", "word"),
    [
        ({"layers": [{"first": 1, "dropout": "after_out"}]}, "dropout"),
        ({"layers": [{"first": 1, "pre_scale": 0.5}]}, "pre_scale"),
        ({"cross_attention": ["out"], "dropout": "after_out"}, "dropout"),
        (
            {
                "preset": "sandwich_ln",
                "layers": [{"first": 1, "attention": ["post"], "feed_forward": ["post"], "pre_scale": 0.5}],
            },
            "pre_scale",
        ),
    ],
    ids=str,
)
def test_an_axis_that_does_nothing_in_its_layer_is_refused(value, word):
    refused(value, word)


@pytest.mark.parametrize(
    "value",
    [
        {"norm": {"kind": "affine", "groups": 5}},
        {"norm": {"kind": "affine", "groups": "heads"}, "hidden": 8, "feed_forward": {"mid": True}},
    ],
    ids=str,
)
def test_groups_that_do_not_fit_are_refused_with_the_config(value):
    value = {key: item for key, item in value.items() if key != "hidden"}
    with pytest.raises(ValueError, match="groups"):
        config(value, intermediate_size=13)


def test_what_the_new_axes_allow_is_not_refused():
    for value in (
        {"drop_path": 0, "layers": [{"index": 2, "drop_path": 0.99}]},
        {"stream": {"kind": "hyper_connections", "streams": 1}, "residual": "add"},
        {"preset": "rezero", "stream": "dual"},
        {"preset": "deepnorm", "wiring": "parallel"},
        {"preset": "b2t", "residual": "vector", "drop_path": {"kind": "linear", "last": 0.5}},
        {"attention": ["q", "post"], "qkv_width": "hidden"},
    ):
        assert config(value).add_norm == parse(value)


@pytest.mark.parametrize(
    "value",
    [
        {"qkv_width": "hidden"},
        {"layers": [{"first": 1, "qkv_width": "hidden"}]},
        # a layer writes once: these norms are never run
        {"wiring": "parallel", "attention": {"post": "rms_norm"}},
        {"preset": "parallel", "feed_forward": {"pre": "rms_norm"}},
        {"wiring": "parallel", "attention": ["mid"], "feed_forward": ["pre"], "pre_scale": 0.5},
    ],
    ids=str,
)
def test_a_new_axis_that_does_nothing_is_refused(value):
    with pytest.raises(ValueError, match="add_norm"):
        config(value)


def test_the_streams_own_norm_is_judged_with_the_config():
    refused(
        {
            "stream": "dual",
            "norm": {"kind": "affine", "groups": 5},
            "embed": False,
            "attention": {"post": "layer_norm"},
            "feed_forward": {"post": "layer_norm"},
        },
        "add_norm",
        "groups",
    )


def test_a_spec_that_was_changed_by_hand_is_judged_too():
    with pytest.raises(ValueError, match="dropout"):
        config(dataclasses.replace(parse("pre_ln"), dropout="after_out"))


# --- what is unusual is warned about ---


@pytest.fixture
def warned(monkeypatch):
    """The sentences that were logged, from here on each one for the first time."""
    logging.Logger.warning_once.cache_clear()
    sentences: list[str] = []
    monkeypatch.setattr(refusals.logger, "warning", lambda sentence: sentences.append(sentence))
    return sentences


UNUSUAL = [
    (
        "bounded_norm_in_post",
        {"norm": "dyt"},
        ["add_norm.attention.post is 'dyt'", "add_norm.feed_forward.post is 'dyt'"],
    ),
    ("bounded_norm_in_post", {"feed_forward": {"post": "derf"}}, ["add_norm.feed_forward.post is 'derf'"]),
    ("bounded_norm_in_post", {"layers": [{"last": 1, "norm": "isru"}]}, ["add_norm.attention.post is 'isru'"]),
    (
        "pre_norm_without_a_final_one",
        {"preset": "pre_ln", "final": False},
        ["add_norm.feed_forward.pre is 'layer_norm'"],
    ),
    (
        "pre_norm_without_a_final_one",
        {"layers": [{"last": 1, "feed_forward": {"pre": "rms_norm", "out": True}}]},
        ["add_norm.feed_forward.pre is 'rms_norm'"],
    ),
]


@pytest.mark.parametrize(("name", "value", "words"), UNUSUAL, ids=str)
def test_what_is_unusual_is_warned_about_once(name, value, words, warned):
    kept = config(value)
    (sentence,) = warned
    unusual = refusals.WARNINGS[name]
    assert all(part in sentence for part in (*words, unusual.reason, unusual.usual)), sentence
    # neither a second one nor a model of it says it again
    config(value)
    AddNormBertModel(kept)
    assert len(warned) == 1


def test_every_warning_is_tested_and_no_published_scheme_has_one(warned):
    assert {name for name, *_ in UNUSUAL} == set(refusals.WARNINGS)
    for preset in PRESETS:
        config(preset)
    for usual in (
        {"preset": "residual", "attention": ["pre", "post"], "feed_forward": ["pre"]},
        {"attention": ["pre"], "feed_forward": ["pre", "post"]},
        {"norm": "affine"},
        {"preset": "pre_ln", "norm": "derf", "embed": "dyt"},
    ):
        config(usual)
    assert warned == []
