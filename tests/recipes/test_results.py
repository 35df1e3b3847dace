"""The committed results: the README's table is theirs, and they name no place on the machine that made them."""

import json
import re

import pytest
from results_table import README, ROOT, load_results, table


FILES = sorted((ROOT / "recipes" / "results").glob("*.json"))


def test_the_readmes_table_is_that_of_the_files():
    assert table(load_results()) in README.read_text(), "run: python recipes/results_table.py"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_result_is_whole_and_names_no_place(file):
    text = file.read_text()
    assert not re.search(r'"(/|\.\./|~)', text)
    result = json.loads(text)
    assert result["steps"] == len(result["loss_history"])
    assert result["reload"]["predictions_equal"] == result["data"]["validation"]["rows"]
    assert {"cpu", "threads", "device"} <= set(result["machine"])
