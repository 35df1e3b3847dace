"""Where streams are the plain one, how they start, and that vendors' classes compute the same."""

import types

import pytest
import torch
from families import tiny_config, twins

from hf_addnorm import AddNormBertModel
from hf_addnorm.models.streams.bounded_connections import (
    IndependentHyperConnection,
    ManifoldHyperConnection,
    PermutationHyperConnection,
    StreamHead,
)
from hf_addnorm.models.streams.hyper_connections import SeveralStreams
from hf_addnorm.models.streams.layer_streams import AlternatingUpdates
from hf_addnorm.models.streams.learned_read_streams import GatedStreamConnection, GatedStreams, StreamMixer


@pytest.mark.parametrize("streams", [1, 2, 4])
def test_hyper_connections_start_as_the_plain_stream(streams):
    hyper = {"preset": "hyper_connections", "stream": {"kind": "hyper_connections", "streams": streams}}
    plain, model = twins("pre_ln", hyper)
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    torch.testing.assert_close(model.encoder(x).last_hidden_state, plain.encoder(x).last_hidden_state)
    reduced, state = model.encoder.layer[0](x)
    for index in range(streams):
        torch.testing.assert_close(state[:, :, index], reduced)


@pytest.mark.parametrize(
    "stream",
    [
        "dense",
        {"kind": "dense", "dilation": 2, "period": 3},
        {"kind": "hyper_connections", "dynamic": True},
        {"kind": "hyper_connections", "streams": 1, "fractions": 4},
        {"kind": "hyper_connections", "streams": 2, "fractions": 2, "dynamic": True},
    ],
)
@pytest.mark.parametrize("preset", ["pre_ln", "post_ln"])
def test_streams_that_start_as_the_plain_one(preset, stream):
    plain, model = twins(preset, {"preset": preset, "stream": stream})
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    torch.testing.assert_close(model.encoder(x).last_hidden_state, plain.encoder(x).last_hidden_state)


@pytest.mark.parametrize("official", [False, True])
def test_manifold_hyper_connections_without_their_weight_are_the_plain_stream(official):
    stream = {"kind": "manifold_hyper_connections", "official": official}
    plain, model = twins("pre_ln", {"preset": "mhc", "stream": stream})
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    expected = plain.encoder(x).last_hidden_state
    # at its start the weight makes the streams differ, a little
    torch.testing.assert_close(model.encoder(x).last_hidden_state, expected, rtol=0.1, atol=0.1)
    assert not torch.allclose(model.encoder(x).last_hidden_state, expected, atol=1e-6)
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            if path.endswith("residual_gate.weight"):
                parameter.zero_()
    # the streams stay equal, and every row of the mix sums to 1; the official one has its 1e-6 on top
    tolerance = 1e-4 if official else 1e-10
    torch.testing.assert_close(model.encoder(x).last_hidden_state, expected, rtol=tolerance, atol=tolerance)


HC_CONFIG = types.SimpleNamespace(
    hc_mult=4, hc_sinkhorn_iters=20, hc_eps=1e-6, rms_norm_eps=1e-6, hidden_size=8, hc_magnitude=1.5
)


def vendor(name, class_name):
    modeling = pytest.importorskip(f"transformers.models.{name}.modeling_{name}")
    return getattr(modeling, class_name)(HC_CONFIG)


def same_weights(ours, weight, bias, scale):
    """Numbers far from any start in both."""
    with torch.no_grad():
        for index in range(len(scale)):
            ours.scale_norm.get_parameter(("read", "write", "mix")[index]).fill_(0.5 + index)
            scale[index] = 0.5 + index
        for one, two in ((ours.weight, weight), (ours.bias, bias)):
            two.copy_(one.normal_(std=0.5))


