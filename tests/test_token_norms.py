"""The norms over real tokens: padding counts nowhere, every micro-batch counts once in running statistics."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from families import FAMILIES, MODELS, fill_with_pattern
from running_references import RUNNING_REFERENCES
from safetensors import safe_open

from hf_addnorm import AddNormBertConfig, AddNormBertForMaskedLM, AddNormBertModel, collect_losses
from hf_addnorm.models.running_norms import RunningNorm
from hf_addnorm.models.spec import NORMS
from hf_addnorm.models.token_mask import TokenMask, running_with


TESTS = Path(__file__).parent
GOLDEN = TESTS.parents[1] / "shared" / "golden"
RUNNING = {
    kind: factory for kind, factory in NORMS.items() if isinstance(factory, type) and issubclass(factory, RunningNorm)
}
# norms whose training output knows nothing of earlier batches
MEMORYLESS = ["batch_norm", "instance_norm"]
KINDS = ["instance_norm", *RUNNING]
CASES = [
    pytest.param(kind, reference, options, id="-".join([kind, *(f"{key}={value}" for key, value in options.items())]))
    for kind, rows in RUNNING_REFERENCES.items()
    for reference, options in rows
]
NO_DROPOUT = {
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "attention_dropout": 0.0,
    "mlp_dropout": 0.0,
    "embedding_dropout": 0.0,
    "hidden_dropout": 0.0,
    "activation_dropout": 0.0,
    "feat_proj_dropout": 0.0,
    "layerdrop": 0.0,
    "mask_time_prob": 0.0,
}
ENCODERS = [family for family in FAMILIES if family != "gpt2"]


def build(kind, width, **options):
    norm = NORMS.build(NORMS.parse({"kind": kind, **options}, "norm"), width).double()
    norm.reset_parameters()
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(3))
    return norm


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
    results = []
    for function in (
        lambda z: running_with(TokenMask(real), norm, z)[real],
        lambda z: naive(kind, z, real, norm.weight, norm.bias, unbiased=unbiased),
    ):
        z = x.clone().requires_grad_()
        y = function(z)
        grads = torch.autograd.grad((y * torch.sin(torch.arange(y.numel()).view_as(y))).sum(), [z, *norm.parameters()])
        results.append((y, *grads))
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-12)


def test_every_running_norm_has_a_reference():
    assert set(RUNNING_REFERENCES) == set(RUNNING)


def batches():
    """[batch, seq, 6] and which tokens are real, one after the other: many, one, none; one batch is an outlier."""
    draw = torch.Generator().manual_seed(5)
    for step, (rows, length, real) in enumerate(
        [(3, 7, 15), (2, 4, 8), (1, 5, 1), (2, 3, 0), (2, 5, 7), (3, 3, 9)] * 2
    ):
        x = torch.randn(rows, length, 6, generator=draw, dtype=torch.float64) * (1 + step % 3) + 0.5
        x = x * 40 if step == 6 else x
        chosen = torch.zeros(rows * length, dtype=torch.bool)
        chosen[torch.randperm(rows * length, generator=draw)[:real]] = True
        yield x, chosen.view(rows, length), torch.randn(x.shape, generator=draw, dtype=torch.float64)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(("kind", "reference", "options"), CASES)
def test_every_step_is_that_of_the_formula(kind, reference, options, late):
    """Output, gradients and state after each of a series of batches, and the evaluation after it."""
    norm = build(kind, 6, **options)
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
        # what follows in the model sees no padding
        objective = sum([(y[real] * cotangent[real]).sum(), *losses])
        grads = torch.autograd.grad(objective, [z, *norm.parameters()])
        y_expected, x_grad, parameter_grads = expected.train(x[real].detach(), cotangent[real])
        close(y[real], y_expected)
        close(grads[0][real], x_grad)
        assert (grads[0][~real] == 0).all()
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


# --- in models ---

SPECS = {
    "post_batch": {"preset": "post_ln", "norm": "batch_norm"},
    "pre_instance": {"preset": "pre_ln", "norm": "instance_norm"},
    "post_instance": {"preset": "post_ln", "norm": "instance_norm"},
    "pre_batch": {"preset": "pre_ln", "norm": "batch_norm"},
    "everywhere": {
        "norm": "batch_norm",
        "attention": ["pre", "q", "k", "v", "mid", "out", "post"],
        "feed_forward": ["pre", "mid", "out", "post"],
        "embed": True,
        "final": True,
        "head": True,
    },
    "pre_contra": {"preset": "pre_ln", "norm": "contra_norm"},
    "pre_around": {"preset": "pre_ln", "norm": "dynamic_token_norm"},
    "post_sum": {"preset": "post_ln", "norm": {"kind": "sum_norm", "over": "tokens", "signed": False}},
    "dual": {"preset": "residual", "norm": "batch_norm"},
    "hyper": {"preset": "hyper_connections", "norm": "sequence_group_norm"},
    "parallel": {"preset": "parallel", "norm": "batch_norm"},
}
# options with which a few steps reach all that a norm does
OPTIONS = {
    "progressive_rep_bn": {"iterations": 2},
    "power_norm": {"variant": "official", "groups": "heads", "warmup": 2},
    "unified_norm": {"window": 2, "warmup": 2},
}
RUNNING_SPECS = {kind: {"preset": "post_ln", "norm": {"kind": kind, **OPTIONS.get(kind, {})}} for kind in RUNNING} | {
    "power_norm_paper": {"preset": "post_ln", "norm": "power_norm"}
}
FAMILY_SPECS = [(family, spec) for family in ENCODERS for spec in SPECS]
# the places are the same for all: one family of those with their own loop, and one with the stock one
FAMILY_SPECS += [(family, spec) for family in ("bert", "albert", "wav2vec2") for spec in RUNNING_SPECS]
SPECS |= RUNNING_SPECS


def base_model(family):
    names = {"vit": "AddNormViTModel", "bert": "AddNormBertModel"}
    return names.get(family) or next(name for name in FAMILIES[family].models if name.endswith(("tModel", "2Model")))


def tiny(family, spec, **kwargs):
    row = FAMILIES[family]
    return row.model_class(base_model(family))(row.config(base_model(family), SPECS[spec], **NO_DROPOUT | kwargs))


def other_padding(family, inputs):
    """The same inputs with something else in the padding; for sound the mask itself is longer."""
    inputs = {key: value.clone() for key, value in inputs.items()}
    padding = inputs["attention_mask"] == 0
    if "input_ids" in inputs:
        inputs["input_ids"][padding] = 55
        inputs["token_type_ids" if "token_type_ids" in inputs else "input_ids"][padding] = 1
    return inputs


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize(
    ("family", "spec"), [pair for pair in FAMILY_SPECS if "input_ids" in FAMILIES[pair[0]].inputs("Model")]
)
def test_what_padding_contains_changes_no_real_token(family, spec, training):
    row = FAMILIES[family]
    model = tiny(family, spec).train(training)
    inputs = row.inputs(base_model(family))
    real = inputs["attention_mask"].bool()
    start, results = counted(model), []
    for given in (inputs, other_padding(family, inputs)):
        model.load_state_dict(start, strict=False)
        results.append(model(**given).last_hidden_state[real])
    assert torch.equal(*results)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize(("family", "spec"), [pair for pair in FAMILY_SPECS if "wav2vec2" in pair[0]])
def test_padded_frames_count_nowhere(family, spec, training):
    """The layers' norms see frames; what the padded ones hold when they get there changes no real one."""
    row = FAMILIES[family]
    model = tiny(family, spec).train(training)
    encoder = model.encoder
    x = torch.randn(3, 11, 32)
    real = torch.ones(3, 11, dtype=torch.bool)
    real[1, 6:] = False
    start, results = counted(model), []
    for value in (0.5, -7.0):
        model.load_state_dict(start, strict=False)
        padded = torch.where(real.unsqueeze(-1), x, value)
        results.append(encoder(padded, attention_mask=real).last_hidden_state[real])
    assert torch.equal(*results)
    assert model(**row.inputs(base_model(family)))[0].isfinite().all()


