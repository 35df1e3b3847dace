"""Forward hooks: with the default spec all that run in the stock model, with others the points that the docs name."""

import pytest
import torch
from families import BASE_MODELS, FAMILIES, SPECS, covering, fill_with_pattern, specs_of
from torch import nn
from transformers.pytorch_utils import Conv1D

from hf_addnorm.models.core.layer import AddNormLayer


# what only schemes call that change nothing but the kind of norm, by the end of its name: BERT's shape, ALBERT
SILENT = ("attention", "attention.output", "output", "albert_layer_groups.0", "albert_layer_groups.1")
# a T5 block's sublayers, each with its own sum
SILENT += ("layer.0", "layer.1", "layer.2")
# stochastic depth, which is a scheme's own
SILENT += ("drop_path",)
# what draws from elsewhere than torch
STILL = {"layerdrop": 0.0, "apply_spec_augment": False}
CASES = covering([(family, spec) for family, model in BASE_MODELS.items() for spec in specs_of(family, model)])


def _tensors(value):
    if isinstance(value, torch.Tensor):
        return [value.detach().clone()]
    values = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return [tensor for part in values for tensor in _tensors(part)]


def _outputs_of_modules(net, inputs):
    """What every module that is called gives, in order."""
    found = {}
    for name, module in net.named_modules():
        hook = lambda _, __, output, name=name: found.setdefault(name, []).extend(_tensors(output))  # noqa: E731
        module.register_forward_hook(hook)
    torch.manual_seed(5)
    with torch.no_grad():
        net(**inputs)
    return found


def _net(family, spec, mode="eval", **kwargs):
    row, model = FAMILIES[family], BASE_MODELS[family]
    net = row.model_class(model)(row.config(model, spec, **STILL, **kwargs))
    fill_with_pattern(net)
    return getattr(net, mode)(), row.inputs(model)


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("family", FAMILIES)
def test_default_runs_every_hook_that_stock_runs(family, mode):
    row, model = FAMILIES[family], BASE_MODELS[family]
    net, inputs = _net(family, None, mode)
    stock = row.stock_class(model)(row.stock_config(model, **STILL))
    fill_with_pattern(stock)
    expected, found = _outputs_of_modules(getattr(stock, mode)(), inputs), _outputs_of_modules(net, inputs)
    assert expected.keys() <= found.keys()
    for name, tensors in expected.items():
        assert len(tensors) == len(found[name]), name
        assert all(torch.equal(*pair) for pair in zip(tensors, found[name], strict=True)), name


@pytest.mark.parametrize("family", FAMILIES)
def test_another_kind_of_norm_runs_them_too(family):
    net, inputs = _net(family, {"norm": "rms_norm"})
    stock = FAMILIES[family].stock_class(BASE_MODELS[family])(FAMILIES[family].stock_config(BASE_MODELS[family]))
    assert _outputs_of_modules(stock.eval(), inputs).keys() <= _outputs_of_modules(net, inputs).keys()


@pytest.mark.parametrize(("family", "spec"), CASES)
def test_every_scheme_runs_those_of_layers_and_of_what_they_compute_with(family, spec):
    net, inputs = _net(family, SPECS[spec])
    found = _outputs_of_modules(net, inputs)
    layers = {name for name, module in net.named_modules() if isinstance(module, AddNormLayer)}
    linears = {
        name
        for name, module in net.named_modules()
        if isinstance(module, (nn.Linear, Conv1D)) and any(name.startswith(f"{layer}.") for layer in layers)
    }
    stock = FAMILIES[family].stock_class(BASE_MODELS[family])(FAMILIES[family].stock_config(BASE_MODELS[family]))
    called = _outputs_of_modules(stock.eval(), inputs).keys()
    assert layers <= found.keys()
    # an adapter of a language has layers that this model does not call
    assert {name for name in linears if name in called or name not in dict(stock.named_modules())} <= found.keys()
    norms = {name for name, module in stock.named_modules() if isinstance(module, nn.LayerNorm)}
    silent = {name for name in called - found.keys() if name not in norms and not _is_replaced(net, name)}
    # an attention without a container within is always called
    within = ("self", "attn", "attention")
    cores = {n for n in called if n.endswith("attention") and not called & {f"{n}.{core}" for core in within}}
    assert silent <= {name for name in called if name.endswith(SILENT)} - cores


def _is_replaced(net, name):
    """Whether a scheme has something else there, or nothing: the tables of positions, an activation."""
    parts = dict(net.named_modules())
    return name not in parts or isinstance(parts[name], nn.Identity)
