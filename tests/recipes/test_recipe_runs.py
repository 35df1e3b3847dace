"""Whole runs: one loss however a step is split, exact resume, the tasks, what a run leaves behind."""

import json
import re
import signal
import time
from pathlib import Path

import forked_python
import pytest
import torch
from common.errors import UserError
from datasets import Dataset
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification


ROOT = Path(__file__).resolve().parents[2]
SCRIPT = str(ROOT / "recipes" / "finetune_text.py")


@pytest.fixture
def whole(config, recipe):
    """One process, whole batches, no dropout: what every split of a step must give."""
    return recipe(config | {"dropout": 0.0, "output_dir": config["output_dir"] + "_whole"})


def test_scripts_are_short():
    for path in (ROOT / "recipes").glob("finetune_*.py"):
        assert len(path.read_text().splitlines()) < 180, path


def test_accumulation_gives_the_same_losses(config, recipe, whole):
    split = recipe(config | {"dropout": 0.0, "micro_batch_size": 2})
    assert len(split["loss_history"]) == split["steps"] == 12
    assert split["loss_history"] == pytest.approx(whole["loss_history"], rel=1e-5)
    assert split["metrics"] == whole["metrics"]


def test_two_processes_give_the_same_losses_and_metrics(config, two_processes, whole):
    # The last batch of an epoch has 3 rows: one process then has micro-batches without any.
    two, done = two_processes(config | {"dropout": 0.0, "micro_batch_size": 2}, launcher=True)
    assert two["processes"] == 2
    assert whole["processes"] == 1
    assert two["loss_history"] == pytest.approx(whole["loss_history"], rel=1e-5)
    assert two["grad_norm_history"] == pytest.approx(whole["grad_norm_history"], rel=1e-4)
    assert two["metrics_over_time"] == whole["metrics_over_time"]
    assert two["tokens"] == whole["tokens"] + 3 * 2 * _filler_tokens(config)
    assert done.stdout.count("train: 27 rows") == 1
    # one bar, that of the main process
    assert re.search(r"12/12 .*step.*, loss=0\.\d+, tokens_per_second=\d+", done.stderr)
    assert done.stderr.count(" 0/12 [") == 1


def _filler_tokens(config) -> int:
    # An empty share is filled with row 0.
    return len(Dataset.from_parquet(config["train_file"])[0]["text"].split()) + 2


def test_warm_up_then_linear_decay(config, recipe, tmp_path):
    recipe(config | {"warmup": 0.25, "checkpoint_every": 1, "keep_checkpoints": 12})
    rates = [
        torch.load(tmp_path / "run" / "checkpoints" / f"step_{step:08d}" / "scheduler.bin")["_last_lr"][0]
        for step in range(1, 13)
    ]
    # of the step that comes next: 3 steps up to the peak, 9 down to 0
    shares = [step / 3 for step in (1, 2, 3)] + [(12 - step) / 9 for step in range(4, 13)]
    assert rates == pytest.approx([config["learning_rate"] * share for share in shares])


def test_clipping(config, recipe, whole):
    def clipped(norm):
        return recipe(config | {"dropout": 0.0, "output_dir": f"{config['output_dir']}_{norm}", "max_grad_norm": norm})

    free = clipped(0)
    assert free["grad_norm_history"][0] == whole["grad_norm_history"][0]
    largest = max(free["grad_norm_history"])
    assert clipped(2 * largest)["loss_history"] == free["loss_history"]
    # Adam does not see the size of gradients; of clipped ones it sees another proportion between steps
    assert clipped(min(free["grad_norm_history"]) / 2)["loss_history"] != free["loss_history"]


def test_dataset_by_name(config, recipe, tmp_path):
    """A folder in the form of a Hub dataset goes the way of a name on the Hub."""
    folder = tmp_path / "owner" / "dataset"
    folder.mkdir(parents=True)
    for split, source in (("train", config["train_file"]), ("validation", config["validation_file"])):
        (folder / f"{split}.parquet").write_bytes(Path(source).read_bytes())
    by_name = {key: value for key, value in config.items() if not key.endswith("_file")}
    result = recipe(by_name | {"dataset": str(folder), "max_steps": 1})
    assert result["data"] == recipe(config | {"output_dir": str(tmp_path / "2"), "max_steps": 1})["data"]


