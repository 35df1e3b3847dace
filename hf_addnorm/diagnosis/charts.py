"""Pictures of a diagnosis: Vega-Lite charts, drawn without a browser and without a network by vl-convert."""

import importlib
import re
from collections.abc import Sequence
from types import ModuleType

from ..models.base.protocols import JsonValue
from .findings import Row, number
from .measures import MEASURES, Measure
from .result import Diagnosis


# Colours of the light page, and the variables of the page's style that take their place there. The series are those
# of Okabe and Ito, which stay apart for colour-blind readers.
_INK, _FAINT, _PAPER = "#1f2328", "#d0d7de", "#ffffff"
_SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#6a5acd", "#8b4513")
_VARIABLES = {_INK: "--ink", _FAINT: "--faint", _PAPER: "--paper"} | {
    colour: f"--series-{index}" for index, colour in enumerate(_SERIES)
}
_SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right", "triangle-left")
# of a chart without axes, in pixels: with them it fits a phone of 390 pixels
WIDTH, HEIGHT = 272, 170
# its numbers have the same room in all charts, so that those of a figure stand in line
_AXIS = {"tickCount": 5, "minExtent": 40, "maxExtent": 40}

Spec = dict[str, JsonValue]


def converter() -> ModuleType:
    """The package that draws.

    Raises:
        ImportError: if it is not installed.
    """
    try:
        return importlib.import_module("vl_convert")
    except ModuleNotFoundError as error:
        if error.name != "vl_convert":
            raise
        raise ImportError(
            "pictures need vl-convert-python, which is not installed: pip install 'hf_addnorm[diagnose]'"
        ) from None


def part_name(row: Row) -> str:
    """What a line in a chart is called."""
    return row.part.replace("_", "-") if row.layer is not None else "outside the layers"


def layer_name(row: Row) -> str:
    """Where a point stands on the axis of layers."""
    return row.part if row.layer is None else str(row.layer)


def titles(diagnosis: Diagnosis, key: str) -> list[str]:
    """The charts of a figure: one for each model, and the difference of two."""
    rows = diagnosis.of(key)
    models = list(dict.fromkeys(row.model for row in rows))
    if len(models) < 2 or all(row.layer is None for row in _differences(diagnosis, rows)):
        return models
    return [*models, *(f"{second} minus {first}" for first, second in diagnosis.pairs)]


def charts(diagnosis: Diagnosis, key: str) -> list[Spec]:
    """A chart for each of the `titles`; those of models have the same axes."""
    measure, rows = MEASURES[key], diagnosis.of(key)
    layers = list(dict.fromkeys(layer_name(row) for row in rows))
    parts = list(dict.fromkeys(part_name(row) for row in rows))
    made = []
    for title in titles(diagnosis, key):
        of_model = [row for row in rows if row.model == title]
        if of_model:
            made.append(_chart(title, measure, of_model, layers, parts, domain=_domain(measure, rows)))
        else:
            made.append(_chart(title, measure, _differences(diagnosis, rows), layers, parts, domain=None))
    return made


def _differences(diagnosis: Diagnosis, rows: Sequence[Row]) -> list[Row]:
    first, second = diagnosis.pairs[0]
    before = {(row.layer, row.part): row.value for row in rows if row.model == first}
    return [
        Row(row.model, row.measure, row.layer, row.part, row.value - before[row.layer, row.part])
        for row in rows
        if row.model == second and (row.layer, row.part) in before
    ]


def _domain(measure: Measure, rows: Sequence[Row]) -> list[float]:
    values = [row.value for row in rows if not measure.log or row.value > 0]
    low, high = min(values, default=1.0), max(values, default=1.0)
    if measure.log:
        return [low / 1.3, high * 1.3]
    # a level line stays in the middle
    gap = 0.08 * (high - low) or 0.1 * abs(high) or 0.1
    return [low - gap, high + gap]


def _chart(
    title: str, measure: Measure, rows: Sequence[Row], layers: list[str], parts: list[str], domain: list[float] | None
) -> Spec:
    is_log = measure.log and domain is not None
    shown = [row for row in rows if not is_log or row.value > 0]
    points = [
        {"layer": layer_name(row), "part": part_name(row) or "layer", "value": row.value, "line": row.part}
        for row in shown
    ]
    named = [part or "layer" for part in parts]
    scale: Spec = {"type": "log" if is_log else "linear", "zero": False, "nice": domain is None}
    what = "difference" if domain is None else measure.title
    return {
        "width": WIDTH,
        "height": HEIGHT,
        "title": {"text": title, "anchor": "start", "limit": WIDTH},
        "description": _described(title, measure, shown),
        "data": {"values": points},
        "mark": {"type": "line", "point": {"size": 36, "filled": True}, "strokeWidth": 1.75},
        "encoding": {
            "x": _along_layers(layers),
            "y": {
                "field": "value",
                "type": "quantitative",
                "title": _wrapped(measure.axis if domain is not None else _difference_axis(measure)),
                "scale": scale | ({"domain": domain} if domain is not None else {}),
                "axis": _AXIS | ({"format": "~s"} if _is_wide(shown) else {}),
            },
            # norms outside of the layers stand alone
            "detail": {"field": "line", "type": "nominal"},
            "color": _by_part(named, _SERIES),
            "shape": _by_part(named, _SHAPES),
            "description": {"field": "value", "type": "quantitative", "title": what},
        },
    }


