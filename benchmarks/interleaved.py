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
import re
import statistics
import sys
import time
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
import transformers
from accelerate import Accelerator

from hf_addnorm.models.base.whole_file import write_whole


sys.path.insert(0, str(Path(__file__).parents[1] / "recipes"))

from common.machine import machine
from common.report import versions


ALLOCATOR = {"MALLOC_TRIM_THRESHOLD_": "4000000000", "MALLOC_MMAP_THRESHOLD_": "1000000000"}
RESULTS = Path(__file__).with_name("results")
# how far below the committed ratio a new one is called a regression
TOLERANCE = 0.1

# of strings, or of tuples of them
Name = TypeVar("Name", bound=Hashable)


def seconds_of(candidates: Mapping[Name, Callable[[], object]]) -> dict[Name, float]:
    """One round: seconds of each."""
    seconds = {}
    for name in random.sample(list(candidates), len(candidates)):
        start = _now()
        candidates[name]()
        seconds[name] = _now() - start
    return seconds


def _now() -> float:
    """Seconds: of this process on its CPUs; on a GPU, whose work goes on by itself, of the clock when all is done."""
    if not torch.cuda.is_available():
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def ratios(rounds: list[dict[Name, float]], base: Name) -> dict[Name, dict[str, Any]]:
    """Of each candidate, how many times as fast as the base it is: the median of the rounds, and their quartiles."""
    found = {}
    for name in rounds[0]:
        values = [seconds[base] / seconds[name] for seconds in rounds]
        quartiles = [round(value, 3) for value in statistics.quantiles(values)]
        found[name] = {"median": round(statistics.median(values), 3), "quartiles": quartiles, "rounds": len(values)}
        found[name]["seconds"] = [float(f"{seconds[name]:.4g}") for seconds in rounds]
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


def keep_freed_memory() -> None:
    """Start this program again with glibc's allocator told to keep what is freed, unless it runs so."""
    if not ALLOCATOR.items() <= os.environ.items():
        # read when a process starts
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | ALLOCATOR)


def arguments(description: str, rounds: int | None) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--note", default="", help="about the machine: what else it did")
    return parser


def quiet_and_alike() -> None:
    """The same draws in every run, one thread, and no remarks."""
    transformers.utils.logging.set_verbosity_error()
    torch.set_num_threads(1)
    random.seed(0)
    torch.manual_seed(0)


def report(name: str, figures: dict[str, Any], rounds: int, note: str, to: Path | None, **more: Any) -> None:
    """Print what was measured, and what is slower than in the committed results; write a JSON where asked to."""
    written = {
        "rounds": rounds,
        "note": note,
        # over 1, 5 and 15 minutes, of all processes
        "load": [round(load, 1) for load in os.getloadavg()],
        "machine": machine(Accelerator(cpu=True)),
        "versions": versions(),
        "figures": figures,
        **more,
    }
    # a line for each list
    text = re.sub(r"\[[^][{}]*\]", lambda found: " ".join(found[0].split()), json.dumps(written, indent=1)) + "\n"
    sys.stdout.write(text)
    for sentence in regressions(name, figures):
        sys.stdout.write(sentence + "\n")
    if to is not None:
        write_whole(to, text)


def run(name: str, measure: Callable[[int], dict[str, Any]], description: str, rounds: int) -> None:
    """The command of a benchmark: measure, print, compare with the committed results, write a JSON where asked to.

    Args:
        name (`str`): of the results' file.
        measure (`Callable`): from the number of rounds to the figures, by case and candidate.
        description (`str`): what `--help` says.
        rounds (`int`): by default.
    """
    keep_freed_memory()
    args = arguments(description, rounds).parse_args()
    quiet_and_alike()
    report(name, measure(args.rounds), args.rounds, args.note, args.json)