def test_killed_and_resumed_run_equals_the_uninterrupted_one(config, recipe, written, tmp_path):
    # Dropout stays on. 200 steps take seconds; the kill comes as soon as the second checkpoint is there.
    config |= {"epochs": 50, "checkpoint_every": 10, "keep_checkpoints": 2, "eval_every": 35}
    uninterrupted = recipe(config | {"output_dir": str(tmp_path / "uninterrupted")})
    checkpoints = Path(config["output_dir"]) / "checkpoints"
    with (tmp_path / "log").open("w") as log:
        process = forked_python.start([SCRIPT, *written(config)], stdout=log, stderr=log)
        deadline = time.monotonic() + 240
        while not (checkpoints / "step_00000020").is_dir() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, (tmp_path / "log").read_text()
    # What a kill in the middle of writing leaves must not be taken for a checkpoint.
    (checkpoints / ".step_00000999.partial").mkdir()
    with pytest.raises(UserError, match="unfinished: use --resume"):
        recipe(config)
    resumed = recipe(config, "--resume")
    assert 20 <= resumed["resumed_at"][0] < 200
    assert resumed["loss_history"] == uninterrupted["loss_history"]
    assert resumed["grad_norm_history"] == uninterrupted["grad_norm_history"]
    assert resumed["metrics_over_time"] == uninterrupted["metrics_over_time"]
    first, second = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("uninterrupted", "run"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    # the last two, and that of the best evaluation
    kept = ["step_00000105", "step_00000190", "step_00000200"]
    assert sorted(path.name for path in checkpoints.glob("step_*")) == kept
    with pytest.raises(UserError, match="holds this run, finished"):
        recipe(config, "--resume")


def test_resume_after_the_last_step(config, recipe, tmp_path):
    config |= {"max_steps": 4, "checkpoint_every": 2}
    whole = recipe(config)
    (tmp_path / "run" / "result.json").unlink()
    again = recipe(config, "--resume")
    assert again["loss_history"] == whole["loss_history"]
    assert again["resumed_at"] == [4]


def test_resume_refuses_other_rows(config, recipe, tmp_path):
    config |= {"train_file": str(tmp_path / "train.csv"), "max_steps": 2, "checkpoint_every": 1}
    Dataset.from_dict({"text": ["good", "bad"], "label": [1, 0]}).to_csv(config["train_file"])
    recipe(config)
    (tmp_path / "run" / "result.json").unlink()
    Dataset.from_dict({"text": ["good", "bad"], "label": [0, 1]}).to_csv(config["train_file"])
    with pytest.raises(UserError, match="holds another run; it differs in data"):
        recipe(config, "--resume")


def test_result_and_folder(config, recipe, tmp_path):
    extra = tmp_path / "results" / "run.json"
    result = recipe(config | {"mixed_precision": "bf16", "result_file": str(extra), "max_train_rows": 16})
    assert json.loads(extra.read_text()) == result
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["model", "result.json", "run.json"]
    assert result["recipe"] == "finetune_text"
    assert result["config"]["max_train_rows"] == result["data"]["train"]["rows"] == 16
    assert result["steps"] == len(result["loss_history"]) == 6
    assert [entry["step"] for entry in result["metrics_over_time"]] == [2, 4, 6]
    assert set(result["metrics"]) == {"step", "epoch", "accuracy", "f1", "matthews_correlation"}
    assert result["reload"] == {"predictions_equal": 13, "float32_logits_equal": 13}
    assert result["add_norm"] is None
    assert set(result["versions"]) >= {"python", "torch", "transformers", "accelerate", "hf_addnorm"}
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "model")
    assert result["parameters"] == model.num_parameters()
    assert model.config.id2label == {0: "0", 1: "1"}
    assert 0 <= result["padding_share"] < 1
    assert {"cpu", "cpu_bf16", "threads", "device"} <= set(result["machine"])
    for key in ("tokens_per_second", "peak_memory_mb", "train_seconds", "wall_seconds"):
        assert result[key] > 0


def test_another_add_norm(config, recipe, tmp_path):
    result = recipe(config | {"max_steps": 3}, "--add_norm", '{"preset": "post_ln", "norm": "rms_norm"}')
    assert result["model"] == "AddNormBertForSequenceClassification"
    assert result["add_norm"]["norm"]["kind"] == "rms_norm"
    assert result["reload"]["predictions_equal"] == 13
    # The saved folder is a checkpoint like any other, and keeps its spec.
    again = recipe(
        config | {"max_steps": 1, "checkpoint": str(tmp_path / "run" / "model"), "output_dir": str(tmp_path / "2")}
    )
    assert again["add_norm"] == result["add_norm"]


def test_pairs_and_names_as_labels(config, recipe, tmp_path):
    pairs = {"text": ["good film", "bad film"] * 4, "other": ["a story"] * 8, "label": ["yes", "no"] * 4}
    Dataset.from_dict(pairs).to_json(tmp_path / "pairs.jsonl")
    path = str(tmp_path / "pairs.jsonl")
    result = recipe(
        config | {"train_file": path, "validation_file": path, "text_pair_column": "other", "metrics": ["accuracy"]}
    )
    saved = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "model")
    assert saved.config.id2label == {0: "no", 1: "yes"}
    # 8 rows of [CLS] two words [SEP] two words [SEP], three epochs.
    assert result["tokens"] == 8 * 7 * 3
    assert set(result["metrics"]) == {"step", "epoch", "accuracy"}


def test_regression_learns(config, recipe):
    config |= {"task": "regression", "text_pair_column": "other", "label_column": "score", "epochs": 15}
    result = recipe(config, "--micro_batch_size", "4", "--learning_rate", "5e-3")
    assert set(result["metrics"]) == {"step", "epoch", "pearson", "spearman"}
    assert result["loss_history"][-1] < result["loss_history"][0] / 2
    assert result["reload"]["predictions_equal"] == 13
