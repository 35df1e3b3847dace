"""Dropout, sum and norm as functions of their own: the draws, the same function, and where they run."""

import copy
import pickle

import pytest
import torch
import torch.distributed as dist
import transformers
from families import BASE_MODELS, FAMILIES, checkpoint_activations, keep_activations, tiny_config
from torch import nn

from hf_addnorm import AddNormBertForMaskedLM, AddNormBertModel
from hf_addnorm.models.core import byte_dropout as bytes_file
from hf_addnorm.models.core.byte_dropout import byte_dropout, dropped_sum, keep_mask
from hf_addnorm.models.core.layer import AddNormLayer
from hf_addnorm.models.core.packed_attention import PACKED, packed_attention


IDS = torch.arange(12).view(2, 6) % 11
RATES = (0.003, 0.1, 0.5, 0.99)


def _net(spec="", model=AddNormBertModel, dropout=0.25, **kwargs):
    torch.manual_seed(3)
    config = tiny_config(spec or None, hidden_dropout_prob=dropout, attention_probs_dropout_prob=0.0, **kwargs)
    return model(config).train()


@pytest.fixture
def sums(monkeypatch):
    """How often dropout and a sum ran as one function."""
    counted, cls = [], bytes_file._DroppedSum
    monkeypatch.setattr(cls, "apply", lambda *args, _apply=cls.apply: counted.append(1) or _apply(*args))
    return counted


# --- the draws ---


@pytest.mark.parametrize("rate", RATES)
def test_the_rate_is_exact_in_expectation(rate):
    """Also within 1/256: 4.5 standard errors of a fair draw, and a row's own rate is off by less than a byte."""
    torch.manual_seed(5)
    kept = keep_mask(torch.empty(4000, 500), rate).double()
    assert set(kept.unique().tolist()) == {0.0, 1.0}
    assert abs(kept.mean() - (1 - rate)) < 4.5 * (rate * (1 - rate) / kept.numel()) ** 0.5 + 1e-4
    of_rows, error = kept.mean(1), (rate * (1 - rate) / 500) ** 0.5
    assert (of_rows - (1 - rate)).abs().max() < 5 * error + 1 / 256
    # neighbours, in a row and from row to row, know nothing of each other
    centred = kept - (1 - rate)
    for a, b in ((centred[:, 1:], centred[:, :-1]), (centred[1:], centred[:-1])):
        assert abs((a * b).mean() / (rate * (1 - rate))) < 0.006


@pytest.mark.parametrize("shape", [(1,), (7,), (3, 5), (2, 3, 9), (1, 1)], ids=str)
def test_every_size_has_its_own_bytes(shape):
    x = torch.ones(shape)
    torch.manual_seed(0)
    first = keep_mask(x, 0.5)
    torch.manual_seed(0)
    assert first.shape == x.shape and torch.equal(first, keep_mask(x, 0.5))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rate", RATES)
