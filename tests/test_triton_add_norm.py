"""The Triton kernels of dropout, sum and norm: in Triton's interpreter against the formula in float64, and compiled.

The interpreter is chosen when Triton is imported: `test_in_the_interpreter` runs this file again in a process that has
it, where everything else but `test_it_compiles_for_a_gpu` runs.
"""

import copy
import os
import subprocess
import sys
import tempfile

import pytest
import torch
from families import checkpoint_activations, keep_activations, tiny_config

from hf_addnorm import AddNormBertModel
from hf_addnorm.models.base.registries import NORMS
from hf_addnorm.models.core import triton_add_norm as kernels
from hf_addnorm.models.core.byte_dropout import dropped_sum
from hf_addnorm.models.norms.norm_base import build_norm


triton = pytest.importorskip("triton", reason="triton is not installed (the extra triton)")

IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
interpreted = pytest.mark.skipif(not IS_INTERPRETED, reason="test_in_the_interpreter runs it")

NORM_OPTIONS = [
    None,
    {"kind": "layer_norm", "bias": True, "eps": 1e-5},
    {"kind": "layer_norm", "gain": False, "bias": False, "eps": 1e-5},
    {"kind": "rms_norm", "bias": True},
    {"kind": "rms_norm", "gain": False},
    {"kind": "rms_norm", "zero_centered": True},
    {"kind": "dyt"},
    {"kind": "derf"},
    {"kind": "affine"},
]
CASES = [pytest.param(case, id="-".join(map(str, (case or {"kind": "none"}).values()))) for case in NORM_OPTIONS]


def _norm(options, width, dtype):
    if options is None:
        return None
    norm = build_norm(NORMS.parse(options, "norm"), width, eps=1e-5, bias=True, groups=1, model_width=width)
    torch.manual_seed(1)
    for parameter in norm.parameters():
        torch.nn.init.normal_(parameter, 0.7, 0.4)
    return norm.to(dtype)


def _gradients(y, x, f, norm, gradient):
    return [y, *torch.autograd.grad(y, [x, f, *([] if norm is None else norm.parameters())], gradient)]


@pytest.mark.slow
@pytest.mark.skipif(IS_INTERPRETED, reason="this is the process that it starts")
def test_in_the_interpreter():
    with tempfile.TemporaryDirectory() as folder:
        env = os.environ | {"TRITON_INTERPRET": "1", "TRITON_CACHE_DIR": folder}
        command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", __file__]
        done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0 and "passed" in done.stdout, done.stdout[-4000:]


@interpreted
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [1, 7, 130])
@pytest.mark.parametrize("options", CASES)
def test_it_is_the_formula(options, width, dtype):
    """Without dropout, in float64, forward and gradients; tokens in more than one program and more than one axis."""
    torch.manual_seed(2)
    norm = _norm(options, width, dtype)
    x, f, gradient = (torch.randn(2, 3, width).to(dtype) for _ in range(3))
    x.requires_grad_(), f.requires_grad_()
    found = _gradients(kernels.triton_add_norm(x, f, 0.0, (1.5, 0.5), norm), x, f, norm, gradient)
    exact, wide_x, wide_f = None, x.detach().double().requires_grad_(), f.detach().double().requires_grad_()
    total = 1.5 * wide_x + 0.5 * wide_f
    if norm is not None:
        exact = copy.deepcopy(norm).double()
        total = exact(total)
    expected = _gradients(total, wide_x, wide_f, exact, gradient.double())
    for part, of in zip(found, expected, strict=True):
        assert part.dtype == dtype
        # of one feature the deviation is 0, and divided by: then by what is added to the gradient
        size = of.abs().max() + (width == 1) * gradient.double().abs().max()
        assert (part.double() - of).abs().max() <= 8 * torch.finfo(dtype).eps * size


@interpreted
def test_many_tokens_are_summed_over_all_programs(monkeypatch):
    monkeypatch.setattr(kernels, "_PROGRAMS", 4)
    norm = _norm({"kind": "rms_norm"}, 5, torch.float32)
    x, f, gradient = (torch.randn(11, 5, requires_grad=True) for _ in range(3))
    found = _gradients(kernels.triton_add_norm(x, f, 0.0, (1.0, 1.0), norm), x, f, norm, gradient)
    for part, of in zip(found, _gradients(norm(x + f), x, f, norm, gradient), strict=True):
        torch.testing.assert_close(part, of, rtol=1e-4, atol=1e-5)


@interpreted
@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_dropouts_rate_and_the_same_mask_in_the_backward(rate):
    torch.manual_seed(0)
    x, f = torch.zeros(20, 1000, requires_grad=True), torch.ones(20, 1000, requires_grad=True)
    y = kernels.triton_add_norm(x, f, rate, (1.0, 1.0), None)
    of_x, of_f = torch.autograd.grad(y, [x, f], torch.ones_like(y))
    kept = (y != 0).double()
    assert abs(kept.mean() - (1 - rate)) < 4.5 * (rate * (1 - rate) / kept.numel()) ** 0.5
    torch.testing.assert_close(y, (kept / (1 - rate)).float())
    assert torch.equal(of_f, y) and torch.equal(of_x, torch.ones_like(x))
    # columns of one token, and the same column of two, know nothing of each other
    centred = kept - (1 - rate)
    for a, b in ((centred[:, 1:], centred[:, :-1]), (centred[1:], centred[:-1])):
        assert abs((a * b).mean() / (rate * (1 - rate))) < 0.04
    torch.manual_seed(0)
    assert torch.equal(kernels.triton_add_norm(x, f, rate, (1.0, 1.0), None), y)
    assert not torch.equal(kernels.triton_add_norm(x, f, rate, (1.0, 1.0), None), y)


