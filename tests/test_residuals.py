"""Every residual against its formula in float64, over all of its options, alone and in a model; stochastic depth."""

import math
import types
from typing import Literal, get_args, get_origin

import pytest
import torch
from depth_references import DEPTH_REFERENCES, depth_value
from reference_checks import Drawn, assert_close, combinations
from residual_references import RESIDUAL_REFERENCES

from hf_addnorm import AddNormBertConfig, AddNormBertModel
from hf_addnorm.models.bounded_connections import (
    IndependentHyperConnection,
    ManifoldHyperConnection,
    PermutationHyperConnection,
    StreamHead,
)
from hf_addnorm.models.connection import held_residual
from hf_addnorm.models.depth import Position
from hf_addnorm.models.inner import Inner
from hf_addnorm.models.reading_streams import GatedStreamConnection, StreamMixer
from hf_addnorm.models.residuals import RESIDUALS


TOLERANCE = 1e-12
SUBLAYERS = ("attention", "feed_forward")
ROOT_OF_DEPTH = {"kind": "power", "of": "sublayers", "exponent": 0.25}
HIDDEN = 7

COMBINATIONS = [
    pytest.param(kind, options, id="-".join([kind, *(f"{key}={value}" for key, value in options.items())]))
    for kind, reference in RESIDUAL_REFERENCES.items()
    for options in combinations(reference.samples)
]
LEARNED = {"scalar": "alpha", "vector": "weight"}
# a factor on either side, and the sum: the others mix features, or add numbers of their own
ELEMENTWISE = ("add", "constant", "scalar", "vector", "admin")
# by default, these are the plain sum when they start
SUMS_AT_START = ("add", "constant", "affine", "gpas", "laurel_lr")
# options that a narrow model needs
SMALL = {"laurel_lr": {"rank": 3}, "laurel_gemma3n": {"rank": 3}}
# layer 3 of 5, its second sublayer of two
POSITION = Position(layer=2, layers=5, sublayer=5, sublayers=10)


def at_position(value, position=POSITION):
    """What an option stands for, by the reference of the depth rules."""
    if isinstance(value, str) and value not in DEPTH_REFERENCES:
        return value
    return depth_value(value, position.layer + 1, position.layers, position.sublayer + 1, position.sublayers)


def build(kind, options, dtype=torch.float64):
    """The residual, with every parameter far from its start value."""
    residual = RESIDUALS.build(RESIDUALS.parse({"kind": kind, **options}, "add_norm.residual"), HIDDEN, POSITION)
    generator = torch.Generator().manual_seed(0)
    for parameter in residual.parameters():
        low, high = (0.5, 1.5) if parameter.dim() == 1 else (-0.5, 0.5)
        torch.nn.init.uniform_(parameter, low, high, generator=generator)
    # as in a model, what says so stays in float32
    return residual.to(torch.promote_types(dtype, torch.float32) if hasattr(residual, "keep_in_float32") else dtype)


def first_options(kind):
    """The first sample of every option."""
    return next(combinations(RESIDUAL_REFERENCES[kind].samples))


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
    numbers = (value for value in map(at_position, options.values()) if isinstance(value, (int, float)))
    scale = max(1.0, 1.5, *map(abs, numbers))
    size = (x.abs() + f.abs()).double()
    if kind not in ELEMENTWISE:
        size = size.amax(-1, keepdim=True) + 1
    rounding = torch.finfo(dtype).eps / 2 * 4 * scale * size
    assert ((y.double() - y_expected).abs() <= rounding).all()
    for name, grad in grads_expected.items():
        assert_close(grads[name].double(), grad, 8 * torch.finfo(dtype).eps, f"grad.{name}")


@pytest.mark.parametrize("kind", RESIDUALS)
def test_non_contiguous_input_and_compile(kind):
    torch._dynamo.reset()
    residual = build(kind, first_options(kind))
    x, f = (t.transpose(0, 1)[..., ::2] for t in stream_and_branch(3, 2, 2 * HIDDEN))
    y = residual(x.contiguous(), f.contiguous())
    assert_close(residual(x, f), y, TOLERANCE)
    assert_close(torch.compile(residual, fullgraph=True, backend="eager")(x, f), y, TOLERANCE)


