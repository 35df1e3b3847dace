"""Every preset against its formula, computed naively layer by layer in float64, forward and gradient."""

import pytest
import torch
from encoder_references import (
    ENCODER_REFERENCES,
    OTHER_ENCODERS,
    STREAMS_COVERED,
    WIRINGS_COVERED,
    encode,
)
from encoder_runs import build_encoder, run_encoder, tiny_config
from norm_references import NORM_REFERENCES
from reference_checks import assert_close

from hf_addnorm.models.base.registries import NORMS, STREAMS, WIRINGS
from hf_addnorm.models.spec.presets import PRESETS


def test_every_preset_has_a_reference():
    assert set(ENCODER_REFERENCES) == set(PRESETS)
    assert set(STREAMS) == STREAMS_COVERED
    assert set(WIRINGS) == WIRINGS_COVERED


class Pattern(torch.nn.Module):
    """Stands for dropout: a known number for every feature, so that its place shows."""

    def __init__(self, width):
        super().__init__()
        self.factor = torch.linspace(0.25, 2.0, width, dtype=torch.float64)

    def forward(self, x):
        return x * self.factor


def random_inputs(decoder):
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(2, 5, 12, generator=generator, dtype=torch.float64)
    real = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]).bool()
    allowed = real[:, None, :].expand(-1, 5, -1)
    if not decoder:
        return x, allowed, None, None
    memory = torch.randn(2, 4, 12, generator=generator, dtype=torch.float64)
    memory_real = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]]).bool()
    return x, allowed & torch.ones(5, 5).tril().bool(), memory, memory_real[:, None, :].expand(-1, 5, -1)


def compare_with_formula(reference, add_norm, decoder, norm=None, layers=7):
    """Every layer's output, the result and the gradients, with random weights and a pattern in dropout's place."""
    config = tiny_config(add_norm, layers, is_decoder=decoder, add_cross_attention=decoder, hidden_act="gelu")
    model, weights = build_encoder(config)
    generator = torch.Generator().manual_seed(4)
    for path, parameter in model.encoder.named_parameters():
        if parameter.dim() == 2:
            # four streams keep their size with 0.5
            std = 0.5 if path.endswith("residual_norm.alpha") else 0.15
            torch.nn.init.normal_(parameter, std=std, generator=generator)
        else:
            # far from every start value, and of both signs in the biases
            low = -0.5 if path.endswith("bias") else 0.3
            torch.nn.init.uniform_(parameter, low, 1.4, generator=generator)
    for name, module in list(model.encoder.named_modules()):
        if isinstance(module, torch.nn.Dropout) and name.endswith("output.dropout"):
            model.encoder.set_submodule(name, Pattern(12))
    x, allowed, memory, memory_allowed = random_inputs(decoder)
    hidden = x.clone().requires_grad_()
    streams, result = run_encoder(model, hidden, allowed, memory, memory_allowed)
    hidden_expected = x.clone().requires_grad_()
    expected_weights = {name: p.detach().clone().requires_grad_() for name, p in weights.items()}
    # one leaf where the model has one parameter
    for name, p in weights.items():
        first = next(other for other, q in weights.items() if q is p)
        expected_weights[name] = expected_weights[first]
    streams_expected, expected = encode(
        reference,
        expected_weights,
        hidden_expected,
        layers=layers,
        heads=config.num_attention_heads,
        act="gelu",
        eps=config.layer_norm_eps,
        allowed=allowed,
        norm=norm,
        memory=memory,
        memory_allowed=memory_allowed,
        drop=Pattern(12),
    )
    for i, (stream, stream_expected) in enumerate(zip(streams, streams_expected, strict=True)):
        assert_close(stream, stream_expected, 1e-12, f"layer {i}")
    assert_close(result, expected, 1e-12, "result")
    cotangent = torch.randn(result.shape, generator=generator, dtype=torch.float64)
    names = list(weights)
    grads = torch.autograd.grad(result, [hidden, *weights.values()], cotangent)
    grads_expected = torch.autograd.grad(expected, [hidden_expected, *(expected_weights[n] for n in names)], cotangent)
    # a query's gradient is a small difference of large terms: relative to the largest gradient
    scale = max(grad.abs().max() for grad in grads_expected)
    for name, grad, grad_expected in zip(["hidden", *names], grads, grads_expected, strict=True):
        error = ((grad - grad_expected).abs().max() / scale).item()
        assert error <= 1e-13, f"grad.{name}: off by {error:.3g} of the largest"


@pytest.mark.parametrize("decoder", [False, True], ids=["encoder", "decoder"])
@pytest.mark.parametrize("preset", PRESETS)
def test_preset_is_its_formula(preset, decoder):
    compare_with_formula(ENCODER_REFERENCES[preset], preset, decoder)


@pytest.mark.parametrize("decoder", [False, True], ids=["encoder", "decoder"])
@pytest.mark.parametrize("name", OTHER_ENCODERS)
def test_scheme_beyond_the_presets_is_its_formula(name, decoder):
    add_norm, reference = OTHER_ENCODERS[name]
    compare_with_formula(reference, add_norm, decoder, layers=4)


@pytest.mark.parametrize("name", [*PRESETS, *OTHER_ENCODERS])
def test_hidden_states_of_the_whole_model(name):
    """The embeddings, what each layer but the last gives its reader, and the result."""
    spec = OTHER_ENCODERS[name][0] if name in OTHER_ENCODERS else {"preset": name}
    whole = name in PRESETS and PRESETS[name].whole
    model, _ = build_encoder(tiny_config(spec if whole else {**spec, "embed": False}, 4))
    for table in (model.embeddings.position_embeddings, model.embeddings.token_type_embeddings):
        torch.nn.init.zeros_(table.weight)
    x, allowed, *_ = random_inputs(decoder=False)
    # where the embeddings' norm may not be taken away, it has nothing to do
    x = model.embeddings.LayerNorm(x) if whole else x
    streams, result = run_encoder(model, x, allowed)
    out = model(inputs_embeds=x, attention_mask=allowed[:, 0].long(), output_hidden_states=True)
    for state, expected in zip(out.hidden_states, [x, *streams[:-1], result], strict=True):
        torch.testing.assert_close(state, expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(out.last_hidden_state, out.hidden_states[-1])


# statistics of few features are rounding where these happen to be equal, or 0
WELL_CONDITIONED = {"scaled_l2_norm": {"stored": 0.5}, "group_norm": {"groups": 2}, "prms_norm": {"fraction": 0.5}}


@pytest.mark.parametrize("kind", NORM_REFERENCES)
@pytest.mark.parametrize("preset", ["post_ln", "sandwich_ln", "sub_ln"])
def test_preset_with_another_norm_is_its_formula(preset, kind):
    options = ({"eps": 1e-5} if "eps" in NORMS.options(kind) else {}) | WELL_CONDITIONED.get(kind, {})
    add_norm = {"preset": preset, "norm": {"kind": kind, **options}}
    compare_with_formula(ENCODER_REFERENCES[preset], add_norm, decoder=False, norm=(kind, options), layers=3)
