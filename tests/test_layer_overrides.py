"""Exceptions of single layers: which layers a selector selects, what they override."""

import dataclasses

import pytest
from specs import LAYERS, config, parse, refused, through_json
from transformers import AutoConfig

from hf_addnorm import AddNormBertConfig, AddNormBertModel
from hf_addnorm.models.spec.spec import SELECTORS, LayerSpec


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