def _along_layers(layers: list[str]) -> Spec:
    axis = {"labelAngle": 0, "labelOverlap": True}
    return {
        "field": "layer",
        "type": "ordinal",
        "sort": layers,
        "scale": {"domain": layers},
        "title": "layer",
        "axis": axis,
    }


def _by_part(named: Sequence[str], values: Sequence[str]) -> Spec:
    """A colour or a shape for each line."""
    legend = {"orient": "bottom", "title": None, "columns": 2, "offset": 6, "columnPadding": 18}
    return {
        "field": "part",
        "type": "nominal",
        "sort": list(named),
        "scale": {"domain": list(named), "range": _repeated(values, len(named))},
        "legend": legend if len(named) > 1 else None,
    }


def _repeated(values: Sequence[str], count: int) -> list[str]:
    return [values[index % len(values)] for index in range(count)]


def _is_wide(rows: Sequence[Row]) -> bool:
    return any(abs(row.value) >= 10_000 for row in rows)


def _difference_axis(measure: Measure) -> str:
    return "difference" if measure.unit == "1" else f"difference ({measure.unit})"


def _wrapped(text: str) -> list[str] | str:
    """An axis title in two lines, where one would be longer than the axis."""
    if len(text) <= 30:
        return text
    words = text.split()
    cut = min(range(1, len(words)), key=lambda n: abs(len(" ".join(words[:n])) - len(text) / 2))
    return [" ".join(words[:cut]), " ".join(words[cut:])]


def _described(title: str, measure: Measure, rows: Sequence[Row]) -> str:
    """A chart in words, for a screen reader."""
    said = []
    for part in dict.fromkeys(part_name(row) for row in rows):
        values = [row for row in rows if part_name(row) == part]
        first, last = values[0], values[-1]
        low, high = min(values, key=lambda row: row.value), max(values, key=lambda row: row.value)
        said.append(
            f"{part or 'by layer'}: {number(first.value)} at {layer_name(first)}, {number(last.value)} at "
            f"{layer_name(last)}, least {number(low.value)} at {layer_name(low)}, most {number(high.value)} at "
            f"{layer_name(high)}"
        )
    return f"{measure.axis}, {title}. " + "; ".join(said) + "."


def _config() -> Spec:
    text = {"labelColor": _INK, "titleColor": _INK, "labelFont": "sans-serif", "titleFont": "sans-serif"}
    return {
        "background": _PAPER,
        "font": "sans-serif",
        "view": {"stroke": None},
        "title": {"color": _INK, "fontSize": 13, "fontWeight": 600},
        "axis": {
            **text,
            "gridColor": _FAINT,
            "domainColor": _INK,
            "tickColor": _INK,
            "labelFontSize": 11,
            "titleFontSize": 11,
            "titleFontWeight": 400,
        },
        "axisX": {"grid": False},
        "legend": {**text, "labelFontSize": 11, "symbolStrokeWidth": 1.5},
    }


def svg(chart: Spec) -> str:
    """A chart as SVG, whose colours are the variables of the page around it."""
    drawn: str = converter().vegalite_to_svg({**chart, "config": _config()})
    for colour, variable in _VARIABLES.items():
        drawn = re.sub(f'"{colour}"', f'"var({variable})"', drawn, flags=re.IGNORECASE)
    # as large as the page allows, and read aloud as one picture with a name
    head, _, rest = drawn.partition(">")
    return f'{head} role="img" aria-label="{_attribute(chart["description"])}">{rest}'


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")


def png(diagnosis: Diagnosis) -> bytes:
    """All charts as one picture: a line for each figure."""
    measures = diagnosis.drawn
    columns = 1 if diagnosis.pairs else 3
    if diagnosis.pairs:
        lines = [{"hconcat": charts(diagnosis, key), "title": MEASURES[key].title} for key in measures]
    else:
        lines = [chart | {"title": MEASURES[key].title} for key in measures for chart in charts(diagnosis, key)]
    whole = {
        "columns": columns,
        "concat": lines,
        "config": _config(),
        "resolve": {"scale": {"color": "independent", "shape": "independent"}},
    }
    drawn: bytes = converter().vegalite_to_png(whole, scale=1)
    return drawn


STYLE_VARIABLES = {variable: colour for colour, variable in _VARIABLES.items()}
