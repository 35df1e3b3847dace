"""What a conversion did and how far its result is from the source: as JSON, as tables, as a section of a card."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ..models.base.protocols import JsonValue
from .calibrating import SiteError
from .measuring import BranchLikeness, HeldOut


@dataclass(frozen=True)
class RuleUse:
    """A rewriting rule that was used.

    Args:
        rule, why (`str`): its name, and why it is exact.
        places (`list[str]`): where.
    """

    rule: str
    why: str
    places: list[str]


@dataclass
class ConversionReport:
    """The report of one conversion.

    Args:
        source, target: the add & norm before and after, as short as a config may say it.
        family (`str`): model type of the source.
        method (`str`): "exact"; "algebra", where nothing but an eps differs; or "calibrated".
        is_exact (`bool`): whether the result is the same function, in evaluation.
        largest_difference (`float`): of the outputs in float64 after the rewriting, on calibration data.
        chosen (`dict`): what `add_norm` left out, and its value.
        rules (`list[RuleUse]`): what was rewritten, where, and why that is exact.
        obstacles (`list[str]`): what has no exact form.
        sites (`list[SiteError]`): of what was fitted, on calibration data.
        branches (`list[BranchLikeness]`): by sublayer, on held-out rows.
        held_out, as_loaded (`HeldOut`): the result on held-out rows; the same of a checkpoint that is only loaded.
        rows (`tuple[int, int]`): to fit on, held out.
        parameters (`dict`): how many are reused as they were, changed, new.
        dropout_on_stream (`bool`): whether training differs where evaluation does not.
        peak_memory_mb (`float`): of this process so far.
        seconds, cpu_seconds (`float`): of the conversion, by the clock and of this process.
    """

    source: JsonValue
    target: JsonValue
    family: str
    chosen: dict[str, JsonValue]
    rules: list[RuleUse]
    sites: list[SiteError]
    branches: list[BranchLikeness]
    held_out: HeldOut
    as_loaded: HeldOut
    rows: tuple[int, int]
    parameters: dict[str, int]
    dropout_on_stream: bool
    peak_memory_mb: float
    method: str = "exact"
    is_exact: bool = True
    largest_difference: float = 0.0
    obstacles: list[str] = field(default_factory=list)
    seconds: float = 0.0
    cpu_seconds: float = 0.0

    @property
    def worst_site(self) -> SiteError | None:
        """The site that is farthest from what it should give, or None where nothing was fitted."""
        return max(self.sites, key=lambda site: site.after, default=None)

    def to_dict(self) -> dict[str, JsonValue]:
        """JSON form."""
        return json.loads(json.dumps(asdict(self)))  # type: ignore[no-any-return]

    def save(self, path: str | Path) -> None:
        """Write the JSON form to a file."""
        Path(path).write_text(json.dumps(self.to_dict(), indent=2) + "\n")

    def summary(self) -> list[tuple[str, str]]:
        """What is said first: names and values."""
        found, loaded = self.held_out, self.as_loaded
        rows = [("from", str(self.source)), ("to", str(self.target)), ("method", self.method)]
        if self.is_exact:
            rows.append(("proof", f"largest difference in float64: {self.largest_difference:.1e}"))
        if found.agreement is not None and found.kl is not None:
            rows += [
                ("agreement, held out", f"{found.agreement:.2%} of {found.predictions}"),
                ("KL", f"{found.kl:.2g}"),
            ]
        rows += [("relative error", f"{found.relative_error:.2g}")]
        if loaded.agreement is not None:
            rows.append(("as loaded today", f"{loaded.agreement:.2%}"))
        rows += [(f"chosen: {key}", json.dumps(value)) for key, value in self.chosen.items()]
        counts = ", ".join(f"{count:,} {what}" for what, count in self.parameters.items())
        rows += [
            ("parameters", counts),
            ("time", f"{self.seconds:.1f} s ({self.cpu_seconds:.1f} s CPU), {self.peak_memory_mb:,.0f} MB"),
        ]
        if self.dropout_on_stream and self.is_exact:
            rows.append(("note", "exact in evaluation; dropout sees another stream"))
        return rows

    def __str__(self) -> str:
        """The report as text of at most 80 columns."""
        lines = _columns(("conversion", ""), self.summary(), 80)
        if self.rules:
            rows = [(use.rule, str(len(use.places)), use.why) for use in self.rules]
            lines += ["", *_columns(("rule", "places", "why it is exact"), rows, 80)]
        if self.obstacles:
            lines += ["", *_columns(("no exact form",), [(said,) for said in self.obstacles[:5]], 80)]
        if self.sites:
            errors = [(site.title, f"{site.before:.4f}", f"{site.after:.4f}") for site in self.sites]
            lines += ["", *_columns(("error of a site", "carried", "fitted"), errors, 80)]
        if self.branches:
            alike = [(row.title, f"{row.cosine:.4f}", f"{row.ratio:.3f}") for row in self.branches]
            lines += ["", *_columns(("branch, held out", "cosine", "size"), alike, 80)]
        return "\n".join(lines)

    def card_section(self) -> str:
        """A section for a model card, in Markdown."""
        rows = "\n".join(f"| {name} | {value} |" for name, value in self.summary())
        return f"## Conversion\n\nMade by `hf_addnorm.convert`, without labels.\n\n| | |\n|---|---|\n{rows}\n"

    def plot(self, path: str | Path) -> None:
        """Draw the error of each site and the likeness of each branch to a file.

        Raises:
            ImportError: without Matplotlib.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise ImportError("the figure of a conversion needs Matplotlib: pip install matplotlib.") from error
        figure = Figure(figsize=(8, 5), layout="constrained")
        above, below = figure.subplots(2, 1)
        above.plot([site.before for site in self.sites], "o--", label="carried over")
        above.plot([site.after for site in self.sites], "o-", label="fitted")
        above.set(xlabel="site", ylabel="relative error", title=f"{self.source} to {self.target}")
        if self.sites:
            above.set_yscale("log")
            above.legend()
        below.plot([row.cosine for row in self.branches], "o-")
        below.set(xlabel="sublayer", ylabel="cosine of what it reads")
        figure.savefig(path)


def _columns(head: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """A table of text, the last column of each row cut to what is left of the width."""
    widths = [max(len(row[index]) for row in [head, *rows]) for index in range(len(head))]
    widths[-1] = max(8, width - sum(widths[:-1]) - 2 * (len(head) - 1))
    widths[0] = min(widths[0], width)

    def line(row: Sequence[str]) -> str:
        cells = [
            cell if len(cell) <= room else f"{cell[: room - 3]}..." for cell, room in zip(row, widths, strict=True)
        ]
        return "  ".join(cell.ljust(room) for cell, room in zip(cells, widths, strict=True)).rstrip()[:width]

    return [line(head), "-" * min(width, max(len(line(row)) for row in [head, *rows])), *map(line, rows)]