@pytest.mark.parametrize("kind", [kind for kind in RESIDUALS if RESIDUALS[kind].reads_input])
def test_what_the_branch_was_given_is_read(kind):
    options = first_options(kind)
    residual = build(kind, options)
    x, f = stream_and_branch(2, 3, HIDDEN)
    u = (x.flip(-1) + 0.3).requires_grad_()
    parameters = {name: p.detach() for name, p in residual.named_parameters()}
    y, y_expected = residual(x, f, branch_input=u), RESIDUAL_REFERENCES[kind].formula(x, f, parameters, u=u, **options)
    assert_close(y, y_expected, TOLERANCE)
    cotangent = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).view_as(y)
    (grad,), (grad_expected,) = (torch.autograd.grad(z, u, cotangent) for z in (y, y_expected))
    assert_close(grad, grad_expected, TOLERANCE)
    assert not torch.allclose(residual(x, f), y)


def test_laurel_gemma3n_is_that_of_gemma():
    modeling = pytest.importorskip("transformers.models.gemma3n.modeling_gemma3n")
    theirs = modeling.Gemma3nTextLaurelBlock(types.SimpleNamespace(hidden_size=7, laurel_rank=3, rms_norm_eps=1e-6))
    ours = build("laurel_gemma3n", {"rank": 3}, torch.float32)
    for one, two in zip(theirs.parameters(), ours.parameters(), strict=True):
        one.data = two.data
    x, f = stream_and_branch(2, 3, HIDDEN, dtype=torch.float32)
    u = x.flip(-1)
    torch.testing.assert_close(ours(x, f, branch_input=u), (x + f + theirs(u)) / math.sqrt(2))


# --- start values ---


