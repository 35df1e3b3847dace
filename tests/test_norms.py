"""Every norm kind of one token against its formula in float64, over all of its options.

The norms over tokens are in test_token_norms.
"""

import math
from typing import Literal, get_args, get_origin

import pytest
import torch
from references import HEADS, MODEL_BIAS, MODEL_EPS, NORM_REFERENCES, assert_close, combinations

from hf_addnorm.models.norms import NORMS, build_norm, set_gain


# relative to the largest value of the token
TOLERANCE = 1e-12

COMBINATIONS = [
    pytest.param(kind, options, id="-".join([kind, *(f"{key}={value}" for key, value in options.items())]))
    for kind, reference in NORM_REFERENCES.items()
    for options in combinations(reference.samples)
    if not reference.contradicts(**options)
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
]
HALVES = [torch.bfloat16, torch.float16]


def build(kind, options, width, dtype=torch.float64):
    """The norm, with every parameter far from its start value."""
    choice = NORMS.parse({"kind": kind, **options}, "add_norm.norm")
    norm = build_norm(choice, width, eps=MODEL_EPS, bias=MODEL_BIAS, groups=HEADS.get(width, 1))
    generator = torch.Generator().manual_seed(0)
    for parameter in norm.parameters():
        torch.nn.init.uniform_(parameter, 0.5, 1.5, generator=generator)
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
    of_one_token = {kind for kind, norm in NORMS.items() if not getattr(norm, "mixes_tokens", False)}
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
    # every kind is odd up to its bias
    bias = getattr(norm, "bias", None)
    torch.testing.assert_close(y[0], torch.zeros_like(y[0]) if bias is None else bias.detach(), rtol=0, atol=0)


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
    assert ((y.double() - y_expected).abs() <= allowed).all()
    # the tiny token's gradient is beyond the range of float16; torch's LayerNorm keeps the mean for its backward in
    # the input's dtype, which is too coarse for the token far off centre
    x = x[1::2] if type(norm) is torch.nn.LayerNorm else x[1:]
    _, grads = differentiate(norm, x, dict(norm.named_parameters()))
    _, grads_expected = expected(kind, options, x, norm)
    assert grads["x"].dtype == dtype
    for name, grad in grads_expected.items():
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
            torch.nn.init.constant_(norm.get_parameter(name), garbage)
            norm.reset_parameters()
            assert (norm.get_parameter(name) == value).all(), name


@pytest.mark.parametrize(("kind", "options"), COMBINATIONS)
def test_set_gain_zero_leaves_the_bias(kind, options):
    norm = build(kind, options, 12)
    start = NORM_REFERENCES[kind].start(12, **options)
    set_gain(norm, 0.0)
    if {"weight", "zero_centered_weight"} & set(start):
        bias = norm.bias.detach() if "bias" in start else torch.zeros(12, dtype=torch.float64)
        assert torch.equal(norm(tokens(1, 12))[0], bias)


def test_a_plain_gain_is_never_loaded_as_a_distance_from_one():
    plain, centred = (build("rms_norm", {"zero_centered": z}, 12) for z in (False, True))
    with pytest.raises(RuntimeError, match="zero_centered_weight"):
        centred.load_state_dict(plain.state_dict())


def test_affine_groups_are_contiguous_slices():
    norm = build("affine", {"bias": False, "groups": 3}, 12)
    y = norm(torch.ones(12, dtype=torch.float64))
    assert torch.equal(y, norm.weight.detach().repeat_interleave(4))


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
    assert left_open == (kind == "layer_norm")
    if "bias" in options:
        assert (norm.bias is not None) == (model_bias if left_open else options["bias"].default)
        said = build_norm(NORMS.parse({"kind": kind, "bias": not model_bias}, "add_norm.norm"), 12, **given)
        assert (said.bias is not None) != model_bias
    if "eps" in options:
        assert norm.eps == (0.25 if options["eps"].default is None else options["eps"].default)
        said = build_norm(NORMS.parse({"kind": kind, "eps": 0.5}, "add_norm.norm"), 12, **given)
        assert said.eps == 0.5
