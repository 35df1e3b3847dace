"""Every residual against its formula in float64, over all of its options, alone and in a model."""

import math
import types
from typing import Literal, get_args, get_origin

import pytest
import torch
from depth_references import DEPTH_REFERENCES, depth_value
from families import tiny_config, twins
from reference_checks import Drawn, assert_close, combinations
from residual_references import RESIDUAL_REFERENCES

from hf_addnorm import AddNormBertModel
from hf_addnorm.models.base.depth import Position
from hf_addnorm.models.base.registries import RESIDUALS
from hf_addnorm.models.core.branch_norms import BranchNorms
from hf_addnorm.models.core.layer_add_norm import residual_of_block


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
    attention, _ = layer.attention.self(u["attention"], branch_norms=BranchNorms({}))
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
    y = layer.attention.output.dense(layer.attention.self(u, branch_norms=BranchNorms({}))[0])
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
        [
            residual_of_block(getattr(layer.connections, name))
            for name in ("attention", "cross_attention", "feed_forward")
        ]
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
        assert factory.checkpoint_name == ("residual_gate" if matrices else "residual_norm"), kind


@pytest.mark.parametrize("share", ["layer", "sublayer"])
def test_gpas_has_one_gate_per_layer_unless_told_otherwise(share):
    residual = {"kind": "gpas"} if share == "layer" else {"kind": "gpas", "share": "sublayer"}
    paths = learned(AddNormBertModel(tiny_config({"preset": "pre_ln", "residual": residual}, layers=1)))
    owners = {"layer": [""], "sublayer": ["attention.", "feed_forward."]}[share]
    assert set(paths) == {f"encoder.layer.0.connections.{owner}residual_norm.gate" for owner in owners}


@pytest.mark.parametrize(
    "kind", ["gpas", "muse_gate", "highway", "gru_gate", "gru_cell", "laurel_lr", "laurel_gemma3n", "deep_delta"]
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
