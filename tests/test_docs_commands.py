"""Every shell command of the documentation is understood by the tool that it names."""

import re
import shlex
import sys
import tomllib
from pathlib import Path

import pytest
from accelerate.commands.launch import launch_command_parser
from pages import PAGES, ROOT, blocks, make_targets, named
from typer.main import get_command

from hf_addnorm.cli.app import app
from hf_addnorm.launch import launch_file


sys.path.insert(0, str(ROOT / "recipes"))

import keys_table
from common import config as recipe_config
from depth import DepthConfig
from sweep import SweepConfig


# recipes/README.md has indented commands, which tests/recipes looks at
WITH_COMMANDS = [page for page in PAGES if page.parent.name != "recipes"]


def commands(text: str) -> list[str]:
    """The commands of a page's `bash` blocks."""
    joined = "".join(block.text for block in blocks(text, "bash")).replace("\\\n", " ")
    return [line for line in joined.splitlines() if line.strip()]


def _make(words: list[str]) -> None:
    assert words and {word for word in words if "=" not in word} <= make_targets(), words


def _pip(words: list[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    packages = [re.split("[<>=]", requirement)[0] for requirement in extras["demo"]]
    assert words[0] == "install"
    for word in (word for word in words[1:] if not word.startswith("-")):
        if (extra := re.fullmatch(r"\.\[(\w+)\]", word)) is not None:
            assert extra[1] in extras, word
        else:
            assert word in (".", *packages), word


def _recipe(words: list[str]) -> None:
    script, args = ROOT / words[0], words[1:]
    assert script.exists(), script
    keys = {**keys_table.scripts(), "depth": DepthConfig, "sweep": SweepConfig}
    if script.stem in keys:
        recipe_config.parse(keys[script.stem], args)
    else:
        assert set(args) <= {"--check"}, args


def _accelerate(words: list[str]) -> None:
    assert words[0] == "launch"
    known = launch_command_parser().parse_args(words[1:])
    assert known.config_file is None or Path(known.config_file).exists()
    _recipe([known.training_script, *known.training_script_args])


def _hf_addnorm(words: list[str]) -> None:
    command = get_command(app).commands[words[0]]
    command.make_context(words[0], words[1:])


TOOLS = {"make": _make, "pip": _pip, "python": _recipe, "accelerate": _accelerate, "hf-addnorm": _hf_addnorm}


@pytest.mark.parametrize("page", [page for page in WITH_COMMANDS if commands(page.read_text())], ids=named)
def test_commands_are_understood(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    for command in commands(page.read_text()):
        filled = re.sub(r"\$\(hf-addnorm launch (\w+)\)", lambda match: str(launch_file(match[1])), command)
        words = shlex.split(filled, comments=True)
        while re.match("[A-Z_]+=", words[0]):
            words = words[1:]
        assert words[0] in TOOLS, command
        TOOLS[words[0]](words[1:])
