"""Early stopping: when, by which figure and in which direction, what is saved; a resumed run does the same."""

import json
import math
import shutil

import finetune_tokens
import pretrain_mlm
import pytest
import torch
from common.errors import UserError
from common.files import write_json
from common.progress import Progress
from safetensors.torch import load_file
from test_finetune_tokens import tagging  # noqa: F401  a fixture


# a rate that ruins what the first epochs have learned
RUINOUS = {"epochs": 30, "eval_every": 2, "learning_rate": 3e-3, "dropout": 0.0}


def stops(figures: list, patience: int | None, min_delta: float = 0.0, name: str = "accuracy") -> str | None:
    progress = Progress(metrics=[{"step": 10 * (n + 1), name.lstrip("-"): value} for n, value in enumerate(figures)])
    return progress.standstill(name, patience, min_delta)


@pytest.mark.parametrize(
    ("figures", "patience", "min_delta", "name", "since"),
    [
        ([], 1, 0.0, "f1", None),
        ([0.5], 1, 0.0, "f1", None),
        ([0.5, 0.5], 1, 0.0, "f1", 10),
        ([0.5, 0.6, 0.5], 2, 0.0, "f1", None),
        ([0.5, 0.6, 0.5, 0.6], 2, 0.0, "f1", 20),
        ([0.5, 0.6, 0.5, 0.61, 0.6], 2, 0.0, "f1", None),
        # small steps are none, but add up
        ([0.5, 0.52, 0.54], 2, 0.05, "f1", 10),
        ([0.5, 0.52, 0.56], 2, 0.05, "f1", None),
        ([0.5, 0.45, 0.5], 2, 0.05, "f1", 10),
        ([9.0, 8.0, 8.5, 8.1], 2, 0.0, "-loss", 20),
        ([9.0, 8.0, 7.5, 7.1], 2, 0.0, "-loss", None),
        ([8.0, 9.0, 9.5], 2, 0.0, "-loss", 10),
        ([math.nan, math.nan, 0.5], 2, 0.0, "f1", None),
        ([None, math.nan, None], 2, 0.0, "f1", 10),
        ([0.5, math.nan, None], 2, 0.0, "f1", 10),
        ([0.5, 0.4, 0.3, 0.2], None, 0.0, "f1", None),
    ],
)
def test_when(figures, patience, min_delta, name, since):
    reason = stops(figures, patience, min_delta, name)
    assert (reason is None) == (since is None)
    if reason:
        assert f"{name.lstrip('-')} has not {'fallen' if '-' in name else 'risen'}" in reason
        assert f" since step {since}" in reason


def test_a_figure_that_is_not_a_number_is_never_the_best(tmp_path):
    progress = Progress(metrics=[{"step": 1, "f1": math.nan}, {"step": 2, "f1": 0.1}, {"step": 3, "f1": math.nan}])
    assert progress.best("f1") == progress.best("-f1") == 2
    # as a checkpoint has it
    write_json(tmp_path / "progress.json", {"metrics": progress.metrics})
    again = Progress(**json.loads((tmp_path / "progress.json").read_text()))
    assert again.best("f1") == again.best("-f1") == 2


def test_a_run_ends_and_keeps_the_best(config, recipe, tmp_path, capfd):
    keys = config | RUINOUS | {"patience": 3, "checkpoint_every": 1000, "final_model": "best"}
    result = recipe(keys)
    figures = [entry["accuracy"] for entry in result["metrics_over_time"]]
    best = figures.index(max(figures))
    assert len(figures) == best + 1 + 3
    assert result["steps"] == 2 * len(figures) < 120
    sentence = (
        f"stopped after step {result['steps']} of 120: accuracy has not risen in 3 evaluations since step "
        f"{2 * (best + 1)} ({max(figures):.4f})"
    )
    assert result["ended_early"] == sentence
    assert sentence in capfd.readouterr().out
    saved = load_file(tmp_path / "run" / "checkpoints" / f"step_{2 * (best + 1):08d}" / "model.safetensors")
    kept = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert all(torch.equal(value, saved[name]) for name, value in kept.items())
    # the steps before are those of a run without patience, and one with much of it goes to its end
    whole = recipe(keys | {"patience": 1000, "output_dir": str(tmp_path / "whole"), "final_model": "last"})
    assert whole["loss_history"][: result["steps"]] == result["loss_history"]
    assert whole["steps"] == 120 and "ended_early" not in whole


@pytest.mark.parametrize("kept", [1, 4])
def test_a_resumed_run_ends_where_the_whole_one_does(config, recipe, tmp_path, kept):
    """Taken up before its end, or from a checkpoint of the very step at which it ended."""
    keys = config | RUINOUS | {"patience": 4, "min_delta": 0.001, "checkpoint_every": 2, "keep_checkpoints": 100}
    whole = recipe(keys)
    (tmp_path / "run" / "result.json").unlink()
    checkpoints = sorted((tmp_path / "run" / "checkpoints").glob("step_*"))
    for checkpoint in checkpoints[len(checkpoints) + 1 - kept :]:
        shutil.rmtree(checkpoint)
    again = recipe(keys, "--resume")
    assert again["resumed_at"] == [whole["steps"] - 2 * (kept - 1)]
    for key in ("steps", "loss_history", "metrics_over_time", "ended_early"):
        assert again[key] == whole[key]


@pytest.mark.slow
def test_two_processes_end_together(config, recipe, two_processes):
    keys = config | RUINOUS | {"patience": 2}
    one = recipe(keys | {"output_dir": config["output_dir"] + "_one"})
    two, _ = two_processes(keys)
    assert two["ended_early"] == one["ended_early"]
    assert two["metrics_over_time"] == one["metrics_over_time"]


def test_the_figure_is_that_of_the_task(config, recipe, tagging, tmp_path):  # noqa: F811
    keys = RUINOUS | {"patience": 1, "learning_rate": 1e-9}
    tokens = recipe(tagging | keys | {"output_dir": str(tmp_path / "2")}, main=finetune_tokens.main)
    assert ": f1 has not risen in 1 evaluation since step 2" in tokens["ended_early"]
    spec = {key: config[key] for key in config if not key.endswith("_file")}
    files = dict.fromkeys(("train_file", "validation_file"), str(tmp_path / "texts.jsonl"))
    (tmp_path / "texts.jsonl").write_text("\n".join('{"text": "the good film was a bad story"}' for _ in range(40)))
    masked = keys | {"min_delta": 5.0, "max_length": 16, "output_dir": str(tmp_path / "3")}
    result = recipe(spec | files | masked, main=pretrain_mlm.main)
    assert ": perplexity has not fallen by more than 5 in 1 evaluation since step 2" in result["ended_early"]


def test_refused(config, recipe):
    with pytest.raises(UserError, match=r"min_delta is 0\.1, and patience, which it belongs to, is not set"):
        recipe(config | {"min_delta": 0.1})
    with pytest.raises(UserError, match=r'config key "patience": .*Not of type PositiveInt'):
        recipe(config | {"patience": 0})
