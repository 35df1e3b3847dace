"""Decoders of text beside GPT-2: their layouts, the stock schemes of each as specs, generation in another scheme."""

import pytest
import torch
from families import BASE_MODELS, FAMILIES, fill_with_pattern


OPT_LAYOUTS = {
    "no_final_norm": {"_remove_final_layer_norm": True},
    "no_gains": {"layer_norm_elementwise_affine": False},
    "no_biases": {"enable_bias": False},
    "narrow_words": {"word_embed_proj_dim": 16},
    "post": {"do_layer_norm_before": False, "layer_norm_elementwise_affine": False},
}


# The families are given as `name`: what a member of a shape repeats is slow, and this repeats nothing.


def _lm(family):
    return FAMILIES[family].config_class.auto_classes["AutoModelForCausalLM"]


def _stock(family, model, **kwargs):
    row = FAMILIES[family]
    net = row.stock_class(model)(row.stock_config(model, **kwargs))
    fill_with_pattern(net)
    return net.eval()


@pytest.mark.parametrize("layout", OPT_LAYOUTS)
def test_every_layout_of_opt_is_stock(layout):
    row, model = FAMILIES["opt"], _lm("opt")
    stock = _stock("opt", model, **OPT_LAYOUTS[layout])
    ours = row.model_class(model)(row.config(model, **OPT_LAYOUTS[layout])).eval()
    assert list(ours.state_dict()) == list(stock.state_dict())
    ours.load_state_dict(stock.state_dict())
    inputs = row.inputs(model)
    expected = stock(**inputs)
    assert torch.equal(ours(**inputs).logits, expected.logits)
    # the same through our layers
    for layer in ours.model.decoder.layers:
        layer.runs_as_stock = False
    torch.testing.assert_close(ours(**inputs).logits, expected.logits)


@pytest.mark.parametrize(
    ("name", "theirs", "spec", "renamed"),
    [
        ("gpt_neox", {"use_parallel_residual": False}, "pre_ln", {}),
        (
            "gpt_neox_in_turn",
            {"use_parallel_residual": True},
            {"preset": "pre_ln", "wiring": {"kind": "parallel", "shared_norm": False}},
            {},
        ),
        (
            "opt",
            {"do_layer_norm_before": False},
            "post_ln",
            {
                "self_attn_layer_norm": "connections.attention.post_norm",
                "final_layer_norm": "connections.feed_forward.post_norm",
            },
        ),
    ],
)
def test_a_layout_in_the_scheme_of_another_is_that(name, theirs, spec, renamed):
    row, model = FAMILIES[name], BASE_MODELS[name]
    stock = _stock(name, model, **theirs)
    ours = row.model_class(model)(row.config(model, spec)).eval()
    state = {}
    for key, value in stock.state_dict().items():
        for path, other in renamed.items():
            key = key.replace(f".{path}.", f".{other}.")
        state[key] = value
    ours.load_state_dict(state)
    inputs = row.inputs(model)
    assert torch.equal(ours(**inputs)[0], stock(**inputs)[0])


@pytest.mark.parametrize("name", ["gpt_neox", "opt"])
def test_beams_are_those_of_stock(name):
    row, model = FAMILIES[name], _lm(name)
    stock = _stock(name, model)
    ours = row.model_class(model)(row.config(model)).eval()
    ours.load_state_dict(stock.state_dict())
    inputs = {key: value for key, value in row.inputs(model).items() if key != "labels"}
    # what is padded is at the left
    inputs = {key: value.flip(-1) for key, value in inputs.items()}
    options = {"max_new_tokens": 6, "do_sample": False, "num_beams": 3, "eos_token_id": None}
    assert torch.equal(*(net.generate(**inputs, **options) for net in (stock, ours)))


@pytest.mark.parametrize(("name", "spec"), [("gpt_neox", "hyper_connections"), ("opt", "sandwich_ln")])
def test_generation_in_another_scheme_needs_no_cache(name, spec):
    row, model = FAMILIES[name], _lm(name)
    net = row.model_class(model)(row.config(model, spec)).double().eval()
    fill_with_pattern(net)
    prompt = torch.randint(5, 99, (2, 6), generator=torch.Generator().manual_seed(3))
    options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    assert torch.equal(*(net.generate(prompt, use_cache=use, **options) for use in (False, True)))


def test_layers_of_opt_that_are_left_out_keep_the_streams():
    row, model = FAMILIES["opt"], BASE_MODELS["opt"]
    net = row.model_class(model)(row.config(model, "hyper_connections", layerdrop=1.0, dropout=0.0)).train()
    inputs = row.inputs(model)
    states = net(**inputs, output_hidden_states=True).hidden_states
    assert len(states) == 5
    for state in states[2:-1]:
        assert torch.equal(state, states[1])


def test_a_start_rule_finds_v_among_roles_that_alternate_by_head():
    """GPT-NeoX has q, k, v of one head after the other; DeepNorm scales v alone."""
    row, model, weights = FAMILIES["gpt_neox"], BASE_MODELS["gpt_neox"], []
    for init in ([], [{"kind": "deepnorm", "base": "stock"}]):
        torch.manual_seed(0)
        net = row.model_class(model)(row.config(model, {"preset": "pre_ln", "init": init}))
        weights.append(net.layers[1].attention.query_key_value.weight.detach())
    factors = (weights[1] / weights[0]).mean(-1)
    expected = torch.ones(4, 3, 8)
    expected[:, 2] = 32**-0.25
    torch.testing.assert_close(factors, expected.flatten())


def test_a_weight_transform_finds_v_among_roles_that_alternate_by_head():
    row, model = FAMILIES["gpt_neox"], BASE_MODELS["gpt_neox"]
    net = row.model_class(model)(row.config(model, {"weights": {"kind": "sigma_reparam", "roles": ["v"]}})).eval()
    linear, x = net.layers[0].attention.query_key_value, torch.randn(5, 32)
    with torch.no_grad():
        linear.weight_norm[2].sigma.fill_(3.0)
        plain = torch.nn.functional.linear(x, linear.weight, linear.bias).unflatten(-1, (4, 3, 8))
        found = linear(x).unflatten(-1, (4, 3, 8))
    assert torch.equal(found[:, :, :2], plain[:, :, :2])
    assert not torch.allclose(found[:, :, 2], plain[:, :, 2])
