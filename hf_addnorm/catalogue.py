"""Every add & norm scheme that was found in print or in deployed code: what is built, what is not, and why.

The options, formulas and start values of what is built are those of the registries in `models`, and come from there.
"""

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass

from .layer_schemes import LAYER_SCHEMES
from .models.base.protocols import OptionValue
from .models.base.registries import DEPTH_RULES, INITS, NORMS, POSITIONS, RESIDUALS, STREAMS, WEIGHTS, WIRINGS
from .models.base.registry import Registry
from .norm_schemes import NORM_SCHEMES
from .scheme import Scheme


def catalogue() -> list[Scheme]:
    """Every scheme that was found, built or not, with its source and, where it is not built, the reason."""
    return [*NORM_SCHEMES, *LAYER_SCHEMES]


@dataclass(frozen=True)
class Part:
    """A registered part as data, taken from its docstring and its signature.

    Args:
        summary (`str`): the docstring's first line.
        source (`str`): paper, year, arXiv id; empty where no paper has it.
        options (`dict`): the options that `add_norm` takes for it, with their defaults.
    """

    summary: str
    source: str
    options: dict[str, OptionValue]


_SOURCE = re.compile(r"^Source: (.*?)(?=\n\n|\n(?:Args|Dtype|Init|Parameters|Returns)\b|\Z)", re.DOTALL | re.MULTILINE)


def _parts(registry: Registry[Callable[..., object]]) -> dict[str, Part]:
    parts = {}
    for name, factory in registry.items():
        text = inspect.getdoc(factory) or ""
        source = _SOURCE.search(text)
        parts[name] = Part(
            summary=text.split("\n", 1)[0],
            source=" ".join(source[1].split()) if source else "",
            options={key: option.default for key, option in registry.options(name).items()},
        )
    return parts


def norms() -> dict[str, Part]:
    """Every norm by name."""
    return _parts(NORMS)


def residuals() -> dict[str, Part]:
    """Every residual by name."""
    return _parts(RESIDUALS)


def streams() -> dict[str, Part]:
    """Every stream by name."""
    return _parts(STREAMS)


def wirings() -> dict[str, Part]:
    """Every wiring by name."""
    return _parts(WIRINGS)


def inits() -> dict[str, Part]:
    """Every init rule by name."""
    return _parts(INITS)


def depth_rules() -> dict[str, Part]:
    """Every rule that gives a number by depth, by name."""
    return _parts(DEPTH_RULES)


def positions() -> dict[str, Part]:
    """Every position encoding by name."""
    return _parts(POSITIONS)


def weights() -> dict[str, Part]:
    """Every weight transform by name."""
    return _parts(WEIGHTS)
