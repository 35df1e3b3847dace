"""`hf-addnorm convert`: another add & norm in a trained model, from the terminal."""

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress, TaskID

from ..conversion import ConversionReport
from ..conversion import convert as run
from ..conversion.source import load_tokenizer
from ..hub.card import write_card
from ..models.base.protocols import JsonValue
from .report import Line, Report, console


def convert(
    folder: Annotated[Path, typer.Argument(help="Where the model was saved.", show_default=False)],
    add_norm: Annotated[str, typer.Option(help="A preset's name, or a spec in JSON.", show_default=False)],
    calibration: Annotated[Path, typer.Option(help="A file of texts, one in a line.", show_default=False)],
    out: Annotated[Path, typer.Option(help="A new folder for the converted model.", show_default=False)],
    method: Annotated[str, typer.Option(help="auto, exact, calibrated, norms or mapped.")] = "auto",
    max_length: Annotated[int, typer.Option(help="Tokens after which a text is cut.")] = 128,
    threshold: Annotated[float, typer.Option(help="An agreement below this is a problem.")] = 0.9,
) -> Report:
    """Give a trained model another add & norm without labels, and write it with a report into a new folder."""
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} is not empty: --out is to be a new folder.")
    if not calibration.is_file():
        raise FileNotFoundError(f"{calibration} is no file of texts.")
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} holds no model: there is no config.json.")
    texts = [line for line in calibration.read_text().splitlines() if line.strip()]
    with Progress(console=console(sys.stderr), transient=True) as bar:
        shown = _Bar(bar)
        model, report = run(
            str(folder),
            add_norm=_spec(add_norm),
            calibration=texts,
            method=method,
            max_length=max_length,
            threshold=threshold,
            progress=shown,
        )
    model.save_pretrained(out)
    if (tokenizer := load_tokenizer(str(folder))) is not None:
        tokenizer.save_pretrained(out)
    write_files(out, report, str(folder))
    agreement = report.held_out.agreement
    lines: list[Line] = [str(report), f"wrote {out}"]
    if report.method == "calibrated":
        lines.append("recipes/convert.py takes it further by distillation, without labels: docs/converting.md")
    return Report(report.to_dict(), lines, ok=agreement is None or agreement >= threshold)


class _Bar:
    """A bar that begins when the fit begins."""

    def __init__(self, bar: Progress):
        self.bar = bar
        self.task: TaskID | None = None

    def __call__(self, title: str, done: int, total: int) -> None:
        if self.task is None:
            self.task = self.bar.add_task(title, total=total)
        self.bar.update(self.task, completed=done, description=title)


def _spec(text: str) -> JsonValue:
    """A preset's name, or what the JSON says."""
    if not text.lstrip().startswith("{"):
        return text
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"--add-norm is no JSON: {error}.") from error


def write_files(folder: Path, report: ConversionReport, base_model: str) -> None:
    """Write the report beside the converted model: JSON, a section of its card, a figure if one can be drawn."""
    report.save(folder / "conversion.json")
    path = write_card(folder, base_model=None if Path(base_model).exists() else base_model)
    path.write_text(f"{path.read_text().rstrip()}\n\n{report.card_section()}")
    if find_spec("matplotlib") is not None:
        report.plot(folder / "conversion.png")
