"""UperNet over a backbone of ours: the stock model of the same parts, saved with its code, loaded anywhere."""

import re

import pytest
import torch
import transformers
from families import FAMILIES, SPECS, checkpoint_activations, fill_with_pattern, slow_unless
from transformers import AutoModelForSemanticSegmentation, UperNetConfig, UperNetForSemanticSegmentation

import hf_addnorm
from hf_addnorm import AddNormUperNetConfig, AddNormUperNetForSemanticSegmentation
from hf_addnorm.hub.cost import cost
from hf_addnorm.models.composites.part_families import BACKBONE_CONFIGS, BACKBONES


HEADS = {"hidden_size": 16, "pool_scales": [1, 2], "auxiliary_channels": 8, "num_labels": 3}
# (family's row, more of its backbone)
CASES = {
    "dinov2": ("dinov2", {}),
    "dinov2_with_registers": ("dinov2_with_registers", {}),
    "beit": ("beit", {}),
    # maps at four scales
    "beit_fpn": ("beit", {"add_fpn": True}),
}


def _entries(case, **more):
    family, own = CASES[case]
    # what no map is read with has no gradient
    tiny = {key: value for key, value in FAMILIES[family].tiny.items() if key != "use_mask_token"}
    return {"model_type": family, **tiny, "out_indices": [1, 2, 3, 4], **own, **more}


def _config(case="dinov2", **more):
    return AddNormUperNetConfig(backbone_config=_entries(case, **more), **HEADS)


def _net(case="dinov2", **more):
    net = AddNormUperNetForSemanticSegmentation(_config(case, **more)).eval()
    fill_with_pattern(net)
    return net


def _stock(case):
    entries = _entries(case)
    backbone = transformers.AutoConfig.for_model(entries.pop("model_type"), **entries)
    return UperNetForSemanticSegmentation(UperNetConfig(backbone_config=backbone, **HEADS)).eval()


def _inputs():
    generator = torch.Generator().manual_seed(7)
    labels = torch.randint(0, 3, (2, 16, 16), generator=generator)
    labels[0, :3] = 255
    return {"pixel_values": torch.randn(2, 3, 16, 16, generator=generator), "labels": labels}


def _trained(net):
    """The loss and every gradient of a step."""
    torch.manual_seed(4)
    net.train().zero_grad()
    loss = net(**_inputs()).loss
    loss.backward()
    return {"loss": loss} | {name: value.grad for name, value in net.named_parameters() if value.grad is not None}


def _same_model(one, other):
    """The same weights and, as far as a convolution gives that for weights elsewhere in memory, the same outputs."""
    states = [net.state_dict() for net in (one, other)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    image = _inputs()["pixel_values"]
    torch.testing.assert_close(one(image).logits, other(image).logits)


@pytest.mark.parametrize("case", CASES)
def test_the_default_is_the_stock_model_bit_for_bit(case):
    nets = []
    for build in (lambda: _stock(case), lambda: AddNormUperNetForSemanticSegmentation(_config(case))):
        torch.manual_seed(3)
        nets.append(build())
    states = [net.state_dict() for net in nets]
    assert list(states[0]) == list(states[1])
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    for net in nets:
        fill_with_pattern(net)
    assert torch.equal(*(net.eval()(_inputs()["pixel_values"]).logits for net in nets))
    results = [_trained(net) for net in nets]
    assert results[0].keys() == results[1].keys()
    assert all(torch.equal(value, results[1][key]) for key, value in results[0].items())


@pytest.mark.parametrize("case", CASES)
def test_checkpoints_load_both_ways(case, tmp_path):
    stock = _stock(case)
    fill_with_pattern(stock)
    stock.save_pretrained(tmp_path / "stock")
    ours, info = AddNormUperNetForSemanticSegmentation.from_pretrained(tmp_path / "stock", output_loading_info=True)
    assert not any(info.values()) and ours.config.backbone_config.model_type == f"addnorm_{CASES[case][0]}"
    ours.save_pretrained(tmp_path / "ours")
    back, info = UperNetForSemanticSegmentation.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info.values())
    for net in (ours, back):
        _same_model(net, stock)


@pytest.mark.parametrize(
    "spec", [slow_unless(spec in ("pre_rms_norm", "hyper_connections"), spec) for spec in SPECS if spec != "ngpt"]
)
def test_a_scheme_of_the_backbone_is_trained_saved_and_loaded(spec, tmp_path):
    net = _net(add_norm=SPECS[spec])
    silent = {name for name, _ in net.named_parameters()} - _trained(net).keys()
    assert not {name for name in silent if not name.endswith("mask_token")}
    net.eval().save_pretrained(tmp_path)
    back, info = AutoModelForSemanticSegmentation.from_pretrained(tmp_path, output_loading_info=True)
    assert type(back) is AddNormUperNetForSemanticSegmentation and not any(info.values())
    assert back.config.backbone_config.add_norm == net.config.backbone_config.add_norm
    _same_model(back, net)


