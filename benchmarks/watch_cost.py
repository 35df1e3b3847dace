"""What watching a training costs: a look at what add & norm does in each layer, beside the steps between two looks.

    python benchmarks/watch_cost.py [--looks 7] [--steps 12] [--json FILE] [--mixed_precision no]

The training is that of `make demo` (MiniLM, batch 32). The model is the stock one, which a look runs as its AddNorm
model, and the same with `pre_ln`. The figure is the median time of a look over that of `EVERY` steps, by the clock and
by the CPU time of the process: on a machine that others use too, the second is the one to read.
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

from accelerate.utils import set_seed
from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding


sys.path.insert(0, str(Path(__file__).parents[1] / "recipes"))

import finetune_text
from common.machine import machine
from common.model import load_model
from common.progress import Progress
from common.report import versions
from common.run import Run, start
from common.training import Loop, Task
from common.watching import training_watch
from recipe_loop import CLOCKS, CONFIG, WARM_UP, times

from hf_addnorm.diagnosis.training import EVERY, ROWS


def measure(run: Run, looks: int, steps: int) -> dict[str, dict[str, float]]:
    """By clock: median seconds of a step and of a look, and what a look costs at the default interval, in percent."""
    encoded, _, tokenizer, head = finetune_text.read(run)
    rows = encoded["train"]
    set_seed(run.config.seed)
    model = load_model(AutoModelForSequenceClassification, run.config, run.accelerator.device, **head)
    task = Task(
        rows=rows,
        collate=DataCollatorWithPadding(tokenizer),
        loss=finetune_text.loss,
        evaluation=None,
        auto_class=None,
    )
    loop, progress = Loop(run, task, model), Progress()
    loop.model.train()
    watch = training_watch(run, task, loop.model, progress.step)
    stepped = [times(lambda n=n: loop.step(n, progress)) for n in range(1, WARM_UP + steps + 1)][WARM_UP:]
    looked = [times(watch.figures) for _ in range(1 + looks)][1:]
    found = {}
    for clock in CLOCKS:
        step, look = (statistics.median(taken[clock] for taken in both) for both in (stepped, looked))
        found[clock] = {
            "step_seconds": round(step, 4),
            "look_seconds": round(look, 4),
            "percent": round(100 * look / (EVERY * step), 3),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--looks", type=int, default=7)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    args, keys = parser.parse_known_args()
    found = {}
    for name, scheme in (("stock", []), ("pre_ln", ["--add_norm", "pre_ln"])):
        with tempfile.TemporaryDirectory() as folder:
            always = ["--config", str(CONFIG), "--output_dir", f"{folder}/run"]
            run = start(
                finetune_text.TextConfig, [*always, "--track", "[tensorboard]", "--watch", str(EVERY), *scheme, *keys]
            )
            found[name] = measure(run, args.looks, args.steps)
    used = {"every": EVERY, "rows": ROWS, "batch_size": run.config.batch_size}
    about = {
        "mixed_precision": run.config.mixed_precision,
        "machine": machine(run.accelerator),
        "versions": versions(),
    }
    text = json.dumps({**used, **found, **about}, indent=1)
    sys.stdout.write(text + "\n")
    if args.json:
        args.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
