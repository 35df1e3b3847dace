"""A factor that a stock layer has on a branch (LayerScale): the residual `vector` is it, others take it away."""

import pytest
import torch
import transformers
from families import BASE_MODELS, FAMILIES, fill_with_pattern

import hf_addnorm
from hf_addnorm.diagnosis.watching import watching
from hf_addnorm.models.core.layer import AddNormLayer
from hf_addnorm.models.residuals.residuals import BorrowedVector, VectorResidual


# where the factors of the first layer are
FACTORS = {
    "dinov2": ["encoder.layer.0.layer_scale1.lambda1", "encoder.layer.0.layer_scale2.lambda1"],
    "beit": ["layers.0.lambda_1", "layers.0.lambda_2"],
}
OWN = {"preset": "pre_ln", "residual": {"kind": "vector", "share": "layer"}}


def _net(family, spec=None, **kwargs):
    row, model = FAMILIES[family], BASE_MODELS[family]
    return row.model_class(model)(row.config(model, spec, **kwargs)), row.inputs(model)


def _residuals(net):
    return [module for module in net.modules() if isinstance(module, (BorrowedVector, VectorResidual))]


@pytest.mark.parametrize("family", FACTORS)
def test_the_stock_scheme_is_a_spec_that_borrows_it(family):
    net, _ = _net(family)
    assert net.config.add_norm.residual.kind == "vector"
    assert [type(residual) for residual in _residuals(net)] == 8 * [BorrowedVector]
    assert not [name for name, _ in net.named_parameters() if "connections" in name]
    assert all(layer.runs_as_stock for layer in net.modules() if isinstance(layer, AddNormLayer))


@pytest.mark.parametrize("spec", ["pre_ln", "post_ln", "rezero", OWN], ids=str)
@pytest.mark.parametrize("family", FACTORS)
def test_another_residual_takes_it_away(family, spec):
    net, inputs = _net(family, spec)
    assert not [name for name, _ in net.named_parameters() if "lambda" in name]
    assert not any(isinstance(residual, BorrowedVector) for residual in _residuals(net))
    assert net.train()(**inputs).last_hidden_state.isfinite().all()


@pytest.mark.parametrize("family", FACTORS)
def test_it_starts_where_the_spec_says_and_keeps_what_a_checkpoint_has(family, tmp_path):
    spec = {
        "preset": "pre_ln",
        "residual": {"kind": "vector", "start": {"kind": "linear", "first": 0.25, "last": 1.0}},
    }
    net, _ = _net(family, spec)
    for path in FACTORS[family]:
        assert torch.equal(net.get_parameter(path), torch.full((32,), 0.25))
        last = net.get_parameter(path.replace(".0.", ".3."))
        assert torch.equal(last, torch.ones(32))
    stock, _ = _net(family)
    fill_with_pattern(stock)
    stock.save_pretrained(tmp_path)
    loaded = type(net).from_pretrained(tmp_path, add_norm=spec)
    for path in FACTORS[family]:
        assert torch.equal(loaded.get_parameter(path), stock.get_parameter(path))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("family", FACTORS)
def test_the_blocks_give_the_bits_of_the_stock_layer(family, training):
    """Also with stochastic depth, which acts behind the factor."""

    class Nobody:
        def see(self, *_):
            return None

    net, inputs = _net(family)
    fill_with_pattern(net)
    outputs, gradients = [], []
    for watched in (False, True):
        net.train(training).zero_grad()
        transformers.set_seed(4)
        if watched:
            with watching(net, Nobody()):
                output = net(**inputs).last_hidden_state
        else:
            output = net(**inputs).last_hidden_state
        output.square().mean().backward()
        outputs.append(output)
        gradients.append([p.grad.clone() for p in net.parameters() if p.grad is not None])
    assert torch.equal(*outputs)
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))


def test_in_parallel_one_factor_is_that_of_both_branches():
    spec = {"preset": "parallel", "residual": {"kind": "vector", "start": 0.5}}
    net, _ = _net("dinov2", spec)
    layer, x = net.double().eval().encoder.layer[0], torch.randn(2, 5, 32, dtype=torch.float64)
    assert not [name for name, _ in layer.named_parameters() if name.startswith("layer_scale1")]
    u = layer.norm1(x)
    expected = x + layer.layer_scale2.lambda1 * (layer.attention(u)[0] + layer.mlp(u))
    torch.testing.assert_close(layer(x), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("family", FACTORS)
def test_a_checkpoint_read_without_it_is_another_function(family, tmp_path, caplog):
    net, _ = _net(family)
    net.save_pretrained(tmp_path)
    caplog.clear()
    type(net).from_pretrained(tmp_path)
    assert "another function" not in caplog.text
    type(net).from_pretrained(tmp_path, add_norm={"preset": "pre_ln", "final": net.config.add_norm.final})
    assert "another function" in caplog.text


def test_a_grown_layer_starts_with_a_factor_of_0():
    net, inputs = _net("dinov2", num_hidden_layers=2)
    net.double().eval()
    fill_with_pattern(net)
    inputs = {key: value.double() for key, value in inputs.items()}
    grown = hf_addnorm.grow(net, how="identity")
    assert torch.equal(grown(**inputs).last_hidden_state, net(**inputs).last_hidden_state)
    assert [grown.encoder.layer[at].layer_scale1.lambda1.any().item() for at in range(4)] == [True, True, False, False]


def test_a_conversion_writes_it_into_the_weights():
    net, _ = _net("dinov2", num_hidden_layers=2)
    fill_with_pattern(net)
    inputs = {"pixel_values": torch.randn(8, 3, 16, 16)}
    spec = {"preset": "pre_ln", "drop_path": net.config.add_norm.drop_path}
    converted, _ = hf_addnorm.convert(net.eval(), add_norm=spec, calibration=[inputs], method="exact")
    torch.testing.assert_close(
        converted(**inputs).last_hidden_state, net(**inputs).last_hidden_state, rtol=1e-4, atol=1e-5
    )
