"""Batch and instance norm over real tokens: padding counts nowhere, every micro-batch counts once."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from families import FAMILIES
from safetensors import safe_open

from hf_addnorm import AddNormBertConfig, AddNormBertModel
from hf_addnorm.models.spec import NORMS
from hf_addnorm.models.token_mask import TokenMask, running_with


TESTS = Path(__file__).parent
GOLDEN = TESTS.parents[1] / "shared" / "golden"
KINDS = ["batch_norm", "instance_norm"]
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


@pytest.fixture
def padded():
    x = torch.randn(3, 7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 3 + 2
    real = torch.ones(3, 7, dtype=torch.bool)
    real[0, 4:], real[1, :2] = False, False
    return x, real


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("kind", KINDS)
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


@pytest.mark.parametrize("kind", KINDS)
def test_padding_may_hold_anything(kind, padded):
    x, real = padded
    norm = build(kind, 5)
    y = running_with(TokenMask(real), norm, x)
    for value in (1e30, float("inf"), float("nan")):
        z = torch.where(real.unsqueeze(-1), x, value).requires_grad_()
        again = running_with(TokenMask(real), norm, z)
        assert torch.equal(again, y)
        grads = torch.autograd.grad(again[real].sum(), [z, *norm.parameters()])
        assert all(grad.isfinite().all() for grad in grads)


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


def test_few_tokens_have_a_defined_result():
    for kind in KINDS:
        norm = build(kind, 5)
        before = {name: buffer.clone() for name, buffer in norm.named_buffers()}
        one = torch.zeros(1, 4, dtype=torch.bool)
        for count in (1, 0):
            one[0, :count] = True
            y = running_with(TokenMask(one), norm, torch.full((1, 4, 5), 3.0, dtype=torch.float64))
            assert y.isfinite().all()
            if count:
                assert torch.equal(y[0, 0], norm.bias)
            one[:] = False
        # a variance of fewer than two tokens is none
        assert all(torch.equal(buffer, before[name]) for name, buffer in norm.named_buffers())
        two_rows = torch.tensor([[True] * 4, [False] * 4])
        x = torch.randn(2, 4, 5, dtype=torch.float64)
        assert running_with(TokenMask(two_rows), norm, x).isfinite().all()


needs_golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason="the golden vectors are not beside the repository")


@needs_golden
@pytest.mark.parametrize("file", ["masked_batch_norm", "instance_norm_masked", "instance_norm_unbiased"])
def test_golden(file):
    with safe_open(GOLDEN / f"norm_{file}.safetensors", "pt") as stored:
        tensors = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118
        meta = stored.metadata()
    params, tolerance = json.loads(meta["params"]), float(meta["tolerance"])
    real = tensors.get("input.token_mask", torch.ones(tensors["input.x"].shape[:2], dtype=torch.bool))
    tensors = {key: value.double() for key, value in tensors.items() if key != "input.token_mask"}
    kind = "batch_norm" if "batch" in file else "instance_norm"
    options = {key: params[key] for key in ("eps", "momentum", "variance") if key in params}
    if file == "instance_norm_unbiased":
        options["variance"] = "unbiased"
    norm = build(kind, tensors["input.x"].shape[-1], **options)
    state = {
        key.split(".")[-1]: value for key, value in tensors.items() if key.startswith(("param.", "state.before."))
    }
    norm.load_state_dict({key: value for key, value in state.items() if key in norm.state_dict()})

    def close(actual, expected):
        error = (actual - expected).abs().max() / expected.abs().max()
        assert error <= tolerance

    x = tensors["input.x"].requires_grad_()
    y = running_with(TokenMask(real), norm, x)
    close(y[real], tensors["output.y"][real])
    (y * tensors["cotangent"]).sum().backward()
    close(x.grad[real], tensors["grad.x"][real])
    close(norm.weight.grad, tensors["grad.weight"])
    close(norm.bias.grad, tensors["grad.bias"])
    if kind == "batch_norm":
        close(norm.running_mean, tensors["state.after.running_mean"])
        close(norm.running_var, tensors["state.after.running_var"])
        close(running_with(TokenMask(real), norm.eval(), x)[real], tensors["output.eval"][real])


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
    "dual": {"preset": "residual", "norm": "batch_norm"},
    "hyper": {"preset": "hyper_connections", "norm": "instance_norm"},
    "parallel": {"preset": "parallel", "norm": "batch_norm"},
}


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
@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("family", [f for f in ENCODERS if "input_ids" in FAMILIES[f].inputs("Model")])
def test_what_padding_contains_changes_no_real_token(family, spec, training):
    row = FAMILIES[family]
    model = tiny(family, spec).train(training)
    inputs = row.inputs(base_model(family))
    real = inputs["attention_mask"].bool()
    results = []
    for given in (inputs, other_padding(family, inputs)):
        results.append(model(**given).last_hidden_state[real])
    assert torch.equal(*results)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("family", ["wav2vec2", "wav2vec2_stable"])
def test_padded_frames_count_nowhere(family, spec, training):
    """The layers' norms see frames; what the padded ones hold when they get there changes no real one."""
    row = FAMILIES[family]
    model = tiny(family, spec).train(training)
    encoder = model.encoder
    x = torch.randn(3, 11, 32)
    real = torch.ones(3, 11, dtype=torch.bool)
    real[1, 6:] = False
    results = []
    for value in (0.5, -7.0):
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
    return {name: buffer.clone() for name, buffer in model.named_buffers() if "running" in name}


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_recomputation_does_not_count(reentrant):
    inputs = FAMILIES["bert"].inputs("AddNormBertModel")
    results = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = tiny("bert", "post_batch").train()
        if checkpointing:
            # the older name of the same
            enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
            enable({"use_reentrant": reentrant})
            model.enable_input_require_grads()
        # two micro-batches of one step
        for shift in (0, 1):
            given = {**inputs, "input_ids": (inputs["input_ids"] + shift) % 99}
            model(**given).last_hidden_state.square().mean().backward()
        results.append((counted(model), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}))
    for one, two in zip(*results, strict=True):
        assert one.keys() == two.keys()
        for name in one:
            torch.testing.assert_close(one[name], two[name], rtol=1e-5, atol=1e-7)
    assert not any(torch.equal(buffer, torch.zeros_like(buffer)) for buffer in results[0][0].values())


