"""Norms of a sequence without a state, and norms over tokens in every family, against the real tokens alone."""

import pytest
import torch
from families import FAMILIES, checkpoint_activations
from reference_checks import compare
from sequence_references import SEQUENCE_NORMS, sequence_group
from token_specs import ENCODERS, KINDS, base_model, build, counted, tiny

from hf_addnorm.models.base.registries import NORMS
from hf_addnorm.models.base.token_mask import TokenMask, running_with
from hf_addnorm.models.norms.norm_base import mixes_tokens


@pytest.mark.parametrize("name", SEQUENCE_NORMS)
def test_of_a_sequence_is_the_formula_of_its_real_tokens(name, padded):
    x, real = padded
    kind, options, formula = SEQUENCE_NORMS[name]
    norm = build(kind, 5, **options)
    compare(
        lambda z: running_with(TokenMask(real), norm, z)[real],
        lambda z: torch.cat([formula(row[mask], norm, **options) for row, mask in zip(z, real, strict=True)]),
        x,
        parameters=norm.parameters(),
        # its gradients of the shifts' weights are sums of large terms
        tolerance=1e-11 if kind == "dynamic_token_norm" else 1e-12,
    )
    if kind == "sum_norm":
        below = (
            torch.stack(
                [
                    (row[mask] if options["signed"] else row[mask].abs()).sum(0)
                    for row, mask in zip(x, real, strict=True)
                ]
            ).abs()
            < options["eps"]
        )
        assert 0 < below.sum() < below.numel()


