"""Norms over tokens in models: what padding holds, recomputation, saving, losses, compilation, two processes."""

import os
import sys
from pathlib import Path

import forked_python
import pytest
import torch
from families import (
    FAMILIES,
    MODELS,
    checkpoint_activations,
    covering,
    covering_models,
    fill_with_pattern,
    slow_unless,
)
from token_specs import (
    FAMILY_SPECS,
    NO_DROPOUT,
    RUNNING,
    RUNNING_SPECS,
    SPECS,
    base_model,
    build,
    counted,
    tiny,
)

from hf_addnorm import AddNormBertConfig, AddNormBertForMaskedLM, AddNormBertModel, collect_losses


TESTS = Path(__file__).parent


def _covering(pairs):
    """All the pairs; every run has each spec once, and one of a member of a shape."""
    pairs = list(pairs)
    chosen = covering(pairs)
    there = {case.values for case in chosen}
    return chosen + [slow_unless(False, *pair) for pair in pairs if pair not in there]


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
    ("family", "spec"), _covering(pair for pair in FAMILY_SPECS if "input_ids" in FAMILIES[pair[0]].inputs("Model"))
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
@pytest.mark.parametrize(("family", "spec"), _covering(pair for pair in FAMILY_SPECS if "wav2vec2" in pair[0]))
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


def checkpointing(model, reentrant):
    checkpoint_activations(model, {"use_reentrant": reentrant})
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

HEADS = [(family, model) for family, model in MODELS if not FAMILIES[family].is_causal(model)]


@pytest.mark.parametrize(("family", "name"), covering_models(HEADS))
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


@pytest.mark.slow
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

    def start(name, **more):
        with (tmp_path / name).open("w") as errors:
            return forked_python.start([__file__, tmp_path], env=environment | more, stderr=errors)

    two = {"WORLD_SIZE": "2"}
    processes = {"0": start("0", **two, RANK="0"), "1": start("1", **two, RANK="1"), "alone": start("alone")}
    for name, process in processes.items():
        assert process.wait(240) == 0, (tmp_path / name).read_text()
    one, two = (torch.load(tmp_path / f"{world}.pt") for world in (1, 2))
    assert one.keys() == two.keys()
    assert len(one) > 100
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-8, atol=1e-10, msg=name)


if __name__ == "__main__":
    worker()
