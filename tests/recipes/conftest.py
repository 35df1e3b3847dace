"""A tiny BERT, a tiny data set, and the recipe called in this process: starting one takes seconds."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml


# As when the script is started: its own folder is where `common` is found.
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "recipes"))

import datasets
import finetune_text
import forked_python
from accelerate.state import AcceleratorState, GradientState
from transformers import BertConfig, BertModel, BertTokenizer

from hf_addnorm.launch import launch_file


GOOD, BAD = ["good", "great", "fine", "warm"], ["bad", "poor", "dull", "cold"]
PLAIN = ["the", "a", "film", "story", "was", "is", "and", "very", "it", "##s"]


@pytest.fixture(autouse=True, scope="session")
def _no_cache_left_behind(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        cache = tmp_path_factory.mktemp("datasets")
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
        patch.setenv("HF_DATASETS_CACHE", str(cache))
        patch.setenv("ACCELERATE_USE_CPU", "true")
        patch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))
        yield


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> str:
    """Folder of a stock BERT with 2 layers of 32, and its WordPiece tokenizer."""
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *GOOD, *BAD, *PLAIN]
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=37,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(folder)
    BertTokenizer(vocab=str(folder / "vocab.txt"), model_max_length=64).save_pretrained(folder)
    return str(folder)


def rows(count: int, seed: int) -> dict[str, list]:
    """Sentences of 3 to 12 words; label: more good words than bad ones."""
    draw = random.Random(seed)
    found = {"text": [], "other": [], "label": [], "score": []}
    for _ in range(count):
        words = draw.choices(GOOD + BAD + PLAIN[:-1], k=draw.randint(3, 12))
        balance = sum(word in GOOD for word in words) - sum(word in BAD for word in words)
        found["text"].append(" ".join(words))
        found["other"].append(" ".join(draw.choices(PLAIN[:-1], k=draw.randint(1, 4))))
        found["label"].append(int(balance > 0))
        found["score"].append(float(balance))
    return found


@pytest.fixture(scope="session")
def files(tmp_path_factory) -> dict[str, str]:
    """27 rows to train on and 13 to validate: neither divides by a batch size that the tests use."""
    folder = tmp_path_factory.mktemp("data")
    paths = {"train_file": str(folder / "train.parquet"), "validation_file": str(folder / "validation.parquet")}
    for seed, (name, count) in enumerate(zip(paths, (27, 13), strict=True)):
        datasets.Dataset.from_dict(rows(count, seed)).to_parquet(paths[name])
    return paths


@pytest.fixture
def config(tiny, files, tmp_path) -> dict:
    """A run of three short epochs in float32."""
    return {
        "checkpoint": tiny,
        **files,
        "output_dir": str(tmp_path / "run"),
        "epochs": 3,
        "batch_size": 8,
        "eval_batch_size": 4,
        "learning_rate": 1e-3,
        "max_length": 32,
        "mixed_precision": "no",
    }


@pytest.fixture
def written(tmp_path):
    """Write a config as YAML; returns the arguments that name it."""

    def write(config: dict, *args: str) -> list[str]:
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(config))
        return ["--config", str(path), *args]

    return write


@pytest.fixture
def recipe(written):
    """Run a recipe here, text classification if not said otherwise; returns its result JSON."""

    def call(config: dict, *args: str, main=finetune_text.main) -> dict:
        AcceleratorState._reset_state(True)
        GradientState._reset_state()
        main(written(config, *args))
        return json.loads((Path(config["output_dir"]) / "result.json").read_text())

    return call


@pytest.fixture
def drawn_run(config, tmp_path):
    """A run of a new model on drawn images, eight to train on and five to validate.

    It is called with what gives the columns of so many rows, by their number and a seed, and with keys of the run.
    """

    def made(drawn: Callable[[int, int], dict[str, list]], **keys: object) -> dict:
        for seed, (name, count) in enumerate({"train": 8, "validation": 5}.items(), start=3):
            datasets.Dataset.from_dict(drawn(count, seed)).to_parquet(str(tmp_path / f"{name}.parquet"))
        kept = {key: value for key, value in config.items() if key not in ("checkpoint", "max_length")}
        files = {f"{name}_file": str(tmp_path / f"{name}.parquet") for name in ("train", "validation")}
        return kept | files | {"batch_size": 4, "epochs": 2} | keys

    return made


@pytest.fixture
def use(tmp_path):
    """Evaluate or predict with what a run has saved, by its record; returns the files that were written."""

    def call(do: str, *args: str, run: str = "run", main=finetune_text.main) -> list[Path]:
        AcceleratorState._reset_state(True)
        GradientState._reset_state()
        before = set(tmp_path.rglob("*"))
        main(["--config", str(tmp_path / run / "run.json"), "--do", do, *args])
        return [path for path in tmp_path.rglob("*") if path not in before and path.is_file()]

    return call


@pytest.fixture
def two_processes(written):
    """Run a recipe with two processes of one thread; returns its result JSON, and what the first printed.

    With `launcher`, accelerate's starts them, and what both printed is returned.
    """

    def call(config: dict, *args: str, main=finetune_text.main, launcher=False):
        command = [sys.modules[main.__module__].__file__, *written(config | {"num_processes": 2}, *args)]
        env = os.environ | {"OMP_NUM_THREADS": "1"}
        if launcher:
            launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(launch_file("cpu2"))]
            processes = [subprocess.run([*launch, *command], env=env, capture_output=True, text=True, timeout=300)]
        else:
            processes = forked_python.run_distributed(command, env=env)
        for done in processes:
            assert done.returncode == 0, done.stderr
        return json.loads((Path(config["output_dir"]) / "result.json").read_text()), processes[0]

    return call
