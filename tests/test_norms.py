"""Every norm kind of one token against its formula in float64, over all of its options.

The norms over tokens are in test_token_norms.
"""

import math
from typing import Literal, get_args, get_origin

import pytest
import torch
from norm_references import HEADS, MODEL_BIAS, MODEL_EPS, NORM_REFERENCES
from reference_checks import Drawn, assert_close, combinations

from hf_addnorm.models.base.registries import NORMS
from hf_addnorm.models.norms.norm_base import build_norm, mixes_tokens, set_gain


# relative to the largest value of the token
TOLERANCE = 1e-12

COMBINATIONS = [
    pytest.param(kind, options, id="-".join([kind, *(f"{key}={value}" for key, value in options.items())]))
    for kind, reference in NORM_REFERENCES.items()
    for options in combinations(reference.samples)
    if not reference.contradicts(**options) and options.get("over") != "tokens"
]
# one of each class that a row can build, for the slow checks
REPRESENTATIVES = [
    ("layer_norm", {}),
    ("layer_norm", {"gain": False, "eps_place": "outside", "variance": "unbiased"}),
    ("rms_norm", {}),
    ("rms_norm", {"zero_centered": True, "bias": True, "eps_place": "outside"}),
    ("dyt", {}),
    ("affine", {}),
    ("affine", {"bias": False, "groups": "heads"}),
    ("none", {}),
    ("layer_norm", {"zero_centered": True}),
    ("group_norm", {}),
    ("ada_norm", {"k": 0.0}),
    ("center_norm", {}),
    ("zero_mean_layer_norm", {}),
    ("fixed_sigma", {}),
    ("crms_norm", {}),
    ("prms_norm", {}),
    ("scale_norm", {}),
    ("input_scaled_layer_norm", {}),
    ("l2_norm", {}),
    ("learned_scale", {}),
    ("scaled_l2_norm", {"groups": "heads"}),
    ("see_dnorm", {}),
    ("gated_rms_norm", {}),
    ("input_scaled_rms_norm", {}),
    ("grouped_rms_norm", {}),
    ("grouped_rms_norm", {"shared": True, "zero_centered": True}),
    ("bhyt_star", {"learned": True}),
    ("derf", {}),
    ("isru", {}),
    ("sum_norm", {}),
    ("sum_norm", {"signed": False, "eps": 100.0}),
]
HALVES = [torch.bfloat16, torch.float16]


def build(kind, options, width, dtype=torch.float64):
    """The norm, with every parameter far from its start value."""
    choice = NORMS.parse({"kind": kind, **options}, "add_norm.norm")
    norm = build_norm(choice, width, eps=MODEL_EPS, bias=MODEL_BIAS, groups=HEADS.get(width, 1))
    generator = torch.Generator().manual_seed(0)
    for parameter in norm.parameters():
        torch.nn.init.uniform_(parameter, 0.5, 1.5, generator=generator)
    # of both signs and small, or what they are multiplied with is squashed to a constant
    for name in ("direction", "gate_down", "gate_up"):
        if hasattr(norm, name):
            torch.nn.init.uniform_(getattr(norm, name), -0.1, 0.1, generator=generator)
    return norm.to(dtype)


def tokens(*shape, dtype=torch.float64):
    """Off-centre tokens of unlike channels; the first one is so small that eps and its place matter."""
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 0.5
    x[..., 0] *= 20
    if x.numel():
        x.view(-1, shape[-1])[0] *= 1e-6
    return x.to(dtype)


def differentiate(function, x, parameters):
    """Output, and the gradients of a weighted sum of it with respect to the input and the parameters."""
    x = x.detach().requires_grad_()
    y = function(x)
    # eighths: the same numbers in every dtype
    cotangent = torch.randn(y.shape, generator=torch.Generator().manual_seed(2)).mul(8).round().div(8).to(y.dtype)
    x_grad, *grads = torch.autograd.grad(y, [x, *parameters.values()], cotangent)
    return y.detach(), {"x": x_grad} | dict(zip(parameters, grads, strict=True))


def expected(kind, options, x, norm):
    """The reference in float64 of exactly the numbers that the norm and the input hold."""
    parameters = {name: p.detach().double().requires_grad_() for name, p in norm.named_parameters()}
    options = {key: value for key, value in options.items() if key not in ("gain", "bias", "zero_centered")}
    if kind == "layer_norm":
        options.setdefault("eps", None)
    formula = NORM_REFERENCES[kind].formula
    return differentiate(lambda x: formula(x, parameters, **options), x.double(), parameters)


