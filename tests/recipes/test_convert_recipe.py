"""Conversion by distillation: it comes nearer without labels, resumes exactly, and is the same on two processes."""

import shutil
from pathlib import Path

import convert
import finetune_images
import pytest
import torch
from common.errors import UserError
from common.switching import Switching
from datasets import Dataset
from safetensors.torch import load_file
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification, BertForTokenClassification

import hf_addnorm
from hf_addnorm import AddNormBertForSequenceClassification
from hf_addnorm.conversion.source import load_source


# no learning rate at which so small a model would leave what it knows
KEYS = {"add_norm": {"norm": "dyt"}, "learning_rate": 1e-3, "calibration_rows": 24, "max_steps": 6, "epochs": 40}


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory):
    """A classifier with the tokenizer of the tiny BERT, with gains and biases far from their start."""
    folder = tmp_path_factory.mktemp("trained")
    torch.manual_seed(1)
    config = BertConfig.from_pretrained(tiny, num_labels=3, initializer_range=0.2)
    model = BertForSequenceClassification(config)
    for name, parameter in model.named_parameters():
        if "LayerNorm" in name or name.endswith("bias"):
            parameter.data += 0.2 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def keys(config, trained):
    return config | KEYS | {"checkpoint": trained}


@pytest.fixture
def run(recipe):
    return lambda keys, *args: recipe(keys, *args, main=convert.main)


def test_it_comes_nearer_and_saves_an_ordinary_model(keys, run, tmp_path):
    before = load_file(Path(keys["checkpoint"]) / "model.safetensors")
    result = run(keys | {"max_steps": 30})
    begun, ended = result["metrics_over_time"][0], result["metrics"]
    assert begun["step"] == 0 and ended["step"] == 30
    assert ended["kl"] < begun["kl"] and ended["hidden_error"] < begun["hidden_error"]
    model = AddNormBertForSequenceClassification.from_pretrained(tmp_path / "run" / "model")
    assert model.config.add_norm.norm.kind == "dyt" and model.config.hidden_dropout_prob == 0.1
    after = load_file(Path(keys["checkpoint"]) / "model.safetensors")
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_it_goes_on_with_a_converted_folder(keys, run, tmp_path):
    first = run(keys)
    folder = tmp_path / "run" / "model"
    begun = run(keys | {"add_norm": None, "begin": str(folder), "output_dir": str(tmp_path / "more")})
    assert begun["add_norm"] == first["add_norm"]
    figures = {name: first["metrics"][name] for name in ("kl", "agreement", "hidden_error")}
    assert {name: begun["metrics_over_time"][0][name] for name in figures} == pytest.approx(figures, rel=1e-4)


def test_labels_are_not_read(keys, run, tmp_path):
    """Rows whose other columns say nothing give the same run."""
    keys |= {"switch": "interpolate", "begin": "norms", "max_steps": 10}
    first = run(keys)
    begun, ended = first["metrics_over_time"][0], first["metrics"]
    assert ended["kl"] < begun["kl"] and ended["hidden_error"] < begun["hidden_error"]
    paths = {}
    for name in ("train_file", "validation_file"):
        paths[name] = str(tmp_path / f"{name}.parquet")
        Dataset.from_parquet(keys[name]).select_columns(["text"]).to_parquet(paths[name])
    again = run(keys | paths | {"output_dir": str(tmp_path / "again")})
    assert again["loss_history"] == first["loss_history"]


def test_a_run_that_goes_on_equals_one_that_did_not_stop(keys, run, tmp_path, monkeypatch):
    """Also in the middle of switching norms."""
    keys |= {"checkpoint_every": 3, "max_steps": 6, "switch": "in_order", "begin": "norms"}
    whole = run(keys | {"output_dir": str(tmp_path / "whole")})
    run(keys)
    # as if it had been killed after its third step
    folder = tmp_path / "run"
    (folder / "result.json").unlink()
    shutil.rmtree(folder / "model")
    for checkpoint in (folder / "checkpoints").iterdir():
        if checkpoint.name > "step_00000003":
            shutil.rmtree(checkpoint)
    asked = []
    monkeypatch.setattr(convert, "converted", _noting(convert.converted, asked))
    again = run(keys, "--resume")
    assert asked == ["mapped"], "what a checkpoint holds is not fitted again"
    assert again["resumed_at"] == [3]
    for key in ("loss_history", "grad_norm_history", "metrics_over_time"):
        assert again[key] == whole[key], key
    first, second = (load_file(path / "model" / "model.safetensors") for path in (folder, tmp_path / "whole"))
    assert all(torch.equal(first[name], value) for name, value in second.items())


def _noting(call, asked):
    def noted(source, accelerator, batches, method, add_norm):
        asked.append(method)
        return call(source, accelerator, batches, method, add_norm)

    return noted


