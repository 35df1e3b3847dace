"""Every residual against its formula in float64, over all of its options, alone and in a model."""

import math
from typing import Literal, get_args, get_origin

import pytest
import torch
from references import RESIDUAL_REFERENCES, assert_close, combinations, depth_value

from hf_addnorm import AddNormBertConfig, AddNormBertModel
from hf_addnorm.models.depth import Position
from hf_addnorm.models.residuals import RESIDUALS


TOLERANCE = 1e-12
HIDDEN = 7

COMBINATIONS = [
    pytest.param(kind, options, id="-".join([kind, *(f"{key}={value}" for key, value in options.items())]))
    for kind, reference in RESIDUAL_REFERENCES.items()
    for options in combinations(reference.samples)
]
LEARNED = {"scalar": "alpha", "vector": "weight"}
# layer 3 of 5, its second sublayer of two
POSITION = Position(layer=2, layers=5, sublayer=5, sublayers=10)


def at_position(value, position=POSITION):
    """What an option stands for, by the reference of the depth rules."""
    if isinstance(value, str) and value in ("sublayer", "layer", "branch", "skip"):
        return value
    return depth_value(value, position.layer + 1, position.layers, position.sublayer + 1, position.sublayers)


def build(kind, options, dtype=torch.float64):
    """The residual, with every parameter far from its start value."""
    residual = RESIDUALS.build(RESIDUALS.parse({"kind": kind, **options}, "add_norm.residual"), HIDDEN, POSITION)
    generator = torch.Generator().manual_seed(0)
    for parameter in residual.parameters():
        torch.nn.init.uniform_(parameter, 0.5, 1.5, generator=generator)
    return residual.to(dtype)


def stream_and_branch(*shape, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    x, f = (torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2))
    return 3 * x, f


def differentiate(function, x, f, parameters):
    x, f = x.detach().requires_grad_(), f.detach().requires_grad_()
    y = function(x, f)
    cotangent = torch.randn(y.shape, generator=torch.Generator().manual_seed(2)).mul(8).round().div(8).to(y.dtype)
    grads = torch.autograd.grad(y, [x, f, *parameters.values()], cotangent)
    return y.detach(), dict(zip(["x", "f", *parameters], grads, strict=True))


def expected(kind, options, x, f, residual):
    parameters = {name: p.detach().double().requires_grad_() for name, p in residual.named_parameters()}
    values = {key: at_position(value) for key, value in options.items()}
    formula = RESIDUAL_REFERENCES[kind].formula
    return differentiate(lambda x, f: formula(x, f, parameters, **values), x.double(), f.double(), parameters)


def tiny_config(add_norm, layers=3, **kwargs):
    return AddNormBertConfig(
        vocab_size=11,
        hidden_size=8,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=12,
        max_position_embeddings=8,
        add_norm=add_norm,
        **kwargs,
    )


def learned(model):
    """The parameters of a model's residuals by path."""
    return {name: p for name, p in model.named_parameters() if "residual_norm" in name}


# --- the tables cover the registry ---


def test_every_residual_has_a_reference():
    assert set(RESIDUAL_REFERENCES) == set(RESIDUALS)


@pytest.mark.parametrize("kind", RESIDUALS)
def test_every_option_has_samples(kind):
    options, samples = RESIDUALS.options(kind), RESIDUAL_REFERENCES[kind].samples
    assert set(samples) == set(options)
    for name, option in options.items():
        if get_origin(option.annotation) is Literal:
            assert set(samples[name]) == set(get_args(option.annotation))


# --- the function and its gradient ---


