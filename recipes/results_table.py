"""The tables of the runs in `recipes/results`: schemes over seeds in docs/choosing.md, every run in recipes/README.md.

python recipes/results_table.py          # writes the tables anew
python recipes/results_table.py --check  # says whether they are those of the files
"""

import json
import re
import statistics
import sys
from collections import defaultdict
from pathlib import Path

from hf_addnorm.models.base.whole_file import write_whole


ROOT = Path(__file__).parents[1]
SCHEMES = ROOT / "docs" / "choosing.md"
ALL_RUNS = ROOT / "recipes" / "README.md"
BLOCK = re.compile(r"(<!-- results:.*?-->\n).*?(<!-- end results -->)", re.DOTALL)
COLUMNS = ("data", "train rows", "`add_norm`", "runs", "figure", "loss of the last 50 steps")
RUN_COLUMNS = ("result", "data", "rows", "`add_norm`", "epochs", "figures", "minutes", "tokens/s", "MB", "padding")
# what a result has of a guess that needs no model: what it is, and how many of its figures are shown
BASELINES = {
    "copied_source": ("copying the source", 1),
    "mean_boxes": ("the mean boxes", 2),
    "mean_frame": ("the mean frame", 1),
    "commonest_class": ("the commonest class everywhere", 2),
}
# what an evaluation says beside its figures
BESIDE = ("step", "epoch", "loss")


def load_results(recipe: str = "") -> dict[str, dict]:
    """The result JSON of every single run (of one script), by the file's name and in the order of these."""
    files = sorted((ROOT / "recipes" / "results").glob("*.json"))
    results = {file.stem: json.loads(file.read_text()) for file in files}
    return {name: result for name, result in results.items() if "reload" in result and recipe in result["recipe"]}


def spread(values: list[float], digits: int) -> str:
    """Mean, and the smallest and largest where there are several."""
    text = f"{statistics.mean(values):.{digits}f}"
    return text if len(values) == 1 else f"{text} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def figures(result: dict) -> dict[str, float]:
    """What the last evaluation measured; the first is the one that the task is judged by."""
    return {name: value for name, value in result["metrics"].items() if name not in BESIDE}


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


def data_of(config: dict) -> str:
    """The name of the data: the folder of the file, or that on the Hub."""
    file = config["train_file"]
    return Path(file).parent.name if file else config["dataset"]


def _markdown(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [columns, ("---",) * len(columns), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def table(results: list[dict]) -> str:
    """A row per data, rows and scheme, over its seeds, as markdown; the stock scheme is the first."""
    groups = defaultdict(list)
    for result in results:
        config = result["config"]
        groups[data_of(config), result["data"]["train"]["rows"], scheme_of(config)].append(result)
    rows = []
    for (data, count, scheme), runs in sorted(
        groups.items(), key=lambda item: (*item[0][:2], item[0][2] not in ("`stock`", "`post_ln`"), item[0][2])
    ):
        name = next(iter(figures(runs[0])))
        figure = f"{name} {spread([run['metrics'][name] for run in runs], 3)}"
        loss = spread([statistics.mean(run["loss_history"][-50:]) for run in runs], 3)
        rows.append((data, f"{count:,}", scheme, str(len(runs)), figure, loss))
    return _markdown(COLUMNS, rows)


def all_runs(results: dict[str, dict]) -> str:
    """A row per run, as markdown."""
    rows = []
    for name, result in sorted(results.items(), key=lambda item: (item[1]["recipe"], item[0])):
        config, train = result["config"], result["data"]["train"]
        measured = ", ".join(f"{figure} {value:.4g}" for figure, value in figures(result).items())
        for entry, (what, count) in BASELINES.items():
            if guessed := result.get(entry):
                shown = [name for name in guessed if isinstance(guessed[name], float)][:count]
                measured += f" ({what}: " + ", ".join(f"{name} {guessed[name]:.4g}" for name in shown) + ")"
        rows.append(
            (
                f"[{name}](results/{name}.json)",
                data_of(config),
                f"{train['rows']:,}",
                scheme_of(config),
                f"{result['metrics']['epoch']:.3g}",
                measured,
                f"{result['train_seconds'] / 60:.1f}",
                f"{result['tokens_per_second']:,.0f}",
                f"{result['peak_memory_mb']:,.0f}",
                f"{100 * result['padding_share']:.0f}%",
            )
        )
    return _markdown(RUN_COLUMNS, rows)


def tables() -> dict[Path, str]:
    """The table of each page."""
    return {SCHEMES: table([*load_results("finetune_text").values()]), ALL_RUNS: all_runs(load_results())}


def main() -> None:
    for page, text in tables().items():
        old = page.read_text()
        new = BLOCK.sub(lambda block, text=text: block[1] + text + block[2], old)
        if "--check" not in sys.argv:
            write_whole(page, new)
        elif new != old:
            sys.exit(f"{page.name}'s table is not the one of recipes/results: run python recipes/results_table.py")


if __name__ == "__main__":
    main()
