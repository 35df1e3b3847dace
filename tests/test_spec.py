"""`config.add_norm`: what it accepts, what it refuses and in which words; its JSON form is the whole of it."""

import copy
import dataclasses
import json
import logging
import math
import pickle
import types
import typing
from typing import Annotated, Any, Literal, get_args, get_origin

import pytest
from transformers import AutoConfig, BertConfig

from hf_addnorm import AddNormBertConfig, AddNormBertModel, AddNormSpec, presets
from hf_addnorm.models import refusals
from hf_addnorm.models.depth import DEPTH_RULES, parse_depth_value
from hf_addnorm.models.initialization import INITS
from hf_addnorm.models.norms import NORMS
from hf_addnorm.models.positions import POSITIONS
from hf_addnorm.models.presets import PRESETS
from hf_addnorm.models.registry import Choice, Registry
from hf_addnorm.models.residuals import RESIDUALS
from hf_addnorm.models.spec import FORMAT_VERSION, SELECTORS, SLOTS, STREAMS, WIRINGS, LayerSpec
from hf_addnorm.models.weight_transforms import WEIGHTS


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


# --- JSON is the whole of it ---


@pytest.mark.parametrize("preset", PRESETS)
def test_preset_round_trips(preset):
    spec = parse(preset)
    data = through_json(spec)
    assert parse(data) == spec
    assert spec.preset == data["preset"] == preset
    assert data["format_version"] == FORMAT_VERSION
    # every axis is written out, so that a later version's defaults change nothing
    assert set(data) == {f.name for f in dataclasses.fields(AddNormSpec)}


def test_a_spec_that_uses_everything_round_trips():
    assert {next(iter(override)) for override in EVERYTHING["layers"]} == set(SELECTORS)
    assert set(EVERYTHING) | {"format_version"} == {f.name for f in dataclasses.fields(AddNormSpec)}
    assert set(EVERYTHING["attention"]) | {"post", "qk"} == set(SLOTS)
    spec = parse(EVERYTHING)
    assert parse(through_json(spec)) == spec
    assert through_json(parse(through_json(spec))) == through_json(spec)
    loaded = AddNormBertConfig.from_dict(json.loads(config(EVERYTHING).to_json_string()))
    assert loaded.add_norm == spec


@pytest.mark.parametrize("axis", AXES)
def test_every_choice_round_trips_with_every_option(axis):
    registry, around = AXES[axis]
    for kind in registry:
        spec = parse(around({"kind": kind, **NEEDED.get(kind, {})}))
        data = through_json(spec)
        assert parse(data) == spec
        # the JSON has every option, so that parsing it again takes no default
        written = data
        for key in axis.replace("[0]", ".0").split("."):
            written = written[int(key) if key.isdigit() else key]
        assert set(written) == {"kind", *registry.options(kind)}


def test_names_are_of_one_registry_each():
    assert {id(registry) for registry, _ in AXES.values()} == {
        id(r) for r in (NORMS, RESIDUALS, DEPTH_RULES, INITS, STREAMS, WIRINGS, POSITIONS, WEIGHTS)
    }


def test_whole_numbers_become_floats_once():
    spec = parse({"residual": {"kind": "constant", "skip_scale": 2}, "norm": {"eps": 1}})
    assert type(spec.residual.options["skip_scale"]) is float
    assert type(spec.norm.options["eps"]) is float
    assert parse(through_json(spec)) == spec


def test_the_json_form_is_detached_from_the_spec():
    spec = parse({**EVERYTHING, "layers": [{"first": 1, "attention": {"pre": "dyt"}}]})
    data = spec.to_dict()
    data["attention"].clear()
    data["layers"][0]["attention"]["pre"]["alpha_init"] = 7.0
    data["residual"]["skip_scale"]["exponent"] = 7.0
    data["layers"].clear()
    data["init"].clear()
    assert spec == parse({**EVERYTHING, "layers": [{"first": 1, "attention": {"pre": "dyt"}}]})


def test_the_json_form_of_an_index_list_is_detached():
    spec = parse({"layers": [{"index": [0, 1], "norm": "dyt"}]})
    spec.to_dict()["layers"][0]["index"].append(3)
    assert spec.layers[0].value == [0, 1]


