"""The README's table of the fine-tuned models in `recipes/results`, a row per data, rows and scheme, over its seeds.

python recipes/results_table.py          # writes the table anew
python recipes/results_table.py --check  # says whether it is the one of the files
"""

import json
import re
import statistics
import sys
from collections import defaultdict
from pathlib import Path


ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
BLOCK = re.compile(r"(<!-- results:.*?-->\n).*?(<!-- end results -->)", re.DOTALL)
COLUMNS = ("data", "train rows", "`add_norm`", "runs", "accuracy", "loss of the last 50 steps")


def load_results() -> list[dict]:
    """Every result JSON of a fine-tuning, in the order of the file names."""
    results = [json.loads(path.read_text()) for path in sorted((ROOT / "recipes" / "results").glob("*.json"))]
    return [result for result in results if result["recipe"] == "finetune_text"]


def spread(values: list[float], digits: int) -> str:
    """Mean, and the smallest and largest where there are several."""
    text = f"{statistics.mean(values):.{digits}f}"
    return text if len(values) == 1 else f"{text} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def scheme_of(config: dict) -> str:
    """The add & norm, with what else makes another model of the checkpoint; null takes it as it is."""
    name = json.dumps(config["add_norm"] or "stock").strip('"')
    scheme = f"`{name}`"
    if stack := config.get("stack"):
        how = {"sequence": "one after the other", "parallel": "summed"}[stack["arrangement"]]
        scheme += f" {stack['encoders']} times, {how}"
    if config.get("lora"):
        scheme += f", LoRA of rank {config['lora']}"
    if config.get("train_only"):
        scheme += f", {config['train_only']} alone trained"
    return scheme


def table(results: list[dict]) -> str:
    """The rows, as markdown."""
    groups = defaultdict(list)
    for result in results:
        config = result["config"]
        scheme = scheme_of(config)
        groups[config["dataset"], result["data"]["train"]["rows"], scheme].append(result)
    lines = [f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS)]
    # the stock scheme first
    for (data, rows, scheme), runs in sorted(
        groups.items(), key=lambda item: (*item[0][:2], item[0][2] not in ("`stock`", "`post_ln`"))
    ):
        cells = (
            data,
            f"{rows:,}",
            scheme,
            str(len(runs)),
            spread([run["metrics"]["accuracy"] for run in runs], 3),
            spread([statistics.mean(run["loss_history"][-50:]) for run in runs], 3),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    text = README.read_text()
    new = BLOCK.sub(lambda block: block[1] + table(load_results()) + block[2], text)
    if "--check" not in sys.argv:
        README.write_text(new)
    elif new != text:
        sys.exit("the README's table is not the one of recipes/results: run python recipes/results_table.py")


if __name__ == "__main__":
    main()
