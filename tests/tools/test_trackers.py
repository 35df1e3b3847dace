"""Trackers of Trainer take what it logs of our models, the figures of `WatchAddNorm` too; none needs a network."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


pytestmark = pytest.mark.slow
FIGURE = "add_norm/branch_ratio/0_attention"
# what a tracker keeps is read as its own users would read it
READERS = {
    "tensorboard": """
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
(file,) = folder.rglob("events.out.tfevents*")
events = EventAccumulator(str(file)); events.Reload()
found = events.Tags()["scalars"]
""",
    "wandb": """
import wandb
(run,) = (folder / "wandb").glob("offline-run-*/run-*.wandb")
text = run.read_bytes().decode("latin-1")
found = [name for name in wanted if name in text or name.split("/")[-1] in text]
""",
    "mlflow": """
import mlflow
(run,) = mlflow.search_runs(output_format="list", search_all_experiments=True)
found = list(run.data.metrics)
""",
    "trackio": """
import sqlite3
found = []
for file in folder.rglob("*.db"):
    for table in ("metrics",):
        for (row,) in sqlite3.connect(file).execute(f"select metrics from {table}"):
            found += list(json.loads(row))
""",
}
SCRIPT = """
import json, os, sys
from pathlib import Path
folder = Path({folder!r})
sys.path[:0] = {path!r}
wanted = {wanted!r}
from small_models import classifier, labelled
from transformers import Trainer, TrainingArguments
from hf_addnorm.diagnosis.training import WatchAddNorm
arguments = TrainingArguments(
    str(folder), max_steps=2, logging_steps=1, per_device_train_batch_size=8, report_to=[{tracker!r}], use_cpu=True,
    save_strategy="no", disable_tqdm=True, run_name="try", project="try", trackio_space_id=None,
)
trainer = Trainer(classifier("pre_ln"), arguments, train_dataset=labelled())
trainer.add_callback(WatchAddNorm(trainer, every=2))
trainer.train()
{finish}
{reader}
print("FOUND", json.dumps(sorted(name for name in wanted if any(name.split("/", 1)[-1] in key for key in found))))
"""
# Trainer ends the runs of the others
FINISH = {"wandb": "import wandb; wandb.finish()"}
WANTED = [FIGURE, "train/loss"]


def _keeps(tracker, tmp_path):
    """In a process of its own: a tracker leaves threads and settings behind."""
    pytest.importorskip(tracker, reason=f"{tracker} is not installed (extra `trackers`)")
    here = Path(__file__).parent
    script = tmp_path / "script.py"
    text = SCRIPT.format(
        folder=str(tmp_path), path=[str(here), str(here.parent)], tracker=tracker, reader=READERS[tracker],
        finish=FINISH.get(tracker, ""), wanted=WANTED,
    )  # fmt: skip
    script.write_text(text)
    env = os.environ | {
        "WANDB_MODE": "offline",
        "WANDB_DIR": str(tmp_path),
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db",
        "TRACKIO_DIR": str(tmp_path),
        "HF_HUB_OFFLINE": "1",
    }
    done = subprocess.run([sys.executable, str(script)], env=env, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("FOUND"))[6:])
    assert said == sorted(WANTED)


def test_keeps_tensorboard(tmp_path):
    _keeps("tensorboard", tmp_path)


def test_keeps_wandb(tmp_path):
    _keeps("wandb", tmp_path)


def test_keeps_mlflow(tmp_path):
    _keeps("mlflow", tmp_path)


def test_keeps_trackio(tmp_path):
    _keeps("trackio", tmp_path)