def test_a_spec_does_not_share_what_it_was_parsed_from():
    value = copy.deepcopy(EVERYTHING)
    spec = parse(value)
    before = through_json(spec)
    value["attention"].clear()
    value["layers"][2]["index"].append(0)
    value["residual"]["skip_scale"]["exponent"] = 3
    assert through_json(spec) == before
    # nor what a preset's row holds
    parse("mix_ln").attention.clear()
    assert parse("mix_ln").attention


# --- the three ways of writing one ---


@pytest.mark.parametrize("preset", PRESETS)
def test_name_dict_and_spec_are_the_same(preset):
    spec = parse(preset)
    assert parse({"preset": preset}) == spec
    assert parse(spec) == spec
    assert config(preset).add_norm == config({"preset": preset}).add_norm == config(spec).add_norm == spec


def test_nothing_is_stock_bert():
    assert parse(None) == parse("post_ln") == parse({}) == AddNormBertConfig().add_norm
    spec = parse(None)
    assert spec.norm == Choice("layer_norm", {**spec.norm.options, "eps": None, "bias": None})
    assert spec.attention == spec.feed_forward == {"post": True}
    assert (spec.embed, spec.final, spec.head, spec.init, spec.layers) == ("auto", False, "stock", [], [])
    assert (spec.stream, spec.wiring, spec.residual) == (Choice("single"), Choice("sequential"), Choice("add"))
    assert (spec.qkv_width, spec.drop_path) == ("head", 0.0)


def test_public_presets_are_the_table():
    assert presets() == PRESETS
    presets().clear()
    assert presets() == PRESETS


@pytest.mark.parametrize("preset", [name for name, row in PRESETS.items() if row.official])
def test_the_official_form_of_a_preset(preset):
    paper, official = parse(preset), parse({"preset": preset, "variant": "official"})
    changed = {key for key in through_json(paper) if through_json(paper)[key] != through_json(official)[key]}
    assert changed == {"variant", *PRESETS[preset].official}
    assert parse(through_json(official)) == official
    over = {"preset": preset, "variant": "official", "norm": "rms_norm"}
    assert parse(over).norm.kind == "rms_norm"


def test_overrides_of_a_preset_replace_axes():
    spec = parse({"preset": "deepnorm", "norm": "rms_norm", "embed": False, "final": True})
    deepnorm = parse("deepnorm")
    assert spec.norm.kind == "rms_norm"
    assert (spec.embed, spec.final) == (False, True)
    assert (spec.residual, spec.init, spec.attention) == (deepnorm.residual, deepnorm.init, deepnorm.attention)


def test_a_dict_without_kind_changes_options_of_the_preset():
    assert parse({"preset": "pre_rms_norm", "norm": {"eps": 1e-5}}).norm.options["eps"] == 1e-5
    assert parse({"preset": "pre_rms_norm", "norm": {"eps": 1e-5}}).norm.kind == "rms_norm"
    residual = parse({"preset": "rezero", "residual": {"start": 0.5}}).residual
    assert residual == Choice("scalar", {"start": 0.5, "share": "layer", "side": "branch"})
    # a new kind starts from its own defaults
    assert parse({"preset": "rezero", "residual": {"kind": "scalar"}}).residual.options["share"] == "sublayer"


@pytest.mark.parametrize(
    ("written", "slots"),
    [
        (["pre", "out"], {"pre": True, "out": True}),
        (("out", "pre"), {"pre": True, "out": True}),
        ([], {}),
        ({}, {}),
        ({"pre": True, "post": False, "mid": None}, {"pre": True}),
    ],
    ids=str,
)
def test_slots_may_be_a_list_or_a_dict(written, slots):
    assert parse({"attention": written}).attention == slots


def test_cross_attention_follows_attention_until_it_is_given():
    assert parse("sub_ln").cross_attention is None
    assert parse("sub_ln").layer(0, LAYERS).cross_attention == {"pre": True, "mid": True}
    spec = parse({"preset": "sub_ln", "cross_attention": ["post"]})
    assert spec.layer(0, LAYERS).cross_attention == {"post": True}
    spec = parse({"preset": "sub_ln", "layers": [{"first": 1, "attention": ["post"]}]})
    assert [spec.layer(i, 2).cross_attention for i in range(2)] == [{"post": True}, {"pre": True, "mid": True}]


def test_an_init_may_be_a_name_a_dict_a_list_or_nothing():
    for init in ("scaled_output", {"kind": "scaled_output"}, ["scaled_output"], (Choice("scaled_output"),)):
        assert parse({"init": init}).init == [Choice("scaled_output")]
    for init in (None, "stock", []):
        assert parse({"preset": "deepnorm", "init": init}).init == []


