"""The page of measured speed is that of the results, and a slower figure is named."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch


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
    interleaved, case = _module("interleaved", monkeypatch), "training"
    committed = interleaved.json.loads((BENCHMARKS / "results/add_norm_site.json").read_text())["figures"][case]
    figures = {case: {"dyt": {"median": committed["dyt"]["median"] * factor}}, "another": {"dyt": {"median": 0.1}}}
    sentences = interleaved.regressions("add_norm_site", figures)
    assert len(sentences) == told
    assert all("training, dyt" in sentence for sentence in sentences)


def test_the_plot_is_of_the_results(monkeypatch):
    page = _module("performance_page", monkeypatch)
    if (page.RESULTS / f"{page.PLOTTED}.json").exists():
        drawn = pytest.importorskip("PIL.Image").open(page.PLOT).text["Description"]
        assert drawn == page.plotted_results(), "run: python benchmarks/performance_page.py"


@pytest.mark.parametrize(
    ("seconds", "said"), [([1.0, 1.0], "met"), ([1.05, 1.05], "not met"), ([0.9, 0.9], "not met")]
)
def test_a_target_is_met_within_its_bounds_alone(seconds, said, monkeypatch):
    targets = _module("targets", monkeypatch)
    target = targets.Target("it", "file", ["case"], ["ours", "absent"], ["stock", "slower"], 0.98, 1.02)
    times = {"stock": [1.0, 1.0], "slower": [2.0, 2.0], "ours": seconds}
    found = {"figures": {"case": {name: {"seconds": each} for name, each in times.items()}}}
    assert target.row(lambda _: found)[-1] == said


def test_who_computes_something_else_gets_no_figure(monkeypatch):
    speed = _module("speed", monkeypatch)
    contestant = speed.CONTESTANTS["ours, packed"]
    logits = torch.ones(4, 2)
    speed.refuse_other_outputs(contestant, [logits * 1.00001], [logits])
    for other in (logits * 1.01, logits * float("nan"), logits[:2]):
        with pytest.raises(speed.LeftOut, match="computes something else"):
            speed.refuse_other_outputs(contestant, [other], [logits])


def test_the_same_texts_come_in_both_orders(monkeypatch):
    batches = _module("batches", monkeypatch).sst2(3)
    sizes = {order: [batch["attention_mask"] for batch in found] for order, found in batches.items()}
    texts = {order: sorted(int(n) for mask in masks for n in mask.sum(1)) for order, masks in sizes.items()}
    assert texts["random"] == texts["grouped"] and len(texts["random"]) == 96
    slots = {order: sum(mask.numel() for mask in masks) for order, masks in sizes.items()}
    assert slots["grouped"] < 1.1 * sum(texts["grouped"]) < slots["random"]


def test_every_contestant_says_what_it_needs(monkeypatch):
    contestants = _module("contestants", monkeypatch)
    monkeypatch.setattr(contestants, "DEVICE", "cpu")
    on_gpu = {name for name, one in contestants.CONTESTANTS.items() if one.lacks() == "no GPU"}
    assert on_gpu == {"stock, bf16, flash-attn", "stock, bf16, compiled", "stock, bf16, Liger"}
    monkeypatch.setattr(contestants, "bf16_is_fast", lambda: False)
    assert contestants.CONTESTANTS["ours, packed, bf16"].lacks() == "no instructions for bf16"