@pytest.mark.parametrize(("kind", "options"), COMBINATIONS)
def test_matches_the_formula(kind, options):
    residual = build(kind, options)
    for shape in [(2, 3, HIDDEN), (1, 1, HIDDEN), (0, 3, HIDDEN)]:
        x, f = stream_and_branch(*shape)
        before = x.clone(), f.clone()
        y, grads = differentiate(residual, x, f, dict(residual.named_parameters()))
        y_expected, grads_expected = expected(kind, options, x, f, residual)
        assert torch.equal(x, before[0])
        assert torch.equal(f, before[1])
        assert_close(y, y_expected, TOLERANCE, f"y {shape}")
        assert grads.keys() == grads_expected.keys()
        for name, grad in grads_expected.items():
            assert_close(grads[name], grad, TOLERANCE, f"grad.{name} {shape}")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("kind", "options"), COMBINATIONS)
def test_keeps_the_dtype(kind, options, dtype):
    residual = build(kind, options, dtype)
    x, f = stream_and_branch(2, 3, HIDDEN, dtype=dtype)
    y, grads = differentiate(residual, x, f, dict(residual.named_parameters()))
    y_expected, grads_expected = expected(kind, options, x, f, residual)
    assert y.dtype == dtype
    # a product on either side and the sum, each rounded
    scale = max(1.0, *(abs(at_position(v)) for v in options.values() if not isinstance(at_position(v), str)), 1.5)
    rounding = torch.finfo(dtype).eps / 2 * 4 * scale * (x.abs() + f.abs()).double()
    assert ((y.double() - y_expected).abs() <= rounding).all()
    for name, grad in grads_expected.items():
        assert_close(grads[name].double(), grad, 8 * torch.finfo(dtype).eps, f"grad.{name}")


@pytest.mark.parametrize("kind", RESIDUALS)
def test_non_contiguous_input_and_compile(kind):
    torch._dynamo.reset()
    residual = build(kind, {})
    x, f = (t.transpose(0, 1)[..., ::2] for t in stream_and_branch(3, 2, 2 * HIDDEN))
    y = residual(x.contiguous(), f.contiguous())
    assert_close(residual(x, f), y, TOLERANCE)
    assert_close(torch.compile(residual, fullgraph=True, backend="eager")(x, f), y, TOLERANCE)


# --- start values ---


@pytest.mark.parametrize(("kind", "options"), COMBINATIONS)
def test_reset_parameters_writes_the_documented_start(kind, options):
    residual = build(kind, options)
    start = RESIDUAL_REFERENCES[kind].start(HIDDEN, **{key: at_position(value) for key, value in options.items()})
    assert {name: tuple(p.shape) for name, p in residual.named_parameters()} == {
        name: shape for name, (shape, _) in start.items()
    }
    assert set(residual.state_dict()) == set(start)
    for garbage in (math.nan, 9.3e13):
        for name, (_, value) in start.items():
            parameter = torch.nn.init.constant_(residual.get_parameter(name), garbage)
            residual.reset_parameters()
            torch.testing.assert_close(parameter.detach(), torch.full_like(parameter, value))


@pytest.mark.parametrize(
    ("kind", "start"), [("scalar", 0.0), ("vector", 0.1), ("constant", None), ("add", None)], ids=str
)
def test_default_start(kind, start):
    residual = RESIDUALS.build(RESIDUALS.parse(kind, "add_norm.residual"), HIDDEN, POSITION)
    if start is None:
        x, f = stream_and_branch(2, 3, HIDDEN)
        assert torch.equal(residual(x, f), x + f)
    else:
        residual.reset_parameters()
        torch.testing.assert_close(residual.get_parameter(LEARNED[kind]).unique(), torch.tensor([start]))


# --- in a model ---


@pytest.mark.parametrize("decoder", [False, True], ids=["encoder", "decoder"])
@pytest.mark.parametrize("share", ["sublayer", "layer"])
@pytest.mark.parametrize("kind", LEARNED)
def test_share_decides_how_many_there_are(kind, share, decoder):
    config = tiny_config(
        {"preset": "pre_ln", "residual": {"kind": kind, "share": share}},
        is_decoder=decoder,
        add_cross_attention=decoder,
    )
    model = AddNormBertModel(config)
    sublayers = ["attention", "cross_attention", "feed_forward"] if decoder else ["attention", "feed_forward"]
    owners = [""] if share == "layer" else [f"{name}." for name in sublayers]
    assert set(learned(model)) == {
        f"encoder.layer.{i}.connections.{owner}residual_norm.{LEARNED[kind]}" for i in range(3) for owner in owners
    }