def test_a_spec_of_another_copy_of_the_code_is_read_by_its_json():
    # a config that came as remote code has its own AddNormSpec class
    spec = parse(EVERYTHING)
    twin = types.SimpleNamespace(to_dict=spec.to_dict)
    assert parse(twin) == spec
    assert config(twin).add_norm == spec


# --- per-layer overrides ---


@pytest.mark.parametrize(
    ("selector", "value", "layers", "selected"),
    [
        ("first", 1, 4, [0]),
        ("first", 4, 4, [0, 1, 2, 3]),
        ("last", 1, 4, [3]),
        ("last", 3, 4, [1, 2, 3]),
        ("index", 0, 4, [0]),
        ("index", -1, 4, [3]),
        ("index", [1, -1], 4, [1, 3]),
        ("index", [-4, 0], 4, [0]),
        ("every", 2, 5, [1, 3]),
        ("every", 4, 4, [3]),
        ("every", 5, 4, []),
        ("range", [1, 3], 4, [1, 2]),
        ("range", [0, 4], 4, [0, 1, 2, 3]),
        ("first_fraction", 0.25, 12, [0, 1, 2]),
        ("first_fraction", 0.25, 7, [0]),
        ("first_fraction", 0.25, 3, []),
        ("first_fraction", 1, 3, [0, 1, 2]),
        ("last_fraction", 0.5, 5, [3, 4]),
        ("last_fraction", 1.0, 3, [0, 1, 2]),
        ("last_fraction", 0.1, 3, []),
    ],
)
def test_selector(selector, value, layers, selected):
    spec = parse({"layers": [{selector: value, "attention": ["pre"]}]})
    assert [i for i in range(layers) if spec.layer(i, layers).attention == {"pre": True}] == selected
    assert parse(through_json(spec)) == spec


def test_every_selector_is_tested():
    (mark,) = [m for m in test_selector.pytestmark if m.name == "parametrize"]
    assert {case[0] for case in mark.args[1]} == set(SELECTORS)


@pytest.mark.parametrize(("fraction", "layers", "count"), [(0.29, 100, 29), (0.58, 50, 29), (0.57, 100, 57)])
def test_a_fraction_that_hits_a_whole_number_is_that_number(fraction, layers, count):
    spec = parse({"layers": [{"first_fraction": fraction, "attention": ["pre"]}]})
    assert len(spec.layers[0].layers(layers)) == count


def test_later_overrides_win_axis_by_axis():
    spec = parse(
        {
            "norm": "rms_norm",
            "layers": [
                {"first": 3, "attention": ["pre"], "norm": "dyt"},
                {"index": 1, "attention": ["out"]},
                {"last": 2, "norm": {"kind": "affine", "bias": False}},
            ],
        }
    )
    got = [(spec.layer(i, 4).attention, spec.layer(i, 4).norm.kind) for i in range(4)]
    assert got == [
        ({"pre": True}, "dyt"),
        ({"out": True}, "dyt"),
        ({"pre": True}, "affine"),
        ({"post": True}, "affine"),
    ]
    assert all(spec.layer(i, 4).feed_forward == {"post": True} for i in range(4))


@pytest.mark.parametrize("axis", [f.name for f in dataclasses.fields(LayerSpec)])
def test_every_axis_of_a_layer_can_be_overridden(axis):
    value = {
        "norm": "dyt",
        "attention": ["pre"],
        "cross_attention": ["pre"],
        "feed_forward": ["pre"],
        "qkv_width": "hidden",
        "residual": "vector",
        "pre_scale": 0.5,
        "dropout": "after_out",
        "drop_path": {"kind": "linear", "last": 0.5},
    }[axis]
    # sandwich: every slot that the axes above need is filled
    spec = parse({"preset": "sandwich_ln", "layers": [{"index": 1, axis: value}]})
    assert parse(through_json(spec)) == spec
    stock, changed = spec.layer(0, 4), spec.layer(1, 4)
    assert stock == parse("sandwich_ln").layer(0, 4)
    differing = {f.name for f in dataclasses.fields(LayerSpec) if getattr(stock, f.name) != getattr(changed, f.name)}
    assert differing == ({axis, "cross_attention"} if axis == "attention" else {axis})


