"""The committed results: the tables of the documentation are theirs, and they name no place of the machine."""

import json
import re

import depth_report
import keys_table
import pytest
import sweep_report
from results_table import ROOT, tables


STUDIES = [depth_report.RESULT, depth_report.HIGH_RATE]
SWEEP = ROOT / "recipes" / "results" / "sweep.json"
FILES = sorted(set((ROOT / "recipes" / "results").glob("*.json")) - {*STUDIES, SWEEP})


@pytest.mark.parametrize("page", tables(), ids=lambda page: page.parent.name)
def test_the_tables_of_results_are_those_of_the_files(page):
    assert tables()[page] in page.read_text(), "run: python recipes/results_table.py"


def test_the_page_on_depth_is_that_of_the_study():
    part = depth_report.part(*(json.loads(path.read_text()) for path in STUDIES))
    assert part in depth_report.PAGE.read_text(), "run: python recipes/depth_report.py"
    assert max(path.stat().st_size for path in STUDIES) < 400_000
    assert depth_report.FIGURE.stat().st_size < 300_000


@pytest.mark.parametrize("file", [*FILES, *STUDIES, SWEEP], ids=lambda file: file.stem)
def test_a_result_names_no_place(file):
    assert not re.search(r'"(/|\.\./|~)', file.read_text())


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_result_is_whole(file):
    result = json.loads(file.read_text())
    assert result["steps"] == len(result["loss_history"])
    # a long text is predicted in windows
    validation = result["data"]["validation"]
    assert result["reload"]["predictions_equal"] == validation.get("windows", validation["rows"])
    assert {"cpu", "threads", "device"} <= set(result["machine"])


def test_the_readmes_table_of_the_sweep_is_that_of_its_result():
    result = json.loads(SWEEP.read_text())
    assert sweep_report.table(result) in keys_table.README.read_text()
    assert max(path.stat().st_size for path in (SWEEP, SWEEP.with_suffix(".png"))) < 150_000


def test_the_tables_of_keys_are_those_of_the_scripts():
    assert keys_table.tables() in keys_table.README.read_text(), "run: python recipes/keys_table.py"
