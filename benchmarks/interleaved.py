"""What the benchmarks of this folder share: rounds in which everything runs once, ratios with quartiles, a JSON.

In each round every candidate runs once, in an order that is drawn anew; the figure is the median, over the rounds, of
the base's time over the candidate's of the same round. Times are those of the process on its CPU, in one thread: what
else the machine does counts little.

On Linux glibc's allocator is told to keep what is freed: by default it hands large buffers back to the system and
fetches them again, or not, as they happen to lie.
"""

import argparse
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate import Accelerator


sys.path.insert(0, str(Path(__file__).parents[1] / "recipes"))

from common.machine import machine
from common.report import versions


ALLOCATOR = {"MALLOC_TRIM_THRESHOLD_": "4000000000", "MALLOC_MMAP_THRESHOLD_": "1000000000"}
RESULTS = Path(__file__).with_name("results")
# how far below the committed ratio a new one is called a regression
TOLERANCE = 0.1

Candidates = Mapping[str, Callable[[], object]]


def seconds_of(candidates: Candidates) -> dict[str, float]:
    """One round: seconds of each."""
    seconds = {}
    for name in random.sample(list(candidates), len(candidates)):
        start = time.process_time()
        candidates[name]()
        seconds[name] = time.process_time() - start
    return seconds


def ratios(rounds: list[dict[str, float]], base: str) -> dict[str, dict[str, Any]]:
    """Of each candidate, how many times as fast as the base it is: the median of the rounds, and their quartiles."""
    found = {}
    for name in rounds[0]:
        values = [seconds[base] / seconds[name] for seconds in rounds]
        quartiles = [round(value, 3) for value in statistics.quantiles(values)]
        found[name] = {"median": round(statistics.median(values), 3), "quartiles": quartiles, "rounds": len(values)}
    return found


def regressions(name: str, figures: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What is slower than in the committed results of this benchmark, in sentences."""
    path = RESULTS / f"{name}.json"
    if not path.exists():
        return []
    committed = json.loads(path.read_text())
    told = []
    for case, found in figures.items():
        for candidate, figure in found.items():
            before = committed["figures"].get(case, {}).get(candidate)
            if before and figure["median"] < before["median"] * (1 - TOLERANCE):
                told.append(
                    f"slower than committed: {case}, {candidate}: {figure['median']} now, {before['median']} on "
                    f"{committed['machine']['cpu']}"
                )
    return told


def run(name: str, measure: Callable[[int], dict[str, Any]], description: str, rounds: int) -> None:
    """The command of a benchmark: measure, print, compare with the committed results, write a JSON where asked to.

    Args:
        name (`str`): of the results' file.
        measure (`Callable`): from the number of rounds to the figures, by case and candidate.
        description (`str`): what `--help` says.
        rounds (`int`): by default.
    """
    if not ALLOCATOR.items() <= os.environ.items():
        # read when a process starts
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | ALLOCATOR)
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--note", default="", help="about the machine: what else it did")
    args = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    torch.set_num_threads(1)
    random.seed(0)
    torch.manual_seed(0)
    figures = measure(args.rounds)
    written = {
        "rounds": args.rounds,
        "note": args.note,
        "machine": machine(Accelerator(cpu=True)),
        "versions": versions(),
        "figures": figures,
    }
    text = json.dumps(written, indent=1) + "\n"
    sys.stdout.write(text)
    for sentence in regressions(name, figures):
        sys.stdout.write(sentence + "\n")
    if args.json:
        args.json.write_text(text)
