"""What the recipes' training loop costs beside bare PyTorch: forward, backward, clipping and step of the same batches.

    python benchmarks/recipe_loop.py [--steps 40] [--json FILE] [--mixed_precision no]
    python benchmarks/recipe_loop.py --watch [--steps 12] [--looks 7] [--json FILE] [--mixed_precision no]

The task is that of `make demo`. Each step is done by the loop of `recipes/common/training.py`, which also makes the
batch, counts, checks the loss and moves the bar, and by a second model in bare PyTorch, to which the batch is given;
the order is swapped from step to step, in one process. The figure is the median of the steps' ratios (tokens per
second of the loop over those of bare PyTorch), with quartiles, by the clock and by the CPU time of the process: on a
machine that others use too, the second is the one to read, with OMP_NUM_THREADS=1.

With `--watch`, what a look at add & norm in each layer costs: the median time of a look over that of the `EVERY` steps
between two of them. The models are the stock one, which a look runs as its AddNorm model, and the same with `pre_ln`.
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
from typing import Any

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
from common.watching import training_watch

from hf_addnorm.diagnosis.training import EVERY, ROWS


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


def task_of(run: Run, models: int) -> tuple[Task, list[torch.nn.Module]]:
    """The task of the demo, and so many models with the same weights."""
    encoded, _, tokenizer, head = finetune_text.read(run)
    made = []
    for _ in range(models):
        set_seed(run.config.seed)
        made.append(load_model(AutoModelForSequenceClassification, run.config, run.accelerator.device, **head))
    task = Task(
        rows=encoded["train"],
        collate=DataCollatorWithPadding(tokenizer),
        loss=finetune_text.loss,
        evaluation=None,
        auto_class=None,
    )
    return task, made


def measure_looks(run: Run, looks: int, steps: int) -> dict[str, dict[str, float]]:
    """By clock: median seconds of a step and of a look, and what a look costs at the default interval, in percent."""
    task, (model,) = task_of(run, 1)
    loop, progress = Loop(run, task, model), Progress()
    loop.model.train()
    watch = training_watch(run, task, loop.model, progress.step)
    stepped = [times(lambda n=n: loop.step(n, progress)) for n in range(1, WARM_UP + steps + 1)][WARM_UP:]
    looked = [times(watch.figures) for _ in range(1 + looks)][1:]
    found = {}
    for clock in CLOCKS:
        step, look = (statistics.median(taken[clock] for taken in both) for both in (stepped, looked))
        percent = round(100 * look / (EVERY * step), 3)
        found[clock] = {"step_seconds": round(step, 4), "look_seconds": round(look, 4), "percent": percent}
    return found


def measure(run: Run, steps: int) -> dict[str, dict[str, float | list[float]]]:
    """By clock: tokens per second of both, and the ratio, median and quartiles."""
    task, models = task_of(run, 2)
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


def started(folder: str, keys: list[str]) -> Run:
    """A run of the demo's recipe."""
    return start(finetune_text.TextConfig, ["--config", str(CONFIG), "--output_dir", f"{folder}/run", *keys])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--watch", action="store_true", help="what looks cost, not the loop")
    parser.add_argument("--looks", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    args, keys = parser.parse_known_args()
    figures: dict[str, Any] = {}
    if args.watch:
        keys = ["--track", "[tensorboard]", "--watch", str(EVERY), *keys]
    for name, scheme in (("stock", []), ("pre_ln", ["--add_norm", "pre_ln"])) if args.watch else (("", []),):
        with tempfile.TemporaryDirectory() as folder:
            run = started(folder, [*scheme, *keys])
            if args.watch:
                figures |= {"every": EVERY, "rows": ROWS, name: measure_looks(run, args.looks, args.steps or 12)}
            else:
                figures |= {"steps": args.steps or 40, **measure(run, args.steps or 40)}
    used = {"batch_size": run.config.batch_size, "mixed_precision": run.config.mixed_precision}
    kernels = {"cpu_kernels": torch.backends.cpu.get_cpu_capability()}
    about = {"machine": machine(run.accelerator) | kernels, "versions": versions()}
    text = json.dumps({**used, **figures, **about}, indent=1)
    sys.stdout.write(text + "\n")
    if args.json:
        args.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