@pytest.mark.parametrize("kind", LEARNED)
def test_a_shared_parameter_acts_on_every_sublayer(kind):
    """At 0 no sublayer reaches the stream, and the gradient is that of all sublayers together."""
    add_norm = {"preset": "pre_ln", "residual": {"kind": kind, "start": 0.0, "share": "layer"}}
    model = AddNormBertModel(tiny_config(add_norm)).double().eval()
    x = torch.randn(2, 5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    out = model.encoder(x).last_hidden_state
    torch.testing.assert_close(out, model.encoder.final_norm(x))
    layer = model.encoder.layer[0]
    name = LEARNED[kind]
    factor = layer.connections.residual_norm.get_parameter(name)
    (both,) = torch.autograd.grad(layer(x).sum(), factor)
    u = {s: getattr(layer.connections, s).pre_norm(x) for s in ("attention", "feed_forward")}
    attention, _ = layer.attention.self(u["attention"])
    branches = layer.attention.output.dense(attention) + layer.output.dense(layer.intermediate(u["feed_forward"]))
    # the feed-forward's own input depends on the factor too, but with the factor 0 before it only through this
    expected = branches.sum((0, 1)) if kind == "vector" else branches.sum().view(1)
    torch.testing.assert_close(both, expected)


@pytest.mark.parametrize("kind", LEARNED)
@pytest.mark.parametrize("start", [0.0, 0.3, "cait", {"kind": "power", "of": "sublayer", "exponent": -0.5}], ids=str)
def test_a_model_starts_at_the_documented_values(kind, start):
    layers = 3
    model = AddNormBertModel(tiny_config({"preset": "pre_ln", "residual": {"kind": kind, "start": start}}, layers))
    for i in range(layers):
        for order, name in enumerate(["attention", "feed_forward"]):
            k = 2 * i + order + 1
            value = depth_value(start, i + 1, layers, k, 2 * layers)
            residual = getattr(model.encoder.layer[i].connections, name).residual_norm
            torch.testing.assert_close(residual.get_parameter(LEARNED[kind]).unique(), torch.tensor([value]))


@pytest.mark.parametrize(
    ("preset", "start", "per_layer"), [("rezero", 0.0, 1), ("layer_scale", 0.1, 2)], ids=["rezero", "layer_scale"]
)
def test_presets_start_as_their_papers_do(preset, start, per_layer):
    parameters = learned(AddNormBertModel(tiny_config(preset, layers=3)))
    assert len(parameters) == 3 * per_layer
    assert all((parameter == start).all() for parameter in parameters.values())


def test_rezero_starts_as_the_identity():
    model = AddNormBertModel(tiny_config("rezero")).eval()
    x = torch.randn(2, 5, 8)
    assert torch.equal(model.encoder(x).last_hidden_state, x)


def test_skip_side_multiplies_the_stream():
    add_norm = {"preset": "pre_ln", "final": False, "residual": {"kind": "scalar", "start": 0.0, "side": "skip"}}
    model = AddNormBertModel(tiny_config(add_norm, layers=1)).eval()
    layer = model.encoder.layer[0]
    # both skips at 0: what is left is the feed-forward of the attention's output
    x = torch.randn(2, 5, 8)
    out = model.encoder(x).last_hidden_state
    u = layer.connections.attention.pre_norm(x)
    y = layer.attention.output.dense(layer.attention.self(u)[0])
    y = layer.output.dense(layer.intermediate(layer.connections.feed_forward.pre_norm(y)))
    torch.testing.assert_close(out, y)


@pytest.mark.parametrize("kind", LEARNED)
def test_a_zero_residual_on_zero_norms_is_refused(kind):
    with pytest.raises(ValueError, match="zero_out_norm"):
        tiny_config({"preset": "res_post_norm", "residual": {"kind": kind, "start": 0.0}})