@pytest.mark.parametrize(("kind", "options"), COMBINATIONS)
def test_reset_parameters_writes_the_documented_start(kind, options):
    residual = build(kind, options)
    start = RESIDUAL_REFERENCES[kind].start(HIDDEN, **{key: at_position(value) for key, value in options.items()})
    torch.manual_seed(0)
    assert {name: tuple(p.shape) for name, p in residual.named_parameters()} == {
        name: shape for name, (shape, _) in start.items()
    }
    assert set(residual.state_dict()) == set(start)
    for garbage in (math.nan, 9.3e13):
        for name, (_, value) in start.items():
            parameter = torch.nn.init.constant_(residual.get_parameter(name), garbage)
            residual.reset_parameters()
            if not isinstance(value, Drawn):
                expected = torch.as_tensor(value, dtype=parameter.dtype).expand_as(parameter)
                torch.testing.assert_close(parameter.detach(), expected)
                continue
            draws = []
            for _ in range(1000 // parameter.numel()):
                residual.reset_parameters()
                draws.append(parameter.detach().clone())
            draws = torch.stack(draws)
            assert draws.abs().max() <= value.bound
            # within four standard errors of a normal draw's mean and deviation
            assert abs(draws.mean()) <= 4 * value.std / draws.numel() ** 0.5
            assert draws.std() == pytest.approx(value.std, rel=4 / (2 * draws.numel()) ** 0.5)


@pytest.mark.parametrize(
    ("kind", "start"),
    [("scalar", 0.0), ("vector", 0.1), ("admin", 1.0), *((kind, None) for kind in SUMS_AT_START)],
    ids=str,
)
def test_default_start(kind, start):
    options = SMALL.get(kind, {})
    residual = RESIDUALS.build(RESIDUALS.parse({"kind": kind, **options}, "add_norm.residual"), HIDDEN, POSITION)
    residual.reset_parameters()
    if start is None:
        x, f = stream_and_branch(2, 3, HIDDEN)
        torch.testing.assert_close(residual.double()(x, f), x + f, rtol=1e-12, atol=1e-12)
    else:
        torch.testing.assert_close(residual.get_parameter(LEARNED.get(kind, "weight")).unique(), torch.tensor([start]))


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
    attention, _ = layer.attention.self(u["attention"], inner=Inner({}))
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
    y = layer.attention.output.dense(layer.attention.self(u, inner=Inner({}))[0])
    y = layer.output.dense(layer.intermediate(layer.connections.feed_forward.pre_norm(y)))
    torch.testing.assert_close(out, y)


@pytest.mark.parametrize("kind", LEARNED)
def test_a_zero_residual_on_zero_norms_is_refused(kind):
    with pytest.raises(ValueError, match="zero_out_norm"):
        tiny_config({"preset": "res_post_norm", "residual": {"kind": kind, "start": 0.0}})


# --- one residual by sublayer ---


def test_sublayers_may_have_residuals_of_their_own():
    spec = {
        "preset": "deepnorm",
        "residual": {"attention": {"branch_scale": 0.5}, "cross_attention": "highway"},
        "layers": [{"index": 1, "residual": {"attention": "vector"}}, {"index": 2, "residual": "scalar"}],
    }
    model = AddNormBertModel(tiny_config(spec, is_decoder=True, add_cross_attention=True))
    held = [
        [held_residual(getattr(layer.connections, name)) for name in ("attention", "cross_attention", "feed_forward")]
        for layer in model.encoder.layer
    ]
    assert [[type(residual).__name__ for residual in layer] for layer in held] == [
        ["ConstantResidual", "HighwayGate", "ConstantResidual"],
        ["VectorResidual", "HighwayGate", "ConstantResidual"],
        ["ScalarResidual"] * 3,
    ]
    # a dict without a kind changes options, and what is not named keeps its own
    alpha = 9**0.25
    assert (held[0][0].skip_scale, held[0][0].branch_scale) == pytest.approx((alpha, 0.5))
    assert (held[0][2].skip_scale, held[0][2].branch_scale) == pytest.approx((alpha, 1.0))


def test_a_residual_is_at_home_where_weight_decay_finds_it():
    spec = {"preset": "pre_ln", "residual": {"attention": "gru_gate", "feed_forward": "affine"}}
    model = AddNormBertModel(tiny_config(spec, layers=1))
    paths = {path for path, _ in model.named_parameters() if "residual" in path}
    start = "encoder.layer.0.connections"
    assert paths == {
        *(f"{start}.attention.residual_gate.{side}.{name}.weight" for side in ("branch", "stream") for name in "rzh"),
        f"{start}.attention.residual_gate.bias",
        *(f"{start}.feed_forward.residual_norm.{side}_{n}" for side in ("skip", "branch") for n in ("weight", "bias")),
    }
    for kind, factory in RESIDUALS.items():
        residual = build(kind, first_options(kind))
        matrices = any(parameter.dim() > 1 for parameter in residual.parameters())
        assert factory.home == ("residual_gate" if matrices else "residual_norm"), kind


@pytest.mark.parametrize("share", ["layer", "sublayer"])
def test_gpas_has_one_gate_per_layer_unless_told_otherwise(share):
    residual = {"kind": "gpas"} if share == "layer" else {"kind": "gpas", "share": "sublayer"}
    paths = learned(AddNormBertModel(tiny_config({"preset": "pre_ln", "residual": residual}, layers=1)))
    owners = {"layer": [""], "sublayer": ["attention.", "feed_forward."]}[share]
    assert set(paths) == {f"encoder.layer.0.connections.{owner}residual_norm.gate" for owner in owners}


@pytest.mark.parametrize(
    "kind", ["gpas", "muse_gate", "highway", "gru_gate", "laurel_lr", "laurel_gemma3n", "deep_delta"]
)
def test_gates_stay_in_float32(kind, tmp_path):
    spec = {"preset": "pre_ln", "residual": {"kind": kind, **SMALL.get(kind, {})}}
    AddNormBertModel(tiny_config(spec)).save_pretrained(tmp_path)
    model = AddNormBertModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    dtypes = {path: p.dtype for path, p in model.named_parameters()}
    gates = {path for path in dtypes if "residual_" in path}
    assert gates
    assert {path for path, dtype in dtypes.items() if dtype == torch.float32} == gates
    assert model(torch.tensor([[1, 2, 3]])).last_hidden_state.dtype == torch.bfloat16


# --- schemes at a start where they are another one ---


def in_slots(**norms):
    """The same norms in both sublayers."""
    return dict.fromkeys(SUBLAYERS, norms)


# the scheme at its start, and what it is there
REDUCTIONS = {
    "admin": ("admin", "post_ln"),
    "gpas": ({"preset": "sandwich_ln", "residual": "gpas"}, "sandwich_ln"),
    "gpas_on_skip": ({"residual": {"kind": "gpas", "place": "on_skip"}}, "post_ln"),
    "gpas_deepnorm": (
        {"preset": "deepnorm", "residual": {"kind": "gpas", "place": "on_skip", "skip_scale": ROOT_OF_DEPTH}},
        "deepnorm",
    ),
    "laurel_lr": ({"preset": "pre_ln", "residual": {"kind": "laurel_lr", "rank": 3}}, "pre_ln"),
    "affine": ({"preset": "pre_ln", "residual": "affine"}, "pre_ln"),
    "layer_scale": ({"preset": "layer_scale", "residual": {"start": 1.0}}, "pre_ln"),
    "doge": ({"preset": "pre_ln", "residual": {"kind": "vector", "side": "skip", "start": 1.0}}, "pre_ln"),
    "normformer_skip": (
        {"preset": "normformer", "residual": {"feed_forward": {"kind": "vector", "side": "skip", "start": 1.0}}},
        "normformer",
    ),
    "deepnorm": ({"residual": {"kind": "constant", "skip_scale": 1.0}}, "post_ln"),
    "keel": ({**in_slots(pre="none", post=True), "residual": {"kind": "constant", "skip_scale": 1.0}}, "post_ln"),
    "normformer": (
        {
            "preset": "normformer",
            "attention": {"pre": True, "mid": "none", "out": "none"},
            "feed_forward": {"pre": True, "mid": "none"},
        },
        "pre_ln",
    ),
    "sandwich_ln": ({"preset": "sandwich_ln", **in_slots(pre=True, out="none")}, "pre_ln"),
}


@pytest.mark.parametrize("name", REDUCTIONS)
def test_a_scheme_starts_as_another_one(name):
    spec, base = REDUCTIONS[name]
    plain, model = twins(base, spec)
    x = torch.randn(2, 5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(8))
    outputs, grads = [], []
    for net in (plain, model):
        outputs.append(net.encoder(x).last_hidden_state)
        weights = {path: p for path, p in net.encoder.named_parameters() if "residual_" not in path}
        cotangent = torch.linspace(-1, 1, outputs[-1].numel(), dtype=torch.float64).view_as(outputs[-1])
        values = torch.autograd.grad(outputs[-1], list(weights.values()), cotangent)
        grads.append(dict(zip(weights, values, strict=True)))
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-12, atol=1e-12)
    # the sublayers' weights get the same gradients too
    for path, grad in grads[0].items():
        torch.testing.assert_close(grads[1][path], grad, rtol=1e-9, atol=1e-10, msg=path)
    # and is another one as soon as it has learned
    if started := [p for path, p in model.named_parameters() if "residual_" in path]:
        generator = torch.Generator().manual_seed(9)
        for parameter in started:
            torch.nn.init.uniform_(parameter, 0.3, 0.9, generator=generator)
        assert not torch.allclose(model.encoder(x).last_hidden_state, outputs[0], rtol=1e-3)


