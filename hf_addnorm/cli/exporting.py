"""`hf-addnorm export`: a model as a file for ONNX Runtime or OpenVINO, from the terminal."""

from pathlib import Path
from typing import Annotated

import typer

from ..exporting import ExportError
from ..exporting import export as run
from .report import Line, Report, table


def export(
    folder: Annotated[Path, typer.Argument(help="Where the model was saved.", show_default=False)],
    out: Annotated[Path, typer.Option(help="A new folder for the exported model.", show_default=False)],
    to: Annotated[str, typer.Option(help="onnx or openvino.")] = "onnx",
    int8: Annotated[bool, typer.Option("--int8", help="Quantise the Linear layers to 8 bits.")] = False,
    calibration: Annotated[
        Path | None,
        typer.Option(help="A file of texts, one in a line: int8 is fitted to a part, and tried on the rest."),
    ] = None,
    tolerance: Annotated[
        float | None, typer.Option(help="The largest relative error that is kept.", show_default="1e-3; int8: 0.25")
    ] = None,
) -> Report:
    """Export a model to ONNX Runtime or OpenVINO into a new folder, if it computes the same there."""
    if not folder.exists():
        raise FileNotFoundError(f"{folder} does not exist.")
    texts = None
    if calibration is not None:
        if not calibration.is_file():
            raise FileNotFoundError(f"{calibration} is no file of texts.")
        texts = [line for line in calibration.read_text().splitlines() if line.strip()]
    try:
        report = run(folder, out, to=to, int8=int8, calibration=texts, tolerance=tolerance)
    except ExportError as error:
        return Report({"error": str(error)}, [f"error: {error}"], ok=False)
    rows = [
        (" x ".join(map(str, tried.shape)), *(f"{error:.1e}" for error in tried.errors.values()))
        for tried in report.parity
    ]
    lines: list[Line] = [table("input", *report.outputs, rows=rows, title="relative error beside PyTorch")]
    lines.append(f"norms in a forward: {report.norms}; operations that are a whole norm there: {report.fused_norms}")
    lines.append(f"wrote {out}: {', '.join(report.files)}")
    return Report(report.to_dict(), lines)