def test_overrides_reach_the_model():
    spec = {
        "layers": [{"last": 1, "attention": {"pre": "dyt"}, "norm": "rms_norm"}, {"index": 0, "residual": "scalar"}]
    }
    layers = AddNormBertModel(config(spec)).encoder.layer
    norms = [
        [type(n).__name__ for n in (layer.attention.output.LayerNorm, layer.output.LayerNorm)] for layer in layers
    ]
    assert norms == [["LayerNorm", "LayerNorm"]] * 3 + [["Identity", "RMSNorm"]]
    residuals = [type(layer.connections.feed_forward.residual_norm).__name__ for layer in layers]
    assert residuals == ["ScalarResidual", "Add", "Add", "Add"]
    assert type(layers[3].connections.attention.pre_norm).__name__ == "DynamicTanh"


def test_overrides_of_the_new_axes_reach_the_model():
    slots = ["q", "k", "v", "post"]
    spec = {
        "attention": slots,
        "drop_path": {"kind": "linear", "last": 0.6},
        "layers": [{"last": 1, "qkv_width": "hidden"}, {"index": [1, 2], "drop_path": 0.5}],
    }
    blocks = [layer.connections.attention for layer in AddNormBertModel(config(spec)).encoder.layer]
    for slot in ("q", "k", "v"):
        # two heads of 4
        assert [len(getattr(block, f"{slot}_norm").weight) for block in blocks] == [4, 4, 4, 8]
    assert [block.drop_path for block in blocks] == pytest.approx([0.0, 0.5, 0.5, 0.6])


@pytest.mark.parametrize(
    "selector",
    [{"first": 5}, {"last": 5}, {"index": 4}, {"index": -5}, {"index": [0, 4]}, {"range": [3, 5]}, {"range": [7, 9]}],
    ids=str,
)
def test_layers_that_are_not_there_are_refused(selector):
    override = {"layers": [{**selector, "attention": ["pre"]}]}
    refused(override, "add_norm.layers", str(next(iter(selector))), "0..3", "4")
    # whenever the depth becomes known, in either order
    for kwargs in (
        {"add_norm": override, "num_hidden_layers": LAYERS},
        {"num_hidden_layers": LAYERS, "add_norm": override},
    ):
        with pytest.raises(ValueError, match=r"add_norm\.layers"):
            AddNormBertConfig(**kwargs)
        with pytest.raises(ValueError, match=r"add_norm\.layers"):
            AddNormBertConfig.from_dict(config(num_hidden_layers=12).to_dict(), **kwargs)
    later = config()
    later.add_norm = override
    with pytest.raises(ValueError, match=r"add_norm\.layers"):
        AddNormBertModel(later)


def test_a_new_depth_and_a_new_spec_are_judged_together(tmp_path):
    deep = {"layers": [{"index": 7, "attention": ["pre"]}]}
    config().save_pretrained(tmp_path)
    for kwargs in ({"add_norm": deep, "num_hidden_layers": 8}, {"num_hidden_layers": 8, "add_norm": deep}):
        for got in (
            AddNormBertConfig.from_dict(config().to_dict(), **kwargs),
            AddNormBertConfig.from_pretrained(tmp_path, **kwargs),
            AutoConfig.from_pretrained(tmp_path, **kwargs),
            AddNormBertConfig(**kwargs),
        ):
            assert (got.num_hidden_layers, got.add_norm) == (8, parse(deep))


def test_a_shallower_copy_of_a_config_is_judged_too(tmp_path):
    config({"layers": [{"index": 3, "attention": ["pre"]}]}).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"add_norm\.layers"):
        AddNormBertConfig.from_pretrained(tmp_path, num_hidden_layers=2)
    got = AddNormBertConfig.from_pretrained(tmp_path, num_hidden_layers=2, add_norm="pre_ln")
    assert got.add_norm == parse("pre_ln")


# --- configs ---


def test_every_door_parses():
    spec = parse({"preset": "pre_ln", "norm": "dyt"})
    value = {"preset": "pre_ln", "norm": "dyt"}
    assigned, updated = config(), config()
    assigned.add_norm = value
    updated.update({"add_norm": value})
    from_dict = AddNormBertConfig.from_dict(config("deepnorm").to_dict(), add_norm=value)
    unused = AddNormBertConfig.from_dict(config().to_dict(), add_norm=value, return_unused_kwargs=True, other=1)
    assert assigned.add_norm == updated.add_norm == from_dict.add_norm == unused[0].add_norm == spec
    assert unused[1] == {"other": 1}


