"""What is said of a scheme while somebody puts it together: drawing, formula, places, cost, warnings, or a refusal."""

from collections.abc import Mapping
from dataclasses import dataclass

from ..catalogue import Part, norms, residuals, streams, wirings
from ..hub.cost import cost
from ..hub.description import Description, described, families
from ..models.base.protocols import JsonValue
from ..models.base.registry import unknown
from ..models.core.addnorm_config import AddNormConfig
from ..models.spec.presets import PRESETS


def choices() -> dict[str, dict[str, Part]]:
    """The axes that a reader may change, and what each may be, with a line about each."""
    return {"norm": norms(), "residual": residuals(), "stream": streams(), "wiring": wirings()}


def entry(preset: str, changes: Mapping[str, JsonValue]) -> JsonValue:
    """The config's entry `add_norm`: a preset's name, or with the axes that were changed a dict."""
    return {"preset": preset, **changes} if changes else preset


@dataclass(frozen=True)
class Look:
    """What a page says of one scheme in one family.

    Args:
        title (`str`): the stack of layers it is of; empty where there is one.
        flow, formula (`str`): as text, in columns.
        norm (`str`): what N is in the formula.
        places (`list`): (place, norms).
        explained (`list`): a sentence about each component, as Markdown.
        warnings (`list`): sentences about what is unusual, as Markdown.
        sources (`list`): papers.
    """

    title: str
    flow: str
    formula: str
    norm: str
    places: list[tuple[str, str]]
    explained: list[str]
    warnings: list[str]
    sources: list[str]


@dataclass(frozen=True)
class Scheme:
    """A scheme in a family, as far as it may be.

    Args:
        refusal (`str`): why there is no such model, in a sentence; empty where there is one.
        looks (`list`): one for each stack of layers.
        costs (`list`): (what, here, stock, difference) of the base model at its default sizes.
        code (`str`): Python that builds it.
        config (`AddNormConfig`, *optional*): of the model.
    """

    refusal: str = ""
    looks: tuple[Look, ...] = ()
    costs: tuple[tuple[str, str, str, str], ...] = ()
    code: str = ""
    config: AddNormConfig | None = None


def scheme(family: str, add_norm: JsonValue, with_cost: bool = True) -> Scheme:
    """Everything that is said of a scheme.

    Args:
        family (`str`): a stock model type.
        add_norm: the config's entry.
        with_cost (`bool`): count parameters and matrix products too, which takes a second.
    Returns:
        `Scheme`: with a refusal in place of all else, where the config or the model refuses it.
    Raises:
        ValueError: if there is no such family.
    """
    if family not in families():
        raise ValueError(unknown("family", family, families()))
    try:
        config = families()[family](add_norm=add_norm)
        costs = tuple(cost(config).rows()) if with_cost else ()
    except ValueError as error:
        return Scheme(refusal=str(error))
    looks = tuple(_look(part) for part in described(config))
    code = f"config = {type(config).__name__}(add_norm={_python(add_norm)})"
    lines = ("from transformers import AutoModel", "", f"from hf_addnorm import {type(config).__name__}", "")
    return Scheme("", looks, costs, "\n".join([*lines, code, "model = AutoModel.from_config(config)"]), config)


def _look(part: Description) -> Look:
    explained = [f"{kind}: {said}" for kind, said in part.explained.items()]
    explained += [part.note] if part.note and not part.changes else []
    return Look(part.title, part.flow, part.formula, part.norm, part.places(), explained, part.warnings, part.sources)


def _python(value: JsonValue) -> str:
    return repr(value).replace("'", '"')


def preset_names() -> list[str]:
    """Every preset, the stock schemes first."""
    first = [name for name in ("post_ln", "pre_ln") if name in PRESETS]
    return [*first, *(name for name in PRESETS if name not in first)]
