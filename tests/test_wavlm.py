"""WavLM's attention, which gives the weights of its projections to a function of PyTorch, or calls them."""

import pytest
import torch
from families import FAMILIES, checkpoint_activations, fill_with_pattern

from hf_addnorm.models.core.branch_norms import BranchNorms


def _attention(family="wavlm"):
    row = FAMILIES[family]
    net = row.model_class("AddNormWavLMModel")(row.config("AddNormWavLMModel", attention_dropout=0.0))
    fill_with_pattern(net)
    return net.eval(), row.inputs("")


@pytest.mark.parametrize("family", ["wavlm", "wavlm_stable"])
def test_projections_that_are_called_give_the_same(family):
    net, inputs = _attention(family)
    expected = net(**inputs, output_attentions=True, output_hidden_states=True)
    called = []
    for layer in net.encoder.layers:
        layer.attention.k_proj.register_forward_hook(lambda *_: called.append(1))
    output = net(**inputs, output_attentions=True, output_hidden_states=True)
    assert len(called) == len(net.encoder.layers)
    for key in ("hidden_states", "attentions"):
        for one, two in zip(expected[key], output[key], strict=True):
            torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


def test_a_norm_of_q_acts_on_q():
    row = FAMILIES["wavlm"]
    spec = {"preset": "post_ln", "attention": {"post": True, "q": "layer_norm"}, "qkv_width": "hidden"}
    net = row.model_class("AddNormWavLMModel")(row.config("AddNormWavLMModel", spec)).eval()
    attention, norm = net.encoder.layers[0].attention, torch.nn.LayerNorm(32)
    x = torch.randn(2, 5, 32)
    normed, _, _ = attention(x, branch_norms=BranchNorms({"q": norm}))
    with torch.no_grad():
        q = norm(attention.q_proj(x)) * attention.scaling
        k, v = attention.k_proj(x), attention.v_proj(x)
        heads = [part.unflatten(-1, (4, 8)).transpose(1, 2) for part in (q, k, v)]
        gate = attention.gru_rel_pos_linear(x.unflatten(-1, (4, 8)).transpose(1, 2)).unflatten(-1, (2, 4)).sum(-1)
        first, second = gate.sigmoid().split(1, -1)
        bias = (first * (second * attention.gru_rel_pos_const - 1) + 2) * attention.compute_bias(5, 5)
        weights = (heads[0] @ heads[1].mT + bias).softmax(-1)
        expected = attention.out_proj((weights @ heads[2]).transpose(1, 2).flatten(-2))
    torch.testing.assert_close(normed, expected)


def test_the_first_layer_is_never_left_out():
    row = FAMILIES["wavlm"]
    net = row.model_class("AddNormWavLMModel")(
        row.config("AddNormWavLMModel", "hyper_connections", layerdrop=1.0, mask_time_prob=0.0)
    )
    states = net.train()(**row.inputs(""), output_hidden_states=True).hidden_states
    assert all(isinstance(state, torch.Tensor) for state in states)
    # the first layer ran, and no other
    assert not torch.equal(states[1], states[0])
    assert torch.equal(states[2], states[1])


def test_reentrant_checkpointing_is_refused_and_the_other_has_the_same_gradients():
    results = []
    for checkpointing in (False, True):
        net, inputs = _attention()
        if checkpointing:
            with pytest.raises(ValueError, match=r"use_reentrant is true, and the layers share what the first one"):
                checkpoint_activations(net, {"use_reentrant": True})
            checkpoint_activations(net.train(), {"use_reentrant": False})
        torch.manual_seed(0)
        for module in net.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        net.config.mask_time_prob = net.config.layerdrop = 0.0
        net(**inputs).last_hidden_state.square().mean().backward()
        results.append({name: p.grad for name, p in net.named_parameters() if p.grad is not None})
    for name, gradient in results[0].items():
        torch.testing.assert_close(results[1][name], gradient, rtol=1e-4, atol=1e-7)
