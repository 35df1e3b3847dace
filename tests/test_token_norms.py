"""The norms over real tokens: padding counts nowhere, every micro-batch counts once in running statistics."""

import json
from pathlib import Path

import pytest
import torch
from reference_checks import compare
from running_references import RUNNING_REFERENCES
from safetensors import safe_open
from token_specs import (
    KINDS,
    RUNNING,
    build,
)
from torch.utils._python_dispatch import TorchDispatchMode

from hf_addnorm import collect_losses
from hf_addnorm.models.base.token_mask import TokenMask, running_with


TESTS = Path(__file__).parent
GOLDEN = TESTS.parents[1] / "shared" / "golden"
# norms whose training output knows nothing of earlier batches
MEMORYLESS = ["batch_norm", "instance_norm"]
CASES = [
    pytest.param(kind, reference, options, id="-".join([kind, *(f"{key}={value}" for key, value in options.items())]))
    for kind, rows in RUNNING_REFERENCES.items()
    for reference, options in rows
]


def naive(kind, x, real, weight, bias, eps=1e-5, unbiased=False):
    """One feature of one batch, or of one sequence, at a time; padded places are left out of the result."""
    y = torch.zeros_like(x)
    for rows in [range(x.shape[0])] if kind == "batch_norm" else [[row] for row in range(x.shape[0])]:
        picked = torch.cat([x[row][real[row]] for row in rows])
        n = len(picked)
        mean = picked.sum(0) / n
        var = ((picked - mean) ** 2).sum(0) / (n - 1 if unbiased else n)
        for row in rows:
            y[row] = (x[row] - mean) / (var + eps) ** 0.5 * weight + bias
    return y[real]


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("kind", MEMORYLESS)
def test_forward_and_gradients_are_the_formulas(kind, unbiased, padded):
    x, real = padded
    if unbiased and kind == "batch_norm":
        pytest.skip("batch_norm has no such option")
    norm = build(kind, 5, **({"variance": "unbiased"} if unbiased else {}))
    compare(
        lambda z: running_with(TokenMask(real), norm, z)[real],
        lambda z: naive(kind, z, real, norm.weight, norm.bias, unbiased=unbiased),
        x,
        parameters=norm.parameters(),
        tolerance=1e-12,
    )


def test_every_running_norm_has_a_reference():
    assert set(RUNNING_REFERENCES) == set(RUNNING)


def batches():
    """[batch, seq, 8] and which tokens are real, one after the other: many, one, none; one batch is an outlier."""
    draw = torch.Generator().manual_seed(5)
    for step, (rows, length, real) in enumerate(
        [(3, 7, 15), (2, 4, 8), (1, 5, 1), (2, 3, 0), (2, 5, 7), (3, 3, 9)] * 2
    ):
        x = torch.randn(rows, length, 8, generator=draw, dtype=torch.float64) * (1 + step % 3) + 0.5
        x = x * 40 if step == 6 else x
        chosen = torch.zeros(rows * length, dtype=torch.bool)
        chosen[torch.randperm(rows * length, generator=draw)[:real]] = True
        yield x, chosen.view(rows, length), torch.randn(x.shape, generator=draw, dtype=torch.float64)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(("kind", "reference", "options"), CASES)
def test_every_step_is_that_of_the_formula(kind, reference, options, late):
    """Output, gradients and state after each of a series of batches, and the evaluation after it."""
    norm = build(kind, 8, **options)
    expected = reference(dict(norm.named_parameters()), **{k: v for k, v in options.items() if k != "variant"})
    if late:
        # far into the training, where a warm-up is over
        for name in {"iterations_done"} & set(expected.state):
            expected.state[name] = torch.tensor(20_000 if kind == "power_norm" else 4_998)
        for name in {"window_squares"} & set(expected.state):
            # so unlike that not every batch is an outlier
            rows = expected.state[name]
            expected.state[name] = torch.linspace(0.2, 80, rows.numel(), dtype=torch.float64).view_as(rows)
        norm.load_state_dict(expected.state, strict=False)
    assert dict(norm.named_buffers()).keys() == {named(norm, name) for name in expected.state}
    for x, real, cotangent in batches():
        z = x.clone().requires_grad_()
        y, losses = collect_losses(running_with, TokenMask(real), norm, z)
        # what follows in the model sees no padding, but where the authors' code says something to it
        sees_padding = getattr(expected, "sees_padding", False)
        given = torch.ones_like(real) if sees_padding else real
        objective = sum([(y[given] * cotangent[given]).sum(), *losses])
        grads = torch.autograd.grad(objective, [z, *norm.parameters()])
        told = [real.flatten()] if sees_padding else []
        y_expected, x_grad, parameter_grads = expected.train(x[given].detach(), cotangent[given], *told)
        close(y[given], y_expected)
        close(grads[0][given], x_grad)
        assert (grads[0][~given] == 0).all()
        for (name, _), grad in zip(norm.named_parameters(), grads[1:], strict=True):
            close(grad, parameter_grads[name], name)
        for name, value in expected.state.items():
            close(norm.get_buffer(named(norm, name)), value, name)
        assert y.isfinite().all()
    close(running_with(TokenMask(real), norm.eval(), x)[real], expected.evaluate(x[real]))
    if kind == "unified_norm" and late:
        # the series reaches what it is meant for
        assert (expected.outliers > 0) == (norm.outlier_filtration or norm.window == 1)
        assert (expected.compensated > 0) == (norm.window > 1)