def test_a_refused_assignment_changes_nothing():
    cfg = config("pre_ln")
    with pytest.raises(ValueError, match="unknown preset"):
        cfg.add_norm = "pre_nl"
    assert cfg.add_norm == parse("pre_ln")


@pytest.mark.parametrize("add_norm", [None, "deepnorm", EVERYTHING], ids=["default", "preset", "everything"])
def test_saved_and_loaded(add_norm, tmp_path):
    cfg = config(add_norm)
    cfg.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["add_norm"] == cfg.add_norm.to_dict()
    assert written["model_type"] == "addnorm_bert"
    for loaded in (AddNormBertConfig.from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path)):
        assert type(loaded) is AddNormBertConfig
        assert loaded.add_norm == cfg.add_norm
        loaded.save_pretrained(tmp_path)
        assert json.loads((tmp_path / "config.json").read_text()) == written
    other = AddNormBertConfig.from_pretrained(tmp_path, add_norm="rezero")
    assert other.add_norm == parse("rezero")


@pytest.mark.parametrize("add_norm", [None, "mix_ln", EVERYTHING], ids=["default", "preset", "everything"])
def test_every_json_form_has_the_resolved_spec(add_norm):
    cfg = config(add_norm)
    resolved = json.loads(json.dumps(parse(add_norm).to_dict()))
    assert json.loads(cfg.to_json_string())["add_norm"] == resolved
    assert json.loads(cfg.to_json_string(use_diff=False))["add_norm"] == resolved
    assert cfg.to_diff_dict()["add_norm"] == resolved
    assert cfg.to_dict()["add_norm"] == resolved
    assert resolved["preset"] in repr(cfg)


def test_copies_are_equal_and_others_are_not():
    cfg = config(EVERYTHING)
    for twin in (copy.deepcopy(cfg), pickle.loads(pickle.dumps(cfg)), config(EVERYTHING), copy.copy(cfg)):
        assert twin == cfg
        assert twin.add_norm == cfg.add_norm
        assert isinstance(twin.add_norm, AddNormSpec)
    assert config("pre_ln") != config("post_ln")
    assert config({"norm": {"eps": 1e-5}}) != config({"norm": {"eps": 1e-6}})
    twin = copy.deepcopy(cfg)
    twin.add_norm = "pre_ln"
    assert cfg.add_norm == parse(EVERYTHING)


def test_a_stock_config_loads_as_the_stock_scheme(tmp_path):
    # keys that real checkpoints carry and that today's BertConfig does not declare
    BertConfig(**SIZES, gradient_checkpointing=False, position_embedding_type="absolute").save_pretrained(tmp_path)
    cfg = AddNormBertConfig.from_pretrained(tmp_path)
    assert cfg.add_norm == parse("post_ln")
    assert cfg.model_type == "addnorm_bert"
    assert (cfg.gradient_checkpointing, cfg.position_embedding_type) == (False, "absolute")
    assert AddNormBertConfig.from_pretrained(tmp_path, add_norm="pre_ln").add_norm == parse("pre_ln")


@pytest.mark.parametrize(
    "key",
    [
        "gradient_checkpointing",
        "position_embedding_type",
        "add_bias",
        "norm_first",
        "qk_norm",
        "final_norm",
        "norm_eps",
    ],
)
def test_other_unknown_keys_pass(key):
    assert getattr(config(**{key: 1}), key) == 1
    cfg = config()
    setattr(cfg, key, 1)
    assert getattr(AddNormBertConfig.from_dict(cfg.to_dict()), key) == 1


