"""What `pre_ln` does to a model trained with `post_ln`, as it loads and converted: the example of docs/diagnosing.md.

    python benchmarks/diagnosed_minilm.py FOLDER   # measures, draws the picture and writes the page's table
    python benchmarks/diagnosed_minilm.py          # picture and table anew, from the results
    python benchmarks/diagnosed_minilm.py --check  # says whether the table is that of the results

FOLDER holds all-MiniLM-L6-v2. It is calibrated on first sentences of docstrings of the standard library's train
modules of `builtin:docstring_match`, and looked at on those of its validation modules.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, AutoTokenizer


ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "recipes"))

from common import docstring_match
from common.machine import cpu_bf16, cpu_name
from performance_page import write_or_check

from hf_addnorm import AddNormBertModel, convert, diagnose
from hf_addnorm.models.base.whole_file import write_whole


PAGE = ROOT / "docs" / "diagnosing.md"
PICTURE = PAGE.with_suffix(".png")
RESULTS = Path(__file__).parent / "results" / "diagnosed_minilm.json"
BEGIN, END = "<!-- diagnosed_minilm -->\n", "<!-- end -->"
SOURCE, LOADED, SCALED, CONVERTED = "post_ln", "pre_ln as it loads", "the same, pre_scale 0.48", "pre_ln converted"
# 0.48 is the RMS of the stream in front of the first layer
LOADS = {LOADED: "pre_ln", SCALED: {"preset": "pre_ln", "pre_scale": 0.48}}
CALIBRATED_ON, LOOKED_AT = 2048, 256
# what is in the table and in the picture: a measure, and of which sublayer
FIGURES = {
    "largest channel's share of the stream, before attention": ("largest_channel", "attention"),
    "the same, before the feed-forward": ("largest_channel", "feed_forward"),
    "RMS of the stream, before attention": ("stream_rms", "attention"),
    "entropy of attention": ("attention_entropy", ""),
    "cosine to the stream of post_ln": ("stream_similarity", ""),
}
# in the table alone
UNDRAWN = ("the same, before the feed-forward",)


def sentences(split: str, count: int) -> list[str]:
    """Different first sentences, in the order of the data set."""
    return list(dict.fromkeys(docstring_match.load()[split]["sentence"]))[:count]


def measure(folder: str) -> dict[str, Any]:
    """Each figure's values by layer, of the source and of all ways to `pre_ln`."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    eager: dict[str, Any] = {"attn_implementation": "eager", "dtype": torch.float32}
    source = AutoModel.from_pretrained(folder, **eager).eval()
    models = {name: AddNormBertModel.from_pretrained(folder, add_norm=spec, **eager) for name, spec in LOADS.items()}
    texts = sentences("train", CALIBRATED_ON)
    models[CONVERTED], report = convert(source, add_norm="pre_ln", calibration=texts, tokenizer=tokenizer)
    models[CONVERTED].set_attn_implementation("eager")
    texts = sentences("validation", LOOKED_AT)
    batches = [
        tokenizer(texts[start : start + 32], padding=True, return_tensors="pt") for start in range(0, len(texts), 32)
    ]
    values: dict[str, dict[str, list[float]]] = {title: {} for title in FIGURES}
    for name, model in models.items():
        found = diagnose(source, batches, model, names=(SOURCE, name))
        for title, (key, part) in FIGURES.items():
            for row in found.of(key):
                if row.part == part and row.layer is not None and row.model in (SOURCE, name, f"{SOURCE} and {name}"):
                    of = SOURCE if row.model == SOURCE else name
                    series = values[title].setdefault(of, [])
                    series[row.layer :] = [round(row.value, 4)]
    return {
        "machine": {"cpu": cpu_name(), "cpu_bf16": cpu_bf16()},
        "relative_error": {
            LOADED: round(report.as_loaded.relative_error, 4),
            CONVERTED: round(report.held_out.relative_error, 4),
        },
        "figures": values,
    }


def draw(figures: dict[str, dict[str, list[float]]]) -> None:
    """One chart for each figure, a line for each model."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    chart, axes = pyplot.subplots(2, 2, figsize=(10.7, 6.4), layout="constrained")
    colours = {
        SOURCE: ("#0072b2", "o"),
        LOADED: ("#d55e00", "s"),
        SCALED: ("#cc79a7", "D"),
        CONVERTED: ("#009e73", "^"),
    }
    drawn = {title: series for title, series in figures.items() if title not in UNDRAWN}
    for axis, (title, series) in zip(axes.flat, drawn.items(), strict=True):
        for name, values in series.items():
            colour, marker = colours[name]
            axis.plot(values, color=colour, marker=marker, label=name)
        axis.set_title(title, loc="left", fontsize=11)
        axis.set_xlabel("layer" if "cosine" not in title else "before layer; 6: what the model hands out")
        axis.set_ylim(bottom=0)
        axis.grid(axis="y", color="#d0d7de")
        axis.spines[["top", "right"]].set_visible(False)
    chart.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside upper left", ncols=4, frameon=False)
    chart.savefig(PICTURE, dpi=100)


def table(found: dict[str, Any]) -> str:
    """The figures of every model by layer."""
    depth = max(len(values) for series in found["figures"].values() for values in series.values())
    lines = [
        "| figure | model | " + " | ".join(f"{layer}" for layer in range(depth)) + " |",
        "| --- | --- " + "| --- " * depth + "|",
    ]
    for title, series in found["figures"].items():
        for index, (name, values) in enumerate(series.items()):
            cells = [f"{value:.2f}" for value in values] + [""] * (depth - len(values))
            lines.append(f"| {'' if index else title} | {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def made(page: str) -> str:
    """The page with the table of the results."""
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n{table(json.loads(RESULTS.read_text()))}\n{END}{rest.split(END, 1)[1]}"


def main() -> int:
    folders = [argument for argument in sys.argv[1:] if not argument.startswith("--")]
    if folders:
        write_whole(RESULTS, json.dumps(measure(folders[0]), indent=1) + "\n")
    if "--check" not in sys.argv:
        draw(json.loads(RESULTS.read_text())["figures"])
    return write_or_check(PAGE, made)


if __name__ == "__main__":
    sys.exit(main())