# --- the tables cover the registry ---


def test_every_norm_has_a_reference():
    of_one_token = {kind for kind in NORMS if not mixes_tokens(NORMS.parse(kind, "norm"))}
    assert set(NORM_REFERENCES) == of_one_token
    assert {kind for kind, _ in REPRESENTATIVES} == of_one_token


@pytest.mark.parametrize("kind", NORM_REFERENCES)
def test_every_option_has_samples(kind):
    options, samples = NORMS.options(kind), NORM_REFERENCES[kind].samples
    assert set(samples) == set(options)
    for name, option in options.items():
        assert option.default in samples[name] or isinstance(option.default, float)
        if bool in (option.annotation, *get_args(option.annotation)):
            assert {True, False} <= set(samples[name])
        if get_origin(option.annotation) is Literal:
            assert set(samples[name]) == set(get_args(option.annotation))


@pytest.mark.parametrize("kind", NORM_REFERENCES)
def test_exactly_the_contradictions_are_refused(kind):
    reference = NORM_REFERENCES[kind]
    for options in combinations(reference.samples):
        if reference.contradicts(**options):
            with pytest.raises(ValueError, match=rf"^add_norm\.norm \({kind}\): "):
                NORMS.parse({"kind": kind, **options}, "add_norm.norm")
        else:
            assert NORMS.parse({"kind": kind, **options}, "add_norm.norm").options == options


# --- the function and its gradient ---


@pytest.mark.parametrize(("kind", "options"), COMBINATIONS)
def test_matches_the_formula(kind, options):
    for shape in [(2, 3, 12), (5, 7), (1, 1, 33), (12,)]:
        x = tokens(*shape)
        norm = build(kind, options, shape[-1])
        before = x.clone()
        y, grads = differentiate(norm, x, dict(norm.named_parameters()))
        y_expected, grads_expected = expected(kind, options, x, norm)
        assert torch.equal(x, before)
        assert_close(y, y_expected, TOLERANCE, f"y {shape}")
        assert grads.keys() == grads_expected.keys()
        for name, grad in grads_expected.items():
            assert_close(grads[name], grad, TOLERANCE, f"grad.{name} {shape}")


@pytest.mark.parametrize(("kind", "options"), REPRESENTATIVES)
def test_gradcheck(kind, options):
    norm = build(kind, options, 7)
    # no tiny token: finite differences cannot resolve it
    x = tokens(3, 7)[1:].requires_grad_()
    torch.autograd.gradcheck(norm, x, fast_mode=True)


@pytest.mark.parametrize(("kind", "options"), COMBINATIONS)
def test_zeros_and_underflow_are_finite(kind, options):
    dtype = torch.float32
    norm = build(kind, options, 12, dtype)
    # 1e-30 squared is 0 in float32, but is not 0 itself
    x = torch.zeros(3, 12, dtype=dtype)
    x[1] = 1e-30
    x[2] = 0.25
    y, grads = differentiate(norm, x, dict(norm.named_parameters()))
    assert y.isfinite().all()
    assert all(grad.isfinite().all() for grad in grads.values())
    y_expected, _ = expected(kind, options, x, norm)
    torch.testing.assert_close(y[0].double(), y_expected[0], rtol=1e-6, atol=0)


