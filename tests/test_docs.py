"""The README is true: its Python runs, its tables are the code's, its commands name what exists.

`python tests/test_docs.py` writes the tables anew.
"""

import re
from collections import Counter
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel

from hf_addnorm import AddNormSpec, catalogue, presets
from hf_addnorm.models.base.registries import INITS, NORMS, POSITIONS, RESIDUALS, STREAMS, WEIGHTS, WIRINGS


ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"


def preset_table() -> str:
    rows = [
        f"| `{name}` | {preset.formula.replace('|', '/')} | {preset.source} |" for name, preset in presets().items()
    ]
    return "\n".join(["| preset | one sublayer | source |", "|---|---|---|", *rows]) + "\n"


def catalogue_table() -> str:
    count = Counter(row.status for row in catalogue())
    missing = [row for row in catalogue() if row.status in ("open", "left out")]
    rows = [f"| `{row.id}` | {row.axis} | {row.source} | {row.status} | {row.reason} |" for row in missing]
    lines = [
        f"Of {count.total()} schemes {count['built']} are built under a name of their own and {count['expressible']} "
        "are options of these;",
        f"{count['open']} are open, {count['left out']} are left out.",
        "",
        "<details><summary>What is not built, and why</summary>",
        "",
        "| scheme | axis | source | status | reason |",
        "|---|---|---|---|---|",
        *rows,
        "",
        "</details>",
    ]
    return "\n".join(lines) + "\n"


TABLES = {"presets": preset_table, "catalogue": catalogue_table}


def with_table(text: str, name: str) -> str:
    """`text` with the table between its marks written anew."""
    marks = re.compile(rf"(<!-- {name}:.*?-->\n).*?(<!-- end {name} -->)", re.DOTALL)
    text, count = marks.subn(lambda match: match[1] + TABLES[name]() + match[2], text)
    assert count == 1, name
    return text


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_the_codes(name):
    assert with_table(README.read_text(), name) == README.read_text(), "run: python tests/test_docs.py"


def test_the_axes_table_names_every_part():
    text = README.read_text()
    table = text[text.index("| axis | values | default |") :]
    table = table[: table.index("\n\n")]
    axes = {axis.name for axis in fields(AddNormSpec)} - {"format_version", "preset", "variant"}
    parts = {name for registry in (NORMS, RESIDUALS, INITS, POSITIONS, STREAMS, WEIGHTS, WIRINGS) for name in registry}
    assert {name for name in axes | parts if f"`{name}`" not in table} == set()


@pytest.mark.parametrize("file", ["README.md", "CONTRIBUTING.md", "recipes/README.md"])
def test_python_blocks_run(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / file).read_text(), re.DOTALL | re.MULTILINE)
    config = BertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=37, vocab_size=99
    )
    BertModel(config).save_pretrained(tmp_path / "bert")
    source = "\n".join(blocks).replace("google-bert/bert-base-uncased", str(tmp_path / "bert"))
    # the defaults are those of BERT-base: too large to build in a test
    small = "num_hidden_layers=2, hidden_size=32, num_attention_heads=4, intermediate_size=37, vocab_size=99, "
    exec(compile(source.replace("AddNormBertConfig(add", f"AddNormBertConfig({small}add"), file, "exec"), {})
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("file", ["README.md", "CONTRIBUTING.md", "recipes/README.md"])
def test_commands_and_links_name_what_exists(file):
    text = (ROOT / file).read_text()
    folder = (ROOT / file).parent
    targets = re.findall(r"^([a-z.]+)(?: [^:=]*)?:(?!=)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for target in re.findall(r"^make ([a-z]+)", text, re.MULTILINE) + re.findall(r"`make ([a-z]+)`", text):
        assert target in targets, target
    for path in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (folder / path).exists(), path
    for path in re.findall(
        r"(?:^|[\s`(=])((?:recipes|tests|benchmarks|hf_addnorm)/[\w/.-]+\.(?:py|yaml|md|json|png))", text
    ):
        assert (ROOT / path).exists(), path


if __name__ == "__main__":
    for name in TABLES:
        README.write_text(with_table(README.read_text(), name))
