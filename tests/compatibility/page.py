"""Makes docs/compatibility.md from what ran.

Usage: python tests/compatibility/page.py. The runs are the JSON files in this folder, written by run.py.
"""

import json
from pathlib import Path
from typing import Any

from tools import table


HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "compatibility.md"

HEAD = """# Compatibility

This page is made from the test runs recorded in `tests/compatibility/` (`python tests/compatibility/page.py`): first
the versions, then [the tools](#tools).
`pyproject.toml` allows no version below the lowest that passed here, and names the Python versions that ran.

- `make test-lowest` makes an environment in `.venv-lowest` with the oldest versions that are allowed
  (`constraints-lowest.txt`) and runs a selection of the tests that has every family, norm and stream.
- `make test-newest` does the same in `.venv-newest` with the newest releases of all packages but torch.
- `make test` runs all tests with the versions of `constraints.txt`.

Each of the first two takes `ARGS="tests"` for the whole suite, `PYTHON=python3.13` for another Python, and
`RECORD=--record` to write down what ran.

## What ran

"""

FOOT = """
## What does not work

- Below torch 2.7: `Module.set_submodule` has no argument `strict`, which the models use when they are built.
- torch 2.7 and 2.8: `torch.compile(fullgraph=True)` fails: in 37 tests with 2.7, in the first 4 that were tried with
  2.8.
- Below transformers 5.20: layers of Wav2Vec2 return tuples (before 5.16), the language model's head of DeBERTa-v2 has
  other parts, and a config that is made of other configs (a stack, an encoder-decoder) cannot be loaded. transformers
  5.20.0 itself did not import with torch 2.7; it was not tried with another.
- transformers 6 is not out; the package does not allow it before it was tested.
- From transformers 5.24 on, the argument and the output that hold a decoder's cache are called `cache`. The old name,
  `past_key_values`, works with a warning. Checkpoints saved by hf_addnorm 0.1.0 run there as remote code, with such
  warnings.
- torchvision of another build than torch (a CUDA build beside a CPU build, another release) makes
  `import transformers` fail with `operator torchvision::nms does not exist`. Install the two from the same index, or
  uninstall torchvision.
"""


def runs() -> dict[str, dict[str, Any]]:
    """The records by name."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(HERE.glob("*.json"))}


def page() -> str:
    """The text of the page."""
    columns = ("run", "Python", "torch", "transformers", "accelerate", "huggingface_hub", "peft")
    rows = ["| " + " | ".join((*columns, "passed", "failed", "skipped")) + " |", "|" + "---|" * (len(columns) + 3)]
    notes = []
    for name, run in runs().items():
        versions = [run["versions"][package] or "none" for package in columns[2:]]
        counts = [f"{run[outcome]:,}" for outcome in ("passed", "failed", "skipped")]
        rows.append("| " + " | ".join((name, run["python"], *versions, *counts)) + " |")
        minutes = max(1, round(run["seconds"] / 60))
        notes.append(f"- `{name}`: {run['date']}, {run['machine']}, {minutes} min; `pytest {run['selection']}`")
    return HEAD + "\n".join(rows) + "\n\n" + "\n".join(notes) + "\n" + table() + FOOT


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page())
