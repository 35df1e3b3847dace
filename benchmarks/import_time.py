"""What `import hf_addnorm` costs beside Transformers' model classes, in CPU seconds of fresh processes.

    python benchmarks/import_time.py [--rounds 7] [--json FILE]

Three programs run in turn, each in a process of its own: the stock model class alone; with `import hf_addnorm` before
it, which registers all families; and with our model class beside it. Reported are medians, and the differences to the
first one.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from accelerate import Accelerator


sys.path.insert(0, str(Path(__file__).parents[1] / "recipes"))

from common.report import machine, versions


STOCK = "from transformers import BertConfig, BertForMaskedLM"
PROGRAMS = {
    "stock": STOCK,
    "stock and hf_addnorm": f"import hf_addnorm; {STOCK}",
    "stock and our model": f"import hf_addnorm; {STOCK}; hf_addnorm.AddNormBertForMaskedLM",
}


def cpu_seconds(program: str) -> float:
    """Of a fresh process that runs this program, its imports of torch and all."""
    before = os.times()
    subprocess.run([sys.executable, "-c", program], check=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    for _ in range(options.rounds + 1):
        for name, program in PROGRAMS.items():
            seconds[name].append(cpu_seconds(program))
    # the first round fills the caches of the disk
    found = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    for name, value in found.items():
        sys.stdout.write(f"{name}: {value:.2f} s, {value - found['stock']:+.2f} s\n")
    if options.json is not None:
        content = {
            "machine": machine(Accelerator()),
            "versions": versions(),
            "rounds": options.rounds,
            "seconds": found,
        }
        options.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
