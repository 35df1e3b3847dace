"""The mix over all outputs so far: its value and derivatives, and that it keeps no copies of what it reads."""

import pytest
import torch
from families import FAMILIES

from hf_addnorm import AddNormBertModel
from hf_addnorm.models.streams.learned_read_streams import AttentionResidual, with_output


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def residual(width=6):
    made = AttentionResidual(width, 1e-6).double()
    with torch.no_grad():
        made.query.copy_(drawn(width, seed=1))
        made.key_norm.weight.copy_(drawn(width, seed=2))
    return made


def mix(made, *values):
    # the first entry of a state is not read
    return made((None, *values))


def naive(made, *values):
    stack = torch.stack(values)
    keys = stack / (stack.square().mean(-1, keepdim=True) + 1e-6) ** 0.5 * made.key_norm.weight
    return ((keys @ made.query).softmax(0).unsqueeze(-1) * stack).sum(0)


def test_mix_is_the_formula_and_can_be_differentiated_twice():
    made = residual()
    values = [drawn(2, 3, 6, seed=seed + 3).requires_grad_() for seed in range(4)]
    learned = [made.query, made.key_norm.weight]
    results = []
    for function in (mix, naive):
        y = function(made, *values)
        results.append((y, *torch.autograd.grad(y, [*values, *learned], drawn(2, 3, 6, seed=9))))
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-13, atol=1e-13)
    small = [drawn(1, 2, 6, seed=seed + 3).requires_grad_() for seed in range(2)]
    torch.autograd.gradgradcheck(lambda *z: mix(made, *z), small)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_outputs_are_mixed_in_float32(dtype):
    made = residual().float()
    values = [drawn(2, 3, 6, seed=seed).to(dtype).requires_grad_() for seed in range(5)]
    y = mix(made, *values)
    y.sum().backward()
    assert y.dtype == dtype
    wide = [value.detach().double().requires_grad_() for value in values]
    expected = naive(residual(), *wide)
    expected.sum().backward()
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(y.double(), expected, rtol=eps, atol=1e-4)
    for value, other in zip(values, wide, strict=True):
        assert value.grad.dtype == dtype
        torch.testing.assert_close(value.grad.double(), other.grad, rtol=2 * eps, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_what_is_shown_is_the_mean_of_all_outputs(dtype):
    outputs = [drawn(2, 3, 6, seed=seed).to(dtype) for seed in range(40)]
    state = (outputs[0], outputs[0])
    for output in outputs[1:]:
        state = with_output(state, output)
    assert len(state) == 41
    expected = torch.stack(outputs).double().mean(0)
    limits = torch.finfo(dtype)
    torch.testing.assert_close(state[0].double(), expected, rtol=4 * limits.eps, atol=4 * limits.eps)


def saved_bytes(layers):
    """What a training forward keeps for its backward, each storage once, without the parameters."""
    config = FAMILIES["bert"].config(
        "", {"preset": "pre_ln", "stream": "attention_residuals"}, num_hidden_layers=layers
    )
    model = AddNormBertModel(config).train()
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            # held, so that no address is used again
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(**FAMILIES["bert"].inputs("AddNormBertModel"))
    return sum(size for size, _ in kept.values())


def test_what_is_kept_grows_with_the_depth_and_not_with_its_square():
    few, some, many = (saved_bytes(layers) for layers in (2, 8, 14))
    assert many - some == pytest.approx(some - few, rel=0.02)
