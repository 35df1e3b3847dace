"""The documentation pages as the tests see them: fenced blocks, links, headings."""

import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path


ROOT = Path(__file__).resolve().parents[1]
# every page that a reader of the documentation may open
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "recipes" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Args:
        language (`str`): behind the fence; empty if there is none.
        text (`str`): what stands between the fences.
        line (`int`): number of lines above its first line.
        before (`str`): the last line above the fence that is not empty.
        output (`str` or `None`): a block of `text` that follows with nothing between: what a Python block prints.
    """

    language: str
    text: str
    line: int
    before: str
    output: str | None


_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(text: str, language: str | None = None) -> list[Block]:
    """The fenced blocks of a page, of one language if it is given."""
    found = []
    matches = list(_FENCE.finditer(text))
    # one more behind the last
    for match, after in pairwise([*matches, None]):
        above = text[: match.start()]
        follows = after is not None and after[1] == "text" and not text[match.end() : after.start()].strip()
        before = ([line for line in above.splitlines() if line.strip()] or [""])[-1]
        found.append(Block(match[1], match[2], above.count("\n") + 1, before, after[2] if after and follows else None))
    return [block for block in found if language in (None, block.language)]


NOT_RUN = re.compile(r"<!-- not run: (.+) -->")


def is_run(block: Block) -> bool:
    """Whether a block is to be run: the line above those that are not is a comment that says why."""
    return NOT_RUN.fullmatch(block.before) is None


def without_blocks(text: str) -> str:
    """A page's prose."""
    return _FENCE.sub("", text)


def anchors(text: str) -> set[str]:
    """The names by which GitHub links to a page's headings."""
    titles = re.findall(r"^#+ (.*)$", without_blocks(text), re.MULTILINE)
    kept = [re.sub(r"[^\w\- ]", "", re.sub(r"\[(.*?)\]\(.*?\)", r"\1", title)).lower() for title in titles]
    names: list[str] = []
    for name in (title.replace(" ", "-") for title in kept):
        same = names.count(name) + sum(bool(re.fullmatch(rf"{re.escape(name)}-\d+", other)) for other in names)
        names.append(f"{name}-{same}" if same else name)
    return set(names)


def links(text: str) -> list[tuple[str, str]]:
    """The relative links of a page: path (empty for the page itself) and anchor."""
    targets = re.findall(r"\]\((?!https?:|mailto:)([^)\s]+)\)", without_blocks(text))
    return [(path, anchor) for path, _, anchor in (target.partition("#") for target in targets)]


def named(page: Path) -> str:
    """A page's path from the repository's root, as the name of a test."""
    return str(page.relative_to(ROOT))


def make_targets() -> set[str]:
    """The targets of the Makefile."""
    text = (ROOT / "Makefile").read_text()
    return set(re.findall(r"^([a-z-]+)(?: [^:=]*)?:(?!=)", text, re.MULTILINE))