@pytest.mark.parametrize(("kind", "eps_place"), [("rms_norm", "outside"), ("layer_norm", "outside")])
def test_gradient_at_zero_is_the_limit(kind, eps_place):
    # the norm is x / (root + eps): at 0 its derivative is 1 / eps, for LayerNorm on the centred part
    norm = build(kind, {"gain": False, "bias": False, "eps": 1e-3, "eps_place": eps_place}, 12)
    cotangent = tokens(1, 12)
    x = torch.zeros(1, 12, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(norm(x), x, cotangent)
    centred = cotangent - cotangent.mean() if kind == "layer_norm" else cotangent
    assert_close(grad, centred / 1e-3, TOLERANCE)


@pytest.mark.parametrize(("kind", "options"), COMBINATIONS)
def test_a_token_depends_on_itself_only(kind, options):
    norm = build(kind, options, 12)
    x = tokens(2, 3, 12)
    changed = x.clone()
    changed[0, 1] += 1e3
    same = torch.ones(2, 3, dtype=torch.bool)
    same[0, 1] = False
    assert torch.equal(norm(x)[same], norm(changed)[same])


@pytest.mark.parametrize(("kind", "options"), COMBINATIONS)
def test_non_contiguous_and_empty_input(kind, options):
    norm = build(kind, options, 12)
    strided = tokens(3, 2, 24).transpose(0, 1)[..., ::2]
    assert not strided.is_contiguous()
    assert_close(norm(strided), norm(strided.contiguous()), TOLERANCE)
    for shape in [(0, 5, 12), (2, 0, 12)]:
        y, grads = differentiate(norm, tokens(*shape), dict(norm.named_parameters()))
        assert y.shape == shape
        assert all((grad == 0).all() for grad in grads.values())


# --- half precision ---


@pytest.mark.parametrize("parameters", [None, torch.float32], ids=["half-parameters", "float32-parameters"])
@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize(("kind", "options"), COMBINATIONS)
def test_half_input_is_rounded_once(kind, options, dtype, parameters):
    """The statistics and the gain are computed in float32: only the output is rounded to the input's dtype."""
    norm = build(kind, options, 33, parameters or dtype)
    x = tokens(4, 33, dtype=dtype)
    # squares of these overflow float16, sums of these are coarse in both
    x[1] *= 1e4 / x[1].abs().max()
    x[2] = (x[2].double() * 0.1 + 30).to(dtype)
    y = norm(x)
    y_expected, _ = expected(kind, options, x, norm)
    assert y.dtype == dtype
    half_step = torch.finfo(dtype).eps / 2
    # what float32 leaves, and the coarse end of float16's range
    allowed = half_step * y_expected.abs() + 2e-5 * y_expected.abs().amax(-1, keepdim=True) + 1e-7
    # what multiplies may leave that range
    fits = y_expected.abs() <= torch.finfo(dtype).max
    assert ((y.double() - y_expected).abs() <= allowed)[fits].all()
    assert y[~fits].isinf().all()
    # the tiny token's gradient is beyond the range of float16; torch's LayerNorm keeps the mean for its backward in
    # the input's dtype, which is too coarse for the token far off centre
    x = x[1::2] if type(norm) is torch.nn.LayerNorm else x[1:]
    _, grads = differentiate(norm, x, dict(norm.named_parameters()))
    _, grads_expected = expected(kind, options, x, norm)
    assert grads["x"].dtype == dtype
    for name, grad in grads_expected.items():
        if grad.abs().max() <= torch.finfo(grads[name].dtype).max:
            assert_close(grads[name].double(), grad, 2 * half_step, f"grad.{name}")


# --- start values ---


@pytest.mark.parametrize(("kind", "options"), COMBINATIONS)
def test_reset_parameters_writes_the_documented_start(kind, options):
    norm = build(kind, options, 12)
    start = NORM_REFERENCES[kind].start(12, **options)
    assert {name: tuple(p.shape) for name, p in norm.named_parameters()} == {
        name: shape for name, (shape, _) in start.items()
    }
    # no running state: what is saved is the parameters
    assert set(norm.state_dict()) == set(start)
    for garbage in (math.nan, 9.3e13):
        for name, (_, value) in start.items():
            parameter = torch.nn.init.constant_(norm.get_parameter(name), garbage)
            norm.reset_parameters()
            if isinstance(value, Drawn):
                assert parameter.std(correction=0).item() == pytest.approx(value.std, rel=0.5), name
                assert parameter.abs().max() < 5 * value.std, name
            else:
                assert (parameter == value).all(), name


@pytest.mark.parametrize(("kind", "options"), COMBINATIONS)
def test_set_gain_zero_leaves_the_bias(kind, options):
    norm = build(kind, options, 12)
    start = NORM_REFERENCES[kind].start(12, **options)
    # its other gain is nothing at the start
    if kind == "see_dnorm":
        norm.reset_parameters()
    set_gain(norm, 0.0)
    if {"weight", "zero_centered_weight", "scalar_weight"} & set(start):
        bias = norm.bias.detach() if "bias" in start else torch.zeros(12, dtype=torch.float64)
        if kind == "zero_mean_layer_norm":
            bias = bias - bias.mean()
        torch.testing.assert_close(norm(tokens(1, 12))[0], bias, rtol=0, atol=1e-15 * (kind == "zero_mean_layer_norm"))


def test_a_plain_gain_is_never_loaded_as_a_distance_from_one():
    plain, centred = (build("rms_norm", {"zero_centered": z}, 12) for z in (False, True))
    with pytest.raises(RuntimeError, match="zero_centered_weight"):
        centred.load_state_dict(plain.state_dict())


def test_affine_groups_are_contiguous_slices():
    norm = build("affine", {"bias": False, "groups": 3}, 12)
    y = norm(torch.ones(12, dtype=torch.float64))
    assert torch.equal(y, norm.weight.detach().repeat_interleave(4))


# --- what one kind is of another ---


def outputs(kind, x, parameters=None, **options):
    """The norm's output and gradient with these parameters, one of the width where it is a number."""
    choice = NORMS.parse({"kind": kind, **options}, "norm")
    norm = build_norm(choice, x.shape[-1], eps=1e-9, bias=False, groups=1).double()
    if hasattr(norm, "reset_parameters"):
        norm.reset_parameters()
    for name, value in (parameters or {}).items():
        with torch.no_grad():
            norm.get_parameter(name).copy_(torch.as_tensor(value, dtype=torch.float64))
    y, grads = differentiate(norm, x, {})
    return y, grads["x"]


def assert_same(one, two, factor=1.0):
    for left, right in zip(one, two, strict=True):
        assert_close(left, factor * right, 1e-11)


GAIN = torch.linspace(-1, 2, 12, dtype=torch.float64)
# no token so small that an eps shows
PLAIN = tokens(2, 3, 12)[1:]


def test_scale_norm_is_rms_norm_with_one_gain():
    rms = outputs("rms_norm", PLAIN, gain=False, eps=1e-30)
    assert_same(outputs("scale_norm", PLAIN), rms)
    assert_same(outputs("scale_norm", PLAIN, {"scalar_weight": 0.7}), rms, 0.7 / math.sqrt(12))
    assert_same(outputs("l2_norm", PLAIN), rms, 1 / math.sqrt(12))


def test_rms_norm_is_layer_norm_of_tokens_without_a_mean():
    x = PLAIN - PLAIN.mean(-1, keepdim=True)
    (rms, _), (layer, _) = (outputs(kind, x, {"weight": GAIN}, eps=1e-3) for kind in ("rms_norm", "layer_norm"))
    assert_close(rms, layer, 1e-11)


@pytest.mark.parametrize("kind", ["layer_norm", "rms_norm", "prms_norm"])
def test_a_zero_centered_gain_is_a_gain_less_one(kind):
    plain = outputs(kind, PLAIN, {"weight": GAIN})
    assert_same(outputs(kind, PLAIN, {"zero_centered_weight": GAIN - 1}, zero_centered=True), plain)


def test_group_norm_of_one_group_is_layer_norm():
    assert_same(outputs("group_norm", PLAIN, groups=1, bias=False), outputs("layer_norm", PLAIN, eps=1e-5))


def test_prms_norm_of_all_features_is_rms_norm():
    assert_same(outputs("prms_norm", PLAIN, fraction=1), outputs("rms_norm", PLAIN, eps=1e-8, eps_place="outside"))
    assert NORMS.build(NORMS.parse({"kind": "prms_norm", "fraction": 0.29}, "norm"), 100).measured == 29


@pytest.mark.parametrize("zero", ["alpha", "direction"])
def test_see_dnorm_is_rms_norm_where_its_own_gain_is_nothing(zero):
    other = {"alpha": "direction", "direction": "alpha"}[zero]
    assert_same(
        outputs("see_dnorm", PLAIN, {"weight": GAIN, zero: 0.0, other: GAIN}),
        outputs("rms_norm", PLAIN, {"weight": GAIN}),
    )


def test_gated_rms_norm_without_a_gate_is_half_of_rms_norm():
    assert_same(outputs("gated_rms_norm", PLAIN, {"gate_up": 0.0}), outputs("rms_norm", PLAIN), 0.5)


def test_input_scaled_rms_norm_is_the_size_of_rms_norm_and_that_of_muse_spark():
    assert_same(outputs("input_scaled_rms_norm", PLAIN), outputs("rms_norm", PLAIN))
    y, _ = outputs("input_scaled_rms_norm", PLAIN, {"zero_centered_weight": GAIN})
    assert_close(y.square().mean(-1), torch.ones(1, 3, dtype=torch.float64), 1e-4)
    modeling = pytest.importorskip("transformers.models.muse_spark.modeling_muse_spark")
    theirs = modeling.MuseSparkTextInputScaledRMSNorm(12)
    with torch.no_grad():
        theirs.weight.copy_(GAIN)
    assert_close(theirs(PLAIN.float()).double(), y, 1e-6)


def test_grouped_rms_norm_of_one_group_is_rms_norm_and_that_of_qwen():
    rms = outputs("rms_norm", PLAIN, {"weight": GAIN})
    for shared in (False, True):
        assert_same(outputs("grouped_rms_norm", PLAIN, {"weight": GAIN}, groups=1, shared=shared), rms)
    modeling = pytest.importorskip("transformers.models.qwen4_exp.modeling_qwen4_exp")
    theirs = modeling.Qwen4ExpTextRMSNorm(12, group_size=4)
    with torch.no_grad():
        theirs.weight.copy_(GAIN)
    y, _ = outputs("grouped_rms_norm", PLAIN, {"zero_centered_weight": GAIN}, groups=3, zero_centered=True)
    assert_close(theirs(PLAIN.float()).double(), y, 1e-6)


def test_bhyt_star_is_small_rms_norm_where_it_is_flat_and_never_above_one():
    for flat, rms in zip(outputs("bhyt_star", PLAIN, kappa=2e5), outputs("rms_norm", PLAIN), strict=True):
        assert_close(flat, 1e-5 * rms, 1e-8)
    steep, _ = outputs("bhyt_star", PLAIN, kappa=1e-3)
    assert_close(steep, PLAIN.sign(), 1e-9)


def test_ada_norm_without_its_factor_is_layer_norm_of_the_std():
    options = {"eps": 1e-5, "eps_place": "outside", "variance": "unbiased", "gain": False}
    layer = outputs("layer_norm", PLAIN, **options)
    assert_same(outputs("ada_norm", PLAIN, k=0), layer)
    y, grad = outputs("ada_norm", PLAIN, k=0, detach=True)
    assert_close(y, layer[0], 1e-11)
    # a constant factor for each token
    cotangent = differentiate(lambda x: x, PLAIN, {})[1]["x"]
    assert_close(grad, cotangent / (PLAIN.std(-1, keepdim=True) + 1e-5), 1e-11)


def test_fixed_sigma_of_the_tokens_deviation_is_layer_norm():
    x = PLAIN[:1, :1]
    sigma = x.std(correction=0).item()
    (y, _), (layer, _) = outputs("fixed_sigma", x, sigma=sigma, bias=False), outputs("layer_norm", x)
    assert_close(y, layer, 1e-8)
    assert_same(outputs("fixed_sigma", PLAIN, sigma=11 / 12), outputs("center_norm", PLAIN))


@pytest.mark.parametrize("kind", ["derf", "isru"])
def test_small_tokens_pass_the_stand_ins_as_they_are(kind):
    x = torch.full((1, 12), 1e-8, dtype=torch.float64)
    slope = {"derf": 2 / math.sqrt(math.pi), "isru": 1.0}[kind]
    assert_close(outputs(kind, x)[0], 0.5 * slope * x, 1e-8)


def test_sum_norm_sums_to_one_and_its_floor_keeps_the_sign():
    y, _ = outputs("sum_norm", PLAIN)
    torch.testing.assert_close(y.sum(-1), torch.ones_like(y[..., 0]))
    sizes, _ = outputs("sum_norm", PLAIN, signed=False)
    torch.testing.assert_close(sizes.abs().sum(-1), torch.ones_like(y[..., 0]))
    assert_same(
        outputs("sum_norm", PLAIN.abs()),
        (outputs("sum_norm", PLAIN.abs(), signed=False)[0], outputs("sum_norm", PLAIN.abs())[1]),
    )
    small = torch.tensor([[0.5, -0.2], [0.2, -0.5], [0.5, -0.5]], dtype=torch.float64)
    y, grad = outputs("sum_norm", small, eps=0.4)
    # sums 0.3, -0.3 and 0: the denominators are 0.4, -0.4 and 0.4, constants
    assert_close(y, small / torch.tensor([[0.4], [-0.4], [0.4]], dtype=torch.float64), 1e-12)
    cotangent = differentiate(lambda x: x, small, {})[1]["x"]
    assert_close(grad, cotangent / torch.tensor([[0.4], [-0.4], [0.4]], dtype=torch.float64), 1e-12)


def test_l2_norm_of_nothing_is_nothing_and_has_no_gradient():
    y, grad = outputs("l2_norm", torch.zeros(2, 12, dtype=torch.float64))
    assert (y == 0).all()
    assert (grad == 0).all()


# --- compile ---


@pytest.mark.parametrize(("kind", "options"), REPRESENTATIVES)
def test_compiles_as_one_graph(kind, options):
    torch._dynamo.reset()
    norm = build(kind, options, 12)
    compiled = torch.compile(norm, fullgraph=True, backend="eager")
    x, parameters = tokens(2, 3, 12), dict(norm.named_parameters())
    y, grads = differentiate(compiled, x, parameters)
    y_eager, grads_eager = differentiate(norm, x, parameters)
    assert_close(y, y_eager, TOLERANCE)
    for name, grad in grads_eager.items():
        assert_close(grads[name], grad, TOLERANCE, f"grad.{name}")


# --- documented errors ---


@pytest.mark.parametrize(
    ("kind", "options", "width", "words"),
    [
        ("affine", {"groups": 5}, 12, ["affine", "groups", "5", "12"]),
        ("grouped_rms_norm", {"groups": 5}, 12, ["grouped_rms_norm", "groups", "5", "12"]),
        ("group_norm", {"groups": 5}, 12, ["group_norm", "groups", "5", "12"]),
        ("group_norm", {}, 13, ["group_norm", "groups", "4", "13"]),
        ("affine", {"groups": "heads"}, 13, ["affine", "groups", "13"]),
    ],
)
def test_a_width_that_does_not_fit_is_refused(kind, options, width, words):
    choice = NORMS.parse({"kind": kind, **options}, "add_norm.norm")
    with pytest.raises(ValueError) as error:
        build_norm(choice, width, eps=MODEL_EPS, bias=True, groups=4)
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ("layer_norm", ["layer_norm", "eps", "no model to take it from"]),
        ({"kind": "layer_norm", "eps": 1e-5}, ["layer_norm", "bias", "no model to take it from"]),
        ({"kind": "layer_norm", "bias": False}, ["layer_norm", "eps", "no model to take it from"]),
        ({"kind": "affine", "groups": "heads"}, ["affine", "groups", "heads", "no model"]),
        ("group_norm", ["group_norm", "groups", "heads", "no model"]),
        ("grouped_rms_norm", ["grouped_rms_norm", "groups", "heads", "no model"]),
    ],
)
def test_what_is_left_to_the_model_needs_one(choice, words):
    with pytest.raises(ValueError) as error:
        NORMS.build(NORMS.parse(choice, "add_norm.norm"), 12)
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize("model_bias", [True, False])
@pytest.mark.parametrize("kind", NORMS)
def test_only_what_is_left_open_is_the_models(kind, model_bias):
    """LayerNorm's bias and eps are the model's own by default; whatever a spec says stands."""
    options = NORMS.options(kind)
    given = {"eps": 0.25, "bias": model_bias, "groups": 4}
    norm = build_norm(NORMS.parse(kind, "add_norm.norm"), 12, **given)
    left_open = "bias" in options and options["bias"].default is None
    assert left_open == (kind in ("layer_norm", "input_scaled_layer_norm", "zero_mean_layer_norm"))
    if "bias" in options:
        assert (norm.bias is not None) == (model_bias if left_open else options["bias"].default)
        said = build_norm(NORMS.parse({"kind": kind, "bias": not model_bias}, "add_norm.norm"), 12, **given)
        assert (said.bias is not None) != model_bias
    if "eps" in options:
        assert norm.eps == (0.25 if options["eps"].default is None else options["eps"].default)
        said = build_norm(NORMS.parse({"kind": kind, "eps": 0.5}, "add_norm.norm"), 12, **given)
        assert said.eps == 0.5