def test_running_statistics_are_saved_and_restored(tmp_path):
    model = tiny("bert", "pre_batch").train()
    inputs = FAMILIES["bert"].inputs("AddNormBertModel")
    model(**inputs)
    model.eval().save_pretrained(tmp_path)
    back, info = AddNormBertModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    assert counted(back).keys() == counted(model).keys()
    assert all(torch.equal(buffer, counted(model)[name]) for name, buffer in counted(back).items())
    half = AddNormBertModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {buffer.dtype for buffer in counted(half).values()} == {torch.float32}
    assert half(**inputs).last_hidden_state.dtype == torch.bfloat16
    assert {buffer.dtype for buffer in counted(back.to(torch.bfloat16)).values()} == {torch.float32}


def test_a_stock_checkpoint_gives_them_their_start(tmp_path):
    row = FAMILIES["bert"]
    row.stock_class("AddNormBertModel")(row.stock_config("AddNormBertModel")).save_pretrained(tmp_path)
    garbage = [torch.full((32,), 7e7) for _ in range(200)]
    del garbage
    model = AddNormBertModel.from_pretrained(tmp_path, add_norm=SPECS["post_batch"])
    for name, buffer in counted(model).items():
        assert (buffer == (1.0 if name.endswith("var") else 0.0)).all(), name


def test_shared_layers_have_statistics_for_every_depth():
    model = tiny("albert", "post_batch").train()
    model(**FAMILIES["albert"].inputs("AddNormAlbertModel"))
    means = [buffer for name, buffer in counted(model).items() if name.endswith("mean")]
    # embeddings, and two for each of four depths
    assert len(means) == 9
    assert len({tuple(mean.tolist()) for mean in means}) == 9


@pytest.mark.parametrize("add_norm", list(SPECS.values())[:2], ids=list(SPECS)[:2])
def test_a_causal_model_refuses_them(add_norm):
    row = FAMILIES["gpt2"]
    with pytest.raises(ValueError, match="its statistics over tokens"):
        row.config("AddNormGPT2Model", add_norm)
    with pytest.raises(ValueError, match="a token see the later ones"):
        AddNormBertConfig(is_decoder=True, add_norm=add_norm)


def test_chunks_do_not_split_the_statistics():
    inputs = FAMILIES["bert"].inputs("AddNormBertModel")
    for family in ("bert", "albert"):
        results = []
        for chunk in (0, 5):
            torch.manual_seed(0)
            model = tiny(family, "everywhere", chunk_size_feed_forward=chunk).train()
            results.append(model(**inputs).last_hidden_state)
        assert torch.equal(*results)


def test_compiles_as_one_graph():
    model = tiny("bert", "post_batch").eval()
    inputs = FAMILIES["bert"].inputs("AddNormBertModel")
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(**inputs)[0], model(**inputs)[0])


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
    for family in ("bert", "wav2vec2"):
        torch.manual_seed(0)
        model = tiny(family, "post_batch", layerdrop=0.5 if family == "wav2vec2" else 0.0).double().train()
        whole = FAMILIES[family].inputs(base_model(family))
        # rows of different lengths for each: 2 and 1
        rows = {0: slice(0, 2), 1: slice(2, 3)}[rank] if world > 1 else slice(0, 3)
        inputs = {key: value[rows] for key, value in whole.items()}
        if family == "wav2vec2":
            inputs["input_values"] = inputs["input_values"].double()
        # every process would skip other layers by itself
        torch.manual_seed(7 + rank)
        y = model(**inputs)[0]
        y.square().sum().backward()
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                grad = parameter.grad.clone()
                if world > 1:
                    torch.distributed.all_reduce(grad)
                result[f"{family}.{name}"] = grad
        result |= {f"{family}.{name}": buffer for name, buffer in counted(model).items()}
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
