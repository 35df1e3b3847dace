"""`diagnose`, and what it gives."""

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

from transformers import PreTrainedModel

from ..hub.description import bias_left_to_model
from ..models.base.protocols import JsonValue
from ..models.base.whole_file import whole_file, write_whole
from .findings import Finding, Row, find
from .looking import Batch, Look, as_add_norm, compare_streams
from .measures import MEASURES, outliers
from .sums import Observation


# of the JSON
FORMAT = 1
# in which rows of one figure are drawn: before the layers, behind them
_OUTSIDE = {"embed": -1.0, "other": -0.5, "final": math.inf}


@dataclass(frozen=True)
class Diagnosed:
    """What was looked at.

    Args:
        name (`str`): what the model is called in the figures.
        model_class (`str`): its class.
        add_norm: its scheme, as the config has it.
        layers, tokens (`int`): how many layers it has, how many real tokens it read.
    """

    name: str
    model_class: str
    add_norm: JsonValue
    layers: int
    tokens: int


@dataclass(frozen=True, repr=False)
class Diagnosis:
    """The figures of one model, or of two on the same batches.

    Args:
        models (`list[Diagnosed]`): what was looked at.
        rows (`list[Row]`): every figure.
        outlier_channels (`list[dict]`): the outlier channels of the stream: model, layer, part, channel, and how many
            times the median channel's RMS each has.
        notes (`list[str]`): why figures are missing, in sentences.
    """

    models: Sequence[Diagnosed]
    rows: Sequence[Row]
    outlier_channels: Sequence[Mapping[str, JsonValue]] = ()
    notes: Sequence[str] = field(default_factory=list)

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """The names of the two models, where there are two."""
        names = [model.name for model in self.models]
        return [(names[0], names[1])] if len(names) == 2 else []

    @property
    def measures(self) -> list[str]:
        """The keys of the figures that were taken, in the order of `MEASURES`."""
        taken = {row.measure for row in self.rows}
        return [key for key in MEASURES if key in taken]

    @property
    def drawn(self) -> list[str]:
        """Those of them that say something: not all have the value of a plain model."""
        return [
            key
            for key in self.measures
            if any(
                MEASURES[key].idle is None or not math.isclose(row.value, MEASURES[key].idle or 0.0, abs_tol=1e-4)
                for row in self.rows
                if row.measure == key
            )
        ]

    def of(self, measure: str) -> list[Row]:
        """The rows of one figure, from the first layer to the last."""
        found = [row for row in self.rows if row.measure == measure]
        return sorted(found, key=lambda row: _along(row.layer, row.part))

    def findings(self) -> list[Finding]:
        """Sentences about what is unusual, and about what differs most; `str` of one is its text."""
        return find(self.rows, self.pairs)

    def to_dict(self) -> dict[str, JsonValue]:
        """Everything as JSON values."""
        about = {
            key: {"title": measure.title, "unit": measure.unit, "of": measure.scope, "reading": measure.reading}
            for key, measure in MEASURES.items()
            if key in self.measures
        }
        return {
            "format": FORMAT,
            "models": [vars(model) for model in self.models],
            "measures": about,
            "rows": [vars(row) for row in self.rows],
            "outlier_channels": [dict(channel) for channel in self.outlier_channels],
            "findings": [vars(finding) for finding in self.findings()],
            "notes": list(self.notes),
        }

    def to_json(self) -> str:
        """Everything as JSON text."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False)

    def save_html(self, path: str | os.PathLike[str]) -> None:
        """Write one self-contained page: findings, pictures and tables; needs the extra `diagnose`."""
        from .page import page

        write_whole(path, page(self))

    def save_png(self, path: str | os.PathLike[str]) -> None:
        """Write all pictures as one PNG; needs the extra `diagnose`."""
        from .charts import png

        image = png(self)
        with whole_file(path) as partial:
            partial.write_bytes(image)

    def __repr__(self) -> str:
        named = ", ".join(f"{model.name}: {model.layers} layers, {model.tokens} tokens" for model in self.models)
        return f"Diagnosis({named}; {len(self.measures)} figures, {len(self.findings())} findings)"

    def _repr_html_(self) -> str:
        items = "".join(f"<li>{escape(str(finding))}</li>" for finding in self.findings())
        return f"<p><code>{escape(repr(self))}</code></p><ul>{items}</ul>"


def diagnose(
    model: PreTrainedModel,
    batches: Iterable[Batch],
    compare: PreTrainedModel | None = None,
    names: tuple[str, str] = ("model", "compared"),
) -> Diagnosis:
    """Look at what add & norm does in a model while it reads batches: figures by layer and sublayer.

    Only one batch is held at a time. The model runs in evaluation, without gradients unless a batch has labels and
    the model gives a loss, and is left as it was. Padding is left out by the attention mask.

    Args:
        model: an AddNorm model of one family, or a stock model of one.
        batches (`Iterable[dict]`): inputs of the model.
        compare (`PreTrainedModel`, *optional*): a second model, which is given the same batches.
        names (`tuple[str, str]`): what both are called in the figures.
    Returns:
        The diagnosis.
    Raises:
        ValueError: a model of no family, no batch, or a batch that the model does not read.
    """
    given = [model] if compare is None else [model, compare]
    if compare is not None and names[0] == names[1]:
        raise ValueError(f"names are {list(names)!r}: two models need two names.")
    looks = [Look(as_add_norm(one), keeps_streams=compare is not None) for one in given]
    pair, is_same, count = Observation(), len(looks) == 2, 0
    for count, batch in enumerate(batches, start=1):  # noqa: B007 - it is the number of batches
        for look in looks:
            look.run(batch)
        is_same = is_same and compare_streams(looks[0].observation, looks[1].observation, pair)
    if count == 0:
        raise ValueError("there are no batches: a diagnosis needs at least one.")
    rows, channels = [], []
    for name, look in zip(names, looks, strict=False):
        look.take_weights()
        rows += rows_of(name, look.observation)
        channels += _outlier_channels(name, look.observation)
    rows += rows_of(" and ".join(names), pair) if is_same else []
    models = [_diagnosed(name, look) for name, look in zip(names, looks, strict=False)]
    return Diagnosis(models, rows, channels, _notes(looks, rows, is_same))


def _notes(looks: Sequence[Look], rows: Sequence[Row], is_same: bool) -> list[str]:
    notes = [note for look in looks for note in look.notes]
    if len(looks) == 2 and not is_same:
        notes.append("The streams of the two models are not compared: their widths, depths or tokens differ.")
    if not any(row.measure == "gradient_norm" for row in rows):
        notes.append("There are no gradients: no batch has labels for which the model gives a loss.")
    return list(dict.fromkeys(notes))


def _diagnosed(name: str, look: Look) -> Diagnosed:
    schemes = {
        stack.name: bias_left_to_model(stack.config.add_norm, getattr(stack.config, "norm_bias", True)).short()
        for stack in look.stacks
    }
    scheme = schemes if len(schemes) > 1 else next(iter(schemes.values()))
    return Diagnosed(name, type(look.model).__name__, scheme, look.depth, look.tokens)


def rows_of(name: str, observation: Observation) -> list[Row]:
    """Every figure of one model, measure by measure, from the first layer to the last."""
    found = []
    for key, measure in MEASURES.items():
        for place, sums in sorted(observation.places.items(), key=lambda item: _along(item[0].layer, item[0].part)):
            value = measure.compute(sums)
            if value is not None and math.isfinite(value):
                found.append(Row(name, key, place.layer, place.part, value))
    return found


def _along(layer: int | None, part: str) -> float:
    """Where it stands in its stack; "encoder final" behind all layers, as "final" does."""
    return _OUTSIDE.get(part.rpartition(" ")[2], 0.0) if layer is None else layer


def _outlier_channels(name: str, observation: Observation) -> list[dict[str, JsonValue]]:
    return [
        {"model": name, "layer": place.layer, "part": place.part, "channel": channel, "times_median": ratio}
        for place, sums in observation.places.items()
        for channel, ratio in outliers(sums).items()
    ]
