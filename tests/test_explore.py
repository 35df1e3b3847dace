"""The page to try schemes on: what it says, what it refuses, its training, and the page itself in a browser."""

import json
import os
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest
import torch
from browser import Browser, chromium
from families import FAMILIES, MEMBERS, slow_unless
from typer.testing import CliRunner

from hf_addnorm.cli.app import app
from hf_addnorm.explore import serving
from hf_addnorm.explore.curves import can_train, samples, small, smooth, train
from hf_addnorm.explore.looks import choices, entry, preset_names, scheme
from hf_addnorm.hub.description import families
from hf_addnorm.models.spec.presets import PRESETS


def _config(family, add_norm=None):
    return scheme(family, add_norm, with_cost=False).config


# --- what is said of a scheme ---


def test_every_preset_is_there_and_has_a_drawing():
    assert sorted(preset_names()) == sorted(PRESETS)
    for preset in preset_names():
        made = scheme("bert", preset, with_cost=False)
        assert not made.refusal and made.looks[0].flow and made.looks[0].formula and made.looks[0].places


@pytest.mark.parametrize("axis", choices())
def test_every_choice_is_a_scheme_or_a_sentence(axis):
    refused = 0
    for choice in choices()[axis]:
        made = scheme("bert", entry("pre_ln", {axis: choice}), with_cost=False)
        refused += bool(made.refusal)
        assert made.refusal.strip().endswith(".") or made.looks[0].formula
    assert refused < len(choices()[axis]) / 2


def test_what_is_to_be_copied_builds_the_model():
    made = scheme("bert", entry("pre_ln", {"norm": "rms_norm"}), with_cost=False)
    names = {}
    lines = made.code.splitlines()
    assert lines[-1] == "model = AutoModel.from_config(config)"
    exec("\n".join(lines[:-1]), names)
    assert names["config"].add_norm == made.config.add_norm


def test_the_cost_is_beside_the_stock_one():
    ((what, here, stock, difference), *_) = scheme("bert", "sandwich_ln").costs
    assert what == "parameters" and int(here.replace(",", "")) > int(stock.replace(",", "")) and difference[0] == "+"


def test_refusals_and_warnings_are_sentences():
    assert "causal model" in scheme("gpt2", entry("pre_ln", {"norm": "batch_norm"})).refusal
    assert "dyt" in scheme("bert", entry("post_ln", {"norm": "dyt"}), with_cost=False).looks[0].warnings[0]
    with pytest.raises(ValueError, match="unknown family 'brt'"):
        scheme("brt", "pre_ln")


# --- its training ---


def test_the_samples_are_what_they_say():
    texts, labels = samples(torch.Generator().manual_seed(0), 200)
    assert texts.shape == (200, 15) and 0.3 < labels.float().mean() < 0.7
    assert [int(2 * sum(int(word) % 2 == 0 for word in text) > 15) for text in texts] == labels.tolist()


@pytest.mark.parametrize("family", [slow_unless(family not in MEMBERS, family) for family in FAMILIES])
def test_a_family_that_reads_text_trains(family):
    config = _config(FAMILIES[family].config_class.stock_model_type, "pre_ln")
    if not can_train(config):
        with pytest.raises(ValueError, match="reads no plain text"):
            next(train(config, 2, 1, 1e-3))
        return
    assert small(config, 2).add_norm == config.add_norm
    points = list(train(config, 2, 2, 1e-3))
    assert [point.step for point in points] == [1, 2] and all(0 < point.loss < 5 for point in points)


def test_a_small_model_learns_the_task_and_again_the_same():
    points = list(train(_config("bert", "pre_ln"), 2, 60, 3e-3))
    losses = smooth(points)
    assert losses[-1] < 0.3 < losses[0]
    assert [point.loss for point in train(_config("bert", "pre_ln"), 2, 3, 3e-3)] == [p.loss for p in points[:3]]


def test_a_training_that_fails_ends():
    points = list(train(_config("bert", "residual"), 2, 50, 1e30))
    assert len(points) < 50


