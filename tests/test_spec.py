"""`config.add_norm`: its JSON form is the whole of it, however it was written; the registries behind it."""

import copy
import dataclasses
import json
import types

import pytest
from families import SPECS
from specs import AXES, EVERYTHING, LAYERS, NEEDED, accepts, config, parse, through_json

from hf_addnorm import AddNormBertConfig, AddNormSpec, presets
from hf_addnorm.models.base.depth import parse_depth_value
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
from hf_addnorm.models.base.registry import ComponentSpec, Registry
from hf_addnorm.models.spec.presets import PRESETS
from hf_addnorm.models.spec.spec import FORMAT_VERSION, SELECTORS, SLOTS


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
    assert spec.norm == ComponentSpec("layer_norm", {**spec.norm.options, "eps": None, "bias": None})
    assert spec.attention == spec.feed_forward == {"post": True}
    assert (spec.embed, spec.final, spec.head, spec.init, spec.layers) == ("auto", False, "stock", [], [])
    assert (spec.stream, spec.wiring, spec.residual) == (
        ComponentSpec("single"),
        ComponentSpec("sequential"),
        ComponentSpec("add"),
    )
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
    assert residual == ComponentSpec("scalar", {"start": 0.5, "share": "layer", "side": "branch"})
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
    for init in ("scaled_output", {"kind": "scaled_output"}, ["scaled_output"], (ComponentSpec("scaled_output"),)):
        assert parse({"init": init}).init == [ComponentSpec("scaled_output")]
    for init in (None, "stock", []):
        assert parse({"preset": "deepnorm", "init": init}).init == []


def test_a_spec_of_another_copy_of_the_code_is_read_by_its_json():
    # a config that came as remote code has its own AddNormSpec class
    spec = parse(EVERYTHING)
    twin = types.SimpleNamespace(to_dict=spec.to_dict)
    assert parse(twin) == spec
    assert config(twin).add_norm == spec


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
                    rule = isinstance(default, ComponentSpec) and parse_depth_value(default, "") == default
                    assert rule or accepts(option.annotation, default), (kind, name)


@pytest.mark.parametrize("name", SPECS)
def test_repr_is_short_and_says_the_spec(name):
    spec = AddNormSpec.parse(SPECS[name])
    assert eval(repr(spec), {"AddNormSpec": AddNormSpec}) == spec
    if isinstance(SPECS[name], str):
        assert repr(spec) == f"AddNormSpec.parse({SPECS[name]!r})"
    else:
        assert len(repr(spec)) < 600


def test_repr_of_a_config_says_what_was_set():
    config = AddNormBertConfig(add_norm={"preset": "post_ln", "norm": "rms_norm"}, num_hidden_layers=2)
    name, shown = repr(config).split(" ", 1)
    said = json.loads(shown)
    assert name == "AddNormBertConfig" and len(shown.splitlines()) < 10
    assert said["add_norm"] == {"preset": "post_ln", "norm": "rms_norm"} and said["num_hidden_layers"] == 2
    assert AddNormBertConfig(**said).to_dict() == config.to_dict()
    # what is saved is all of it
    assert json.loads(config.to_json_string())["add_norm"] == config.add_norm.to_dict()
