"""What the package says that it runs with is what ran."""

import re
import tomllib
from pathlib import Path

import pytest
from page import PAGE, page, runs


ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
RUNS = runs()
LOWEST = {name: run for name, run in RUNS.items() if name.startswith("lowest")}


def _pins(file):
    return dict(re.findall(r"^([\w-]+)==(\S+)$", (ROOT / file).read_text(), flags=re.MULTILINE))


def _floors():
    """The lowest versions that pyproject.toml allows, by package."""
    lists = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    found = (re.match(r"([\w-]+)(?:\[.*\])?>=([\d.]+)", entry) for entries in lists for entry in entries)
    return {match[1]: match[2] for match in found if match}


def _release(version):
    """Without what names the build: 2.7.0 of 2.7.0+cpu."""
    return version.split("+")[0]


def test_the_page_is_that_of_the_runs():
    assert PAGE.read_text() == page(), "run: python tests/compatibility/page.py"


@pytest.mark.parametrize("name", RUNS)
def test_nothing_failed(name):
    assert RUNS[name]["failed"] == 0 and RUNS[name]["passed"] > 300


def test_the_floors_are_what_ran():
    floors, pins = _floors(), _pins("constraints-lowest.txt")
    assert floors.items() <= pins.items(), "constraints-lowest.txt has another version than pyproject.toml"
    assert LOWEST
    for run in LOWEST.values():
        assert {package: _release(run["versions"][package]) for package in pins} == pins


def test_the_python_versions_are_those_that_ran():
    ran = {tuple(map(int, run["python"].split(".")[:2])) for run in RUNS.values()}
    named = re.findall(r"Python :: 3\.(\d+)$", "\n".join(PROJECT["classifiers"]), flags=re.MULTILINE)
    assert {(3, int(minor)) for minor in named} == ran
    assert PROJECT["requires-python"] == f">=3.{min(ran)[1]}"
