"""Runs a selection of the tests and can record what ran, with which versions.

Usage: python tests/compatibility/run.py NAME [--record] PYTEST_ARGUMENTS. With --record, NAME.json beside this file is
written: `python tests/compatibility/page.py` makes docs/compatibility.md of all of them.
"""

import json
import os
import platform
import sys
import time
from collections import Counter
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest


HERE = Path(__file__).parent
PACKAGES = ("torch", "transformers", "accelerate", "huggingface_hub", "safetensors", "datasets", "peft", "typer")


class Results:
    """A pytest plugin that counts tests by their outcome; it runs in the process that started the workers, too."""

    def __init__(self) -> None:
        self.counts = Counter(passed=0, failed=0, skipped=0)

    def pytest_runtest_logreport(self, report: Any) -> None:
        """A test counts once: in its call, or where it was skipped or failed before or after it."""
        if report.when == "call" or report.outcome != "passed":
            self.counts[report.outcome] += 1


def processor() -> str:
    """The name of this machine's processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def main() -> int:
    """Run pytest, write the record."""
    name, *arguments = sys.argv[1:]
    record = "--record" in arguments
    arguments = [argument for argument in arguments if argument != "--record"]
    results, start = Results(), time.time()
    code = pytest.main([*arguments], plugins=[results])
    if record:
        content = {
            "date": time.strftime("%Y-%m-%d"),
            "machine": f"{os.cpu_count()} cores of {processor()}",
            "python": platform.python_version(),
            "versions": {package: _version(package) for package in PACKAGES},
            # how they run is not what ran
            "selection": " ".join(word for word in arguments if not word.startswith("-") and not word.isdigit()),
            **results.counts,
            "seconds": round(time.time() - start),
        }
        (HERE / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
