"""Norms as autograd functions of their own: the same as their formulas, and where they do not run."""

import copy
from itertools import product

import pytest
import torch
from families import FAMILIES, checkpoint_activations, keep_activations, tiny_config

from hf_addnorm import AddNormBertModel
from hf_addnorm.models.base.registries import NORMS
from hf_addnorm.models.norms import fused
from hf_addnorm.models.norms.fused import FusedNorms, can_fuse, fused_affine, root_scaled
from hf_addnorm.models.norms.norm_base import build_norm


RMS = [
    {"kind": "rms_norm", "gain": gain, "bias": bias, "zero_centered": zero_centered}
    for gain, bias, zero_centered in product([True, False], [True, False], [True, False])
    if gain or not zero_centered
]
# those whose gain and bias are one function; those that are derived from RMSNorm, and are more than it
OTHERS = [
    {"kind": kind}
    for kind in ("dyt", "derf", "isru", "affine", "gated_rms_norm", "bhyt_star", "input_scaled_rms_norm", "prms_norm")
]
CASES = [pytest.param(case, id="-".join(f"{value}" for value in case.values())) for case in RMS + OTHERS]


def _made(options, width=7, dtype=torch.float64):
    torch.manual_seed(1)
    norm = build_norm(NORMS.parse(options, "norm"), width, eps=1e-5, bias=True, groups=1, model_width=width)
    norm.reset_parameters()
    for parameter in norm.parameters():
        torch.nn.init.normal_(parameter, 0.7, 0.4)
    norm.fuses = True
    return norm.to(dtype)


def _by_formula(norm):
    norm = copy.deepcopy(norm)
    norm.fuses = False
    return norm


def _run(norm, x, gradient):
    x = x.clone().requires_grad_()
    y = norm(x)
    inputs = [x, *norm.parameters()]
    return [y.detach(), *torch.autograd.grad(y, inputs, gradient)]