def test_every_layer_is_told_its_tokens_also_without_a_mask():
    row = FAMILIES["bert"]
    model = tiny("bert", "post_batch")
    inputs = row.inputs("AddNormBertModel")
    del inputs["attention_mask"]
    whole = model(**inputs).last_hidden_state
    ones = model(**inputs, attention_mask=torch.ones(3, 10)).last_hidden_state
    assert torch.equal(whole, ones)


def test_a_mask_that_names_no_tokens_is_refused_in_words():
    model = tiny("bert", "post_batch")
    inputs = FAMILIES["bert"].inputs("AddNormBertModel")
    four = torch.zeros(3, 1, 10, 10)
    with pytest.raises(ValueError, match=r"attention_mask as \[batch, seq\]; it is of shape \[3, 1, 10, 10\]"):
        model(**{**inputs, "attention_mask": four})


def counted(model):
    """The running statistics."""
    return {
        f"{path}.{name}": buffer.clone()
        for path, module in model.named_modules()
        if isinstance(module, RunningNorm)
        for name, buffer in module.named_buffers(recurse=False)
    }


def checkpointing(model, reentrant):
    # the older name of the same
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": reentrant})
    model.enable_input_require_grads()


@pytest.mark.parametrize("order", ["in turn", "forwards first"])
@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("spec", RUNNING_SPECS)
def test_a_recomputation_does_not_count(spec, reentrant, order):
    """Nor does it see what later batches did to the statistics."""
    inputs = FAMILIES["bert"].inputs("AddNormBertForMaskedLM")
    results = []
    for checkpointed in (False, True):
        torch.manual_seed(0)
        config = FAMILIES["bert"].config("", SPECS[spec], num_hidden_layers=2, **NO_DROPOUT)
        model = AddNormBertForMaskedLM(config).train()
        if checkpointed and reentrant and spec == "regularized_bn":
            with pytest.raises(ValueError, match=r"use_reentrant is true, and .* adds to the loss"):
                checkpointing(model, reentrant)
            return
        if checkpointed:
            checkpointing(model, reentrant)
        # three micro-batches of one step
        losses = []
        for shift in range(3):
            given = {**inputs, "input_ids": (inputs["input_ids"] + shift) % 99}
            losses.append(model(**given).loss * (shift + 1))
            if order == "in turn":
                losses.pop().backward()
        for loss in losses:
            loss.backward()
        results.append((counted(model), {name: p.grad for name, p in model.named_parameters()}))
    for one, two in zip(*results, strict=True):
        assert one.keys() == two.keys()
        for name in one:
            torch.testing.assert_close(one[name], two[name], rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")
    # every layer's gradient arrived, and every statistic moved
    assert all(grad is not None and (grad != 0).any() for name, grad in results[0][1].items() if "layer." in name)
    start = counted(AddNormBertForMaskedLM(model.config))
    assert not any(torch.equal(buffer, start[name]) for name, buffer in results[0][0].items())


@pytest.mark.parametrize("kind", RUNNING)
def test_a_checkpoint_from_outside_does_not_count_or_is_refused(kind):
    """Only the model's own keeps what a norm took in the forward."""
    norm = build(kind, 5)
    x = torch.randn(3, 7, 5, dtype=torch.float64, requires_grad=True)
    loss = torch.utils.checkpoint.checkpoint(norm, x, use_reentrant=False).square().sum()
    after = counted(norm)
    if kind in ("batch_norm", "rep_bn"):
        loss.backward()
        assert all(torch.equal(buffer, after[name]) for name, buffer in counted(norm).items())
    else:
        with pytest.raises(RuntimeError, match=r"needs the statistics .* gradient_checkpointing_enable"):
            loss.backward()


@pytest.mark.parametrize("spec", RUNNING_SPECS)
def test_running_statistics_are_saved_and_restored(spec, tmp_path):
    model = tiny("bert", spec).train()
    inputs = FAMILIES["bert"].inputs("AddNormBertModel")
    for _ in range(3):
        model(**inputs).last_hidden_state.square().mean().backward()
    model.eval().save_pretrained(tmp_path)
    back, info = AddNormBertModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    assert counted(back).keys() == counted(model).keys()
    assert all(torch.equal(buffer, counted(model)[name]) for name, buffer in counted(back).items())
    kinds = {name: buffer.dtype for name, buffer in counted(back).items()}
    assert set(kinds.values()) <= {torch.float32, torch.int64}
    half = AddNormBertModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {name: buffer.dtype for name, buffer in counted(half).items()} == kinds
    assert half(**inputs).last_hidden_state.dtype == torch.bfloat16
    assert half.train()(**inputs).last_hidden_state.dtype == torch.bfloat16
    assert {name: buffer.dtype for name, buffer in counted(back.to(torch.bfloat16)).items()} == kinds


@pytest.mark.parametrize("spec", RUNNING_SPECS)
def test_a_stock_checkpoint_gives_them_their_start(spec, tmp_path):
    row = FAMILIES["bert"]
    row.stock_class("AddNormBertModel")(row.stock_config("AddNormBertModel")).save_pretrained(tmp_path)
    garbage = [torch.full((32,), 7e7) for _ in range(200)]
    del garbage
    model = AddNormBertModel.from_pretrained(tmp_path, add_norm=SPECS[spec])
    assert counted(model)
    for name, buffer in counted(model).items():
        assert (buffer == (1.0 if name.endswith(("running_var", "running_square")) else 0.0)).all(), name


@pytest.mark.parametrize("spec", RUNNING_SPECS)
def test_shared_layers_have_statistics_for_every_depth(spec):
    model = tiny("albert", spec).train()
    # so large that depths differ
    fill_with_pattern(model)
    model(**FAMILIES["albert"].inputs("AddNormAlbertModel"))
    kept = [buffer for name, buffer in counted(model).items() if name.endswith(("running_mean", "running_square"))]
    # embeddings, and two for each of four depths
    assert len(kept) == 9
    assert len({tuple(buffer.tolist()) for buffer in kept}) == 9


@pytest.mark.parametrize(
    "spec", ["post_batch", "pre_instance", "pre_contra", "pre_around", "post_sum", *RUNNING_SPECS]
)
def test_a_causal_model_refuses_them(spec):
    row = FAMILIES["gpt2"]
    with pytest.raises(ValueError, match="its statistics over tokens"):
        row.config("AddNormGPT2Model", SPECS[spec])
    with pytest.raises(ValueError, match="a token see the later ones"):
        AddNormBertConfig(is_decoder=True, add_norm=SPECS[spec])


# --- losses that a norm adds ---

HEADS = [(family, model) for family, model in MODELS if family in ENCODERS and "LMHead" not in model]


@pytest.mark.parametrize(("family", "name"), HEADS)
def test_every_head_adds_what_its_norms_contribute(family, name):
    row = FAMILIES[family]
    penalised = {"kind": "regularized_bn", "mean_penalty": 3.0}
    # its masks are given
    given = {"mask_time_prob": 0.1} if "Wav2Vec2ForPreTraining" in name else {}
    model = row.model_class(name)(row.config(name, {"norm": penalised}, **NO_DROPOUT | given)).train()
    inputs, start = row.inputs(name), counted(model)

    def run(function, *args, **kwargs):
        model.load_state_dict(start, strict=False)
        torch.manual_seed(0)
        return function(*args, **inputs, **kwargs)

    outputs, losses = run(collect_losses, model)
    assert losses
    assert all(loss > 0 for loss in losses)
    alone = outputs.get("loss")
    if alone is None:
        assert run(model).get("loss") is None
        return
    together = run(model)
    torch.testing.assert_close(together.loss, alone + sum(losses))
    assert torch.equal(run(model, return_dict=False)[0], together.loss)
    together.loss.backward()
    model.zero_grad()
    model.eval()
    outputs, losses = run(collect_losses, model)
    assert not losses
    assert torch.equal(run(model).loss, outputs.loss)


def test_chunks_do_not_split_the_statistics():
    inputs = FAMILIES["bert"].inputs("AddNormBertModel")
    for family in ("bert", "albert"):
        results = []
        for chunk in (0, 5):
            torch.manual_seed(0)
            model = tiny(family, "everywhere", chunk_size_feed_forward=chunk).train()
            results.append(model(**inputs).last_hidden_state)
        assert torch.equal(*results)


# one of each way to work with running statistics
COMPILED = ["regularized_bn", "progressive_rep_bn", "power_norm", "unified_norm"]


@pytest.mark.parametrize("spec", COMPILED)
def test_compiles_as_one_graph(spec):
    torch._dynamo.reset()
    model = tiny("bert", spec, num_hidden_layers=1).eval()
    inputs = FAMILIES["bert"].inputs("AddNormBertModel")
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(**inputs)[0], model(**inputs)[0])