@pytest.mark.parametrize(
    ("case", "spec"),
    [("beit_fpn", "residual"), slow_unless(False, "dinov2", "hyper_connections")],
)
def test_loads_as_a_stranger_and_saves_again(case, spec, tmp_path, load_with_package_hidden):
    folder = tmp_path / case
    _net(case, add_norm=SPECS[spec]).save_pretrained(folder)
    # code of no other family
    carried = {file.name for file in folder.glob("modeling_*.py")}
    assert carried == {f"modeling_addnorm_{CASES[case][0]}.py", "modeling_addnorm_upernet.py"}
    inputs = {"pixel_values": _inputs()["pixel_values"]}
    torch.save(inputs, folder / "inputs")
    net = AddNormUperNetForSemanticSegmentation.from_pretrained(folder)
    torch.save(net(**inputs)[0].detach(), folder / "expected")
    name = "modeling_addnorm_upernet.AddNormUperNetForSemanticSegmentation"
    autos = list(AddNormUperNetConfig.auto_classes)
    load_with_package_hidden([{"folder": str(folder), "autos": autos, "reference": name, "base": name}])


def test_a_backbone_of_a_checkpoint(tmp_path):
    """A stock classifier's, with other schemes and maps; and one that exists."""
    row = FAMILIES["dinov2"]
    stock = row.stock_class("AddNormDinov2ForImageClassification")(row.stock_config("")).eval()
    fill_with_pattern(stock)
    stock.save_pretrained(tmp_path / "stock")
    load = AddNormUperNetForSemanticSegmentation.from_pretrained_backbone
    net = load(str(tmp_path / "stock"), num_labels=3, hidden_size=16)
    assert not net.training and net.config.backbone_config.out_indices == [1, 2, 3, 4] and net.config.num_labels == 3
    state = net.backbone.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in stock.dinov2.state_dict().items())
    again = load(tmp_path / "stock", "pre_ln", {"out_indices": [2, 4]}, use_auxiliary_head=False)
    assert again.config.backbone_config.out_indices == [2, 4] and again.backbone.config is again.config.backbone_config
    assert again.config.backbone_config.add_norm.residual.kind == "add"
    again.save_pretrained(tmp_path / "ours")
    back = AddNormUperNetForSemanticSegmentation.from_pretrained(tmp_path / "ours")
    _same_model(back, again)
    changed = AddNormUperNetForSemanticSegmentation.from_pretrained(
        tmp_path / "ours", backbone_config={"add_norm": "pre_rms_norm"}
    )
    assert changed.config.backbone_config.add_norm.norm.kind == "rms_norm"
    with pytest.raises(ValueError, match="the backbone is a Dinov2Model; allowed is AddNormBeitBackbone, "):
        AddNormUperNetForSemanticSegmentation(_config(), stock.dinov2)
    transformers.BertConfig().save_pretrained(tmp_path / "bert")
    with pytest.raises(ValueError, match="is a 'bert' model; a backbone is one of beit, addnorm_beit, dinov2"):
        load(tmp_path / "bert")


def test_what_is_said_of_it(tmp_path):
    """Its card and its cost are the backbone's scheme; what prepares its inputs is that of images."""
    net = _net(add_norm="sandwich_ln")
    net.save_pretrained(tmp_path)
    card = str(hf_addnorm.hub.create_card(tmp_path))
    assert "pipeline_tag: image-segmentation" in card and "AutoModelForSemanticSegmentation" in card
    assert "AutoImageProcessor" in card and "sandwich_ln" in card
    counted = cost(net.config)
    assert counted.input == "one image" and counted.parameters > counted.stock_parameters > 0
    config = net.config
    assert (config.image_size, config.patch_size, config.num_channels, config.num_hidden_layers) == (16, 4, 3, 4)


def test_gradient_checkpointing():
    net = _net("beit", add_norm="hyper_connections", drop_path_rate=0.0, hidden_dropout_prob=0.0)
    plain = _trained(net)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()
    checkpoint_activations(net)
    for name, value in _trained(net).items():
        torch.testing.assert_close(value, plain[name], msg=name)
    with pytest.raises(ValueError, match="use_reentrant"):
        checkpoint_activations(net, {"use_reentrant": True})


def test_the_families_of_the_config_are_the_models():
    assert set(BACKBONES) == {config_class.model_type for config_class in BACKBONE_CONFIGS.values()}


REFUSED = {
    "family": ({"backbone_config": "vitt"}, "backbone_config is 'vitt', which is no family (beit, addnorm_beit,"),
    "text": ({"backbone_config": {"model_type": "bert"}}, "backbone_config: unknown family 'bert'."),
    "scheme": ({"backbone_config": {"model_type": "beit", "add_norm": "pre_lm"}}, "backbone_config: add_norm.preset:"),
    "maps": (
        {"backbone_config": {"model_type": "beit", "out_indices": [6, 12]}},
        "use_auxiliary_head is true, and its head reads the map of number 3, of stage6, stage12; allowed is false, or",
    ),
    "near miss": ({"backbone_confg": "beit"}, "unknown config key 'backbone_confg'. Did you mean 'backbone_config'?"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_a_sentence(case, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    kwargs, sentence = REFUSED[case]
    with pytest.raises(ValueError, match=re.escape(sentence)) as caught:
        AddNormUperNetConfig(**kwargs)
    assert "\n" not in str(caught.value)


def test_the_maps_are_those_of_each_quarter_unless_a_config_says_others():
    given = {"num_hidden_layers": 12}, {"num_hidden_layers": 6}, {"out_indices": [1, 2, 5]}
    configs = [AddNormUperNetConfig(backbone_config={"model_type": "dinov2", **more}) for more in given]
    assert [config.backbone_config.out_indices for config in configs] == [[3, 6, 9, 12], [1, 3, 4, 6], [1, 2, 5]]
