"""What depth and a layer's forward cost, by counts: what is built, checked and called. None of it is timed."""

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from hf_addnorm import AddNormBertConfig, AddNormBertModel
from hf_addnorm.models.core import addnorm_config
from hf_addnorm.models.spec import refusals
from hf_addnorm.models.spec.spec import AddNormSpec


TINY: dict[str, Any] = {
    "hidden_size": 32,
    "num_attention_heads": 4,
    "intermediate_size": 37,
    "vocab_size": 99,
    "num_hidden_layers": 2,
}
DEEP = 1000
# exceptions that say the same in many layers
EXCEPTIONS = [{"index": index, "attention": ["pre", "out"]} for index in range(0, DEEP, 4)]
SPECS: dict[str, Any] = {
    "post_ln": "post_ln",
    "deepnorm": "deepnorm",
    "layer_scale": "layer_scale",
    "hyper_connections": "hyper_connections",
    "attention_residuals": {"preset": "pre_ln", "stream": "attention_residuals"},
    "exceptions": {"preset": "pre_ln", "layers": EXCEPTIONS},
}


def _config(add_norm: Any, **changes: Any) -> AddNormBertConfig:
    return AddNormBertConfig(**TINY | changes, add_norm=add_norm)


def _called(function: Callable[[], Any]) -> list[str]:
    """The modules of the Python functions that run within `function()`, one for each call."""
    called: list[str] = []

    def profile(frame: Any, event: str, _: Any) -> None:
        if event == "call":
            called.append(frame.f_globals.get("__name__", ""))

    sys.setprofile(profile)
    try:
        function()
    finally:
        sys.setprofile(None)
    return called[1:]


def _of_package(called: list[str]) -> int:
    return sum(name.startswith("hf_addnorm") for name in called)


# --- a config ---


@pytest.mark.parametrize("name", SPECS)
def test_a_deep_config_builds_few_modules(name, monkeypatch):
    built, init = [], nn.Module.__init__

    def counted(self, *args, **kwargs):
        built.append(type(self).__name__)
        init(self, *args, **kwargs)

    monkeypatch.setattr(nn.Module, "__init__", counted)
    _config(SPECS[name], num_hidden_layers=DEEP)
    assert len(built) <= 30, built


def test_layers_that_are_the_same_are_one():
    spec = AddNormSpec.parse({"preset": "pre_ln", "layers": [*EXCEPTIONS, {"last": 2, "drop_path": 0.5}]})
    layers = spec.by_layer(DEEP)
    assert layers[0] is layers[4] is spec.layer(8, DEEP) and layers[1] is layers[2] and layers[-1] is layers[-2]
    assert list(spec.distinct_layers(DEEP)) == [0, 1, 998]
    assert [set(layer.attention) for layer in spec.distinct_layers(DEEP).values()] == [
        {"pre", "out"},
        {"pre"},
        {"pre"},
    ]


@pytest.fixture
def checks(monkeypatch):
    """Every spec that is checked against a config, in order."""
    # loading writes the config into a log, which needs the class's defaults, once
    repr(_config("post_ln"))
    found, refuse = [], refusals.refuse
    monkeypatch.setattr(refusals, "refuse", lambda spec, config: (found.append(spec), refuse(spec, config)))
    assert addnorm_config.check is refusals.check
    return found


def test_a_config_is_checked_once(checks):
    config = _config("deepnorm")
    AddNormBertModel(config)
    assert len(checks) == 1
    again = AddNormBertConfig.from_dict(config.to_dict())
    assert len(checks) == 2
    AddNormBertModel(again)
    assert len(checks) == 2


def test_a_config_that_is_changed_is_checked_again(checks):
    config = _config({"preset": "pre_ln", "layers": [{"index": 1, "norm": "rms_norm"}]})
    config.num_hidden_layers = 1
    with pytest.raises(ValueError, match=r"selects layers outside of 0\.\.0"):
        AddNormBertModel(config)
    config.num_hidden_layers = 3
    AddNormBertModel(config)
    assert len(checks) == 3
    with pytest.raises(ValueError, match="unknown norm"):
        config.add_norm = {"norm": "layernorm"}


@pytest.mark.parametrize("layer", [2, 500, DEEP])
def test_a_number_that_is_wrong_in_one_layer_alone_is_refused(layer):
    # below 1 up to the layer before
    rule = {"kind": "linear", "last": (DEEP - 1) / (layer - 1)}
    with pytest.raises(ValueError, match=rf"drop_path is 1 in layer {layer};"):
        _config({"preset": "pre_ln", "drop_path": rule}, num_hidden_layers=DEEP)


# --- a model ---


@pytest.mark.parametrize("spec", ["post_ln", "pre_ln", "hyper_connections"])
def test_building_a_model_takes_as_much_for_every_layer(spec):
    def work(layers: int) -> int:
        config = _config(spec, num_hidden_layers=layers)
        return _of_package(_called(lambda: AddNormBertModel(config)))

    work(1)
    first, second = work(20) - work(10), work(40) - work(20)
    assert second <= 2.05 * first


@pytest.mark.parametrize("spec, most", [("post_ln", 60), ("pre_ln", 60), ("deepnorm", 60), ("sandwich_ln", 60)])
def test_a_forward_calls_few_functions(spec, most):
    model, given = AddNormBertModel(_config(spec)).eval(), []
    layer = model.encoder.layer[0]
    hook = layer.register_forward_pre_hook(lambda _, *inputs: given.append(inputs), with_kwargs=True)
    with torch.no_grad():
        model(input_ids=torch.arange(8).view(1, 8))
        hook.remove()
        (args, kwargs) = given[0]
        called = _called(lambda: layer.forward(*args, **kwargs))
    assert sum(name.startswith(("hf_addnorm", "transformers")) for name in called) <= most