# --- streams at their start, and where they are the plain one ---


def twins(*specs, **kwargs):
    """Models of these specs in float64 with the same random weights, as far as they have the same."""
    models = [AddNormBertModel(tiny_config(spec, **kwargs)).double().eval() for spec in specs]
    generator = torch.Generator().manual_seed(5)
    shared: dict[str, torch.Tensor] = {}
    for model in models:
        for path, parameter in model.named_parameters():
            if path not in shared:
                shared[path] = torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.3
            if not any(home in path for home in ("residual_", "average_norm", "head_gate")):
                parameter.data = shared[path] + ("norm.weight" in path.lower())
    return models


@pytest.mark.parametrize("streams", [1, 2, 4])
def test_hyper_connections_start_as_the_plain_stream(streams):
    hyper = {"preset": "hyper_connections", "stream": {"kind": "hyper_connections", "streams": streams}}
    plain, model = twins("pre_ln", hyper)
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    torch.testing.assert_close(model.encoder(x).last_hidden_state, plain.encoder(x).last_hidden_state)
    reduced, state = model.encoder.layer[0](x)
    for index in range(streams):
        torch.testing.assert_close(state[:, :, index], reduced)


@pytest.mark.parametrize(
    "stream",
    [
        "dense",
        {"kind": "dense", "dilation": 2, "period": 3},
        {"kind": "hyper_connections", "dynamic": True},
        {"kind": "hyper_connections", "streams": 1, "fractions": 4},
        {"kind": "hyper_connections", "streams": 2, "fractions": 2, "dynamic": True},
    ],
)
@pytest.mark.parametrize("preset", ["pre_ln", "post_ln"])
def test_streams_that_start_as_the_plain_one(preset, stream):
    plain, model = twins(preset, {"preset": preset, "stream": stream})
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    torch.testing.assert_close(model.encoder(x).last_hidden_state, plain.encoder(x).last_hidden_state)


