"""The depth study: its measurements against naive ones, its runs, its JSON, and what is said about them."""

import json
import math
import random
from pathlib import Path

import depth
import depth_report
import pytest
import torch
import yaml
from common import curves, depth_claims, layers, masked_bytes
from common.config import parse
from common.errors import UserError
from conftest import PLAIN
from results_table import ROOT

from hf_addnorm import AddNormBertConfig, AddNormBertForMaskedLM


# in the order in which the fixture below writes them
SCHEMES = {"cold": {"add_norm": "hyper_connections", "warmup": 0.0}, "post_ln": {"add_norm": "post_ln"}}
RUN_KEYS = {
    *("name", "settings", "loss", "unigram_loss", "steps_done", "loss_steps", "loss_history"),
    *("layers", "start", "end", "parameters", "seconds"),
}


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> str:
    draw = random.Random(0)
    path = tmp_path_factory.mktemp("text") / "words.txt"
    path.write_text("\n".join(" ".join(draw.choices(PLAIN, k=8)) for _ in range(60)))
    return str(path)


@pytest.fixture
def study(text, tmp_path, written):
    """Run a study of depth 2 (two seeds) and 3 (one) here; returns its result."""
    keys = {
        "text_file": text,
        "output_dir": str(tmp_path / "study"),
        "schemes": SCHEMES,
        "depths": {2: {"seeds": 2, "steps": 2, "batch_size": 4}, 3: {"seeds": 1, "steps": 2, "batch_size": 4}},
        "hidden_size": 16,
        "intermediate_size": 24,
    }

    def call(*args: str, **more) -> dict:
        depth.main(written(keys | more, *args))
        return json.loads((tmp_path / "study" / "result.json").read_text())

    return call


def test_the_yaml_is_the_study_of_the_issue():
    path = ROOT / "recipes" / "configs" / "depth.yaml"
    parsed, resume = parse(depth.DepthConfig, ["--config", str(path), "--text_file", "some.txt"])
    assert not resume
    assert list(parsed.depths) == [6, 24, 96, 1000]
    assert [runs["seeds"] for runs in parsed.depths.values()] == [3, 3, 1, 1]
    assert parsed.schemes["post_ln_no_warmup"] == {"add_norm": "post_ln", "warmup": 0.0}
    assert len(parsed.schemes) == len(depth_report.STYLES)
    # overridden as its header says
    header = [line.lstrip("# ") for line in path.read_text().splitlines() if "'{" in line]
    for line in header:
        key, value = line.removesuffix(" \\").split(" ", 1)
        key, value = key.removeprefix("--"), yaml.safe_load(value.strip("'"))
        again, _ = parse(depth.DepthConfig, ["--config", str(path), "--text_file", "t", f"--{key}", json.dumps(value)])
        assert len(getattr(again, key)) == len(value)
    assert len(header) == 2


def test_blocks_masks_and_the_guess_by_frequency(text):
    found = masked_bytes.load(text, "text", 5)
    whole = Path(text).read_bytes()
    assert found.source["bytes"] == len(whole)
    joined = torch.cat([found.train, found.validation]).flatten().tolist()
    assert bytes(joined) == whole[: len(joined)] and len(whole) - len(joined) < 5
    batch = masked_bytes.mask(found.train, 0.25, 3)
    hidden = batch["labels"] != -100
    assert (hidden.sum(-1) == 2).all()
    assert (batch["input_ids"][hidden] == masked_bytes.MASK).all()
    assert torch.equal(torch.where(hidden, batch["labels"], batch["input_ids"]), found.train)
    assert not torch.equal(masked_bytes.mask(found.train, 0.25, 4)["labels"], batch["labels"])
    seen = found.train.flatten().tolist()
    targets = batch["labels"][hidden].tolist()
    expected = -sum(math.log((seen.count(byte) + 1) / (len(seen) + 257)) for byte in targets) / len(targets)
    assert masked_bytes.unigram_loss(found.train, batch["labels"]) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("column", "sentence"), [("words", "no column 'words'; it has text"), ("text", "40 blocks")])