def named(norm, name):
    """The full name of a buffer, which may be a part's."""
    return next(full for full, _ in norm.named_buffers() if full.split(".")[-1] == name)


def close(actual, expected, what=""):
    torch.testing.assert_close(
        actual.detach(), expected.detach().to(actual.dtype), rtol=1e-10, atol=1e-10, msg=lambda m: f"{what}: {m}"
    )


@pytest.mark.parametrize("kind", KINDS)
def test_padding_may_hold_anything(kind, padded):
    x, real = padded
    results = []
    for value in (0.0, 1e30, float("inf"), float("nan")):
        norm = build(kind, 5)
        z = torch.where(real.unsqueeze(-1), x, value).requires_grad_()
        y = running_with(TokenMask(real), norm, z)
        grads = torch.autograd.grad(y[real].sum(), [z, *norm.parameters()])
        assert y.isfinite().all()
        assert all(grad.isfinite().all() for grad in grads)
        results.append((y, *grads, *norm.buffers(), running_with(TokenMask(real), norm.eval(), z)[real]))
    for other in results[1:]:
        assert all(torch.equal(*pair) for pair in zip(results[0], other, strict=True))


@pytest.mark.parametrize("kind", ["power_norm", "unified_norm"])
def test_padding_that_counts_may_hold_no_number(kind, padded):
    """The authors' code counts padding in its backward; what is not finite there is taken as 0."""
    x, real = padded
    results = []
    for value in (0.0, float("inf"), float("nan")):
        norm = build(kind, 5, variant="official")
        z = torch.where(real.unsqueeze(-1), x, value).requires_grad_()
        for _ in range(2):
            y = running_with(TokenMask(real), norm, z)
            grads = torch.autograd.grad(y.sum(), [z, *norm.parameters()])
        results.append((y[real], *(grad[real] if grad is grads[0] else grad for grad in grads), *norm.buffers()))
        assert all(tensor.isfinite().all() for tensor in (y, *results[-1]))
    for other in results[1:]:
        assert all(torch.equal(*pair) for pair in zip(results[0], other, strict=True))


@pytest.mark.parametrize("options", [{}, {"gain": False}])
def test_rep_bn_without_its_sum_is_batch_norm(options, padded):
    x, real = padded
    rep, batch = build("rep_bn", 5, alpha_init=0.0, **options), build("batch_norm", 5, **options)
    with torch.no_grad():
        rep.alpha.zero_()
    assert torch.equal(running_with(TokenMask(real), rep, x), running_with(TokenMask(real), batch, x))
    assert torch.equal(running_with(TokenMask(real), rep.eval(), x), running_with(TokenMask(real), batch.eval(), x))


def test_progressive_rep_bn_goes_from_layer_norm_to_rep_bn(padded):
    x, real = padded
    norm = build("progressive_rep_bn", 5, iterations=2)
    layer_norm = torch.nn.functional.layer_norm(x, (5,), norm.layer_norm.weight, norm.layer_norm.bias)
    rep_bn = build("rep_bn", 5)
    rep_bn.load_state_dict(norm.rep_bn.state_dict())
    rep_bn = running_with(TokenMask(real), rep_bn, x)
    for expected in (layer_norm, (layer_norm + rep_bn) / 2, rep_bn, rep_bn):
        close(running_with(TokenMask(real), norm, x)[real], expected[real])
    # and there the count ends to matter
    assert norm.iterations_done == 4


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"groups": 4}, "groups is 4, which does not divide the width 6"),
        ({"groups": "heads"}, 'groups is "heads" and there is no model'),
    ],
)
def test_power_norms_groups_must_fit(options, words):
    with pytest.raises(ValueError, match=words):
        build("power_norm", 6, **options)


@pytest.mark.parametrize("kind", RUNNING)
def test_starts_are_documented(kind):
    norm = build(kind, 5)
    for tensor in norm.state_dict().values():
        tensor.fill_(77)
    norm.reset_parameters()
    ones = ("running_var", "running_square", "weight", "alpha")
    for name, tensor in norm.state_dict().items():
        assert (tensor == (1 if name.endswith(ones) else 0)).all(), name


@pytest.mark.parametrize("kind", RUNNING)
def test_half_input(kind, padded):
    x, real = padded
    norm = build(kind, 5).to(torch.bfloat16)
    x = x.to(torch.bfloat16).requires_grad_()
    y = running_with(TokenMask(real), norm, x)
    y.sum().backward()
    assert (y.dtype, x.grad.dtype) == (torch.bfloat16, torch.bfloat16)
    assert not {buffer.dtype for buffer in norm.buffers()} & {torch.bfloat16}
    for _, buffer in norm.named_buffers():
        assert buffer.isfinite().all()