@pytest.mark.parametrize("official", [False, True])
def test_manifold_hyper_connections_without_their_weight_are_the_plain_stream(official):
    stream = {"kind": "manifold_hyper_connections", "official": official}
    plain, model = twins("pre_ln", {"preset": "mhc", "stream": stream})
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    expected = plain.encoder(x).last_hidden_state
    # at its start the weight makes the streams differ, a little
    torch.testing.assert_close(model.encoder(x).last_hidden_state, expected, rtol=0.1, atol=0.1)
    assert not torch.allclose(model.encoder(x).last_hidden_state, expected, atol=1e-6)
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            if path.endswith("residual_gate.weight"):
                parameter.zero_()
    # the streams stay equal, and every row of the mix sums to 1; the official one has its 1e-6 on top
    tolerance = 1e-4 if official else 1e-10
    torch.testing.assert_close(model.encoder(x).last_hidden_state, expected, rtol=tolerance, atol=tolerance)


HC_CONFIG = types.SimpleNamespace(
    hc_mult=4, hc_sinkhorn_iters=20, hc_eps=1e-6, rms_norm_eps=1e-6, hidden_size=8, hc_magnitude=1.5
)


def vendor(name, class_name):
    modeling = pytest.importorskip(f"transformers.models.{name}.modeling_{name}")
    return getattr(modeling, class_name)(HC_CONFIG)


def same_weights(ours, weight, bias, scale):
    """Numbers far from any start in both."""
    with torch.no_grad():
        for index in range(len(scale)):
            ours.scale_norm[("read", "write", "mix")[index]].fill_(0.5 + index)
            scale[index] = 0.5 + index
        for one, two in ((ours.weight, weight), (ours.bias, bias)):
            two.copy_(one.normal_(std=0.5))