@pytest.mark.parametrize("spec", COMPILED)
def test_trains_compiled(spec):
    """As one graph, but for those whose backward writes statistics; with padding, and what is added to the loss."""
    inputs = FAMILIES["bert"].inputs("AddNormBertForMaskedLM")
    results = []
    for compiled in (False, True):
        torch._dynamo.reset()
        torch.manual_seed(0)
        config = FAMILIES["bert"].config("", SPECS[spec], num_hidden_layers=1, **NO_DROPOUT)
        model = AddNormBertForMaskedLM(config).train()
        whole = not any(hasattr(module, "running_gradient") for module in model.modules())
        run = torch.compile(model, fullgraph=whole, backend="aot_eager") if compiled else model
        for _ in range(3):
            loss = run(**inputs).loss
            loss.backward()
        results.append({"loss": loss.detach()} | counted(model) | {n: p.grad for n, p in model.named_parameters()})
    for name, value in results[0].items():
        torch.testing.assert_close(results[1][name], value, rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


# --- two processes ---


def worker():
    """One process of two, or the only one: a step of a model with batch norms, its gradients and statistics."""
    out = Path(sys.argv[1])
    torch.set_num_threads(1)
    world = int(os.environ.get("WORLD_SIZE", 1))
    rank = int(os.environ.get("RANK", 0))
    if world > 1:
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{out}/rendezvous", world_size=world, rank=rank
        )
    result = {}
    for family, spec in [("wav2vec2", "post_batch"), *(("bert", spec) for spec in RUNNING_SPECS)]:
        torch.manual_seed(0)
        small = {"layerdrop": 0.5} if family == "wav2vec2" else {"num_hidden_layers": 1}
        model = tiny(family, spec, **small).double().train()
        whole = FAMILIES[family].inputs(base_model(family))
        # rows of different lengths for each: 2 and 1
        rows = {0: slice(0, 2), 1: slice(2, 3)}[rank] if world > 1 else slice(0, 3)
        inputs = {key: value[rows] for key, value in whole.items()}
        if family == "wav2vec2":
            inputs["input_values"] = inputs["input_values"].double()
        # every process would skip other layers by itself
        torch.manual_seed(7 + rank)
        for _ in range(3):
            outputs, losses = collect_losses(model, **inputs)
            # gradients are averaged over processes, as DDP does
            (outputs[0].square().sum() * world + sum(losses)).backward()
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                grad = parameter.grad.clone()
                if world > 1:
                    torch.distributed.all_reduce(grad)
                result[f"{family}.{spec}.{name}"] = grad / world
        result |= {f"{family}.{spec}.{name}": buffer for name, buffer in counted(model).items()}
    if rank == 0:
        torch.save(result, out / f"{world}.pt")
    if world > 1:
        torch.distributed.destroy_process_group()


def test_two_processes_are_one_on_the_whole_batch(tmp_path):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}"}

    def start(**more):
        command = [sys.executable, __file__, str(tmp_path)]
        return subprocess.Popen(command, env=environment | more, stderr=subprocess.PIPE, text=True)

    processes = [start(WORLD_SIZE="2", RANK="0"), start(WORLD_SIZE="2", RANK="1"), start(WORLD_SIZE="1")]
    for process in processes:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors
    one, two = (torch.load(tmp_path / f"{world}.pt") for world in (1, 2))
    assert one.keys() == two.keys()
    assert len(one) > 100
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-8, atol=1e-10, msg=name)


if __name__ == "__main__":
    worker()
