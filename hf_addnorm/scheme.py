"""One row of the catalogue of schemes."""

from dataclasses import dataclass
from typing import Literal

from .models.base.protocols import JsonValue


Axis = Literal[
    "norm",
    "placement",
    "residual",
    "stream",
    "wiring",
    "init",
    "weight transform",
    "position",
    "attention",
    "growth",
    "other",
]
Status = Literal["built", "expressible", "open", "left out"]


@dataclass(frozen=True)
class Scheme:
    """One row of the catalogue.

    Args:
        id (`str`): its name here; a preset has a row of its own name.
        axis (`str`): what it changes: "norm", "placement", "residual", "stream", "wiring", "init",
            "weight transform", "position", "attention" (its inside), "growth" (of a trained model) or "other".
        source (`str`): paper, year, arXiv id; or the code that it is known from.
        status (`str`): "built", under a name of its own; "expressible", by options of what is built; "open", not
            built yet; "left out", not to be built as things stand.
        where (`tuple`): values of `add_norm` that have it: a preset's name or a dict of axes; or a name of this
            package. Empty where there is none.
        reason (`str`): why it is open or left out; for an expressible one, what `where` does not have of it.
    """

    id: str
    axis: Axis
    source: str
    status: Status
    where: tuple[str | dict[str, JsonValue], ...] = ()
    reason: str = ""


class Rows:
    """Makes the catalogue's rows of one axis, with a method for each status."""

    def __init__(self, axis: Axis):
        self.axis = axis

    def built(self, id: str, source: str, *where: str | dict[str, JsonValue]) -> Scheme:
        return Scheme(id, self.axis, source, "built", where)

    def expressible(self, id: str, source: str, *where: str | dict[str, JsonValue], reason: str = "") -> Scheme:
        return Scheme(id, self.axis, source, "expressible", where, reason)

    def open(self, id: str, source: str, reason: str) -> Scheme:
        return Scheme(id, self.axis, source, "open", reason=reason)

    def left_out(self, id: str, source: str, reason: str) -> Scheme:
        return Scheme(id, self.axis, source, "left out", reason=reason)