@pytest.mark.parametrize(
    ("name", "class_name"),
    [("deepseek_v4", "DeepseekV4HyperConnection"), ("glm5_next", "Glm5NextTextHyperConnection")],
)
def test_the_official_manifold_hyper_connection_is_that_of_deepseek_and_glm(name, class_name):
    theirs, ours = vendor(name, class_name), ManifoldHyperConnection(8, 4, 20, 5.0, True)
    same_weights(ours, theirs.fn, theirs.base, theirs.scale)
    state, f = torch.randn(2, 5, 4, 8), torch.randn(2, 5, 8)
    post, mix, collapsed = theirs(state)
    u, kept = ours(state)
    expanded = post.unsqueeze(-1) * f.unsqueeze(-2) + torch.matmul(mix.transpose(-1, -2), state)
    torch.testing.assert_close(u, collapsed, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(SeveralStreams(4, "mean").add_to_streams(kept, f), expanded, rtol=1e-5, atol=1e-6)


def test_independent_hyper_connections_are_those_of_hunyuan():
    theirs, ours = vendor("hy_v4", "HYV4HyperConnection"), IndependentHyperConnection(8, 4, 1.5)
    same_weights(ours, theirs.fn, theirs.base, theirs.scale)
    state, f = torch.randn(2, 5, 4, 8), torch.randn(2, 5, 8)
    post, collapsed = theirs(state)
    u, kept = ours(state)
    torch.testing.assert_close(u, collapsed, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        SeveralStreams(4, "mean").add_to_streams(kept, f),
        state + post.unsqueeze(-1) * f.unsqueeze(-2),
        rtol=1e-5,
        atol=1e-6,
    )


@pytest.mark.parametrize(("name", "class_name"), [("deepseek_v4", "DeepseekV4HyperHead"), ("hy_v4", "HYV4HyperHead")])
def test_the_learned_head_is_that_of_deepseek_and_hunyuan(name, class_name):
    theirs, ours = vendor(name, class_name), StreamHead(8, 4, 1e-6)
    same_weights(ours, theirs.hc_fn, theirs.hc_base, theirs.hc_scale)
    state = torch.randn(2, 5, 4, 8)
    torch.testing.assert_close(ours(state), theirs(state), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("ends", [False, True], ids=["sublayer", "end"])
def test_gated_streams_are_those_of_qwen(ends):
    modeling = pytest.importorskip("transformers.models.qwen4_exp.modeling_qwen4_exp")
    config = types.SimpleNamespace(hc_count=3, hidden_size=8, hc_lowrank=5, rms_norm_eps=1e-6)
    theirs = modeling.Qwen4ExpTextGatedResidual(config, use_combine=not ends)
    ours = (StreamMixer if ends else GatedStreamConnection)(8, 3, 5, 1e-6)
    pairs = [("hc_norm", "input_norm"), ("input_mix_weight_down", "down"), ("input_mix_weight_up", "up")]
    for one, two in [*pairs, *[("block_inject_weight", "write")] * (not ends)]:
        (parameter,) = getattr(theirs, one).parameters()
        (own,) = getattr(ours, two).parameters()
        own.data = parameter.data.normal_(std=0.5)
    state, f = torch.randn(2, 5, 3, 8), torch.randn(2, 5, 8)
    if ends:
        torch.testing.assert_close(ours(state), theirs(state.flatten(-2)))
        return
    expected, _, written = theirs(state.flatten(-2))
    u, kept = ours(state)
    torch.testing.assert_close(u, expected)
    torch.testing.assert_close(
        GatedStreams(streams=3).add_to_streams(kept, f), state + f.unsqueeze(-2) * written.unsqueeze(-1)
    )


def test_attention_residuals_start_as_the_mean_of_all_outputs():
    model = AddNormBertModel(tiny_config({"preset": "pre_ln", "stream": "attention_residuals"})).eval()
    x = torch.randn(2, 5, 8)
    shown, *outputs = model.encoder.layer[0](x)
    assert len(outputs) == 3
    torch.testing.assert_close(shown, sum(outputs) / 3)
    torch.testing.assert_close(outputs[0], x)
    residual = model.encoder.layer[1].connections.attention.residual_norm
    torch.testing.assert_close(residual((shown, *outputs)), shown)
    with torch.no_grad():
        residual.query.copy_(1e3 * residual.key_norm(outputs[1][0, 0]))
    # the output that its query is like
    torch.testing.assert_close(residual((shown, *outputs))[0, 0], outputs[1][0, 0])


@pytest.mark.parametrize(
    "stream",
    [
        {"kind": "manifold_hyper_connections", "reduce": "learned"},
        {"kind": "permutation_hyper_connections", "streams": 3},
        {"kind": "independent_hyper_connections"},
    ],
    ids=lambda stream: stream["kind"],
)
def test_bounded_streams_start_as_the_plain_one_but_for_their_weight(stream):
    plain, model = twins("pre_ln", {"preset": "mhc", "stream": stream})
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    expected = plain.encoder(x).last_hidden_state
    torch.testing.assert_close(model.encoder(x).last_hidden_state, expected, rtol=0.1, atol=0.1)
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            if path.endswith(("residual_gate.weight", "head_gate.weight")):
                parameter.zero_()
    torch.testing.assert_close(model.encoder(x).last_hidden_state, expected, rtol=1e-4, atol=1e-4)


def test_a_mean_of_permutations_is_doubly_stochastic_and_any_of_them_may_be_it():
    connection = PermutationHyperConnection(8, 3, 0.0).double()
    connection.reset_parameters()
    state = torch.randn(2, 3, 8, dtype=torch.float64)
    _, (_, mix, _) = connection(state)
    for axis in (-1, -2):
        torch.testing.assert_close(mix.sum(axis), torch.ones_like(mix.sum(axis)))
    with torch.no_grad():
        # the last permutation turns the order round
        connection.bias[-1] = 1e4
    _, kept = connection(state)
    torch.testing.assert_close(
        SeveralStreams(3, "mean").add_to_streams(kept, torch.zeros(2, 8, dtype=torch.float64)), state.flip(-2)
    )


def test_too_many_streams_for_all_their_permutations_are_refused():
    with pytest.raises(ValueError, match=r"streams is 7, of which there are n! permutations; allowed is at most 6"):
        tiny_config({"stream": {"kind": "permutation_hyper_connections", "streams": 7}})


@pytest.mark.parametrize("official", [False, True])
def test_the_mix_of_streams_is_doubly_stochastic(official):
    connection = ManifoldHyperConnection(8, 4, 20, 0.0, official).double()
    connection.reset_parameters()
    with torch.no_grad():
        connection.weight.normal_(std=0.1)
        connection.scale_norm.mix.fill_(1.0)
    _, (_, mix, _) = connection(torch.randn(3, 4, 8, dtype=torch.float64))
    for axis in (-1, -2):
        torch.testing.assert_close(mix.sum(axis), torch.ones(3, 4).double(), rtol=1e-3, atol=1e-3)


def test_fractions_must_divide_the_hidden_size():
    with pytest.raises(ValueError, match=r"stream.fractions is 3, which does not divide the hidden size 8"):
        tiny_config({"stream": {"kind": "hyper_connections", "fractions": 3}})


@pytest.mark.parametrize(("wiring", "per_layer"), [("sequential", 2), ("parallel", 1)])
def test_hyper_connections_start_by_reading_one_stream_after_the_other(wiring, per_layer):
    stream = {"kind": "hyper_connections", "streams": 3}
    model = AddNormBertModel(tiny_config({"stream": stream, "wiring": wiring}, layers=4))
    parameters = {name: p for name, p in model.named_parameters() if "residual_norm" in name}
    assert all((beta == 1).all() for path, beta in parameters.items() if path.endswith("beta"))
    alphas = [alpha for path, alpha in parameters.items() if path.endswith("alpha")]
    assert len(alphas) == 4 * per_layer
    for k, alpha in enumerate(alphas):
        assert alpha[:, 0].tolist() == [float(index == k % 3) for index in range(3)]
        assert torch.equal(alpha[:, 1:], torch.eye(3))


def test_dual_without_its_sum_is_the_plain_stream_and_a_constant():
    plain, model = twins("post_ln", {"preset": "residual", "stream": {"kind": "dual", "scale": 0.0}})
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    expected = plain.encoder(x).last_hidden_state + model.encoder.layer[-1].connections.stream_norm.bias
    torch.testing.assert_close(model.encoder(x).last_hidden_state, expected)


@pytest.mark.parametrize("preset", ["pre_ln", "post_ln"])
def test_an_embedding_skip_of_nothing_is_the_plain_stream(preset):
    stream = {"kind": "embedding_skip", "scale": 1.0, "embedding_scale": 0.0, "backout": 0.0}
    plain, model = twins(preset, {"preset": preset, "stream": stream}, layers=5)
    ids = torch.arange(10).view(2, 5)
    assert torch.equal(model(ids).last_hidden_state, plain(ids).last_hidden_state)
    with torch.no_grad():
        model.encoder.layer[-1].connections.backout_norm.weight.fill_(0.5)
    before_final = []
    for net in (plain, model):
        net.encoder.final_norm.register_forward_pre_hook(lambda _, args: before_final.append(args[0]))
    states = plain(ids, output_hidden_states=True).hidden_states
    model(ids)
    # the output of layer 5 // 2, counted from 0; what is shown first is the embeddings
    torch.testing.assert_close(before_final[1], before_final[0] - 0.5 * states[3])


def test_altup_that_predicts_no_change_and_corrects_all_alike_runs_as_the_plain_stream():
    plain, model = twins("pre_ln", {"preset": "pre_ln", "stream": {"kind": "altup", "streams": 3, "active": 2}})
    with torch.no_grad():
        for layer in model.encoder.layer:
            layer.connections.layer_gate.predict_weights.weight.zero_()
            layer.connections.layer_gate.correct_weights.weight.zero_()
    ids = torch.arange(10).view(2, 5)
    expected = plain(ids, output_hidden_states=True).hidden_states[:-1]
    shown = model(ids, output_hidden_states=True).hidden_states[:-1]
    for one, two in zip(shown, expected, strict=True):
        torch.testing.assert_close(one, two)
    # every stream moves by what the layer adds to the one that it runs on
    first = model.encoder.layer[0]
    _, start = first.connections.enter(expected[0])
    _, after = first(expected[0])
    torch.testing.assert_close(after - start, (expected[1] - expected[0]).unsqueeze(-2).expand_as(start))


@pytest.mark.parametrize("active", [0, 2])
def test_altup_is_that_of_gemma(active):
    modeling = pytest.importorskip("transformers.models.gemma3n.modeling_gemma3n")
    config = types.SimpleNamespace(
        hidden_size=8, altup_num_inputs=3, altup_active_idx=active, altup_coef_clip=None, rms_norm_eps=1e-6
    )
    theirs, ours = modeling.Gemma3nTextAltUp(config), AlternatingUpdates(8, 3, active, 1e-6)
    pairs = {
        "router_norm": "input_norm",
        "modality_router": "router",
        "prediction_coefs": "predict_weights",
        "correction_coefs": "correct_weights",
    }
    for one, two in pairs.items():
        (own,) = getattr(ours, two).parameters()
        own.data = getattr(theirs, one).weight.data.normal_(std=3.0)
    state, y = torch.randn(2, 5, 3, 8), torch.randn(2, 5, 8)
    predicted = ours(state)
    expected = theirs.predict(state.permute(2, 0, 1, 3))
    torch.testing.assert_close(predicted, expected.permute(1, 2, 0, 3))
    torch.testing.assert_close(ours(predicted, y), theirs.correct(expected, y).permute(1, 2, 0, 3))


def test_altup_runs_on_a_stream_that_there_is():
    with pytest.raises(ValueError, match="active is 4; allowed is a stream, from 0 to 3"):
        tiny_config({"stream": {"kind": "altup", "active": 4}})
