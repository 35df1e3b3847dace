"""The page of measured speed is that of the results, and a slower figure is named."""

import importlib.util
import sys
from pathlib import Path

import pytest


BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def _module(name, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    # other packages may have a module of this name
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["performance_page", "conversion_tables", "exported_schemes", "diagnosed_minilm"])
def test_the_tables_are_those_of_the_results(name, monkeypatch):
    page = _module(name, monkeypatch)
    text = page.PAGE.read_text()
    assert page.made(text) == text, f"run: python benchmarks/{name}.py"
    assert text.count("| --- |") >= 2


def test_ratios_are_of_the_same_round(monkeypatch):
    interleaved = _module("interleaved", monkeypatch)
    rounds = [{"stock": 2.0, "ours": 1.0}, {"stock": 8.0, "ours": 2.0}, {"stock": 3.0, "ours": 1.0}]
    found = interleaved.ratios(rounds, "stock")
    assert found["stock"]["median"] == 1.0
    assert found["ours"]["median"] == 3.0


@pytest.mark.parametrize(("factor", "told"), [(1.0, 0), (0.95, 0), (0.5, 1)])
def test_what_is_slower_than_the_committed_figure_is_named(factor, told, monkeypatch):
    interleaved, case = _module("interleaved", monkeypatch), "training, random"
    committed = interleaved.json.loads((BENCHMARKS / "results/packed.json").read_text())["figures"][case]["packed"]
    figures = {case: {"packed": {"median": committed["median"] * factor}}, "another": {"packed": {"median": 0.1}}}
    sentences = interleaved.regressions("packed", figures)
    assert len(sentences) == told
    assert all("training, random, packed" in sentence for sentence in sentences)