@interpreted
@pytest.mark.parametrize("options", CASES)
def test_its_gradients_are_those_of_the_mask_that_it_drew(options):
    norm = _norm(options, 33, torch.float32)
    x, f, gradient = (torch.randn(6, 33, requires_grad=True) for _ in range(3))
    torch.manual_seed(4)
    mask = kernels.triton_add_norm(torch.zeros(6, 33), torch.ones(6, 33), 0.4, (1.0, 1.0), None)
    torch.manual_seed(4)
    found = _gradients(kernels.triton_add_norm(x, f, 0.4, (1.5, 0.5), norm), x, f, norm, gradient)
    total = 1.5 * x + 0.5 * f * mask
    drawn = _gradients(total if norm is None else norm(total), x, f, norm, gradient)
    for part, of in zip(found, drawn, strict=True):
        torch.testing.assert_close(part, of, rtol=2e-5, atol=2e-5)


@interpreted
def test_a_gain_of_zero_gets_its_gradient():
    norm = _norm({"kind": "rms_norm"}, 16, torch.float32)
    torch.nn.init.zeros_(norm.weight)
    y = kernels.triton_add_norm(torch.randn(4, 16), torch.randn(4, 16), 0.1, (1.0, 1.0), norm)
    y.backward(torch.randn_like(y))
    assert norm.weight.grad.abs().min() > 0


@interpreted
def test_what_has_no_kernel_runs_without_one():
    x, norm = torch.randn(2, 8), _norm({"kind": "rms_norm"}, 8, torch.float32)
    assert kernels.triton_add_norm(x, x, 0.1, (1.0, 1.0), norm) is not None
    for given, other in (
        ((x, x[:1]), norm),
        ((x.double(), x.double()), norm),
        ((x, x), _norm({"kind": "scale_norm"}, 8, torch.float32)),
        ((x, x), torch.nn.LayerNorm((2, 8))),
        ((x, x), _norm({"kind": "rms_norm", "eps_place": "outside"}, 8, torch.float32)),
    ):
        assert kernels.triton_add_norm(*given, 0.1, (1.0, 1.0), other) is None
    norm.register_forward_hook(lambda *args: None)
    assert kernels.triton_add_norm(x, x, 0.1, (1.0, 1.0), norm) is None


@interpreted
@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("spec", ["post_ln", "deepnorm", "pre_rms_norm", {"norm": "derf"}], ids=str)
def test_a_model_trains_and_recomputes(spec, reentrant, monkeypatch):
    torch.manual_seed(3)
    net = AddNormBertModel(tiny_config(spec, layers=1, attention_probs_dropout_prob=0.0)).train()
    runs, cls = [], kernels._AddNorm
    monkeypatch.setattr(cls, "apply", lambda *args, _apply=cls.apply: runs.append(1) or _apply(*args))
    net.set_fused_add_norm()
    embeds, gradients = torch.randn(2, 6, 8, requires_grad=True), []
    for recomputed in (False, True):
        keep_activations(net)
        if recomputed:
            checkpoint_activations(net, {"use_reentrant": reentrant})
        net.zero_grad()
        torch.manual_seed(7)
        net(inputs_embeds=embeds).last_hidden_state.square().sum().backward()
        gradients.append([p.grad.clone() for p in net.parameters() if p.grad is not None])
    assert len(runs) == 2 * 3
    assert all(torch.equal(once, again) for once, again in zip(*gradients, strict=True))


@interpreted
def test_under_autocast_the_dtypes_are_torchs():
    x, f = torch.randn(2, 8), torch.randn(2, 8).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        for options, a, b in ((NORM_OPTIONS[1], x, f), (NORM_OPTIONS[3], f, f), (None, x, f)):
            norm = _norm(options, 8, torch.float32)
            expected = a + b if norm is None else norm(a + b)
            assert kernels.triton_add_norm(a, b, 0.1, (1.0, 1.0), norm).dtype == expected.dtype


@pytest.mark.skipif(IS_INTERPRETED, reason="the interpreter compiles nothing")
def test_without_a_gpu_a_cpu_runs_its_own():
    x = torch.randn(2, 8)
    assert kernels.triton_add_norm(x, x, 0.1, (1.0, 1.0), None) is None
    assert dropped_sum(x, x, 0.1) is not None


POINTERS = ("x", "f", "s", "y", "g", "of_x", "of_f", "gain", "bias", "alpha", "shift")
TYPES = {"seed": "*i64", "n": "i32", "tokens": "i32"} | dict.fromkeys(("of_gain", "of_bias", "of_squash"), "*fp32")


@pytest.mark.skipif(IS_INTERPRETED, reason="the interpreter compiles nothing")
@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("options", CASES)
def test_it_compiles_for_a_gpu(options, dtype, tmp_path, monkeypatch):
    """Into a binary for a GPU that need not be there."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    row = kernels._row_of(_norm(options, 384, torch.float32), 384)
    chosen = {"normalize": row.normalize, "gradient": row.gradient, "drops": True, "keeps": options is not None}
    chosen |= {"has_gain": row.gain is not None, "has_bias": row.bias is not None, "block": 512}
    chosen["is_squashed"] = row.alpha is not None
    for kernel in (kernels._forward_kernel, kernels._backward_kernel):
        names = kernel.arg_names
        types = {name: "*" + dtype if name in POINTERS else TYPES.get(name, "fp32") for name in names}
        types |= {name: "constexpr" for name in names if name in chosen}
        constants = {(names.index(name),): value for name, value in chosen.items() if name in names}
        source = ASTSource(fn=kernel, signature=types, constexprs=constants)
        assert triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["cubin"]