def test_text_that_does_not_do(column, sentence, tmp_path):
    (tmp_path / "short.txt").write_text("short")
    with pytest.raises(UserError, match=sentence):
        masked_bytes.load(str(tmp_path / "short.txt"), column, 4)


@pytest.mark.parametrize("add_norm", ["post_ln", "residual"])
def test_the_probe_against_hidden_states_and_autograd(add_norm):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24, "vocab_size": 257}
    config = AddNormBertConfig(**sizes, num_hidden_layers=3, max_position_embeddings=8, add_norm=add_norm)
    model = AddNormBertForMaskedLM(config).eval()
    batch = masked_bytes.mask(torch.randint(0, 256, (4, 8)), 0.25, 0)
    found = layers.probe(model, model.bert.encoder.layer, batch)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(layer._forward_hooks for layer in model.bert.encoder.layer)
    out = model(**batch, output_hidden_states=True)
    states = [state.detach().double() for state in out.hidden_states]
    for number, layer in enumerate(model.bert.encoder.layer):
        x, y = states[number], states[number + 1]
        parameters = list(layer.parameters())
        gradients = torch.autograd.grad(out.loss, parameters, retain_graph=True, allow_unused=True)
        total = sum(gradient.double().square().sum() for gradient in gradients if gradient is not None)
        cosine = (x * y).sum(-1) / (x.square().sum(-1) * y.square().sum(-1)).sqrt()
        expected = {
            "gradient": total.sqrt(),
            "rms": y.square().mean().sqrt(),
            "change": (y - x).norm() / x.norm(),
            "cosine": cosine.mean(),
        }
        for name, value in expected.items():
            assert found[name][number] == pytest.approx(value.item(), rel=1e-4), name


def test_curves_are_short():
    assert curves.picked(5, 48) == [0, 1, 2, 3, 4]
    assert curves.picked(1000, 4) == [0, 333, 666, 999]
    assert curves.binned([1.0, 3.0, 5.0, 7.0, 9.0], 2) == ([2, 5], [2.0, 7.0])
    assert curves.rounded(0.00123456) == 0.001235


