"""What the recipes' training loop costs beside bare PyTorch: forward, backward, clipping and step of the same batches.

    python benchmarks/recipe_loop.py [--steps 40] [--json FILE] [--mixed_precision no]

The task is that of `make demo`. Each step is done by the loop of `recipes/common/training.py`, which also makes the
batch, counts, checks the loss and moves the bar, and by a second model in bare PyTorch, to which the batch is given;
the order is swapped from step to step, in one process. The figure is the median of the steps' ratios (tokens per
second of the loop over those of bare PyTorch), with quartiles, by the clock and by the CPU time of the process: on a
machine that others use too, the second is the one to read, with OMP_NUM_THREADS=1.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate.utils import set_seed
from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding


RECIPES = Path(__file__).parents[1] / "recipes"
sys.path.insert(0, str(RECIPES))

import finetune_text
from common.machine import machine
from common.model import decay_groups, load_model
from common.progress import Progress, progress_bar
from common.report import versions
from common.run import Run, start
from common.training import Loop, Task, show


CONFIG = RECIPES / "configs" / "docstring_match.yaml"
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
WARM_UP = 3


@dataclass
class Bare:
    """The same step without the loop.

    Args:
        run: for the rates and the precision.
        model: another one than the loop's, with the same weights.
    """

    run: Run
    model: torch.nn.Module

    def __post_init__(self) -> None:
        groups = decay_groups(self.model, self.run.config.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, lr=self.run.config.learning_rate, fused=True)
        self.model.train()

    def step(self, batch: dict[str, torch.Tensor]) -> None:
        device, bf16 = self.run.accelerator.device.type, self.run.config.mixed_precision == "bf16"
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            logits = self.model(**{name: part for name, part in batch.items() if name != "labels"}).logits
        torch.nn.functional.cross_entropy(logits.float(), batch["labels"]).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.run.config.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()


def times(work: Callable[[], object]) -> dict[str, float]:
    """Seconds that something takes, by each clock."""
    began = {name: clock() for name, clock in CLOCKS.items()}
    work()
    return {name: clock() - began[name] for name, clock in CLOCKS.items()}


def measure(run: Run, steps: int) -> dict[str, dict[str, float | list[float]]]:
    """By clock: tokens per second of both, and the ratio, median and quartiles."""
    encoded, _, tokenizer, head = finetune_text.read(run)
    rows = encoded["train"]
    models = []
    for _ in range(2):
        set_seed(run.config.seed)
        models.append(load_model(AutoModelForSequenceClassification, run.config, run.accelerator.device, **head))
    task = Task(
        rows=rows,
        collate=DataCollatorWithPadding(tokenizer),
        loss=finetune_text.loss,
        evaluation=None,
        auto_class=None,
    )
    loop, bare, progress = Loop(run, task, models[0]), Bare(run, models[1]), Progress()
    loop.model.train()
    bar = progress_bar(run.accelerator, progress, loop.total)

    def step_of_the_loop(step: int) -> None:
        loop.step(step, progress)
        show(loop, progress, bar)

    found = []
    for step in range(1, WARM_UP + steps + 1):
        (batch,) = loop.batches(step)
        both = {"loop": lambda step=step: step_of_the_loop(step), "bare": lambda batch=batch: bare.step(batch)}
        taken = {name: times(both[name]) for name in (both if step % 2 else reversed(both))}
        found.append((int(batch["attention_mask"].sum()), taken))
    return {clock: _figures(found[WARM_UP:], clock) for clock in CLOCKS}


def _figures(found: list[tuple[int, dict]], clock: str) -> dict[str, float | list[float]]:
    ratios = [taken["bare"][clock] / taken["loop"][clock] for _, taken in found]
    tokens = sum(tokens for tokens, _ in found)
    rates = {name: round(tokens / sum(taken[name][clock] for _, taken in found), 1) for name in ("loop", "bare")}
    return {
        "tokens_per_second": rates,
        "median_ratio": round(statistics.median(ratios), 4),
        "quartiles": [round(ratio, 4) for ratio in statistics.quantiles(ratios)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    args, keys = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        run = start(finetune_text.TextConfig, ["--config", str(CONFIG), "--output_dir", f"{folder}/run", *keys])
        figures = measure(run, args.steps)
    used = {"steps": args.steps, "batch_size": run.config.batch_size, "mixed_precision": run.config.mixed_precision}
    kernels = {"cpu_kernels": torch.backends.cpu.get_cpu_capability()}
    about = {"machine": machine(run.accelerator) | kernels, "versions": versions()}
    text = json.dumps({**used, **figures, **about}, indent=1)
    sys.stdout.write(text + "\n")
    if args.json:
        args.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
