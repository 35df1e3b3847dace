"""Streams and wirings on every family: hidden states, checkpointing, compile, export, caches, layer drop."""

import copy
import inspect
import itertools
from functools import partial

import pytest
import torch
import transformers
from families import (
    CACHE,
    FAMILIES,
    MEMBERS,
    checkpoint_activations,
    covering,
    fill_with_pattern,
    keep_activations,
    slow_unless,
    stacks_of,
)

from hf_addnorm import AddNormBertLMHeadModel, AddNormGPT2LMHeadModel, AddNormSpec
from hf_addnorm.models.base.registries import STREAMS


SPECS = {
    "residual": "residual",
    "hyper_connections": "hyper_connections",
    "parallel": "parallel",
    "b2t": "b2t",
    "hybrid_norm": "hybrid_norm",
    "drop_path": {"drop_path": {"kind": "linear", "first": 0.1, "last": 0.4}},
    "residual_drop_path": {"preset": "residual", "drop_path": 0.3},
    "siamese_norm": "siamese_norm",
    "dense_former": "dense_former",
    "frac_connections": "frac_connections",
    "mhc": {"preset": "mhc", "stream": {"kind": "manifold_hyper_connections", "reduce": "learned"}},
    "two_hop": "two_hop",
    "attention_residuals": {"preset": "pre_rms_norm", "stream": "attention_residuals"},
    "nanochat": {"preset": "pre_rms_norm", "stream": "embedding_skip"},
    "altup": {"preset": "pre_rms_norm", "stream": {"kind": "altup", "streams": 3, "active": 1}},
}
TUPLES = tuple(name for name, spec in SPECS.items() if STREAMS.build(AddNormSpec.parse(spec).stream).is_tuple)
CASES = [(family, spec) for family in FAMILIES for spec in SPECS]
BASE = {family: row.config_class.auto_classes["AutoModel"] for family, row in FAMILIES.items()}


def _plain_net(family, spec, **kwargs):
    """The base model with its start weights."""
    row = FAMILIES[family]
    return row.model_class(BASE[family])(row.config(BASE[family], spec, use_cache=False, **kwargs)).eval()


def _net(family, spec, **kwargs):
    net = _plain_net(family, SPECS.get(spec, spec), **kwargs)
    fill_with_pattern(net)
    return net


def _stock(family, **kwargs):
    row = FAMILIES[family]
    return row.stock_class(BASE[family])(row.stock_config(BASE[family], use_cache=False, **kwargs)).eval()


def _inputs(family):
    return FAMILIES[family].inputs(BASE[family])


@pytest.mark.parametrize(("family", "spec"), covering(CASES))
def test_hidden_states_are_those_of_one_stream(family, spec):
    net, inputs = _net(family, spec, layerdrop=0.0), _inputs(family)
    stock = _stock(family)(**inputs, output_hidden_states=True)
    for training in (False, True):
        output = net.train(training)(**inputs, output_hidden_states=True)
        for home, config in stacks_of(net):
            # of an encoder-decoder, `encoder_hidden_states`, and the last one of the decoder is the model's
            prefix = f"{config.stack_name}_" if config.stack_name else ""
            last_state = output.get(f"{prefix}last_hidden_state", output.last_hidden_state)
            expected, states = stock[f"{prefix}hidden_states"], output[f"{prefix}hidden_states"]
            layout = net.layout_of(config)
            final_norm = net.get_submodule(home + (layout.final_norm or f"{layout.encoder}.final_norm".lstrip(".")))
            assert len(expected) > config.num_hidden_layers
            assert [type(state) for state in states] == [torch.Tensor] * len(expected)
            assert [state.shape for state in states] == [state.shape for state in expected]
            # some stock loops give the last one before the final norm, others after it
            assert any(torch.equal(last, last_state) for last in (states[-1], final_norm(states[-1])))
            assert all(state.isfinite().all() for state in states)
            assert not any(torch.equal(one, two) for one, two in itertools.pairwise(states))


