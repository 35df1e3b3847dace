"""How runs end: by a signal, by a process that is gone, by a full disk; and what is kept of them."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import finetune_images
import forked_python
import pytest
import torch
from common import ending, run, training
from common.errors import UserError
from common.evaluation import predict
from common.model import load_saved
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer, SqueezeBertConfig, SqueezeBertModel

from hf_addnorm.launch import launch_file


SCRIPT = str(Path(__file__).resolve().parents[2] / "recipes" / "finetune_text.py")
TWO = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(launch_file("cpu2"))]
BATCH_NORM = {"preset": "post_ln", "norm": "batch_norm"}


@pytest.fixture
def started(written, tmp_path):
    """Start the recipe: in a process of its own, with a launcher, or as two processes.

    Returns the processes, when the first checkpoint is there, and the log.
    """
    running = []

    def start(config: dict, launcher: list[str] = (), count: int = 1) -> tuple[list[Any], Path]:
        log, command = tmp_path / "log", [SCRIPT, *written(config)]
        env = os.environ | {"OMP_NUM_THREADS": "1"}
        with log.open("w") as out:
            if launcher:
                running.append(subprocess.Popen([*launcher, *command], stdout=out, stderr=out, env=env))
            else:
                envs = [env] if count == 1 else forked_python.envs_of_two(env)
                running.extend(forked_python.start(command, stdout=out, stderr=out, env=one) for one in envs)
        deadline = time.monotonic() + 240
        while not any(Path(config["output_dir"], "checkpoints").glob("step_*")) and time.monotonic() < deadline:
            assert all(process.poll() is None for process in running), log.read_text()
            time.sleep(0.02)
        return running, log

    yield start
    for process in running:
        if process.poll() is None:
            process.kill()


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


def _equal(first: Path, second: Path) -> bool:
    one, other = _weights(first), _weights(second)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_run_with_a_checkpoint(config, recipe, started, tmp_path, number):
    config |= {"epochs": 500, "checkpoint_every": 20}
    (process,), log = started(config)
    process.send_signal(number)
    assert process.wait(60) == 128 + number
    last = log.read_text().strip().splitlines()[-1]
    assert last.startswith("error: stopped after step "), last
    newest = max((tmp_path / "run" / "checkpoints").glob("step_*"))
    assert last.endswith(f"of 2000; --resume goes on; the last good checkpoint is {newest}")
    assert f"step {int(newest.name[5:])} of" in last
    assert not (tmp_path / "run" / "result.json").exists()


@pytest.mark.slow
def test_a_process_that_is_gone_ends_a_launched_run(config, started):
    config |= {"epochs": 20, "checkpoint_every": 10, "num_processes": 2}
    (process,), log = started(config, TWO)
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    assert len(children) == 2, children
    os.kill(int(children[1]), signal.SIGKILL)
    killed = time.monotonic()
    assert process.wait(60) != 0
    assert time.monotonic() - killed < 60
    text = log.read_text()
    assert "another process of this run has ended; the last good checkpoint is" in text or "Signal 9" in text


def _lose_a_process(config, started):
    """A run of two processes, of which one is killed."""
    (first, second), log = started(config, count=2)
    second.kill()
    killed = time.monotonic()
    assert first.wait(60) != 0
    assert time.monotonic() - killed < 60
    assert "another process of this run has ended; the last good checkpoint is" in log.read_text()


def test_a_process_that_is_gone_ends_the_run(config, started):
    _lose_a_process(config | {"epochs": 12, "checkpoint_every": 10, "num_processes": 2}, started)


@pytest.mark.slow
def test_a_process_that_is_gone_ends_the_run_and_it_resumes_exactly(config, started, two_processes, tmp_path):
    """Two processes, running statistics, dropout: one is killed; then all is as if nothing had been."""
    config |= {"epochs": 20, "checkpoint_every": 10, "add_norm": BATCH_NORM, "num_processes": 2}
    _lose_a_process(config, started)
    resumed, _ = two_processes(config, "--resume")
    whole, _ = two_processes(config | {"output_dir": str(tmp_path / "whole")})
    assert resumed["resumed_at"]
    assert resumed["loss_history"] == whole["loss_history"]
    assert resumed["metrics_over_time"] == whole["metrics_over_time"]
    assert any("running" in name for name in _weights(tmp_path / "run"))
    assert _equal(tmp_path / "run", tmp_path / "whole")


def test_running_statistics_are_those_of_one_process(config, recipe, two_processes, tmp_path):
    # Adam would make steps of the rounding errors of what the norm takes out again
    config |= {"dropout": 0.0, "add_norm": BATCH_NORM, "max_steps": 4, "learning_rate": 1e-9}
    one = recipe(config | {"output_dir": str(tmp_path / "one")})
    two, _ = two_processes(config)
    assert two["loss_history"] == pytest.approx(one["loss_history"], rel=1e-4)
    first, second = _weights(tmp_path / "one"), _weights(tmp_path / "run")
    names = [name for name in first if "running" in name]
    assert names
    for name in names:
        torch.testing.assert_close(second[name], first[name], rtol=1e-5, atol=1e-6, msg=name)


def test_a_full_disk_leaves_what_there_was(config, started, tmp_path):
    config |= {"epochs": 500, "checkpoint_every": 20}
    # Python ignores the signal that goes with a file that is too large, and gets an error as from a full disk
    (process,), log = started(config)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (4096, 4096))
    assert process.wait(60) == 1
    last = log.read_text().strip().splitlines()[-1]
    assert "error: stopped at step" in last, last
    assert "cannot write" in last
    assert "the last good checkpoint is" in last
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert names
    assert all(name.startswith("step_") for name in names)


def test_a_folder_that_may_not_be_written(config, recipe, monkeypatch):
    def refuse(path, content):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(run, "write_json", refuse)
    with pytest.raises(UserError, match=r"cannot write to .*run\.json: Permission denied"):
        recipe(config)


def test_the_best_model_is_kept_and_saved(config, recipe, tmp_path):
    # the rate ruins what the first epochs have learned
    config |= {
        "epochs": 6,
        "checkpoint_every": 24,
        "keep_checkpoints": 1,
        "learning_rate": 3e-3,
        "final_model": "best",
    }
    result = recipe(config)
    scores = {entry["step"]: entry["accuracy"] for entry in result["metrics_over_time"]}
    best = max(scores, key=scores.get)
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").glob("step_*"))
    assert names == sorted({f"step_{best:08d}", "step_00000024"})
    saved = load_file(tmp_path / "run" / "checkpoints" / f"step_{best:08d}" / "model.safetensors")
    assert all(torch.equal(value, saved[name]) for name, value in _weights(tmp_path / "run").items())
    with pytest.raises(UserError, match="final_model is best, and checkpoint_every is not set"):
        recipe(config | {"checkpoint_every": None, "output_dir": str(tmp_path / "2")})


def test_add_norm_alone_is_trained(config, recipe, tiny, tmp_path):
    recipe(config | {"train_only": "add_norm", "add_norm": "rezero", "max_steps": 4})
    before = load_file(Path(tiny) / "model.safetensors")
    changed, kept = [], []
    for name, value in _weights(tmp_path / "run").items():
        old = before.get(name.removeprefix("bert."))
        if old is not None:
            (kept if torch.equal(old, value) else changed).append(name)
    assert any("query.weight" in name for name in kept)
    assert all("LayerNorm" in name for name in changed), changed
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "model")
    alphas = [parameter for name, parameter in model.named_parameters() if "residual_norm" in name]
    assert alphas
    assert all(bool((parameter != 0).all()) for parameter in alphas)


@pytest.fixture
def predicted(monkeypatch):
    """The models that were asked for predictions of the validation rows, in turn."""
    asked = []

    def counted(accelerator, model, loader, outputs):
        asked.append(model)
        return predict(accelerator, model, loader, outputs)

    monkeypatch.setattr(training, "predict", counted)
    monkeypatch.setattr(ending, "predict", counted)
    return asked


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_the_trained_model_is_not_asked_twice(config, recipe, predicted, tmp_path):
    recipe(config | {"epochs": 1})
    # the only evaluation, and the model that was loaded again
    assert len(predicted) == 2
    assert predicted[0] is not predicted[1]
    # what has been evaluated is not what is saved: an earlier step, or merged adapters
    recipe(
        config
        | {
            "output_dir": str(tmp_path / "best"),
            "checkpoint_every": 24,
            "epochs": 6,
            "learning_rate": 3e-3,
            "final_model": "best",
        }
    )
    assert len(predicted) == 2 + 6 + 2
    recipe(config | {"output_dir": str(tmp_path / "lora"), "epochs": 1, "lora": 2})
    assert len(predicted) == 10 + 1 + 2


def test_a_model_that_comes_back_changed_is_an_error(config, recipe, monkeypatch):
    def changed(auto_class, folder, like):
        model = load_saved(auto_class, folder, like)
        model.classifier.bias.data[1] += 1e-4
        return model

    monkeypatch.setattr(ending, "load_saved", changed)
    with pytest.raises(RuntimeError, match="predicts something else than the trained one"):
        recipe(config | {"epochs": 1})


# PEFT asks Transformers by an old name
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_lora_is_merged_and_kept(config, recipe, tmp_path):
    result = recipe(config | {"lora": 2, "max_steps": 4})
    assert result["reload"]["predictions_equal"] == 13
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").is_file()
    assert not any("lora" in name for name in _weights(tmp_path / "run"))
    with pytest.raises(UserError, match="adam_beta2 is 1; allowed is a number from 0 to below 1"):
        recipe(config | {"adam_beta2": 1.0})
    with pytest.raises(UserError, match="lora is 2 and train_only is add_norm: choose one of them"):
        recipe(config | {"lora": 2, "train_only": "add_norm", "output_dir": str(tmp_path / "2")})
    with pytest.raises(UserError, match="this add & norm transforms weights"):
        transformed = {"preset": "post_ln", "weights": "weight_standardization"}
        recipe(config | {"lora": 2, "add_norm": transformed, "output_dir": str(tmp_path / "2")})


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
@pytest.mark.parametrize(
    ("targets", "expected"),
    [("default", {"query", "value"}), (["key", "output.dense"], {"key", "output.dense"}), ("all-linear", None)],
)
@pytest.mark.parametrize("add_norm", [None, "pre_ln"])
def test_where_adapters_go(config, recipe, tmp_path, add_norm, targets, expected):
    """PEFT's default is that of the stock family, with any add & norm."""
    keys = {"lora": 2, "lora_targets": targets, "max_steps": 2} | ({"add_norm": add_norm} if add_norm else {})
    assert recipe(config | keys)["reload"]["predictions_equal"] == 13
    adapters = {
        name.split(".lora_")[0]
        for name in load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
        if "lora_" in name
    }
    if expected is None:
        assert len(adapters) == 2 * 6 + 1
    else:
        assert all(any(name.endswith(part) for part in expected) for name in adapters)
        assert {part for part in expected if any(name.endswith(part) for name in adapters)} == expected