@pytest.mark.parametrize("name", SEQUENCE_NORMS)
def test_heads_are_sequences_of_their_own(name):
    """As the norms of q, k and v have it: [batch, seq, heads, features]."""
    kind, options, _ = SEQUENCE_NORMS[name]
    norm = build(kind, 5, **options)
    x = torch.randn(2, 7, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    real = torch.ones(2, 7, dtype=torch.bool)
    real[0, 4:] = False
    y = running_with(TokenMask(real), norm, x)
    for head in range(3):
        expected = running_with(TokenMask(real), norm, x[:, :, head])
        torch.testing.assert_close(y[:, :, head], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", SEQUENCE_NORMS)
def test_half_precision_of_a_sequence_is_rounded_once(name, dtype, padded):
    x, real = padded
    kind, options, _ = SEQUENCE_NORMS[name]
    norm = build(kind, 5, **options)
    for parameter in norm.parameters():
        parameter.data = parameter.data.to(dtype).double()
    x = x.to(dtype)
    expected = running_with(TokenMask(real), norm, x.double())[real]
    half = norm.to(dtype)
    for autocast in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            y = running_with(TokenMask(real), half, x)[real]
        assert y.dtype == dtype
        torch.testing.assert_close(y.double(), expected, rtol=torch.finfo(dtype).eps, atol=1e-5)


def test_sequence_group_norm_takes_contiguous_groups(padded):
    x, real = padded
    x = torch.cat([x, 3 * x[..., :1] - 2], -1)
    norm = build("sequence_group_norm", 6, groups=2)
    expected = [sequence_group(row[mask], norm, 2) for row, mask in zip(x, real, strict=True)]
    y = running_with(TokenMask(real), norm, x)[real]
    torch.testing.assert_close(y, torch.cat(expected), rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match="sequence_group_norm: groups is 4, which does not divide the width 6"):
        build("sequence_group_norm", 6, groups=4)


def test_contra_norm_without_its_scale_is_layer_norm(padded):
    x, real = padded
    norm = build("contra_norm", 5, scale=0, eps=1e-3)
    expected = torch.nn.functional.layer_norm(x[real], (5,), norm.weight, norm.bias, 1e-3)
    torch.testing.assert_close(running_with(TokenMask(real), norm, x)[real], expected, rtol=1e-12, atol=1e-12)


def test_tokens_of_nothing_and_sequences_without_tokens_are_finite():
    real = torch.tensor([[True, True, False], [False, False, False]])
    for kind, options, _ in SEQUENCE_NORMS.values():
        norm = build(kind, 5, **options)
        for value in (0.0, 1e-30):
            x = torch.full((2, 3, 5), value, requires_grad=True)
            y = running_with(TokenMask(real), norm.float(), x)
            y[real].sum().backward()
            assert y.isfinite().all()
            assert x.grad.isfinite().all()


def test_whether_tokens_are_mixed_may_be_a_matter_of_options():
    mixing = {kind for kind in NORMS if mixes_tokens(NORMS.parse(kind, "norm"))}
    # every one of them is among those that are tested here or in test_token_norms
    assert mixing == {*KINDS, *(kind for kind, _, _ in SEQUENCE_NORMS.values())} - {"sum_norm"}
    assert mixes_tokens(NORMS.parse({"kind": "sum_norm", "over": "tokens"}, "norm"))


@pytest.mark.parametrize(
    ("kind", "options"),
    [(kind, options) for kind, options, _ in SEQUENCE_NORMS.values()],
)
def test_padding_of_a_sequence_may_hold_anything(kind, options, padded):
    x, real = padded
    norm = build(kind, 5, **options)
    y = running_with(TokenMask(real), norm, x)
    for value in (1e30, float("inf"), float("nan")):
        z = torch.where(real.unsqueeze(-1), x, value).requires_grad_()
        again = running_with(TokenMask(real), norm, z)
        assert torch.equal(again, y)
        grads = torch.autograd.grad(again[real].sum(), [z, *norm.parameters()])
        assert all(grad.isfinite().all() for grad in grads)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_head_that_pools_its_tokens_is_told_that_it_has_none(kind, masked):
    row = FAMILIES["modernbert"]
    names = {name: row.model_class(name)(row.config(name, {"head": kind})) for name in row.models if "For" in name}
    for name, model in names.items():
        inputs = row.inputs(name)
        if not masked:
            del inputs["attention_mask"]
        if "Sequence" in name or "Choice" in name:
            with pytest.raises(ValueError, match=r"needs \[batch, seq, ..., features\] and was given \[\d, 32\]"):
                model(**inputs)
        else:
            assert model(**inputs).loss.isfinite()


# reentrant checkpointing walks twice through the norm of the relative embeddings that all layers share
# and WavLM refuses it
REENTRANT = [family for family in ENCODERS if family not in ("deberta_v2_conv", "wavlm", "wavlm_stable")]


@pytest.mark.parametrize("spec", ["post_batch", "pre_instance"])
@pytest.mark.parametrize(
    ("family", "reentrant"), [(f, False) for f in ENCODERS] + [(f, True) for f in REENTRANT], ids=str
)
def test_a_recomputation_counts_in_no_family(family, reentrant, spec):
    inputs = FAMILIES[family].inputs(base_model(family))
    results = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = tiny(family, spec, hidden_dropout_prob=0.1).train()
        if checkpointing:
            checkpoint_activations(model, {"use_reentrant": reentrant})
            if "input_ids" in inputs:
                model.enable_input_require_grads()
        # two micro-batches of one step
        for shift in (0, 1):
            given = dict(inputs)
            if "input_ids" in inputs:
                given["input_ids"] = (inputs["input_ids"] + shift) % 99
            else:
                name = "pixel_values" if "pixel_values" in inputs else "input_values"
                given[name] = inputs[name] * (1 + shift)
            torch.manual_seed(shift)
            model(**given).last_hidden_state.square().mean().backward()
        results.append((counted(model), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}))
    for one, two in zip(*results, strict=True):
        assert one.keys() == two.keys()
        for name in one:
            torch.testing.assert_close(one[name], two[name], rtol=1e-5, atol=1e-7)
    assert not any(torch.equal(buffer, torch.zeros_like(buffer)) for buffer in results[0][0].values())
    assert bool(results[0][0]) == (spec == "post_batch")


@pytest.mark.parametrize("tokens", [0, 1])
@pytest.mark.parametrize("spec", ["post_batch", "pre_batch", "pre_instance", "dual"])
@pytest.mark.parametrize("family", [f for f in ENCODERS if "attention_mask" in FAMILIES[f].inputs(base_model(f))])
def test_a_model_trains_on_few_tokens(family, spec, tokens):
    """One real token in all, beside rows of padding alone; and no real token in any row."""
    model, inputs = tiny(family, spec).train(), FAMILIES[family].inputs(base_model(family))
    sound = "input_values" in inputs
    # a frame is made of 168 samples
    real = 170 * tokens if sound else tokens
    inputs["attention_mask"] = torch.zeros_like(inputs["attention_mask"])
    inputs["attention_mask"][0, :real] = 1
    before = counted(model)
    output = model(**inputs).last_hidden_state
    output.square().mean().backward()
    assert output.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    # of a sound without a sample the stock mask says that its frames are real
    assert sound or all(torch.equal(buffer, before[name]) for name, buffer in counted(model).items())


@pytest.mark.parametrize("family", ENCODERS)
def test_a_model_evaluates_by_its_running_statistics(family):
    """Of each sequence by itself, what it is among others; of a training model it is not."""
    model, inputs = tiny(family, "pre_batch").train(), FAMILIES[family].inputs(base_model(family))
    for _ in range(3):
        model(**inputs)
    before = counted(model)
    for training in (False, True):
        model.train(training)
        whole = model(**inputs).last_hidden_state[2:]
        alone = model(**{key: value[2:] for key, value in inputs.items()}).last_hidden_state
        assert torch.allclose(whole, alone, rtol=1e-3, atol=1e-4) == (not training)
        assert all(torch.equal(buffer, before[name]) for name, buffer in counted(model).items()) == (not training)


@pytest.mark.parametrize("spec", ["post_batch", "pre_instance"])
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_a_mask_of_samples_becomes_one_of_frames(training, spec):
    """The layers' norms count the frames of the sound alone: a batch padded further is the same batch."""
    model = tiny("wav2vec2_stable", spec, num_conv_pos_embeddings=2).train(training)
    inputs = FAMILIES["wav2vec2_stable"].inputs(base_model("wav2vec2_stable"))
    frames = model._get_feature_vector_attention_mask(11, inputs["attention_mask"])
    longer = {key: torch.nn.functional.pad(value, (0, 400)) for key, value in inputs.items()}
    one = model(**inputs).last_hidden_state
    two = model(**longer).last_hidden_state[:, : one.shape[1]]
    torch.testing.assert_close(one[frames], two[frames], rtol=1e-4, atol=1e-5)
