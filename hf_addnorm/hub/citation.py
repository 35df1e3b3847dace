"""BibTeX from the source of a preset or a part: authors, name, year, arXiv id."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from ..catalogue import catalogue, inits, norms, positions, residuals, streams, weights, wirings
from ..models.spec.presets import PRESETS


@dataclass(frozen=True)
class Citation:
    """A paper that a scheme is from.

    Args:
        authors (`str`): as in the source: "Zhu et al.", "Zhang & Sennrich".
        year (`str`): four digits.
        name (`str`): the paper's title or the method's name, where a source has it.
        arxiv (`str`): the id, or nothing.
        venue (`str`): conference or journal, where the source has it.
    """

    authors: str
    year: str
    name: str = ""
    arxiv: str = ""
    venue: str = ""

    @property
    def key(self) -> str:
        """As in `sun2025curse`: first author, year, first telling word of the name, or the arXiv id."""
        words = [re.sub(r"[^a-z0-9]", "", word) for word in self.name.lower().split(" ")]
        telling = [word for word in words if re.search("[a-z]", word) and word not in ("the", "a", "an", "on")]
        first_author = re.sub(r"[^a-z]", "", re.split(r"[ ,]", self.authors)[0].lower())
        return first_author + self.year + (telling[0] if telling else f"-{self.arxiv}" if self.arxiv else "")

    def bibtex(self) -> str:
        """The entry. Where no source has a name it has no title: the arXiv id says which paper it is."""
        authors = re.split(r", | & ", re.sub(r",? et al\.", " & others", self.authors))
        fields = {
            # a team is one name, not a first and a family name
            "author": " and ".join(f"{{{author}}}" if " " in author else author for author in authors),
            "title": f"{{{self.name}}}" if self.name else "",
            "year": self.year,
            "howpublished": self.venue,
            "eprint": self.arxiv,
            "archivePrefix": "arXiv" if self.arxiv else "",
            "url": f"https://arxiv.org/abs/{self.arxiv}" if self.arxiv else "",
        }
        lines = [f"  {field} = {{{value}}}," for field, value in fields.items() if value]
        return "\n".join([f"@misc{{{self.key},", *lines, "}"])


_PAPER = re.compile(
    r"(?P<who>.+?), (?:(?P<venue>[A-Z][\w ]*?) )?(?P<year>(?:19|20)\d\d)(?:, arXiv (?P<arxiv>\d{4}\.\d{4,5}))?(?=$|,)"
)
# a family name stands alone; a method's name has digits, capitals inside, or several words
_FAMILY_NAME = re.compile(r"[A-Z][a-z]+(?:-[A-Z][a-z]+)*")
_TITLE = re.compile(r', "([^"]+)"(?: \([^)]*\))?, \d{4}, arXiv (\d{4}\.\d{4,5})')


@cache
def _titles() -> dict[str, str]:
    """The titles that docstrings of the parts give, by arXiv id; the longest is the full one."""
    found: dict[str, str] = {}
    for parts in (norms(), residuals(), streams(), wirings(), inits(), positions(), weights()):
        for part in parts.values():
            for title, arxiv in _TITLE.findall(part.source):
                found[arxiv] = max(title, found.get(arxiv, ""), key=len)
    return found


def citations(source: str) -> list[Citation]:
    """The papers of a source such as "CaiT, Touvron et al., 2021, arXiv 2103.17239"; several stand between ";"."""
    found = []
    for part in source.split(";"):
        match = _PAPER.match(part.strip())
        if match is not None:
            name, authors = _split(match["who"])
            arxiv = match["arxiv"] or ""
            found.append(Citation(authors, match["year"], _titles().get(arxiv, name), arxiv, match["venue"] or ""))
    return found


def _split(who: str) -> tuple[str, str]:
    """Name and authors of "NormFormer, Shleifer, Weston & Ott"."""
    parts = who.split(", ")
    first = len(parts) - 1
    while " & " in parts[-1] and first > 0 and _FAMILY_NAME.fullmatch(parts[first - 1]):
        first -= 1
    return ", ".join(parts[:first]), ", ".join(parts[first:])


def sources(preset: str, parts: Iterable[tuple[str, str]]) -> list[str]:
    """Where a preset is from, and the parts, (axis of the catalogue, name), that stand in it besides."""
    rows: dict[tuple[str, str], str] = {(row.axis, row.id): row.source for row in catalogue()}
    found = [PRESETS[preset].source]
    for source in (rows[part] for part in parts if part in rows):
        # the preset's own paper is not named twice
        papers = {paper.arxiv for paper in citations("; ".join(found)) if paper.arxiv}
        if source not in found and not papers.issuperset(paper.arxiv for paper in citations(source)):
            found.append(source)
    return found


def bibtex(found: Iterable[str]) -> str:
    """The entries of several sources, each paper once."""
    papers = {paper.arxiv or paper.key: paper for source in found for paper in citations(source)}
    return "\n\n".join(paper.bibtex() for paper in papers.values())