def test_adapters_that_fit_nothing(config, recipe, tmp_path):
    with pytest.raises(UserError, match="lora_targets are given, and lora, the rank of the adapters, is not"):
        recipe(config | {"lora_targets": "default"})
    with pytest.raises(UserError, match=r"lora_targets \['q_lin'\] do not fit this model: No modules"):
        recipe(config | {"lora": 2, "lora_targets": ["q_lin"]})
    vit = {"model_type": "vit", "image_size": 8, "patch_size": 4, "hidden_size": 16, "num_attention_heads": 2}
    kept = {key: value for key, value in config.items() if key not in ("checkpoint", "max_length")}
    kept = {key: value for key, value in kept.items() if not key.endswith("_file")}
    keys = {"dataset": "builtin:digits", "model_config": vit, "lora": 2, "lora_targets": "default"}
    with pytest.raises(UserError, match="lora_targets is default, and PEFT has none for vit: write all-linear"):
        recipe(kept | keys, main=finetune_images.main)
    assert not (tmp_path / "run").exists()


def test_two_encoders_as_one(config, recipe):
    for arrangement in ("sequence", "parallel"):
        folder = f"{config['output_dir']}_{arrangement}"
        stack = {"encoders": 2, "arrangement": arrangement}
        result = recipe(config | {"stack": stack, "max_steps": 2, "output_dir": folder})
        assert result["model"] == "AddNormStackForSequenceClassification"
        assert result["reload"]["predictions_equal"] == 13


