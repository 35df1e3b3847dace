"""Options of Trainer: resuming, the best model, a search by optuna, compiled training, recomputed activations."""

import dataclasses

import pytest
import torch
from families import slow_unless
from small_models import THREE_SPECS, classifier, labelled
from transformers import Trainer, TrainingArguments


def _trainer(folder, spec="hyper_connections", steps=4, **options):
    """A trainer without dropout, with rows to train and to evaluate on."""
    options = {"save_strategy": "no", "seed": 3} | options
    init = options.pop("model_init", None)
    model = None if init else classifier(spec, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    arguments = TrainingArguments(
        str(folder), max_steps=steps, per_device_train_batch_size=8, report_to=[], use_cpu=True, disable_tqdm=True,
        learning_rate=1e-3, **options,
    )  # fmt: skip
    return Trainer(model, arguments, train_dataset=labelled(), eval_dataset=labelled(8), model_init=init)


# its name until Transformers 5.22
RECOMPUTE = next(
    name
    for name in ("activation_checkpointing", "gradient_checkpointing")
    if name in {field.name for field in dataclasses.fields(TrainingArguments)}
)
CASES = [slow_unless(spec == "hyper_connections", spec) for spec in THREE_SPECS]


def _equal(first, second, **tolerance):
    for (name, one), two in zip(first.named_parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(one, two, msg=lambda said, name=name: f"{name}: {said}", **tolerance)


@pytest.mark.parametrize("spec", CASES)
def test_a_resumed_run_is_the_whole_one(spec, tmp_path):
    whole = _trainer(tmp_path / "whole", spec)
    whole.train()
    first = _trainer(tmp_path / "parts", spec, save_strategy="steps", save_steps=2)
    first.train()
    second = _trainer(tmp_path / "parts", spec)
    second.train(resume_from_checkpoint=str(tmp_path / "parts" / "checkpoint-2"))
    _equal(whole.model, second.model, rtol=0, atol=0)


def test_the_best_model_is_loaded_at_the_end(tmp_path):
    trainer = _trainer(
        tmp_path, eval_strategy="steps", eval_steps=1, save_strategy="steps", save_steps=1,
        load_best_model_at_end=True, metric_for_best_model="eval_loss",
    )  # fmt: skip
    trainer.train()
    losses = {row["step"]: row["eval_loss"] for row in trainer.state.log_history if "eval_loss" in row}
    assert len(losses) == 4
    assert trainer.evaluate()["eval_loss"] == pytest.approx(min(losses.values()), rel=1e-6)


def test_optuna_searches_for_the_scheme_too(tmp_path):
    optuna = pytest.importorskip("optuna", reason="optuna is not installed (extra `tools`)")

    def new_model(trial):
        spec = "pre_ln" if trial is None else trial.suggest_categorical("add_norm", ["pre_ln", "hyper_connections"])
        return classifier(spec)

    def space(trial):
        trial.suggest_categorical("add_norm", ["pre_ln", "hyper_connections"])
        return {"learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True)}

    trainer = _trainer(tmp_path, steps=2, model_init=new_model)
    best = trainer.hyperparameter_search(
        hp_space=space, n_trials=3, direction="minimize", backend="optuna", sampler=optuna.samplers.RandomSampler(0)
    )
    assert best.hyperparameters.keys() >= {"learning_rate"} and best.objective > 0


@pytest.mark.slow
@pytest.mark.parametrize("spec", THREE_SPECS)
def test_compiled_training_is_the_plain_one(spec, tmp_path):
    plain = _trainer(tmp_path, spec, steps=2)
    plain.train()
    torch._dynamo.reset()
    compiled = _trainer(tmp_path, spec, steps=2, torch_compile=True, torch_compile_backend="aot_eager")
    compiled.train()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    _equal(plain.model, compiled.model, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("spec", CASES)
def test_recomputed_activations_train_as_kept_ones(spec, tmp_path):
    plain = _trainer(tmp_path, spec, steps=2)
    plain.train()
    options = {RECOMPUTE: True, f"{RECOMPUTE}_kwargs": {"use_reentrant": False}}
    recomputed = _trainer(tmp_path, spec, steps=2, **options)
    recomputed.train()
    _equal(plain.model, recomputed.model, rtol=0, atol=0)