@pytest.mark.parametrize(
    ("name", "class_name"),
    [("deepseek_v4", "DeepseekV4HyperConnection"), ("glm5_next", "Glm5NextTextHyperConnection")],
)
def test_the_official_manifold_hyper_connection_is_that_of_deepseek_and_glm(name, class_name):
    theirs, ours = vendor(name, class_name), ManifoldHyperConnection(8, 4, 20, 5.0, True)
    same_weights(ours, theirs.fn, theirs.base, theirs.scale)
    state, f = torch.randn(2, 5, 4, 8), torch.randn(2, 5, 8)
    post, mix, collapsed = theirs(state)
    u, kept = ours.read(state)
    expanded = post.unsqueeze(-1) * f.unsqueeze(-2) + torch.matmul(mix.transpose(-1, -2), state)
    torch.testing.assert_close(u, collapsed, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours(kept, f), expanded, rtol=1e-5, atol=1e-6)


def test_independent_hyper_connections_are_those_of_hunyuan():
    theirs, ours = vendor("hy_v4", "HYV4HyperConnection"), IndependentHyperConnection(8, 4, 1.5)
    same_weights(ours, theirs.fn, theirs.base, theirs.scale)
    state, f = torch.randn(2, 5, 4, 8), torch.randn(2, 5, 8)
    post, collapsed = theirs(state)
    u, kept = ours.read(state)
    torch.testing.assert_close(u, collapsed, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours(kept, f), state + post.unsqueeze(-1) * f.unsqueeze(-2), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "class_name"), [("deepseek_v4", "DeepseekV4HyperHead"), ("hy_v4", "HYV4HyperHead")])