# --- the command ---


def _answers(port):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=1) as answer:
            return answer.status == 200
    except OSError:
        return False


def test_without_streamlit_it_is_one_sentence(monkeypatch):
    monkeypatch.setattr(serving.importlib.util, "find_spec", lambda name: None)
    done = CliRunner().invoke(app, ["explore", "--json"])
    assert done.exit_code == 1
    assert json.loads(done.stdout)["error"] == (
        "hf-addnorm explore needs Streamlit: pip install 'hf_addnorm[explore]'."
    )


def test_a_port_that_is_in_use_is_one_sentence(monkeypatch):
    monkeypatch.setattr(serving.importlib.util, "find_spec", lambda name: name)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = CliRunner().invoke(app, ["explore", "--port", str(port), "--json"])
    assert (
        done.exit_code == 1 and json.loads(done.stdout)["error"] == f"port {port} is in use; --port takes another one."
    )


# --- the page ---


class Page:
    """The page in a browser, with what a reader does there."""

    def __init__(self, browser, address):
        self.browser = browser
        browser.show(address)

    def text(self):
        return self.browser.ask("document.body.innerText")

    def wait(self, *words, seconds=90):
        """Until all of the words are seen."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if all(word in self.text() for word in words):
                return
            time.sleep(0.2)
        raise AssertionError(f"{words} not in: {self.text()}")

    def choose(self, label, value):
        """Type a value into a list, and take it."""
        field = f"document.querySelector('input[aria-label*=\"{label}\"]')"
        self.browser.ask(f"{field}.focus(), {field}.click()")
        self.browser.call("Input.insertText", text=value)
        time.sleep(0.5)
        for kind in ("keyDown", "keyUp"):
            self.browser.call("Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", windowsVirtualKeyCode=13)


@pytest.fixture
def served():
    """The address of a running page."""
    pytest.importorskip("streamlit", reason="streamlit is not installed (extra `explore`)")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    root = Path(serving.__file__).parents[2]
    env = os.environ | {"PYTHONPATH": str(root), "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(serving.command(port, False), env=env, stdout=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 60
        while not _answers(port):
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=20)


@pytest.mark.slow
@pytest.mark.skipif(chromium() is None, reason="there is no Chromium")
def test_the_page_in_a_browser(served, tmp_path):
    shots = Path(os.environ.get("SCREENSHOTS", tmp_path))
    with Browser(tmp_path / "profile") as browser:
        page = Page(browser, served)
        page.wait("Explore add & norm", "x <- N(x + F(x))", "109,482,240", "To copy")
        page.choose("Preset", "hyper_connections")
        page.wait('add_norm="hyper_connections"', "Hyper")
        page.choose("Norm", "rms_norm")
        page.wait('"norm": "rms_norm"')
        browser.ask("[...document.querySelectorAll('button')].find(b => b.innerText == 'Train').click()")
        page.wait("Loss at the end: stock", seconds=300)
        browser.screenshot(shots / "explore_1280.png")
        end = "[...document.querySelectorAll('p')].find(p => p.innerText.startsWith('Loss at the end'))"
        browser.ask(f"{end}.scrollIntoView({{block: 'end'}})")
        time.sleep(1)
        browser.screenshot(shots / "explore_1280_curve.png")
        page.choose("Family", "gpt2")
        page.choose("Norm", "batch_norm")
        page.wait("Refused:", "causal model")
        browser.show(served, width=390, height=844)
        page.wait("x <- N(x + F(x))", "To copy")
        browser.screenshot(shots / "explore_390.png")
        assert browser.ask("document.documentElement.scrollWidth") <= 390
        assert all(
            url.startswith((served, served.replace("http", "ws"), "data:", "blob:")) for url in browser.requests
        )
        # Vega says so of a chart that Streamlit draws before its rows have come
        assert [error for error in browser.errors if "Infinite extent" not in str(error)] == []


def test_every_family_can_be_chosen():
    assert set(families()) == {row.config_class.stock_model_type for row in FAMILIES.values()}
