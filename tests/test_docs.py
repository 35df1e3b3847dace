"""The README is true: its Python runs, its preset table is the code's, its commands name what exists.

`python tests/test_docs.py` writes the table anew.
"""

import re
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel

from hf_addnorm import presets


ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
TABLE = re.compile(r"(<!-- presets:.*?-->\n).*?(<!-- end presets -->)", re.DOTALL)


def preset_table() -> str:
    rows = [
        f"| `{name}` | {preset.formula.replace('|', '/')} | {preset.source} |" for name, preset in presets().items()
    ]
    return "\n".join(["| preset | one sublayer | source |", "|---|---|---|", *rows]) + "\n"


def test_the_preset_table_is_the_codes():
    assert TABLE.search(README.read_text())[0].count(preset_table()) == 1, "run: python tests/test_docs.py"


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
    README.write_text(TABLE.sub(lambda match: match[1] + preset_table() + match[2], README.read_text()))