def _gradients(net, inputs):
    """The gradients of a training step with dropout, and how often a layer ran for them."""
    runs = []
    blocks = [module for module in net.modules() if type(module).__name__ == "LayerAddNorm"]
    hooks = [block.register_forward_pre_hook(lambda *_: runs.append(1)) for block in blocks]
    net.zero_grad()
    transformers.set_seed(11)
    output = net.train()(**inputs).last_hidden_state
    output.backward(torch.linspace(-1, 1, output.numel()).view_as(output))
    for hook in hooks:
        hook.remove()
    gradients = {name: value.grad.clone() for name, value in net.named_parameters() if value.grad is not None}
    return gradients, len(runs)


@pytest.mark.parametrize(("family", "spec"), covering(CASES))
def test_checkpointing_gives_equal_gradients(family, spec):
    net = _net(family, spec, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1, layerdrop=0.0)
    inputs = _inputs(family)
    plain, runs = _gradients(net, inputs)
    checkpoint_activations(net, {"use_reentrant": False})
    checkpointed, runs_then = _gradients(net, inputs)
    assert runs_then == 2 * runs > 0
    assert plain.keys() == checkpointed.keys()
    for name, gradient in plain.items():
        assert torch.equal(gradient, checkpointed[name]), name


@pytest.mark.parametrize(("family", "spec"), covering(itertools.product(FAMILIES, SPECS)))
def test_reentrant_checkpointing_is_refused_for_streams_of_several_tensors(family, spec):
    row = FAMILIES[family]
    for model in (BASE[family], row.models[0]):
        net = row.model_class(model)(row.config(model, SPECS[spec]))
        if any(name in spec for name in TUPLES):
            with pytest.raises(ValueError, match="use_reentrant"):
                checkpoint_activations(net, {"use_reentrant": True})
            checkpoint_activations(net, {"use_reentrant": False})
        else:
            checkpoint_activations(net, {"use_reentrant": True})
        keep_activations(net)


def _compile(net, inputs, backend="aot_eager"):
    torch._dynamo.reset()
    return torch.compile(net, fullgraph=True, backend=backend)(**inputs)[0]


def _export(net, inputs):
    return torch.export.export(net, (), kwargs=inputs).module()(**inputs)[0]


def _skip_where_stock_fails(captured, family, **kwargs):
    try:
        captured(_stock(family, **kwargs), _inputs(family))
    except Exception as error:
        pytest.skip(f"the stock {family} neither: {type(error).__name__}: {str(error)[:200]}")


# the wirings are the same code in every family; the norms of q, k, v are beside another kind of projection in these
COMPILED = [(family, spec) for family in FAMILIES if family not in MEMBERS for spec in TUPLES]
COMPILED += [(family, "hybrid_norm") for family in ("bert", "albert", "modernbert", "gpt2")]
COMPILED += [("bert", "parallel"), ("bert", "b2t")]
SHORT = {"num_hidden_layers": 2, "num_hidden_groups": 1}


# the graph is the same; to trace its gradients too takes more than twice as long
@pytest.mark.parametrize("backend", [slow_unless(backend == "eager", backend) for backend in ("eager", "aot_eager")])
@pytest.mark.parametrize(("family", "spec"), covering(COMPILED))
def test_compiles_as_one_graph(family, spec, backend):
    net, inputs = _net(family, spec, **SHORT), _inputs(family)
    compile_it = partial(_compile, backend=backend)
    try:
        compiled = compile_it(net, inputs)
    except Exception:
        _skip_where_stock_fails(compile_it, family, **SHORT)
        raise
    torch.testing.assert_close(compiled, net(**inputs)[0])


TRAINED = [("bert", spec) for spec in ("residual", "hyper_connections", "hybrid_norm", "batch_norm")]
TRAINED += [("modernbert", "hyper_connections"), ("gpt2", "residual")]


