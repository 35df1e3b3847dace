"""The page of a diagnosis: one HTML file that asks nothing of a network and runs no script."""

import importlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .charts import STYLE_VARIABLES, charts, layer_name, svg
from .findings import Row, number
from .measures import MEASURES, Measure
from .result import Diagnosis


_TEMPLATE = Path(__file__).with_name("page.html.jinja")


@dataclass(frozen=True)
class Section:
    """One figure on the page.

    Args:
        key (`str`): of the figure.
        measure (`Measure`): what it is.
        findings (`list[str]`): what is unusual in it.
        pictures (`list[str]`): as SVG; none where the figure says nothing.
        heads, lines (`list`): its table.
    """

    key: str
    measure: Measure
    findings: Sequence[str]
    pictures: Sequence[str]
    heads: Sequence[str]
    lines: Sequence[Sequence[str]]


def page(diagnosis: Diagnosis) -> str:
    """The page as HTML.

    Raises:
        ImportError: if a package that it is made with is not installed.
    """
    template = _environment().from_string(_TEMPLATE.read_text())
    text: str = template.render(
        diagnosis=diagnosis,
        unusual=[finding.text for finding in diagnosis.findings() if not finding.is_change],
        changes=[finding.text for finding in diagnosis.findings() if finding.is_change],
        sections=[_section(diagnosis, key) for key in diagnosis.measures],
        schemes=[json.dumps(model.add_norm) for model in diagnosis.models],
        colours=STYLE_VARIABLES,
    )
    return text


def _environment():  # type: ignore[no-untyped-def]
    try:
        jinja2 = importlib.import_module("jinja2")
    except ModuleNotFoundError as error:
        if error.name != "jinja2":
            raise
        raise ImportError("a page needs jinja2, which is not installed: pip install 'hf_addnorm[diagnose]'") from None
    return jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)


def _section(diagnosis: Diagnosis, key: str) -> Section:
    found = [finding.text for finding in diagnosis.findings() if finding.measure == key]
    drawn = [svg(chart) for chart in charts(diagnosis, key)] if key in diagnosis.drawn else []
    heads, lines = _table(diagnosis, key)
    return Section(key, MEASURES[key], found, drawn, heads, lines)


def _table(diagnosis: Diagnosis, key: str) -> tuple[list[str], list[list[str]]]:
    """A line for each place, a column for each model, and one for the difference of two."""
    rows = diagnosis.of(key)
    models = list(dict.fromkeys(row.model for row in rows))
    places: dict[tuple[int | None, str], dict[str, Row]] = {}
    for row in rows:
        places.setdefault((row.layer, row.part), {})[row.model] = row
    differs = len(models) == 2
    heads = ["layer", "part", *models, *([f"{models[1]} minus {models[0]}"] if differs else [])]
    lines = []
    for by_model in places.values():
        row = next(iter(by_model.values()))
        values = [number(by_model[name].value) if name in by_model else "" for name in models]
        if differs:
            both = [by_model[name].value for name in models if name in by_model]
            values.append(number(both[1] - both[0]) if len(both) == 2 else "")
        part = row.part.replace("_", "-") if row.layer is not None else "outside the layers"
        lines.append([layer_name(row), part or "whole layer", *values])
    return heads, lines