def test_running_statistics_are_those_of_torch(padded):
    x, real = padded
    norm, stock = build("batch_norm", 5, momentum=0.3), torch.nn.BatchNorm1d(5, momentum=0.3).double()
    for shift in (0.0, 1.0, -2.0):
        running_with(TokenMask(real), norm, x + shift)
        stock((x + shift)[real])
    torch.testing.assert_close(norm.running_mean, stock.running_mean)
    torch.testing.assert_close(norm.running_var, stock.running_var)
    stock.load_state_dict({"weight": norm.weight, "bias": norm.bias}, strict=False)
    torch.testing.assert_close(running_with(TokenMask(real), norm.eval(), x)[real], stock.eval()(x[real]))


@pytest.mark.parametrize("kind", KINDS)
def test_few_tokens_have_a_defined_result(kind):
    norm = build(kind, 5)
    before = {name: buffer.clone() for name, buffer in norm.named_buffers()}
    x = torch.full((1, 4, 5), 3.0, dtype=torch.float64)
    for count in (1, 0):
        one = torch.zeros(1, 4, dtype=torch.bool)
        one[0, :count] = True
        y = running_with(TokenMask(one), norm, x)
        assert y.isfinite().all()
        if count and kind in ("instance_norm", "batch_norm", "regularized_bn"):
            assert torch.equal(y[0, 0], norm.bias)
        # a variance of fewer than two tokens is none; a quadratic mean of one is one
        fewest = 1 if "running_square" in before else 2
        for name, buffer in norm.named_buffers():
            assert torch.equal(buffer, before[name]) or count >= fewest or name == "iterations_done", name
        before = {name: buffer.clone() for name, buffer in norm.named_buffers()}
    two_rows = torch.tensor([[True] * 4, [False] * 4])
    x = torch.randn(2, 4, 5, dtype=torch.float64)
    assert running_with(TokenMask(two_rows), norm, x).isfinite().all()


class _WritesOfSize(TorchDispatchMode):
    """The operations whose result has this many numbers."""

    def __init__(self, numbers):
        super().__init__()
        self.numbers, self.names = numbers, []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **kwargs or {})
        if isinstance(result, torch.Tensor) and result.numel() == self.numbers:
            self.names.append(operation.overloadpacket.__name__)
        return result


@pytest.mark.parametrize("kind", RUNNING)
def test_evaluation_is_one_multiply_add(kind, padded):
    x, real = padded
    norm = build(kind, 5)
    for shift in (0.0, 3.0):
        running_with(TokenMask(real), norm, x + shift)
    with torch.no_grad(), _WritesOfSize(x.numel()) as writes:
        running_with(TokenMask(real), norm.eval(), x)
    # padding counts as 0
    assert writes.names == ["where", "addcmul"]
    with torch.no_grad(), _WritesOfSize(x.numel()) as writes:
        norm(x)
    assert writes.names == ["addcmul"]


needs_golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason="the golden vectors are not beside the repository")


@needs_golden
@pytest.mark.parametrize("file", ["masked_batch_norm", "instance_norm_masked", "instance_norm_unbiased", "rep_bn"])
def test_golden(file):
    with safe_open(GOLDEN / f"norm_{file}.safetensors", "pt") as stored:
        tensors = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118
        meta = stored.metadata()
    params, tolerance = json.loads(meta["params"]), float(meta["tolerance"])
    real = tensors.get("input.token_mask", torch.ones(tensors["input.x"].shape[:2], dtype=torch.bool))
    tensors = {key: value.double() for key, value in tensors.items() if key != "input.token_mask"}
    kind = "rep_bn" if file == "rep_bn" else "batch_norm" if "batch" in file else "instance_norm"
    options = {key: params[key] for key in ("eps", "momentum", "variance") if key in params}
    if file == "instance_norm_unbiased":
        options["variance"] = "unbiased"
    norm = build(kind, tensors["input.x"].shape[-1], **options)
    state = {
        key.split(".")[-1]: value for key, value in tensors.items() if key.startswith(("param.", "state.before."))
    }
    norm.load_state_dict({key: value for key, value in state.items() if key in norm.state_dict()})

    def within(actual, expected):
        error = (actual - expected).abs().max() / expected.abs().max()
        assert error <= tolerance

    x = tensors["input.x"].requires_grad_()
    y = running_with(TokenMask(real), norm, x)
    within(y[real], tensors["output.y"][real])
    (y * tensors["cotangent"]).sum().backward()
    within(x.grad[real], tensors["grad.x"][real])
    for name, parameter in norm.named_parameters():
        within(parameter.grad, tensors[f"grad.{name}"])
    if kind in RUNNING:
        for name, buffer in norm.named_buffers():
            within(buffer, tensors[f"state.after.{name}"])
        within(running_with(TokenMask(real), norm.eval(), x)[real], tensors["output.eval"][real])