@pytest.mark.parametrize(
    "key", ["add_nrom", "addnorm", "add_norms", "AddNorm", "add-norm", "ad_norm", "add_morn", "addNorm", "add_norm_"]
)
def test_a_near_miss_of_the_key_is_refused_everywhere(key, tmp_path):
    config().save_pretrained(tmp_path)
    data = json.loads((tmp_path / "config.json").read_text())

    def written():
        (tmp_path / "config.json").write_text(json.dumps(data | {key: "pre_ln"}))
        AddNormBertConfig.from_pretrained(tmp_path)

    for door in (
        lambda: config(**{key: "pre_ln"}),
        lambda: setattr(config(), key, "pre_ln"),
        lambda: config().update({key: "pre_ln"}),
        lambda: AddNormBertConfig.from_dict(config().to_dict(), **{key: "pre_ln"}),
        lambda: AddNormBertConfig.from_dict(config().to_dict() | {key: "pre_ln"}),
        lambda: AddNormBertConfig.from_pretrained(tmp_path, **{key: "pre_ln"}),
        lambda: AutoConfig.from_pretrained(tmp_path, **{key: "pre_ln"}),
        lambda: AddNormBertModel.from_pretrained(tmp_path, **{key: "pre_ln"}),
        written,
    ):
        with pytest.raises(ValueError) as error:
            door()
        assert repr(key) in str(error.value)
        assert "'add_norm'" in str(error.value)


@pytest.mark.parametrize(
    ("stored", "words"),
    [
        ("pre_lm", ["add_norm.preset", "'pre_lm'", "pre_ln"]),
        ({"preset": "denseformer"}, ["add_norm.preset", "'denseformer'", *PRESETS]),
        ({"preset": "pre_ln", "sparsity": 1}, ["add_norm", "'sparsity'", "residual"]),
        ({"format_version": FORMAT_VERSION + 1}, ["format_version", str(FORMAT_VERSION + 1), "newer hf_addnorm"]),
    ],
    ids=str,
)
def test_a_config_file_is_judged_like_an_argument(stored, words, tmp_path):
    config().save_pretrained(tmp_path)
    data = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(data | {"add_norm": stored}))
    for load in (AddNormBertConfig.from_pretrained, AutoConfig.from_pretrained, AddNormBertModel.from_pretrained):
        with pytest.raises(ValueError) as error:
            load(tmp_path)
        assert all(word in str(error.value) for word in words), error.value


def test_none_leaves_a_checkpoints_scheme_alone(tmp_path):
    # as for every other override that a script passes on from an unset argument
    config("deepnorm").save_pretrained(tmp_path)
    assert AddNormBertConfig.from_pretrained(tmp_path, add_norm=None).add_norm == parse("deepnorm")


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


def _accepts(annotation, value) -> bool:
    """Whether an option of this type may be `value`, which is one of those above."""
    if get_origin(annotation) is Annotated and get_args(annotation)[0] is float:
        finite = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        # bounds are tested in words above
        return finite
    if get_origin(annotation) is Annotated:
        return type(value) is int
    if get_origin(annotation) in (typing.Union, types.UnionType):
        return any(_accepts(arg, value) for arg in get_args(annotation))
    if get_origin(annotation) is Literal:
        return value in get_args(annotation)
    return annotation is type(value) or (annotation is type(None) and value is None)


@pytest.mark.parametrize("axis", AXES)
def test_options_of_the_wrong_type_are_refused(axis):
    registry, around = AXES[axis]
    for kind in registry:
        for name, option in registry.options(kind).items():
            for value in _OF_NO_TYPE:
                if not _accepts(option.annotation, value):
                    choice = {"kind": kind, **NEEDED.get(kind, {}), name: value}
                    refused(around(choice), f"add_norm.{axis}", name, repr(value))


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


# --- the registries themselves ---


def test_a_registry_refuses_what_would_confuse():
    registry = Registry("thing")
    registry.register("one_thing")(lambda: None)
    with pytest.raises(ValueError, match=r"thing name 'one_thing' is taken"):
        registry.register("one_thing")
    for name in ("OneThing", "one-thing", "1thing", "", "one__thing", "_one", "one thing"):
        with pytest.raises(ValueError, match="lower case with underscores"):
            registry.register(name)
    with pytest.raises(KeyError, match="unknown thing 'one_thin'"):
        registry["one_thin"]
    assert list(registry) == ["one_thing"]
    assert len(registry) == 1


def test_every_option_has_a_type_that_is_read():
    for registry in (NORMS, RESIDUALS, DEPTH_RULES, INITS, STREAMS, WIRINGS, POSITIONS, WEIGHTS):
        for kind in registry:
            for name, option in registry.options(kind).items():
                assert option.annotation is not option.empty, (kind, name)
                if option.default is not option.empty:
                    default = option.default
                    # a depth rule may be one
                    rule = isinstance(default, Choice) and parse_depth_value(default, "") == default
                    assert rule or _accepts(option.annotation, default), (kind, name)
