"""The documentation is true: tables are the code's, links and paths name what exists, advice was measured."""

import json
import re
import sys
from dataclasses import fields

import pytest
import torch
from families import tiny_config
from pages import PAGES, ROOT, anchors, blocks, links, make_targets, named, without_blocks

from hf_addnorm import AddNormBertModel, AddNormSpec


sys.path.insert(0, str(ROOT / "docs"))

import tables


DOCS = ROOT / "docs"
README = ROOT / "README.md"
EXAMPLES = blocks((DOCS / "spec.md").read_text(), "json")


@pytest.mark.parametrize("page", tables.PARTS)
def test_a_table_is_the_codes(page):
    assert tables.made(page) == (DOCS / page).read_text(), "run: python docs/tables.py"


def test_a_part_without_its_comments_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "DOCS", tmp_path)
    (tmp_path / "presets.md").write_text("# Presets\n")
    with pytest.raises(ValueError, match=r"presets.md has the comments of 'presets' 0 times; allowed is once"):
        tables.made("presets.md")


def test_every_axis_has_a_heading_and_an_example():
    text = (DOCS / "spec.md").read_text()
    headings = re.findall(r"^## (`.*)$", text, re.MULTILINE)
    axes = {axis for heading in headings for axis in re.findall(r"`(\w+)`", heading)}
    assert axes == {axis.name for axis in fields(AddNormSpec)} - {"format_version"}
    for heading in headings:
        section = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
        assert "```json" in section, heading


@pytest.mark.parametrize("block", EXAMPLES, ids=lambda block: f"line_{block.line}")
def test_an_example_of_the_spec_is_a_model(block):
    config = tiny_config(json.loads(block.text))
    assert AddNormSpec.parse(config.add_norm.to_dict()) == config.add_norm
    out = AddNormBertModel(config)(torch.tensor([[1, 2, 3]])).last_hidden_state
    assert out.shape == (1, 3, 8) and out.isfinite().all()


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page):
    for path, anchor in links(page.read_text()):
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), path
        assert not anchor or anchor in anchors(target.read_text()), f"{path}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_paths_name_what_exists(page):
    text = page.read_text()
    folders = "hf_addnorm|recipes|tests|benchmarks|docs|model_cards"
    paths = re.findall(rf"(?<![\w/.-])((?:{folders})/[\w/.<>*-]*)", text)
    # `<family>` and `*` stand for several
    paths = [path.rstrip(".-") for path in paths if not re.search("[<*]", path)]
    assert [path for path in paths if not (ROOT / path).exists()] == []
    assert set(re.findall(r"`make ([a-z-]+)", text)) <= make_targets()


def _rooms() -> dict[str, set[str]]:
    """The table of the rooms in docs/architecture.md: what each may import."""
    text = (DOCS / "architecture.md").read_text()
    table = text.partition("| room |")[2].partition("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    return {room.strip("`"): set(re.findall(r"`(\w+)`", may)) for room, _, may in cells}


def test_the_rooms_import_what_the_architecture_says():
    models, rooms = ROOT / "hf_addnorm" / "models", _rooms()
    assert set(rooms) == {path.name for path in models.iterdir() if path.is_dir() and path.name != "__pycache__"}
    for room, may in rooms.items():
        for file in (models / room).glob("*.py"):
            imported = set(re.findall(r"^\s*from \.\.(\w+)", file.read_text(), re.MULTILINE))
            assert imported <= may, f"{room}/{file.name} imports {sorted(imported - may)}"


@pytest.mark.parametrize("page", ["architecture.md", "adding.md"])
def test_the_names_of_classes_are_those_of_the_code(page):
    code = "".join(path.read_text() for path in (ROOT / "hf_addnorm").rglob("*.py"))
    names = re.findall(r"`([A-Z][A-Za-z]*[a-z][A-Z]\w*)`", without_blocks((DOCS / page).read_text()))
    assert [name for name in names if not re.search(rf"\b{name}\b", code)] == []


def test_the_index_has_every_page():
    linked = {path for path, _ in links((DOCS / "index.md").read_text())}
    pages = {page.name for page in DOCS.glob("*.md")} - {"index.md"}
    assert pages <= linked
    from_readme = {path for path, _ in links(README.read_text())}
    assert {f"docs/{page}" for page in pages} <= from_readme


def test_advice_is_what_was_measured():
    """Every figure of the advice is one of a table that is made from the results."""
    choosing, depth = (DOCS / "choosing.md").read_text(), (DOCS / "depth.md").read_text()
    all_runs = (ROOT / "recipes" / "README.md").read_text()
    measured = choosing.partition("<!-- results:")[2] + depth.partition("<!-- depth:")[2] + all_runs
    advice = README.read_text().partition("## Which scheme")[2].partition("\n## ")[0]
    advice += choosing.partition("<!-- results:")[0]
    # losses and accuracies
    figures = set(re.findall(r"(?<![\d.])\d\.\d{2,3}(?!\d)", without_blocks(advice)))
    assert len(figures) >= 30
    assert {figure for figure in figures if figure not in measured} == set()


def test_the_readme_is_short():
    assert len(README.read_text().splitlines()) <= 160
