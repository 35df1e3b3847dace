"""What the machine decides, and what no config may decide in its place."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from accelerate import Accelerator
from common import machine
from common.config import RunConfig

from hf_addnorm.launch import launch_files


ROOT = Path(__file__).resolve().parents[2]
SCRIPT = str(ROOT / "recipes" / "finetune_text.py")
FILES = sorted(path for folder in ("recipes", "hf_addnorm", "benchmarks") for path in (ROOT / folder).rglob("*.yaml"))
# keys of a recipe or a launch file whose right value depends on the machine; `num_processes` is not among them, as
# Accelerate refuses a launch file without it
DECIDED = {
    "mixed_precision",
    "bf16",
    "fp16",
    "downcast_bf16",
    "attn_implementation",
    "num_cpu_threads_per_process",
    "threads",
    "num_workers",
    "dynamo_backend",
    "fused",
    "optim",
}
WARNING = (
    "warning: bf16 was asked for, and this CPU has no instructions for it, so that a training step takes 10 to 60 "
    "times as long as in float32: write --mixed_precision no after the script's name\n"
)


def keys(content: object) -> set[str]:
    """All keys of a YAML file, also those inside lists and dicts."""
    if isinstance(content, dict):
        return set(content) | {key for value in content.values() for key in keys(value)}
    return {key for value in content for key in keys(value)} if isinstance(content, list) else set()


def test_there_are_files():
    assert len(FILES) > 20
    assert {path.stem for path in FILES} >= set(launch_files())


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_no_file_fixes_what_the_machine_decides(path):
    assert not keys(yaml.safe_load(path.read_text())) & DECIDED


@pytest.fixture
def without_bf16(monkeypatch):
    flags = ["model name\t: A Plain CPU", "flags\t\t: fpu sse2 avx2 avx512f avx_ne_convert"]
    monkeypatch.setattr(machine, "_cpuinfo", lambda: flags)
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)


@pytest.fixture
def with_bf16(monkeypatch, without_bf16):
    flags = ["model name\t: A Fast CPU", "flags\t\t: fpu sse2 avx2 avx512f avx512_bf16"]
    monkeypatch.setattr(machine, "_cpuinfo", lambda: flags)


def _by_the_machine(config):
    return {key: value for key, value in config.items() if key != "mixed_precision"} | {"max_steps": 1}


def test_a_cpu_without_bf16_trains_in_float32(config, recipe, without_bf16, capfd):
    result = recipe(_by_the_machine(config))
    assert result["used"] == {"mixed_precision": "no", "attn_implementation": "eager"}
    assert result["config"]["mixed_precision"] == "no"
    assert result["reload"] == {"predictions_equal": 13, "float32_logits_equal": 13}
    out, err = capfd.readouterr()
    assert f"trains on A Plain CPU, {torch.get_num_threads()} threads, in float32, with eager attention" in out
    assert "warning: " not in err


def test_a_cpu_with_bf16_trains_in_it(config, recipe, with_bf16, capfd):
    assert recipe(_by_the_machine(config))["used"]["mixed_precision"] == "bf16"
    out, err = capfd.readouterr()
    assert "in bf16, with eager attention" in out
    assert "warning: " not in err


@pytest.mark.parametrize("by", ["file", "command line", "launcher"])
def test_emulated_bf16_is_warned_of_once_and_first(config, recipe, without_bf16, capfd, monkeypatch, by):
    config, args = _by_the_machine(config), []
    if by == "file":
        config["mixed_precision"] = "bf16"
    elif by == "command line":
        args = ["--mixed_precision", "bf16"]
    else:
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert recipe(config, *args)["used"]["mixed_precision"] == "bf16"
    err = capfd.readouterr().err
    assert err.count("warning: ") == err.count(WARNING) == 1
    assert err.index(WARNING) < err.index("0/1 [")


@pytest.mark.parametrize("launched", ["fp16", "fp8"])
def test_a_precision_of_the_launcher_that_there_is_not(config, recipe, with_bf16, capfd, monkeypatch, launched):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launched)
    config = _by_the_machine(config)
    assert recipe(config)["used"]["mixed_precision"] == "bf16"
    err = capfd.readouterr().err
    sentence = f"the launcher asks for {launched}, and these recipes have bf16 and float32 alone: this run is in bf16"
    assert err.count(sentence) == err.count("warning: ") == 1
    # what it says to write
    again = config | {"output_dir": config["output_dir"] + "_2"}
    assert recipe(again, "--mixed_precision", "no")["used"]["mixed_precision"] == "no"
    assert "warning: " not in capfd.readouterr().err


def test_what_the_warning_says_to_write_works(config, recipe, without_bf16, capfd, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert recipe(_by_the_machine(config), "--mixed_precision", "no")["used"]["mixed_precision"] == "no"
    assert "warning: " not in capfd.readouterr().err


def test_a_gpu_without_bf16(monkeypatch, capfd):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delenv("ACCELERATE_USE_CPU")
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation)
    assert machine.choose_precision(None) == "no"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    assert machine.choose_precision(None) == "bf16"
    assert machine.choose_precision("no") == "no"


@pytest.mark.parametrize(
    ("device", "keys", "attention"),
    [
        ("cpu", {}, "eager"),
        ("cpu", {"mixed_precision": "bf16", "dropout": 0}, "eager"),
        ("cpu", {"dropout": 0.1}, "eager"),
        ("cpu", {"dropout": 0}, None),
        ("cpu", {"attn_implementation": "sdpa"}, "sdpa"),
        ("cuda", {}, None),
        ("cuda", {"attn_implementation": "eager"}, "eager"),
    ],
)
def test_attention_is_the_fastest_unless_it_is_chosen(device, keys, attention):
    config = RunConfig(**{"checkpoint": "one", "output_dir": "runs/one", "mixed_precision": "no", **keys})
    assert machine.choose_attention(config, torch.device(device)) == attention


def _threads_of_a_launched_process(tmp_path, *launcher, **environment):
    asked = "import sys; sys.path.insert(0, sys.argv[1]); from common.machine import use_all_cores, share_of_cores; "
    asked += "import torch; use_all_cores(); print(torch.get_num_threads(), share_of_cores())"
    script = tmp_path / "asked.py"
    script.write_text(asked)
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "ACCELERATE_"))}
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "1", *launcher]
    done = subprocess.run(
        [*command, str(script), str(ROOT / "recipes")],
        env=inherited | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return [int(number) for number in done.stdout.split()]


def test_a_launched_process_has_all_cores_unless_the_user_says_otherwise(tmp_path):
    threads, cores = _threads_of_a_launched_process(tmp_path)
    assert threads == cores
    assert _threads_of_a_launched_process(tmp_path, OMP_NUM_THREADS="1")[0] == 1
    assert _threads_of_a_launched_process(tmp_path, "--num_cpu_threads_per_process", "1")[0] == 1


def test_processes_share_the_cores(monkeypatch):
    monkeypatch.setattr(machine.joblib, "cpu_count", lambda only_physical_cores: 6)
    assert machine.share_of_cores() == 6
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert machine.share_of_cores() == 3
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert machine.share_of_cores() == 1


def test_threads_of_a_process_that_nobody_launched_are_its_own(monkeypatch):
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    before = torch.get_num_threads()
    machine.use_all_cores()
    assert torch.get_num_threads() == before
    assert isinstance(machine.machine(Accelerator())["threads"], int)
    assert RunConfig(checkpoint="x", output_dir="y").mixed_precision is None