def test_norms_are_switched_from_the_sources_to_the_targets(trained):
    """At the start the mixture is the source, at the end the target, and in between some norms are each."""
    source, inputs = load_source(trained).eval(), {"input_ids": torch.arange(5, 17).view(2, 6)}
    target, _ = hf_addnorm.convert(source, add_norm={"norm": "dyt"}, calibration=[inputs] * 8, method="mapped")
    expected = [model(**inputs).logits for model in (source, target)]
    assert (expected[0] - expected[1]).abs().max() > 0.1
    for way, between in (("in_order", [1, 1, 0.5, 0, 0]), ("interpolate", [0.5] * 5)):
        switching = Switching(source, target, way)
        for step, logits in ((0, expected[0]), (6, expected[1]), (10, expected[1])):
            switching.at_step(step, 10)
            with switching.mixed(target):
                torch.testing.assert_close(target(**inputs).logits, logits)
        switching.at_step(3, 10)
        assert switching.shares() == pytest.approx(between)
        torch.testing.assert_close(target(**inputs).logits, expected[1])


def test_two_processes_give_the_same_losses_and_metrics(keys, run, two_processes):
    whole = run(keys | {"output_dir": keys["output_dir"] + "_whole"})
    two, _ = two_processes(keys, main=convert.main)
    assert (two["processes"], whole["processes"]) == (2, 1)
    assert two["loss_history"] == pytest.approx(whole["loss_history"], rel=1e-4)
    for one, other in zip(two["metrics_over_time"], whole["metrics_over_time"], strict=True):
        assert one == pytest.approx(other, rel=1e-4)


def test_the_best_evaluation_may_be_the_start(keys, run, tmp_path):
    """A rate at which everything is forgotten: the calibrated model is what is kept."""
    keys |= {"learning_rate": 0.5, "checkpoint_every": 100, "eval_every": 2, "final_model": "best"}
    result = run(keys)
    figures = [entry["kl"] for entry in result["metrics_over_time"]]
    assert min(figures) == figures[0]
    assert (tmp_path / "run" / "checkpoints" / "step_00000000").is_dir()
    rows = keys | {"output_dir": str(tmp_path / "none"), "max_steps": 1, "learning_rate": 1e-12}
    assert run(rows)["metrics_over_time"][0]["kl"] == pytest.approx(figures[0])


def test_tokens_that_are_classified(keys, run, trained, tmp_path):
    """A column of words, a prediction for each token."""
    model = BertForTokenClassification.from_pretrained(trained)
    model.save_pretrained(tmp_path / "tokens")
    AutoTokenizer.from_pretrained(trained).save_pretrained(tmp_path / "tokens")
    paths = {"checkpoint": str(tmp_path / "tokens")}
    for name in ("train_file", "validation_file"):
        paths[name] = str(tmp_path / f"{name}.parquet")
        words = [text.split() for text in Dataset.from_parquet(keys[name])["text"]]
        Dataset.from_dict({"text": words}).to_parquet(paths[name])
    result = run(keys | paths | {"max_steps": 20})
    assert result["model"] == "AddNormBertForTokenClassification"
    assert result["metrics"]["hidden_error"] < result["metrics_over_time"][0]["hidden_error"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"add_norm": None}, "checkpoint, the trained model, is needed, and one of add_norm, what it is converted to"),
        ({"begin": "runs/other"}, "and begin, the folder of a converted model"),
        ({"begin": "runs/other", "add_norm": None}, "cannot load runs/other"),
        ({"do": "evaluate", "model": "x"}, "do is evaluate: the recipe of the model's task does it, with --model"),
        ({"lora": 4}, "lora is given: all weights are converted"),
        ({"new_weights": True}, "new_weights is given: a model that knows nothing has nothing to keep"),
        ({"hidden_weight": 0, "logits_weight": 0}, "hidden_weight and logits_weight are both 0"),
        (
            {"switch": "in_order"},
            "switch is in_order and begin is auto: Linear layers fitted to the new norms",
        ),
        (
            {"switch": "interpolate", "begin": "mapped", "add_norm": "pre_ln"},
            "the source has no norm at layer 0 attention pre to begin with; allowed is at_once where norms are moved",
        ),
        ({"add_norm": "parallel"}, "add_norm: the target's add_norm.wiring is 'parallel'"),
        ({"calibration_rows": 3}, "add_norm: calibration has 3 rows; allowed are at least 8"),
        ({"text_column": "nothing"}, "the train split has no column 'nothing'"),
    ],
)
def test_bad_input_gets_a_sentence(keys, run, change, said, tmp_path):
    with pytest.raises(UserError, match=said):
        run(keys | change)
    assert not (tmp_path / "run").exists() or not any((tmp_path / "run").iterdir())


def test_a_vit_of_the_recipes_is_converted_exactly(recipe, tmp_path):
    """Of the builtin digits: pre-norm LayerNorm to RMSNorm, in float64."""
    pytest.importorskip("sklearn")
    yaml = str(Path(finetune_images.__file__).parent / "configs" / "digits.yaml")
    run = {"output_dir": str(tmp_path / "run"), "max_steps": 20, "mixed_precision": "no"}
    recipe(run, "--config", yaml, *(f"--{key}={value}" for key, value in run.items()), main=finetune_images.main)
    batches = [{"pixel_values": torch.rand(8, 3, 8, 8)} for _ in range(2)]
    _, report = hf_addnorm.convert(
        str(tmp_path / "run" / "model"), add_norm={"preset": "pre_ln", "norm": "rms_norm"}, calibration=batches
    )
    assert report.method == "exact" and report.largest_difference < 1e-10
