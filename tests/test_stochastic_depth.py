"""Stochastic depth: whole samples, in training alone, at the rate of the depth; chunks change nothing."""

import math

import pytest
import torch
from depth_references import depth_value
from families import tiny_config

from hf_addnorm import AddNormBertModel


SUBLAYERS = ("attention", "feed_forward")


# --- stochastic depth ---

RATE = 0.3
# what the branches of a first layer wrote to the stream, from its output and its input
WRITTEN = {
    "pre_ln": lambda out, x: out - x,
    "parallel": lambda out, x: out - x,
    "residual": lambda out, x: out[1] - x,
    "hyper_connections": lambda out, x: out[1][:, :, 2] - x,
}


def dropping_model(preset, drop_path, silent=(), layers=2, **kwargs):
    """A model in float64 that draws nothing at random but the dropped branches; some sublayers give nothing."""
    config = tiny_config(
        {"preset": preset, "drop_path": drop_path, "final": False},
        layers,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        **kwargs,
    )
    model = AddNormBertModel(config).double().train()
    generator = torch.Generator().manual_seed(6)
    for layer in model.encoder.layer:
        for module in layer.modules():
            if isinstance(module, torch.nn.Linear):
                torch.nn.init.normal_(module.weight, std=0.5, generator=generator)
                torch.nn.init.normal_(module.bias, std=0.5, generator=generator)
        for name in silent:
            torch.nn.init.zeros_(output_projection(layer, name).weight)
            torch.nn.init.zeros_(output_projection(layer, name).bias)
    return model


def output_projection(layer, name):
    return layer.attention.output.dense if name == "attention" else layer.output.dense


def samples(count=2000):
    return torch.randn(count, 3, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(7))


def assert_share(kept, probability):
    """A share of independent draws, within four standard errors."""
    error = 4 * math.sqrt(probability * (1 - probability) / kept.numel())
    assert abs(kept.double().mean().item() - probability) <= error


def whole_samples_kept(written, f, rate):
    """Which samples kept their branch: each is all of f / (1 - rate), or exactly nothing."""
    kept = torch.isclose(written, f / (1 - rate), rtol=1e-9, atol=1e-12).flatten(1).all(1)
    dropped = (written == 0).flatten(1).all(1)
    assert (kept ^ dropped).all()
    return kept


@pytest.mark.parametrize("sublayer", SUBLAYERS)
@pytest.mark.parametrize("preset", WRITTEN)
def test_drop_path_takes_whole_samples_and_scales_the_rest(preset, sublayer):
    model = dropping_model(preset, RATE, silent=set(SUBLAYERS) - {sublayer})
    layer, x = model.encoder.layer[0], samples()
    f = WRITTEN[preset](layer.eval()(x), x)
    written = WRITTEN[preset](layer.train()(x), x)
    kept = whole_samples_kept(written, f, RATE)
    assert_share(kept, 1 - RATE)
    # what is dropped has no gradient, what is kept has 1 / (1 - rate) times its own
    (grad,) = torch.autograd.grad(written.sum(), output_projection(layer, sublayer).bias)
    torch.testing.assert_close(grad, torch.full_like(grad, kept.sum().item() * 3 / (1 - RATE)))
    # drawn anew by every forward
    again = whole_samples_kept(WRITTEN[preset](layer(x), x), f, RATE)
    assert_share(kept & again, (1 - RATE) ** 2)


def test_drop_path_drops_from_both_streams_together():
    model = dropping_model("residual", RATE, silent=["attention"])
    layer, x = model.encoder.layer[0], samples()
    stream, total = layer(x)
    h = layer.attention.output.LayerNorm(x)
    torch.testing.assert_close(stream, layer.output.LayerNorm(h + (total - x)))


@pytest.mark.parametrize("preset", ["pre_ln", "parallel"])
def test_drop_path_draws_for_every_sublayer(preset):
    layer, x = dropping_model(preset, RATE).encoder.layer[0], samples()
    # without a norm after it, the attention's output is what the feed-forward is not told where it is dropped
    alone = [dropping_model(preset, RATE, silent=[name]).eval().encoder.layer[0] for name in SUBLAYERS]
    both = dropping_model(preset, 0.0).eval().encoder.layer[0](x) - x
    f, a = (other(x) - x for other in alone)
    written = layer(x) - x
    outcomes = {"none": torch.zeros_like(x), "attention": a / (1 - RATE), "feed_forward": f / (1 - RATE)}
    if preset == "parallel":
        outcomes["both"] = both / (1 - RATE)
    share = {"none": RATE**2, "both": (1 - RATE) ** 2}
    for name, expected in outcomes.items():
        hit = torch.isclose(written, expected, rtol=1e-9, atol=1e-12).flatten(1).all(1)
        assert_share(hit, share.get(name, RATE * (1 - RATE)))


@pytest.mark.parametrize("preset", WRITTEN)
def test_drop_path_is_for_training_alone(preset):
    x, state = samples(5), torch.get_rng_state()
    plain, model = (dropping_model(preset, rate, layers=3) for rate in (0.0, RATE))
    model.load_state_dict(plain.state_dict())
    torch.set_rng_state(state)
    expected = plain.encoder(x).last_hidden_state
    assert torch.equal(model.eval().encoder(x).last_hidden_state, expected)
    # neither draws a number
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(model.train().encoder(x).last_hidden_state, expected)


def test_every_layer_has_the_rate_of_its_depth():
    rule, layers = {"kind": "linear", "last": 0.6}, 4
    model = dropping_model("pre_ln", rule, silent=["feed_forward"], layers=layers)
    x = samples()
    for i, layer in enumerate(model.encoder.layer):
        rate = depth_value(rule, i + 1, layers, 2 * i + 1, 2 * layers)
        f = layer.eval()(x) - x
        written = layer.train()(x) - x
        if i == 0:
            assert torch.equal(written, f)
        else:
            assert_share(whole_samples_kept(written, f, rate), 1 - rate)


def test_a_layer_may_have_a_rate_of_its_own():
    spec = {"preset": "pre_ln", "drop_path": 0.1, "layers": [{"index": 1, "drop_path": 0.5}]}
    layers = AddNormBertModel(tiny_config(spec)).encoder.layer
    rates = [getattr(layer.connections, name).drop_path for layer in layers for name in SUBLAYERS]
    assert rates == [0.1, 0.1, 0.5, 0.5, 0.1, 0.1]


@pytest.mark.parametrize("preset", ["pre_ln", "hyper_connections"])
def test_drop_path_takes_whole_samples_in_chunks_too(preset):
    layer = dropping_model(preset, RATE, silent=["attention"], chunk_size_feed_forward=1).encoder.layer[0]
    x = samples()
    f = WRITTEN[preset](layer.eval()(x), x)
    assert_share(whole_samples_kept(WRITTEN[preset](layer.train()(x), x), f, RATE), 1 - RATE)


@pytest.mark.parametrize("preset", WRITTEN)
def test_chunks_change_nothing(preset):
    whole, chunked = (dropping_model(preset, 0.0, chunk_size_feed_forward=size).eval() for size in (0, 1))
    x = samples(2)
    torch.testing.assert_close(chunked.encoder(x).last_hidden_state, whole.encoder(x).last_hidden_state)
