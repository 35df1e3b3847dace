"""The page of a diagnosis in a real browser, and the command that makes it."""

import importlib.util
import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import torch
from browser import Browser, chromium
from families import FAMILIES
from transformers import BertConfig, BertForMaskedLM, BertModel, BertTokenizer, ViTConfig, ViTModel
from typer.testing import CliRunner

from hf_addnorm import AddNormBertConfig, AddNormBertModel, diagnose
from hf_addnorm.cli.app import app
from hf_addnorm.diagnosis import charts
from hf_addnorm.diagnosis.measures import MEASURES


needs_pictures = pytest.mark.skipif(
    importlib.util.find_spec("vl_convert") is None, reason="vl-convert-python is not installed: extra diagnose"
)
needs_browser = pytest.mark.skipif(chromium() is None, reason="there is no Chromium on this machine")
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "good", "bad", "film", "story"]
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 37}


def _diagnosis(compare=True):
    torch.manual_seed(0)
    config = {"vocab_size": 99, **SIZES, "attn_implementation": "eager"}
    first, second = (AddNormBertModel(AddNormBertConfig(**config, add_norm=spec)) for spec in (None, "layer_scale"))
    batch = {"input_ids": torch.arange(3, 17).view(2, 7)}
    return diagnose(first, [batch], second, ("a <b> & c", "d")) if compare else diagnose(first, [batch])


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A stock checkpoint, a masked language model, and a file of texts."""
    folder = tmp_path_factory.mktemp("saved")
    torch.manual_seed(0)
    for name, model_class in (("base", BertModel), ("masked", BertForMaskedLM)):
        model_class(BertConfig(vocab_size=len(WORDS), max_position_embeddings=16, **SIZES)).save_pretrained(
            folder / name
        )
        vocab = {word: index for index, word in enumerate(WORDS)}
        BertTokenizer(vocab=vocab, model_max_length=16).save_pretrained(folder / name)
    (folder / "texts.txt").write_text("a good film\n\na bad story a bad film\n" * 5)
    return folder


def run(*args, code=0):
    result = CliRunner().invoke(app, ["diagnose", *map(str, args)])
    assert result.exit_code == code, (result.output, result.exception)
    return result.output


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "page.html"
    found = _diagnosis()
    found.save_html(path)
    return found, path


@needs_pictures
@needs_browser
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_in_a_browser(browser, page, width, scheme):
    found, path = page
    browser.errors.clear()
    browser.requests.clear()
    browser.open(path, width=width, scheme=scheme)
    assert browser.errors == []
    # nothing but the page itself
    assert browser.requests == [path.resolve().as_uri()]
    assert browser.ask("document.querySelectorAll('section h2[id]').length") == len(found.measures) + 1
    pictures = sum(len(charts.titles(found, key)) for key in found.drawn)
    assert browser.ask("document.querySelectorAll('figure svg').length") == pictures
    sizes = browser.ask("[...document.querySelectorAll('svg')].map(e => e.getBoundingClientRect().width)")
    assert min(sizes) > 250
    # nothing is cut off, and nobody scrolls sideways
    assert browser.ask("document.documentElement.scrollWidth") <= width
    assert browser.ask("document.body.innerText").startswith("Skip to the figures")
    assert "What add & norm does in a <b> & c and d" in browser.ask("document.body.innerText")
    light = browser.ask("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert light == (scheme == "light")
    # lines and letters have the colours of the scheme
    ink = browser.ask("getComputedStyle(document.querySelector('svg text')).fill")
    assert ink == browser.ask("getComputedStyle(document.body).color")


@needs_pictures
@needs_browser
def test_the_page_without_eyes_or_mouse(browser, page):
    found, path = page
    browser.open(path)
    told = browser.accessible()
    images = [name for role, name in told if role == "image"]
    assert len(images) == sum(len(charts.titles(found, key)) for key in found.drawn)
    for key in found.drawn:
        of_measure = [name for name in images if name.startswith(MEASURES[key].axis)]
        assert of_measure and all("least" in name and "most" in name for name in of_measure), key
    assert ("navigation", "Figures") in told
    # every table opens from the keyboard, and can be scrolled from it
    summaries = browser.ask(
        "[...document.querySelectorAll('summary')].map(e => (e.focus(), document.activeElement === e))"
    )
    assert len(summaries) == len(found.measures) and all(summaries)
    assert browser.ask("[...document.querySelectorAll('.scroll')].every(e => e.tabIndex === 0 && e.ariaLabel)")
    assert browser.ask("document.documentElement.lang") == "en"


@needs_pictures
@needs_browser
def test_the_table_has_the_numbers_and_their_differences(browser, page):
    found, path = page
    browser.open(path)
    section = "document.getElementById('stream_rms').parentElement"
    lines = browser.ask(f"[...{section}.querySelectorAll('tr')].map(r => [...r.children].map(c => c.textContent))")
    assert lines[0] == ["layer", "part", "a <b> & c", "d", "d minus a <b> & c"]
    rows = found.of("stream_rms")
    assert len(lines) - 1 == len(rows) / 2
    assert lines[1][:2] == ["0", "attention"] and float(lines[1][2]) == pytest.approx(rows[0].value, rel=1e-2)


@needs_pictures
@pytest.mark.parametrize("compare", [True, False])
def test_pictures_have_every_axis_with_its_unit(compare, tmp_path):
    found = _diagnosis(compare)
    for key in found.drawn:
        made = charts.charts(found, key)
        assert len(made) == len(charts.titles(found, key))
        for chart in made:
            unit = MEASURES[key].unit
            title = chart["encoding"]["y"]["title"]
            title = title if isinstance(title, str) else " ".join(title)
            assert unit == "1" or f"({unit})" in title
            assert chart["encoding"]["x"]["title"] == "layer"
    drawn = ElementTree.fromstring(charts.svg(charts.charts(found, "stream_rms")[0]))
    assert drawn.get("role") == "img" and "RMS of the stream" in drawn.get("aria-label")
    found.save_png(tmp_path / "all.png")
    assert (tmp_path / "all.png").read_bytes().startswith(b"\x89PNG")


@needs_pictures
def test_the_command_writes_page_and_picture(saved, tmp_path):
    out, png = tmp_path / "page.html", tmp_path / "all.png"
    said = run(saved / "base", "--data", saved / "texts.txt", "--compare", "pre_ln", "--out", out, "--png", png)
    assert f"wrote {out}" in said and f"wrote {png}" in said
    text = out.read_text()
    assert "What add &amp; norm does in post_ln and pre_ln" in text and "http" not in text.replace(
        "http://www.w3.org", ""
    )
    assert "<script" not in text


def test_the_command_says_what_is_unusual(saved):
    data = json.loads(run(saved / "masked", "--data", saved / "texts.txt", "--json"))
    (model,) = data["models"]
    assert model["name"] == "masked" and model["model_class"] == "AddNormBertForMaskedLM"
    # ten texts, with the two words around each
    assert model["tokens"] == 5 * (5 + 8)
    assert {"gradient_norm", "attention_entropy", "stream_rms"} <= {row["measure"] for row in data["rows"]}
    again = json.loads(run(saved / "masked", "--data", saved / "texts.txt", "--json"))
    assert again["rows"] == data["rows"]
    two = json.loads(run(saved / "base", "--data", saved / "texts.txt", "--compare", saved / "masked", "--json"))
    assert [model["name"] for model in two["models"]] == ["base", "masked"]
    same = json.loads(run(saved / "base", "--data", saved / "texts.txt", "--compare", "post_ln", "--json"))
    assert [model["name"] for model in same["models"]] == ["post_ln as saved", "post_ln"]


@pytest.fixture
def wrong(saved, tmp_path):
    """What a user may give by mistake."""
    (tmp_path / "empty.txt").write_text("\n  \n")
    (tmp_path / "image.png").write_bytes(b"\x89PNG\xff\xfe\x00")
    (tmp_path / "nothing").mkdir()
    ViTModel(ViTConfig(**FAMILIES["vit"].tiny)).save_pretrained(tmp_path / "vit")
    (tmp_path / "broken").mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "broken" / name).write_bytes((saved / "base" / name).read_bytes())
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"\x00" * 20)
    (tmp_path / "llama").mkdir()
    (tmp_path / "llama" / "config.json").write_text('{"model_type": "llama"}')
    return tmp_path


@pytest.mark.parametrize(
    ("args", "code", "sentence"),
    [
        ("{saved}/base --data {wrong}/empty.txt", 2, "empty.txt has no text: all of its lines are empty."),
        ("{saved}/base --data {wrong}/none.txt", 2, "none.txt does not exist: --data takes a text file"),
        ("{saved}/base --data {wrong}", 2, "is a folder: --data takes a text file"),
        ("{saved}/base --data {wrong}/image.png", 2, "image.png is no text: --data takes a UTF-8 text file"),
        (
            "{wrong}/vit --data {saved}/texts.txt",
            2,
            "'vit' model, which reads pixel_values, and --data is a",
        ),
        ("{wrong}/nothing --data {saved}/texts.txt", 2, "holds no model: there is no config.json"),
        ("{wrong}/none --data {saved}/texts.txt", 2, "none does not exist"),
        ("{wrong}/broken --data {saved}/texts.txt", 1, "broken"),
        ("{wrong}/llama --data {saved}/texts.txt", 2, "'llama' model, which has no AddNorm family"),
        ("pre_lm --data {saved}/texts.txt", 2, "did you mean pre_ln"),
        ("{saved}/base --compare pre_lm --data {saved}/texts.txt", 2, "did you mean pre_ln"),
        ("{saved}/base --data {saved}/texts.txt --out {wrong}/no/page.html", 2, "cannot be written"),
        ("{saved}/base --data {saved}/texts.txt --out {wrong}/empty.txt/page.html", 2, "empty.txt is no folder"),
        ("{saved}/base --data {saved}/texts.txt --out {wrong}", 2, "is a folder; --out takes the name of a file"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(saved, wrong, args, code, sentence):
    said = run(*args.format(saved=saved, wrong=wrong).split(), code=code)
    assert sentence in " ".join(said.split()) and said.count("error: ") == 1


def test_a_folder_that_cannot_be_written(saved, monkeypatch):
    def refuse(**kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    said = run(saved / "base", "--data", saved / "texts.txt", "--out", saved / "page.html", code=1)
    assert "this user may not write there" in said or "cannot be written: Permission denied" in said


def test_a_missing_package_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "vl_convert", None)
    with pytest.raises(ImportError, match=r"pip install 'hf_addnorm\[diagnose\]'"):
        _diagnosis(False).save_html(tmp_path / "page.html")
    assert list(Path(tmp_path).iterdir()) == []