@pytest.mark.parametrize("options", CASES)
@pytest.mark.parametrize("shape", [(7,), (3, 7), (2, 3, 7), (1, 1, 7)], ids=str)
def test_it_is_the_formula(options, shape):
    norm = _made(options)
    x, gradient = torch.randn(shape, dtype=torch.float64) * 3 + 1, torch.randn(shape, dtype=torch.float64) + 2
    for found, expected in zip(_run(norm, x, gradient), _run(_by_formula(norm), x, gradient), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("options", CASES)
def test_its_error_is_that_of_the_formula(options, dtype):
    norm = _made(options, width=96, dtype=dtype)
    x, gradient = (torch.randn(40, 96).to(dtype) for _ in range(2))
    exact = _run(_by_formula(norm).double(), x.double(), gradient.double())
    runs = [_run(norm, x, gradient), _run(_by_formula(norm), x, gradient)]
    for expected, found, by_formula in zip(exact, *runs, strict=True):
        assert found.dtype == by_formula.dtype
        size = expected.abs().max()
        errors = [float((given.double() - expected).abs().max() / size) for given in (found, by_formula)]
        assert errors[0] <= max(2 * errors[1], 2 * torch.finfo(dtype).eps), errors


@pytest.mark.parametrize("options", CASES)
def test_its_bits_are_those_without_gradients(options):
    """Where it does not run: so that recomputed activations, and a model in evaluation, give the same."""
    norm, x = _made(options, width=96, dtype=torch.float32), torch.randn(40, 96)
    with torch.no_grad():
        expected = norm(x)
    assert torch.equal(norm(x), expected)


@pytest.mark.parametrize("options", CASES)
def test_it_has_a_second_derivative(options):
    norm = _made(options, width=4)
    x = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(norm, (x,))
    first = [torch.autograd.grad(each(x).pow(3).sum(), x, create_graph=True)[0] for each in (norm, _by_formula(norm))]
    second = [torch.autograd.grad(gradient.square().sum(), x)[0] for gradient in first]
    torch.testing.assert_close(*second, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("frozen", ["x", "weight", "bias"])
def test_what_is_frozen_gets_no_gradient(frozen):
    given = {"x": torch.randn(3, 5), "weight": torch.randn(5), "bias": torch.randn(5)}
    for function in (lambda *z: root_scaled(*z, 1e-6), fused_affine):
        tensors = {name: tensor.clone().requires_grad_(name != frozen) for name, tensor in given.items()}
        function(*tensors.values()).square().sum().backward()
        assert {name for name, tensor in tensors.items() if tensor.grad is None} == {frozen}


@pytest.fixture
def calls(monkeypatch):
    """How often a function of its own ran."""
    counted = []
    for cls in (fused._RootScaled, fused._Affine, fused._Squashed):
        monkeypatch.setattr(cls, "apply", lambda *args, _apply=cls.apply: counted.append(1) or _apply(*args))
    return counted


NORM = {"kind": "rms_norm"}


def test_it_runs_on_a_cpu_and_the_switch_turns_it_off(calls, monkeypatch):
    norm, x = _made(NORM, dtype=torch.float32), torch.randn(2, 7)
    norm(x)
    assert len(calls) == 1
    with torch.no_grad():
        norm(x)
    assert len(calls) == 1
    monkeypatch.setattr(FusedNorms, "enabled", False)
    norm(x)
    assert len(calls) == 1


def test_functional_transforms_see_the_formula(calls):
    norm, x, v = _made(NORM), torch.randn(3, 7, dtype=torch.float64), torch.randn(3, 7, dtype=torch.float64)
    plain = _by_formula(norm)

    def loss(z, each):
        return each(z).pow(3).sum()

    for transform in (
        lambda each: torch.func.grad(loss)(x, each),
        lambda each: torch.func.vmap(each)(x),
        lambda each: torch.func.jvp(each, (x,), (v,))[1],
        lambda each: torch.func.hessian(loss)(x[0], each),
    ):
        torch.testing.assert_close(transform(norm), transform(plain), rtol=1e-12, atol=1e-12)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, v)
        tangents = [torch.autograd.forward_ad.unpack_dual(each(dual)).tangent for each in (norm, plain)]
    torch.testing.assert_close(*tangents)
    assert not calls


def test_compiled_and_exported_it_is_the_formula(calls):
    norm, x = _made(NORM, dtype=torch.float32), torch.randn(2, 7)
    compiled = torch.compile(norm, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), _by_formula(norm)(x))
    operations = {str(node.target) for node in torch.export.export(norm, (x,)).graph.nodes}
    assert any("rsqrt" in operation for operation in operations)
    assert not calls


def test_other_tensors_and_devices_see_the_formula():
    x = torch.randn(2, 3)
    assert can_fuse(x) and can_fuse(x, torch.nn.Parameter(x), None)
    assert not can_fuse(x.to("meta")) and not can_fuse(x[:0])
    fake = torch._subclasses.FakeTensorMode()
    assert not can_fuse(fake.from_tensor(x)) and not can_fuse(x, fake.from_tensor(x))


def test_under_autocast_and_recomputed_it_is_the_same(calls):
    net = AddNormBertModel(tiny_config("pre_rms_norm", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0))
    ids, found = torch.arange(12).view(2, 6) % 11, []
    for recomputed in (False, True):
        (checkpoint_activations if recomputed else keep_activations)(net)
        net.train().zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            net(input_ids=ids).last_hidden_state.float().square().sum().backward()
        found.append([parameter.grad for parameter in net.parameters() if parameter.grad is not None])
    assert calls
    for once, again in zip(*found, strict=True):
        torch.testing.assert_close(once, again, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", ["bert", "t5"])
def test_a_norm_that_the_stock_model_has_keeps_its_gradients(family):
    config = FAMILIES[family].config("", {"norm": "rms_norm"} if family == "bert" else None)
    assert config.build_norm(NORMS.parse({"kind": "rms_norm"}, "norm")).fuses is (family == "bert")
