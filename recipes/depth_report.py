"""The results in docs/depth.md, and their figure, from the two results of `depth.py`.

python recipes/depth_report.py          # writes both anew
python recipes/depth_report.py --check  # says whether the page's part is that of the files
"""

import io
import json
import re
import sys
from pathlib import Path

import matplotlib
from common.depth_claims import CLAIMS, NotRun, Study
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from results_table import ROOT, spread

from hf_addnorm.models.base.whole_file import whole_file, write_whole


PAGE = ROOT / "docs" / "depth.md"
RESULT = ROOT / "recipes" / "results" / "depth.json"
HIGH_RATE = RESULT.with_name("depth_high_rate.json")
FIGURE = RESULT.with_suffix(".png")
BLOCK = re.compile(r"(<!-- depth:.*?-->\n).*?(<!-- end depth -->)", re.DOTALL)
# Okabe and Ito's colours, which the colour-blind tell apart; brown for their yellow, which is too pale for a line.
STYLES = {
    "post_ln": ("#000000", "-"),
    "post_ln_no_warmup": ("#000000", (0, (1, 1))),
    "pre_ln": ("#0072B2", "-"),
    "deepnorm": ("#D55E00", "-"),
    "sub_ln": ("#56B4E9", (0, (5, 4))),
    "rezero": ("#CC79A7", "-"),
    "layer_scale": ("#CC79A7", (0, (5, 4))),
    "residual": ("#8C6D31", "-"),
    "hyper_connections": ("#009E73", (0, (5, 4))),
}
# Fewer steps than these are not enough for that, whatever the scheme.
FEW_STEPS = 50


def loss_cell(study: Study, scheme: str, depth: int) -> str:
    """The loss over the seeds, and how many of them learned, if not all."""
    try:
        learned, count = study.learned(scheme, depth), len(study.finished(scheme, depth))
    except NotRun:
        return "**broke off**" if study.runs[scheme, depth] else "not run"
    text = spread(study.losses(scheme, depth), 2).replace("inf", "not finite")
    if learned == count or study.depths[depth]["steps"] < FEW_STEPS:
        return text
    return f"{text} **{'fails' if learned == 0 else f'{count - learned} of {count} fail'}**"


def loss_table(study: Study) -> list[str]:
    """A row per scheme, a column per depth."""
    heads = [f"{depth:,} layers, {runs['steps']} steps" for depth, runs in study.depths.items()]
    lines = [f"| scheme | {' | '.join(heads)} |", "|" + "---|" * (len(heads) + 1)]
    for scheme in study.config["schemes"]:
        lines.append(f"| `{scheme}` | {' | '.join(loss_cell(study, scheme, depth) for depth in study.depths)} |")
    return lines


def claims_table(study: Study) -> list[str]:
    """A row per claim."""
    lines = ["| what the papers say | source | what came out | |", "|---|---|---|---|"]
    for claim in CLAIMS:
        try:
            text, agrees = claim.measure(study)
            lines.append(
                f"| {claim.text} | {claim.source} | {text} | {'confirmed' if agrees else '**not confirmed**'} |"
            )
        except NotRun:
            lines.append(f"| {claim.text} | {claim.source} | | not run |")
    return lines


def part(result: dict, high: dict) -> str:
    """The page's part, from the study and the one at a higher rate, as markdown."""
    study, other = Study(result), Study(high)
    guess = f"Loss at the end, mean (smallest to largest) over the seeds; {study.unigram:.2f} is that of the guess:"
    lines = [guess, "", *loss_table(study), "", *claims_table(study), ""]
    lines += [f"The same at a peak rate of {other.config['learning_rate']:g}:", "", *loss_table(other)]
    for name, missing in (("", study.missing), (" at the higher rate", other.missing)):
        if missing:
            lines += ["", f"Not run so far{name}: {', '.join(missing)}."]
    return "\n".join(lines) + "\n"


# A row of the figure: its name, what is below, the scale, and which of the curves over the layers, if it is one.
ROWS = (
    ("loss", "step", "linear", None),
    ("gradient norm at the start", "layer", "log", ("start", "gradient")),
    ("gradient norm after training", "layer", "log", ("end", "gradient")),
    ("rms of the stream at the start", "layer", "log", ("start", "rms")),
    ("relative change by a layer\nafter training", "layer", "log", ("end", "change")),
)


def draw_curves(axis: Axes, study: Study, depth: int, curve: tuple[str, str] | None) -> None:
    """A line for each scheme that was run: its loss over the steps, or a curve over its layers."""
    for scheme in study.config["schemes"]:
        try:
            found = study.finished(scheme, depth)[0]
        except NotRun:
            continue
        xs = found["layers"] if curve else found["loss_steps"]
        ys = study.layers(scheme, depth, *curve) if curve else study.mean_losses(scheme, depth)
        color, line = STYLES.get(scheme, (None, "-"))
        axis.plot(xs[: len(ys)], ys, color=color, linestyle=line, linewidth=1.4, label=scheme)


@matplotlib.rc_context({"font.size": 12})
def draw(result: dict, path: Path) -> None:
    """The figure: a column per depth; the loss over the steps, and four curves over the layers."""
    study = Study(result)
    figure = Figure(figsize=(3.6 * len(study.depths), 14))
    axes = figure.subplots(len(ROWS), len(study.depths), squeeze=False)
    for column, (depth, runs) in enumerate(study.depths.items()):
        for row, (name, below, scale, curve) in enumerate(ROWS):
            axis = axes[row, column]
            if curve and column > 0:
                axis.sharey(axes[row, 0])
            draw_curves(axis, study, depth, curve)
            axis.set(yscale=scale, xlabel=below, ylabel=name if column == 0 else None)
            axis.xaxis.set_major_locator(ticker.MaxNLocator(5, integer=True))
            axis.tick_params(labelleft=column == 0 or not curve)
            axis.grid(alpha=0.25)
        top = axes[0, column]
        top.set_title(f"{depth:,} layers, {runs['steps']} steps")
        top.axhline(study.unigram, color="grey", linewidth=0.8, linestyle=(0, (1, 3)))
        if runs["steps"] >= FEW_STEPS:
            # the first steps, in which every scheme learns how frequent each byte is, are cut off
            top.set_ylim(top=study.unigram + 0.8)
    # where less than this is left, nothing is
    axes[2, 0].set_ylim(bottom=1e-10)
    for axis in axes[1:, :].flat:
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter(ticker.NullFormatter())
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=5, frameon=False, handlelength=3)
    figure.tight_layout(rect=(0, 0.04, 1, 1))
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=100)
    # few colours make a third of the file
    with whole_file(path) as partial:
        Image.open(drawn).convert("RGB").quantize(128).save(partial, "png", optimize=True)


def main() -> None:
    result, high = (json.loads(path.read_text()) for path in (RESULT, HIGH_RATE))
    text = PAGE.read_text()
    new = BLOCK.sub(lambda block: block[1] + part(result, high) + block[2], text)
    if "--check" not in sys.argv:
        write_whole(PAGE, new)
        draw(result, FIGURE)
    elif new != text:
        sys.exit("docs/depth.md is not what the results say: run python recipes/depth_report.py")


if __name__ == "__main__":
    main()
