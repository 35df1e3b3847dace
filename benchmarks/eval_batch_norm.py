"""What the norms with running statistics cost in evaluation, beside torch's LayerNorm.

    python benchmarks/eval_batch_norm.py [--rounds 200] [--json FILE]

On [16, 128, 384] in float32, all tokens real, one thread, without gradients. In each round LayerNorm and every norm
run once, in an order that is drawn anew; the figure is the median of a norm's time over LayerNorm's of the same round.
"""

import argparse
import json
import os
import random
import statistics
import sys
import time
from pathlib import Path

import torch
from accelerate import Accelerator

from hf_addnorm.models.base.registries import NORMS
from hf_addnorm.models.norms.running_norms import RunningNorm


sys.path.insert(0, str(Path(__file__).parents[1] / "recipes"))

from common.machine import machine
from common.report import versions


SHAPE = (16, 128, 384)
OPTIONS = {"progressive_rep_bn": {"iterations": 1000}}
# glibc gives large buffers back and fetches them again unless it is told not to
ALLOCATOR = {"MALLOC_TRIM_THRESHOLD_": "4000000000", "MALLOC_MMAP_THRESHOLD_": "1000000000"}


def norms() -> dict[str, torch.nn.Module]:
    """LayerNorm, and every norm with running statistics after one training forward."""
    made = {"layer_norm": torch.nn.LayerNorm(SHAPE[-1], eps=1e-5)}
    for kind, factory in NORMS.items():
        if isinstance(factory, type) and issubclass(factory, RunningNorm):
            made[kind] = NORMS.build(NORMS.parse({"kind": kind, **OPTIONS.get(kind, {})}, "norm"), SHAPE[-1])
            made[kind].reset_parameters()
            made[kind](torch.randn(SHAPE))
    return {kind: norm.eval() for kind, norm in made.items()}


def times(made: dict[str, torch.nn.Module], x: torch.Tensor, order: list[str]) -> dict[str, float]:
    """Seconds of one forward of each."""
    seconds = {}
    for kind in order:
        start = time.perf_counter()
        made[kind](x)
        seconds[kind] = time.perf_counter() - start
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    args = parser.parse_args()
    torch.set_num_threads(1)
    made, x, draw = norms(), torch.randn(SHAPE), random.Random(0)
    ratios: dict[str, list[float]] = {kind: [] for kind in made}
    with torch.no_grad():
        for done in range(args.rounds + 10):
            seconds = times(made, x, draw.sample(list(made), len(made)))
            # the first ones warm up
            for kind in made if done >= 10 else ():
                ratios[kind].append(seconds[kind] / seconds["layer_norm"])
    figures = {
        "shape": SHAPE,
        "rounds": args.rounds,
        "median_ratio_to_layer_norm": {kind: round(statistics.median(of), 3) for kind, of in ratios.items()},
        "quartiles": {kind: [round(q, 3) for q in statistics.quantiles(of)] for kind, of in ratios.items()},
        "allocator": ALLOCATOR,
        "machine": machine(Accelerator(cpu=True)),
        "versions": versions(),
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