@pytest.mark.parametrize(("family", "spec"), TRAINED)
def test_a_compiled_training_step_is_the_step(family, spec):
    net = _plain_net(family, {"norm": "batch_norm"} if spec == "batch_norm" else spec, **SHORT)
    inputs = _inputs(family)
    for module in net.modules():
        for name in ("p", "dropout", "attention_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    twin = copy.deepcopy(net)
    _compile(net.train(), inputs).square().mean().backward()
    twin.train()(**inputs)[0].square().mean().backward()
    for (name, one), two in zip(net.named_parameters(), twin.parameters(), strict=True):
        if two.grad is not None:
            torch.testing.assert_close(one.grad, two.grad, rtol=1e-3, atol=1e-6, msg=name)
    for (name, one), two in zip(net.named_buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(one, two, msg=name)


@pytest.mark.parametrize(("family", "spec"), covering(CASES))
def test_exports(family, spec):
    net, inputs = _net(family, spec, **SHORT), _inputs(family)
    try:
        exported = _export(net, inputs)
    except Exception:
        _skip_where_stock_fails(_export, family, **SHORT)
        raise
    torch.testing.assert_close(exported, net(**inputs)[0])


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("across", [False, True])
@pytest.mark.parametrize("model", [AddNormBertLMHeadModel, AddNormGPT2LMHeadModel])
def test_decoding_with_a_cache_is_decoding_without(model, across, spec):
    family = "gpt2" if "GPT2" in model.__name__ else "bert"
    net = model(FAMILIES[family].config(model.__name__, SPECS[spec], add_cross_attention=across)).eval().double()
    fill_with_pattern(net)
    ids = torch.randint(5, 99, (2, 6))
    other = {}
    if across:
        mask = torch.ones(2, 9, dtype=torch.long)
        mask[1, 5:] = 0
        other = {"encoder_hidden_states": torch.randn(2, 9, 32).double(), "encoder_attention_mask": mask}
    whole = net(input_ids=ids, use_cache=False, **other).logits
    past, steps = None, []
    for step in range(6):
        output = net(input_ids=ids[:, step : step + 1], use_cache=True, **{CACHE: past}, **other)
        past = output[CACHE]
        steps.append(output.logits)
    torch.testing.assert_close(torch.cat(steps, dim=1), whole, rtol=1e-7, atol=1e-9)
    if across:
        changed = net(input_ids=ids, **other | {"encoder_hidden_states": torch.randn(2, 9, 32).double()}).logits
        assert not torch.allclose(changed, whole, atol=1e-4)


@pytest.mark.parametrize("streams", [1, 4])
@pytest.mark.parametrize("family", FAMILIES)
def test_hyper_connections_start_as_the_plain_model(family, streams):
    plain = _net(family, "pre_ln", layerdrop=0.0).double()
    stream = {"kind": "hyper_connections", "streams": streams, "reduce": "mean"}
    net = _plain_net(family, {"preset": "pre_ln", "stream": stream}).double()
    missing, unexpected = net.load_state_dict(plain.state_dict(), strict=False)
    assert unexpected == []
    assert {name.split(".")[-1] for name in missing} == {"alpha", "beta"}
    stacks = net.stack_configs.values()
    assert len(missing) == 2 * sum(config.add_norm_depth() * len(config.add_norm_sublayers()) for config in stacks)
    inputs = {key: value.double() if value.is_floating_point() else value for key, value in _inputs(family).items()}
    expected = plain(**inputs, output_hidden_states=True)
    output = net(**inputs, output_hidden_states=True)
    for key in (key for key in expected if key.endswith("hidden_states")):
        mask = inputs.get("decoder_attention_mask" if "decoder" in key else "attention_mask")
        for one, two in zip(output[key], expected[key], strict=True):
            if "input_ids" in inputs:
                one, two = (state[mask.bool()] for state in (one, two))
            torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-8)
    with torch.no_grad():
        net.get_parameter(missing[-1]).mul_(2)
    assert not torch.allclose(net(**inputs)[0], expected[0], atol=1e-4)


def test_the_convolution_zeroes_padding_in_every_stream():
    inputs = _inputs("deberta_v2_conv")
    padding = ~inputs["attention_mask"].bool()
    # where all outputs are kept, that of the convolution is one of them
    for spec in {"post_ln", *TUPLES} - {"attention_residuals"}:
        state = _net("deberta_v2_conv", spec)(**inputs, output_hidden_states=True).hidden_states[1]
        assert not state[padding].any(), spec


def test_the_convolution_after_a_single_layer_adds_to_its_one_tensor():
    inputs = _inputs("deberta_v2_conv")
    for spec in TUPLES:
        output = _net("deberta_v2_conv", spec, num_hidden_layers=1)(**inputs)
        assert output.last_hidden_state.shape == (*inputs["input_ids"].shape, 32), spec


def test_the_convolution_adds_to_the_stream_that_altup_runs_on():
    nets = [_net("deberta_v2_conv", spec) for spec in ("pre_rms_norm", "altup")]
    added = []
    for net in nets:
        conv = net.encoder.conv
        conv.LayerNorm = torch.nn.Identity()
        hidden = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0))
        state = hidden if net is nets[0] else (hidden, torch.stack([hidden + 1, hidden, hidden - 1], -2))
        after = conv(hidden, state, torch.ones(2, 5))
        added.append(after if net is nets[0] else after[0])
    torch.testing.assert_close(added[1], added[0])
    torch.testing.assert_close(after[1][..., 0, :], hidden + 1)
    torch.testing.assert_close(after[1][..., 1, :], added[0])