def test_the_gradient_is_that_of_the_mask_that_was_used(rate, dtype):
    x, gradient = (torch.randn(64, 33).to(dtype) for _ in range(2))
    x.requires_grad_()
    torch.manual_seed(1)
    mask = keep_mask(x, rate).to(dtype)
    torch.manual_seed(1)
    y = byte_dropout(x, rate)
    (of_x,) = torch.autograd.grad(y, x, gradient)
    for found, given in ((y, x), (of_x, gradient)):
        assert found.dtype == dtype
        exact = given.double() * mask.double() / (1 - rate)
        torch.testing.assert_close(found.double(), exact, rtol=torch.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize("scales", [(1.0, 1.0), (1.7, 1.0), (1.0, 0.3), (2.0, -0.5)], ids=str)
def test_a_sum_is_dropout_and_the_residual(scales):
    x, f, gradient = (torch.randn(5, 3, 7, dtype=torch.float64, requires_grad=True) for _ in range(3))
    runs = []
    for function in (
        lambda: dropped_sum(x, f, 0.3, *scales),
        lambda: scales[0] * x + scales[1] * byte_dropout(f, 0.3),
    ):
        torch.manual_seed(4)
        y = function()
        runs.append([y, *torch.autograd.grad(y, [x, f], gradient)])
    for found, expected in zip(*runs, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-14, atol=1e-14)


def test_it_has_a_second_derivative():
    x, f = (torch.randn(3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))

    def function(x, f):
        torch.manual_seed(2)
        return dropped_sum(x, f, 0.4, 1.5, 0.5).pow(3)

    assert torch.autograd.gradcheck(function, (x, f)) and torch.autograd.gradgradcheck(function, (x, f))


def test_mixed_dtypes_are_those_of_the_sum():
    x, f = torch.randn(2, 8, requires_grad=True), torch.randn(2, 8).bfloat16().requires_grad_()
    y = dropped_sum(x, f, 0.5)
    assert y.dtype == (x + f).dtype
    y.sum().backward()
    assert (x.grad.dtype, f.grad.dtype) == (torch.float32, torch.bfloat16)


def test_where_bytes_are_not_drawn_it_is_torchs_dropout():
    x = torch.randn(40, 50)
    for rate in (0.0, 0.995, 1.0):
        torch.manual_seed(0)
        found = byte_dropout(x, rate)
        torch.manual_seed(0)
        assert torch.equal(found, nn.functional.dropout(x, rate))
        assert dropped_sum(x, x, rate) is None
    assert dropped_sum(x, x[:1], 0.5) is None
    assert byte_dropout(x.to("meta"), 0.5).shape == x.shape
    torch.func.vmap(lambda row: byte_dropout(row, 0.5), randomness="different")(x)


# --- models ---


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_family_computes_the_same_function(family):
    """Of the family's own scheme: bit for bit in evaluation; in training without dropout but for rounding."""
    row, model = FAMILIES[family], BASE_MODELS[family]
    config = row.config(model)
    for name, value in config.to_dict().items():
        if "drop" in name and isinstance(value, float):
            setattr(config, name, 0.0)
    net, inputs = row.model_class(model)(config), row.inputs(model)
    outputs = []
    for fused in (False, True):
        net.set_fused_add_norm(fused)
        for mode in (False, True):
            # other draws than those of dropout
            transformers.set_seed(7)
            outputs.append(net.train(mode)(**inputs)[0].detach())
    layers = [module for module in net.modules() if isinstance(module, AddNormLayer)]
    assert layers and all(layer.fused_add_norm for layer in layers)
    assert torch.equal(outputs[0], outputs[2])
    torch.testing.assert_close(outputs[1], outputs[3], rtol=1e-5, atol=1e-5)


def test_it_is_off_by_default_and_again(sums):
    ours = _net()
    torch.manual_seed(3)
    stock = transformers.BertModel(transformers.BertConfig(**_shape(ours.config))).train()
    stock.load_state_dict(ours.state_dict())
    outputs = []
    for net in (stock, ours, ours):
        torch.manual_seed(7)
        outputs.append(net(input_ids=IDS).last_hidden_state)
        if net is ours:
            ours.set_fused_add_norm(True)
            ours(input_ids=IDS)
            ours.set_fused_add_norm(False)
    assert torch.equal(outputs[0], outputs[1]) and torch.equal(outputs[0], outputs[2])
    assert len(sums) == 2 * 2 * ours.config.num_hidden_layers


def _shape(config):
    names = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    return {name: getattr(config, name) for name in (*names, "max_position_embeddings", "hidden_dropout_prob")} | {
        "attention_probs_dropout_prob": 0.0
    }


SPECS = {
    "post_ln": 6,
    "pre_ln": 6,
    "deepnorm": 6,
    # a norm follows dropout, a factor is learned, or there is more than one stream: dropout alone draws bytes
    "sandwich_ln": 0,
    "rezero": 0,
    "dual": 0,
}


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("spec", SPECS)
def test_recomputed_activations_are_the_same(spec, reentrant, sums):
    net, gradients = _net({"preset": "residual"} if spec == "dual" else spec), []
    if spec == "dual" and reentrant:
        pytest.skip("reentrant checkpointing is refused for a state of several tensors")
    net.set_fused_add_norm()
    embeds = torch.randn(2, 6, 8)
    for recomputed in (False, True):
        keep_activations(net)
        if recomputed:
            checkpoint_activations(net, {"use_reentrant": reentrant})
        net.zero_grad()
        torch.manual_seed(7)
        net(inputs_embeds=embeds.requires_grad_()).last_hidden_state.square().sum().backward()
        gradients.append([None if p.grad is None else p.grad.clone() for p in net.parameters()])
        # forward once, and recomputed once
        assert len(sums) == SPECS[spec] * (3 if recomputed else 1)
    for once, again in zip(*gradients, strict=True):
        assert (once is None) == (again is None)
        if once is not None:
            assert torch.equal(once, again)


def test_autocast_and_distributed_training(tmp_path):
    net, gradients = _net("pre_rms_norm"), []
    net.set_fused_add_norm()
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    try:
        for model in (net, nn.parallel.DistributedDataParallel(net, find_unused_parameters=True)):
            net.zero_grad()
            torch.manual_seed(7)
            with torch.autocast("cpu", torch.bfloat16):
                model(input_ids=IDS).last_hidden_state.float().square().sum().backward()
            gradients.append([p.grad.clone() for p in net.parameters() if p.grad is not None])
    finally:
        dist.destroy_process_group()
    assert all(torch.equal(alone, together) for alone, together in zip(*gradients, strict=True))


def test_packed_tokens_and_their_attention_draw_bytes(monkeypatch, sums):
    # the code of a checkpoint, which another test may have loaded, registers its own
    transformers.AttentionInterface.register(PACKED, packed_attention)
    net = _net(attention_dropout=0.5)
    for module in net.modules():
        if isinstance(getattr(module, "dropout", None), nn.Dropout):
            module.dropout.p = 0.25
    net.set_packed()
    net.set_fused_add_norm()
    drawn, cls = [], bytes_file._ByteDropout
    monkeypatch.setattr(cls, "apply", lambda *args, _apply=cls.apply: drawn.append(1) or _apply(*args))
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]])
    net(input_ids=IDS, attention_mask=mask).last_hidden_state.sum().backward()
    assert len(sums) == 6
    # of each of the two lengths
    assert len(drawn) == 6


