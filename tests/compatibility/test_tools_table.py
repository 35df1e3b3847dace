"""The table of tools: every row has tests that are there and that ran, or a reason; no cell is empty."""

import ast
import json
from pathlib import Path

import pytest
from tool_rows import ROWS
from tools import best, merged, named_tests, records, result, written


TESTS = Path(__file__).parents[1]
RAN = records()


def _functions(file):
    tree = ast.parse((TESTS / file).read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.tool}: {row.what}")
def test_a_row_is_complete(row):
    assert result(row, RAN), f"{row.tool}, {row.what}: a test failed, or never ran; run: make tools"
    # a reason stands where nothing was tried, and nowhere else
    assert bool(row.tests) != bool(row.untried)
    assert not (row.note and row.refused)


@pytest.mark.parametrize("test", named_tests())
def test_what_a_row_names_is_there(test):
    file, _, name = test.partition("::")
    assert name in _functions(file)


def test_records_name_nothing_else():
    """A test that was renamed leaves nothing behind."""
    assert {test for record in RAN.values() for test in record["tests"]} <= set(named_tests())


def test_a_failure_and_a_skip_are_no_success():
    (row,) = [row for row in ROWS if row.tool == "captum"]
    (test,) = row.tests
    skipped = {"cases": {"": "skipped"}, "reason": "captum is not installed"}
    works = {"cases": {"pre_ln": "passed", "dyt": "passed"}}
    broken = {"cases": {"pre_ln": "passed", "dyt": "failed"}}
    assert result(row, {"a": {"tests": {}}}) == ""
    assert result(row, {"a": {"tests": {test: skipped}}}) == "not tried: captum is not installed"
    assert result(row, {"a": {"tests": {test: skipped}}, "b": {"tests": {test: works}}}) == "works"
    assert best(test, {"a": {"tests": {test: skipped}}, "b": {"tests": {test: works}}})[0] == "b"
    # what fails anywhere is not hidden by what passes elsewhere
    assert result(row, {"a": {"tests": {test: broken}}, "b": {"tests": {test: works}}}) == ""


def test_a_record_is_completed_by_what_runs_later():
    first = {"a.py::test_a": {"cases": {"": "skipped"}, "reason": "absent"}}
    second = {"a.py::test_a": {"cases": {"x": "failed", "y": "passed"}}}
    third = {"a.py::test_a": {"cases": {"x": "passed"}}, "a.py::test_b": {"cases": {"": "passed"}}}
    both = merged(merged(first, second), third)
    assert both["a.py::test_a"]["cases"] == {"x": "passed", "y": "passed"} and set(both) == {
        "a.py::test_a",
        "a.py::test_b",
    }
    assert json.loads(written({"date": "today"}, both))["tests"] == both