def test_a_new_model(config, recipe, tmp_path):
    new = {"new_weights": True, "model_config": {"num_hidden_layers": 1}, "add_norm": "pre_ln", "max_steps": 2}
    assert recipe(config | new)["model"] == "AddNormBertForSequenceClassification"
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "model")
    assert model.config.num_hidden_layers == 1
    with pytest.raises(UserError, match="no model: give checkpoint, or model_config with model_type"):
        recipe(config | {"checkpoint": None, "output_dir": str(tmp_path / "2")})
    with pytest.raises(UserError, match="stack is made of copies of a checkpoint: give checkpoint, and leave new_w"):
        stack = {"stack": {"encoders": 2, "arrangement": "sequence"}, "output_dir": str(tmp_path / "2")}
        recipe(config | new | stack)
    with pytest.raises(UserError, match="no tokenizer: give checkpoint"):
        without = {"checkpoint": None, "model_config": {"model_type": "bert"}, "output_dir": str(tmp_path / "2")}
        recipe(config | without)


def test_trackers(config, recipe, tmp_path):
    pytest.importorskip("tensorboard")
    recipe(config | {"track": ["tensorboard"], "max_steps": 2})
    assert any(path.name.startswith("events.out") for path in (tmp_path / "run").rglob("*"))


def test_a_tracker_that_is_not_installed(config, recipe, monkeypatch):
    from common import config as config_module

    monkeypatch.setattr(config_module, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="track names 'wandb', which is not installed: pip install wandb"):
        recipe(config | {"track": ["wandb"]})


def test_the_model_has_a_card(config, recipe, tmp_path):
    recipe(config | {"max_steps": 2, "add_norm": "pre_rms_norm"})
    text = (tmp_path / "run" / "model" / "README.md").read_text()
    assert "pre_rms_norm" in text
    assert "model-index" in text


def test_a_stock_model_of_another_family(config, recipe, tiny, tmp_path):
    folder = tmp_path / "squeezebert"
    sizes = {"hidden_size": 16, "embedding_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    groups = {f"{part}_groups": 1 for part in ("q", "k", "v", "post_attention", "intermediate", "output")}
    SqueezeBertModel(SqueezeBertConfig(vocab_size=23, intermediate_size=24, **sizes, **groups)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny).save_pretrained(folder)
    result = recipe(config | {"checkpoint": str(folder), "max_steps": 1})
    assert result["model"] == "SqueezeBertForSequenceClassification"
    # a card is about the add & norm
    assert not (tmp_path / "run" / "model" / "README.md").exists()
