"""T5: what its stock code looks at, scores without a scale, distances of tokens, float16."""

import pytest
import torch
from families import FAMILIES, checkpoint_activations, fill_with_pattern
from transformers import T5ForConditionalGeneration

from hf_addnorm.models.norms.rms_norms import RMSNorm


def build(spec, family="t5", model="AddNormT5ForConditionalGeneration", **kwargs):
    row = FAMILIES[family]
    net = row.model_class(model)(row.config(model, spec, **kwargs))
    fill_with_pattern(net)
    return net.eval(), row.inputs(model)


@pytest.mark.parametrize("family", ["t5", "t5_gated"])
def test_a_norm_before_the_output_layer_leaves_its_weight_to_be_looked_at(family):
    """The stock feed-forward asks the dtype of `wo`, which may be another one than that of its input."""
    net, inputs = build({"preset": "pre_rms_norm", "feed_forward": ["pre", "up", "mid"]}, family)
    for block in (*net.encoder.block, *net.decoder.block):
        block.layer[-1].DenseReluDense.wo.double()
        block.layer[-1].DenseReluDense.register_forward_hook(lambda *args: args[-1].float())
    assert net(**inputs).logits.isfinite().all()


def test_scores_of_normed_queries_are_those_of_a_model_that_divides_by_the_root_of_a_head():
    """A gain of 1/sqrt(d) on the queries, without the scale, is the same."""
    normed, inputs = build({"preset": "pre_rms_norm", "attention": ["pre", "q", "k"]})
    attention = normed.encoder.block[1].layer[0].SelfAttention
    seen = []
    attention.register_forward_hook(lambda _, args, output: seen.append((args[0], output[0])))
    block = normed.encoder.block[1]
    normed(**inputs)
    (u, output), bias = seen[0], normed.encoder.block[0].layer[0].SelfAttention.compute_bias(10, 10)
    heads = [projection(u).unflatten(-1, (4, 10)) for projection in (attention.q, attention.k, attention.v)]
    norms = block.connections.attention
    q, k, v = norms.q_norm(heads[0]), norms.k_norm(heads[1]), heads[2]
    hidden = (~inputs["attention_mask"].bool())[:, None, None] * torch.finfo(torch.float32).min
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / 10**0.5 + bias + hidden
    expected = attention.o(torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v).flatten(-2))
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)
    # with a norm of the keys alone the queries have their own scale
    assert attention.scaling == 1.0


def test_rms_norm_is_the_stock_norm_to_the_last_bit():
    from transformers.models.t5.modeling_t5 import T5LayerNorm

    ours, stock = RMSNorm(48), T5LayerNorm(48)
    with torch.no_grad():
        ours.weight.copy_(torch.randn(48))
        stock.weight.copy_(ours.weight)
    xs = [(5 * torch.randn(3, 7, 48)).requires_grad_() for _ in range(1)] * 2
    outputs = [norm(x) for norm, x in zip((ours, stock), xs, strict=True)]
    assert torch.equal(*outputs)
    cotangent = torch.randn(3, 7, 48)
    pairs = zip(outputs, (ours, stock), strict=True)
    gradients = [torch.autograd.grad(y, (xs[0], norm.weight), cotangent) for y, norm in pairs]
    assert all(map(torch.equal, *gradients))


@pytest.mark.parametrize("spec", ["pre_rms_norm", "post_ln", "hyper_connections", "residual"])
def test_the_distances_of_the_first_block_are_those_of_all(spec):
    """With a table of distances that is zero the first block sees no order, and neither do the others."""
    net, inputs = build(spec)
    expected = net(**inputs).logits
    with torch.no_grad():
        for stack in (net.encoder, net.decoder):
            stack.block[0].layer[0].SelfAttention.relative_attention_bias.weight.zero_()
    without = net(**inputs).logits
    assert not torch.allclose(expected, without, atol=1e-4)
    # the source is a set of tokens then
    order = [3, 1, 0, 2, *range(4, 10)]
    moved = inputs | {"input_ids": inputs["input_ids"][:, order]}
    torch.testing.assert_close(net(**moved).logits, without, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("spec", ["pre_rms_norm", "residual"])
def test_gradients_of_a_recomputed_layer_are_the_same(spec):
    net, inputs = build(spec)
    gradients = []
    for checkpointed in (False, True):
        if checkpointed:
            checkpoint_activations(net, {"use_reentrant": False})
        net.train().zero_grad()
        torch.manual_seed(3)
        net(**inputs).loss.backward()
        gradients.append({name: p.grad.clone() for name, p in net.named_parameters()})
    # the gradients of the distances, which all layers share, are summed in another order, as in the stock model
    for name, value in gradients[0].items():
        torch.testing.assert_close(value, gradients[1][name], rtol=1e-4, atol=1e-6)


def test_the_attentions_of_every_scheme_can_be_seen():
    net, inputs = build("post_ln", attn_implementation="eager")
    outputs = net(**inputs, output_attentions=True)
    assert [len(outputs[key]) for key in ("encoder_attentions", "decoder_attentions", "cross_attentions")] == [4, 3, 3]
    assert outputs.cross_attentions[0].shape == (3, 4, 6, 10)


def test_the_table_starts_as_the_scheme_says_behind_the_stock_start():
    net = FAMILIES["t5"].model_class("AddNormT5ForConditionalGeneration")(
        FAMILIES["t5"].config("", "t_fixup", vocab_size=999)
    )
    assert net.shared.weight is net.encoder.embed_tokens.weight is net.decoder.embed_tokens.weight
    assert net.shared.weight.std().item() == pytest.approx(32**-0.5 * 36**-0.25, rel=0.05)
    assert isinstance(net, T5ForConditionalGeneration)


@pytest.mark.parametrize("family", ["t5", "t5_gated", "mt5", "umt5"])
@pytest.mark.parametrize("spec", [None, {"preset": "pre_rms_norm", "norm": "scale_norm"}, "rezero"], ids=str)
def test_in_float16_the_second_projections_stay_in_float32(family, spec, tmp_path):
    """The stream is in float32 then, as in the stock model, and the other weights get what they are in."""
    row = FAMILIES[family]
    row.model_class(row.writer)(row.config(row.writer, spec)).save_pretrained(tmp_path)
    net = row.model_class(row.writer).from_pretrained(tmp_path, dtype=torch.float16)
    found = {name.split(".")[-2]: value.dtype for name, value in net.named_parameters() if "DenseReluDense" in name}
    assert found.pop("wo") == torch.float32 and set(found.values()) == {torch.float16}
    inputs = row.inputs(row.writer)
    outputs = net.eval()(**inputs)
    assert outputs.logits.dtype == outputs.encoder_last_hidden_state.dtype == torch.float16
    outputs.loss.backward()
    assert all(value.grad.isfinite().all() for value in net.parameters() if value.grad is not None)
    if spec is None:
        stock = row.stock_class(row.writer).from_pretrained(tmp_path, dtype=torch.float16).eval()
        torch.testing.assert_close(outputs.logits, stock(**inputs).logits, rtol=2e-3, atol=2e-3)
