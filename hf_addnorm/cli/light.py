"""The commands of `hf-addnorm` that need no model: neither torch nor Transformers is imported for them."""

from typing import Annotated

import typer

from ..explore.serving import serve
from ..launch import launch_file, launch_files
from ..models.spec.presets import PRESETS
from .report import Report, table


def presets() -> Report:
    """List every preset with its formula and its source."""
    rows = [(name, preset.formula, preset.source) for name, preset in PRESETS.items()]
    keys = ("formula", "flow", "source", "note", "spec")
    data = {name: {key: getattr(preset, key) for key in keys} for name, preset in PRESETS.items()}
    return Report(data, [table("preset", "one sublayer", "source", rows=rows)])


def launch(
    name: Annotated[str | None, typer.Argument(help="Of a launch file; without, they are listed.")] = None,
) -> Report:
    """Print the path of a launch file, for `accelerate launch --config_file`."""
    if name is None:
        return Report(launch_files(), [table("launch file", "for", rows=list(launch_files().items()))])
    path = str(launch_file(name))
    return Report({"path": path}, [path])


def explore(
    port: Annotated[int, typer.Option(min=1, max=65535, help="On this machine.")] = 8501,
    show: Annotated[bool, typer.Option("--open/--no-open", help="Open a browser.")] = True,
) -> Report:
    """Try schemes on a page: drawing, cost, warnings, a training of a minute. It runs until it is interrupted."""
    code = serve(port, show)
    return Report({"port": port, "exit_code": code}, [], ok=code == 0)
