"""`hf-addnorm diagnose`: what add & norm does in a trained model, from the terminal."""

from pathlib import Path
from typing import Annotated

import typer

from ..diagnosis import diagnose as diagnose_model
from ..diagnosis import inputs
from ..models.spec.presets import PRESETS
from .naming import refuse_no_name
from .report import Line, Prose, Report


def diagnose(
    model: Annotated[str, typer.Argument(metavar="FOLDER|REPO", show_default=False)],
    data: Annotated[Path, typer.Option(help="A text file, one text a line.", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="Where the page goes: one HTML file.")] = None,
    png: Annotated[Path | None, typer.Option(help="Where all pictures go as one PNG.")] = None,
    compare: Annotated[
        str | None, typer.Option(help="A second model, or a preset that the first one's weights are loaded into.")
    ] = None,
    max_texts: Annotated[int, typer.Option(min=1, help="How many texts are read.")] = 256,
    max_length: Annotated[int, typer.Option(min=2, help="Longer texts are cut to this many tokens.")] = 128,
    batch_size: Annotated[int, typer.Option(min=1, help="Texts in one forward.")] = 16,
) -> Report:
    """Look at what add & norm does in a model that reads text: figures by layer, and what is unusual."""
    for path in (out, png):
        if path is not None:
            inputs.refuse_unwritable(path)
    texts = inputs.read_texts(data, max_texts)
    for what in filter(None, (model, compare)):
        if what not in PRESETS and not Path(what).is_dir():
            refuse_no_name(what)
    loaded = inputs.load(model, max_length)
    batches = loaded.batches(texts, batch_size)
    if compare is None:
        found = diagnose_model(loaded.model, batches, names=(loaded.name, ""))
    else:
        second = inputs.load_compared(compare, model, loaded)
        found = diagnose_model(loaded.model, batches, second.model, inputs.names(loaded, second))
    said = sorted(found.findings(), key=lambda finding: finding.is_change)
    lines: list[Line] = [Prose(f"{'changed' if finding.is_change else 'unusual'}: {finding}") for finding in said]
    lines += [Prose(note) for note in found.notes]
    for path, save in ((out, found.save_html), (png, found.save_png)):
        if path is not None:
            save(path)
            lines.append(f"wrote {path}")
    return Report(found.to_dict(), lines)