def test_what_hangs_on_a_part_still_runs(sums):
    net, seen = _net("pre_ln"), []
    net.set_fused_add_norm()
    layer = net.encoder.layer[0]
    layer.output.dropout.register_forward_hook(lambda *args: seen.append("dropout"))
    layer.connections.attention.residual_norm.register_forward_hook(lambda *args: seen.append("residual"))
    net(input_ids=IDS)
    assert seen == ["residual", "dropout"]
    assert len(sums) == 4


def test_compiled_it_is_torchs(sums):
    net = _net("pre_ln", layers=1)
    net.set_fused_add_norm()
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    compiled(input_ids=IDS).last_hidden_state.sum().backward()
    assert not sums


def test_it_is_no_part_of_what_is_saved(tmp_path):
    net = _net("", AddNormBertForMaskedLM)
    net.save_pretrained(tmp_path / "before")
    net.set_fused_add_norm()
    net.save_pretrained(tmp_path / "after")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "before" / name).read_bytes() == (tmp_path / "after" / name).read_bytes()
    assert not any(
        module.fused_add_norm
        for module in AddNormBertForMaskedLM.from_pretrained(tmp_path / "after").modules()
        if isinstance(module, AddNormLayer)
    )
    for copied in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert all(module.fused_add_norm for module in copied.modules() if isinstance(module, AddNormLayer))