def test_the_learned_head_is_that_of_deepseek_and_hunyuan(name, class_name):
    theirs, ours = vendor(name, class_name), StreamHead(8, 4, 1e-6)
    same_weights(ours, theirs.hc_fn, theirs.hc_base, theirs.hc_scale)
    state = torch.randn(2, 5, 4, 8)
    torch.testing.assert_close(ours(state), theirs(state), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("ends", [False, True], ids=["sublayer", "end"])
def test_gated_streams_are_those_of_qwen(ends):
    modeling = pytest.importorskip("transformers.models.qwen4_exp.modeling_qwen4_exp")
    config = types.SimpleNamespace(hc_count=3, hidden_size=8, hc_lowrank=5, rms_norm_eps=1e-6)
    theirs = modeling.Qwen4ExpTextGatedResidual(config, use_combine=not ends)
    ours = (StreamMixer if ends else GatedStreamConnection)(8, 3, 5, 1e-6)
    pairs = [("hc_norm", "input_norm"), ("input_mix_weight_down", "down"), ("input_mix_weight_up", "up")]
    for one, two in [*pairs, *[("block_inject_weight", "write")] * (not ends)]:
        (parameter,) = getattr(theirs, one).parameters()
        (own,) = getattr(ours, two).parameters()
        own.data = parameter.data.normal_(std=0.5)
    state, f = torch.randn(2, 5, 3, 8), torch.randn(2, 5, 8)
    if ends:
        torch.testing.assert_close(ours(state), theirs(state.flatten(-2)))
        return
    expected, _, written = theirs(state.flatten(-2))
    u, kept = ours.read(state)
    torch.testing.assert_close(u, expected)
    torch.testing.assert_close(ours(kept, f), state + f.unsqueeze(-2) * written.unsqueeze(-1))


def test_attention_residuals_start_as_the_mean_of_all_outputs():
    model = AddNormBertModel(tiny_config({"preset": "pre_ln", "stream": "attention_residuals"})).eval()
    x = torch.randn(2, 5, 8)
    shown, *outputs = model.encoder.layer[0](x)
    assert len(outputs) == 3
    torch.testing.assert_close(shown, sum(outputs) / 3)
    torch.testing.assert_close(outputs[0], x)
    residual = model.encoder.layer[1].connections.attention.residual_norm
    torch.testing.assert_close(residual.read((shown, *outputs))[0], shown)
    with torch.no_grad():
        residual.query.copy_(1e3 * residual.key_norm(outputs[1][0, 0]))
    # the output that its query is like
    torch.testing.assert_close(residual.read((shown, *outputs))[0][0, 0], outputs[1][0, 0])


@pytest.mark.parametrize(
    "stream",
    [
        {"kind": "manifold_hyper_connections", "reduce": "learned"},
        {"kind": "permutation_hyper_connections", "streams": 3},
        {"kind": "independent_hyper_connections"},
    ],
    ids=lambda stream: stream["kind"],
)
def test_bounded_streams_start_as_the_plain_one_but_for_their_weight(stream):
    plain, model = twins("pre_ln", {"preset": "mhc", "stream": stream})
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    expected = plain.encoder(x).last_hidden_state
    torch.testing.assert_close(model.encoder(x).last_hidden_state, expected, rtol=0.1, atol=0.1)
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            if path.endswith(("residual_gate.weight", "head_gate.weight")):
                parameter.zero_()
    torch.testing.assert_close(model.encoder(x).last_hidden_state, expected, rtol=1e-4, atol=1e-4)


def test_a_mean_of_permutations_is_doubly_stochastic_and_any_of_them_may_be_it():
    connection = PermutationHyperConnection(8, 3, 0.0).double()
    connection.reset_parameters()
    state = torch.randn(2, 3, 8, dtype=torch.float64)
    _, (_, mix, _) = connection.read(state)
    for axis in (-1, -2):
        torch.testing.assert_close(mix.sum(axis), torch.ones_like(mix.sum(axis)))
    with torch.no_grad():
        # the last permutation turns the order round
        connection.bias[-1] = 1e4
    _, kept = connection.read(state)
    torch.testing.assert_close(connection(kept, torch.zeros(2, 8, dtype=torch.float64)), state.flip(-2))


def test_too_many_streams_for_all_their_permutations_are_refused():
    with pytest.raises(ValueError, match=r"streams is 7, of which there are n! permutations; allowed is at most 6"):
        tiny_config({"stream": {"kind": "permutation_hyper_connections", "streams": 7}})


@pytest.mark.parametrize("official", [False, True])
def test_the_mix_of_streams_is_doubly_stochastic(official):
    connection = ManifoldHyperConnection(8, 4, 20, 0.0, official).double()
    connection.reset_parameters()
    with torch.no_grad():
        connection.weight.normal_(std=0.1)
        connection.scale_norm["mix"].fill_(1.0)
    _, (_, mix, _) = connection.read(torch.randn(3, 4, 8, dtype=torch.float64))
    for axis in (-1, -2):
        torch.testing.assert_close(mix.sum(axis), torch.ones(3, 4).double(), rtol=1e-3, atol=1e-3)


def test_fractions_must_divide_the_hidden_size():
    with pytest.raises(ValueError, match=r"stream.fractions is 3, which does not divide the hidden size 8"):
        tiny_config({"stream": {"kind": "hyper_connections", "fractions": 3}})


@pytest.mark.parametrize(("wiring", "per_layer"), [("sequential", 2), ("parallel", 1)])
def test_hyper_connections_start_by_reading_one_stream_after_the_other(wiring, per_layer):
    stream = {"kind": "hyper_connections", "streams": 3}
    parameters = learned(AddNormBertModel(tiny_config({"stream": stream, "wiring": wiring}, layers=4)))
    assert all((beta == 1).all() for path, beta in parameters.items() if path.endswith("beta"))
    alphas = [alpha for path, alpha in parameters.items() if path.endswith("alpha")]
    assert len(alphas) == 4 * per_layer
    for k, alpha in enumerate(alphas):
        assert alpha[:, 0].tolist() == [float(index == k % 3) for index in range(3)]
        assert torch.equal(alpha[:, 1:], torch.eye(3))


def test_dual_without_its_sum_is_the_plain_stream_and_a_constant():
    plain, model = twins("post_ln", {"preset": "residual", "stream": {"kind": "dual", "scale": 0.0}})
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    expected = plain.encoder(x).last_hidden_state + model.encoder.layer[-1].connections.stream_norm.bias
    torch.testing.assert_close(model.encoder(x).last_hidden_state, expected)


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