SOUND = [family for family, row in FAMILIES.items() if "layerdrop" in inspect.signature(row.config_class).parameters]
QUIET = {
    "hidden_dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "feat_proj_dropout": 0.0,
    "apply_spec_augment": False,
}


@pytest.mark.parametrize("spec", [*SPECS, "post_ln", "pre_ln"])
@pytest.mark.parametrize("family", SOUND)
def test_layer_drop_leaves_whole_states(family, spec):
    net, inputs = _net(family, spec, layerdrop=0.5, **QUIET).train(), _inputs(family)
    is_tuple = any(name in spec for name in TUPLES)
    seen = set()
    for seed in range(12):
        torch.manual_seed(seed)
        net.zero_grad()
        output = net(**inputs, output_hidden_states=True)
        # the stock loop, which runs where the stream is one tensor, has no state for a layer that it skips
        assert len(output.hidden_states) == 5 or not is_tuple
        states = (*output.hidden_states, output.last_hidden_state)
        assert {(type(state), state.shape) for state in states} == {(torch.Tensor, (3, 11, 32))}
        output.last_hidden_state.square().mean().backward()
        assert all(value.grad.isfinite().all() for value in net.parameters() if value.grad is not None)
        seen.add(round(output.last_hidden_state.double().abs().sum().item(), 3))
    assert len(seen) > 3
    net.eval()
    assert torch.equal(net(**inputs)[0], net(**inputs)[0])


@pytest.mark.parametrize("family", SOUND)
def test_layers_that_are_dropped_leave_the_stream_alone(family):
    inputs = _inputs(family)
    plain = _net(family, "pre_ln", layerdrop=1.0, **QUIET).train()
    stream = {"kind": "hyper_connections", "streams": 3}
    for spec in ({"preset": "pre_ln", "stream": stream}, {"preset": "residual", "final": "layer_norm"}):
        net = _plain_net(family, spec, layerdrop=1.0, **QUIET).train()
        net.load_state_dict(plain.state_dict(), strict=False)
        output = net(**inputs, output_hidden_states=True)
        expected = plain(**inputs)
        for state in output.hidden_states[1:4]:
            torch.testing.assert_close(state, output.hidden_states[0], rtol=1e-6, atol=1e-6)
        if "stream" in spec:
            torch.testing.assert_close(output.last_hidden_state, expected.last_hidden_state, rtol=1e-5, atol=1e-5)


def test_albert_without_shared_layers():
    net = _net("albert", "pre_ln", num_hidden_groups=4)
    assert net(**_inputs("albert")).last_hidden_state.isfinite().all()
