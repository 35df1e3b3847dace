"""`hf-addnorm show`: a scheme, drawn, explained and counted."""

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text
from transformers import PreTrainedConfig

from ..hub.card import count_parameters, read_config
from ..hub.cost import Cost, cost
from ..hub.description import Description, as_ours, described, families
from ..hub.failures import failing_as
from ..models.base.protocols import JsonValue
from ..models.base.registry import unknown
from ..models.spec.presets import PRESETS
from .naming import refuse_no_model, refuse_no_name
from .report import Line, Prose, Report, table


def show(
    what: Annotated[str, typer.Argument(metavar="PRESET|FOLDER|REPO", show_default=False)],
    family: Annotated[
        str, typer.Option(help="The family that a preset is counted in, with its default sizes.")
    ] = "bert",
    revision: Annotated[str | None, typer.Option(help="Of a repository.")] = None,
) -> Report:
    """Describe an add & norm: drawing, formula, source, where its norms sit, and its cost compared with stock."""
    config, weights, of = _config(what, family, revision)
    parts = described(config)
    counted = cost(config) if hasattr(config, "auto_classes") else None
    lines: list[Line] = []
    for part in parts:
        lines += _said(part)
    if weights is not None:
        lines.append(f"weights in the folder: {weights:,}")
    if counted is not None:
        sizes = ", ".join(
            f"{key.removeprefix('num_').replace('_', ' ')} {size}" for key, size in counted.sizes.items()
        )
        title = f"{of} ({sizes}), base model"
        lines.append(
            table("counted", "here", "stock", "difference", rows=counted.rows(), title=title, numbers=(1, 2, 3))
        )
    return Report({"what": what, "parts": [_data(part) for part in parts], "cost": _numbers(counted)}, lines)


def _config(what: str, family: str, revision: str | None) -> tuple[PreTrainedConfig, int | None, str]:
    """The config of a preset, a folder or a repository; the number of weights in a folder; what it is called."""
    if what in PRESETS:
        if family not in families():
            raise ValueError(unknown("family", family, families()))
        return families()[family](add_norm=what), None, family
    if Path(what).is_dir():
        refuse_no_model(Path(what))
        config = as_ours(read_config(what))
        return config, count_parameters(Path(what)), config.model_type
    refuse_no_name(what)
    with failing_as(f"{what} cannot be read"):
        config = as_ours(read_config(what, revision=revision))
    return config, None, config.model_type


def _said(part: Description) -> list[Line]:
    lines: list[Line] = [Text(part.title.upper(), style="bold")] if part.title else []
    formula = [Prose(line) for line in _indented(part.formula)]
    lines += [Prose(f"add_norm = {part.add_norm}"), "", *_indented(part.flow), "", *formula, ""]
    lines.append(
        Prose(f"  x is the stream, F attention or feed-forward, N {part.norm}, l the layer from 1, L the depth")
    )
    lines += [Prose(f"  {kind}: {said.replace('`', '')}") for kind, said in part.explained.items()]
    lines += [Prose(f"  note: {part.note}")] if part.note and not part.changes else []
    lines += [Prose(f"  unusual: {warning.replace('`', '')}", style="yellow") for warning in part.warnings]
    return [
        *lines,
        *(Prose(f"  source: {source}") for source in part.sources),
        table("place", "norm", rows=part.places()),
    ]


def _indented(text: str) -> list[str]:
    return [f"  {line}" for line in text.splitlines()]


def _data(part: Description) -> dict[str, JsonValue]:
    keys = ("title", "formula", "flow", "norms", "note", "warnings", "sources", "bibtex")
    said = {key: getattr(part, key) for key in keys}
    return {"add_norm": part.spec.to_dict(), **said, "places": [list(row) for row in part.places()]}


def _numbers(counted: Cost | None) -> dict[str, JsonValue] | None:
    return None if counted is None else dict(vars(counted))