def test_a_study_its_json_and_its_figure(study, tmp_path):
    result = study("--result_file", str(tmp_path / "depth.json"))
    assert json.loads((tmp_path / "depth.json").read_text()) == result
    assert set(result) == {"recipe", "config", "data", "versions", "machine", "missing", "runs"}
    assert str(tmp_path) not in json.dumps(result)
    # breadth first: one seed of every depth, then the next seed
    names = [f"{scheme}_{layers}_{seed}" for layers, seed in ((2, 0), (3, 0), (2, 1)) for scheme in SCHEMES]
    assert [run["name"] for run in result["runs"]] == names
    assert result["missing"] == []
    for run in result["runs"]:
        settings = run["settings"]
        assert set(run) == RUN_KEYS
        assert run["steps_done"] == len(run["loss_history"]) == 2
        assert settings["warmup"] == (0.0 if settings["scheme"] == "cold" else 0.2)
        for moment in ("start", "end"):
            assert set(run[moment]) == {"gradient", "rms", "change", "cosine"}
            assert all(len(curve) == settings["depth"] for curve in run[moment].values())
        assert 4 < run["loss"] < 7
        assert run["start"] != run["end"]
    first, _, _, _, second, _ = result["runs"]
    assert first["loss"] != second["loss"]

    depth_report.draw(result, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    text = depth_report.part(result, result)
    assert f"| `cold` | {(first['loss'] + second['loss']) / 2:.2f} (" in text
    assert text.count("| not run |") == len(depth_claims.CLAIMS)


def test_a_study_goes_on(study, tmp_path):
    whole = study()
    with pytest.raises(UserError, match="study is not empty: choose another folder, or go on in it with --resume"):
        study()
    with pytest.raises(UserError, match=r"post_ln_2_0.json holds another run; it differs in warmup \(0.2 there, 0.5 "):
        study("--resume", warmup=0.5)
    (tmp_path / "study" / "cold_3_0.json").unlink()
    kept = (tmp_path / "study" / "post_ln_3_0.json").stat().st_mtime_ns
    again = study("--resume")
    assert (tmp_path / "study" / "post_ln_3_0.json").stat().st_mtime_ns == kept
    for before, after in zip(whole["runs"], again["runs"], strict=True):
        assert {**before, "seconds": 0} == {**after, "seconds": 0}


def test_a_scheme_that_is_refused_stops_the_study_before_it_begins(study, tmp_path):
    with pytest.raises(UserError, match=r"scheme 'typo' at depth 2: .*pre_nl.*pre_ln"):
        study(schemes={**SCHEMES, "typo": {"add_norm": "pre_nl"}})
    assert not (tmp_path / "study").exists()


def test_what_cannot_be_trained_is_a_row(study, tmp_path, monkeypatch):
    result = study(learning_rate=1e30, depths={2: {"seeds": 1, "steps": 60, "batch_size": 4}})
    assert [run["loss"] for run in result["runs"]] == [None, None]
    assert all(run["steps_done"] < 60 and run["loss_history"][-1] is None for run in result["runs"])
    text = depth_report.part(result, result)
    assert "| `post_ln` | not finite **fails** |" in text
    depth_report.draw(result, tmp_path / "figure.png")

    def no_memory(*args):
        raise RuntimeError("out of\nmemory")

    monkeypatch.setattr(depth, "probe", no_memory)
    (tmp_path / "study" / "cold_2_0.json").unlink()
    result = study("--resume", learning_rate=1e30, depths={2: {"seeds": 1, "steps": 60, "batch_size": 4}})
    assert result["runs"][0]["error"] == "out of memory"
    assert "| `cold` | **broke off** |" in depth_report.part(result, result)


def made_up(loss: float, unigram: float = 3.0) -> dict:
    """A result in which all layers and all runs of a study are alike."""
    depths = {6: 300, 24: 300, 96: 200, 1000: 12}
    curve = dict.fromkeys(("gradient", "rms", "change", "cosine"), [0.5] * 4)
    runs = [
        {
            "name": f"{scheme}_{layers}_0",
            "settings": {"scheme": scheme, "depth": layers},
            **{"loss": loss, "unigram_loss": unigram, "loss_history": [6.0, loss], "loss_steps": [1, 2]},
            **{"layers": [1, 2, 3, 4], "start": curve, "end": curve},
        }
        for layers in depths
        for scheme in depth_report.STYLES
    ]
    config = {
        "schemes": list(depth_report.STYLES),
        "depths": {str(layers): {"steps": steps} for layers, steps in depths.items()},
    }
    return {"config": config, "missing": [], "runs": runs}


def verdicts(result: dict) -> dict[str, bool]:
    study = depth_claims.Study(result)
    return {claim.text: claim.measure(study)[1] for claim in depth_claims.CLAIMS}


def test_claims_are_confirmed_and_refuted_by_numbers():
    good, bad = verdicts(made_up(2.0)), verdicts(made_up(2.95))
    assert {text for text in good if good[text] != bad[text]} == {
        claim.text for claim in depth_claims.CLAIMS if "trained" in claim.text or "so can" in claim.text
    } | {"post-norm without warm-up fails where it is deep", "warm-up mends that"}
    result = made_up(2.0)
    for run in result["runs"]:
        scheme, layers = run["settings"]["scheme"], run["settings"]["depth"]
        small = {"change": [1.0, 0.2, 0.2, 0.2], "cosine": [0.2, 0.2, 0.2, 0.2], "rms": [layers**0.5] * 4}
        if scheme == "post_ln":
            run["start"] = {**run["start"], "gradient": [0.4, 0.5, 0.5, 0.5]}
        if scheme == "pre_ln":
            run["start"] = run["end"] = {**small, "gradient": [layers**-0.5] * 4}
        if scheme in ("hyper_connections", "rezero", "layer_scale"):
            run["start"] = run["end"] = {**run["start"], "change": [0.001] * 4, "cosine": [0.1] * 4}
        if scheme == "post_ln_no_warmup" and layers > 6:
            run["loss"] = None
    assert all(verdicts(result).values())
