"""The console script: what it says, how it exits, and what `check` finds."""

import importlib
import inspect
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import types
from pathlib import Path

import forked_python
import pytest
import torch
import transformers
from families import BASE_MODELS, FAMILIES, PRESET_NAMES, slow_unless
from typer.testing import CliRunner

import hf_addnorm
from hf_addnorm import AddNormBertConfig, AddNormBertForSequenceClassification, __version__
from hf_addnorm.cli.app import COMMANDS, app
from hf_addnorm.cli.report import Prose
from hf_addnorm.cli.showing import _said
from hf_addnorm.hub import check_folder, checks, plan_push
from hf_addnorm.hub.description import described
from hf_addnorm.hub.known_code import known_code
from hf_addnorm.models.spec.presets import PRESETS


ROOT = Path(__file__).parents[1]
FAKE = "hf_" + "Fa1seT0ken" * 3


@pytest.fixture(autouse=True)
def _fresh_processes_start_fast(request, monkeypatch):
    """`check` loads a folder in another process, which starts faster here."""
    if request.node.originalname.startswith("test_the_installed_script"):
        return

    def run_there(command, env, cwd, timeout, **kwargs):
        assert command[0] == sys.executable
        # nothing there waits for somebody at the terminal
        assert kwargs == {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True, "check": False}
        return forked_python.run(command[1:], env=env, cwd=cwd, timeout=timeout)

    there = types.SimpleNamespace(run=run_there, DEVNULL=subprocess.DEVNULL, TimeoutExpired=subprocess.TimeoutExpired)
    monkeypatch.setattr(checks, "subprocess", there)


def run(*args, code=0):
    """What a command says; its exit code is looked at."""
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    assert result.exit_code == code, (result.output, result.exception)
    return result.output


def run_json(*args, code=0):
    return json.loads(run(*args, "--json", code=code))


def _save(folder, add_norm="hyper_connections"):
    config = FAMILIES["bert"].config("AddNormBertForSequenceClassification", add_norm, num_hidden_layers=2)
    AddNormBertForSequenceClassification(config).save_pretrained(folder)
    words = {word: index for index, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "hello"])}
    transformers.BertTokenizer(vocab=words).save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n\n# net\n")
    return folder


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder that nothing is wrong with."""
    torch.manual_seed(0)
    return _save(tmp_path_factory.mktemp("saved") / "net")


@pytest.fixture
def folder(saved, tmp_path):
    """A copy of it, to be spoilt."""
    return Path(shutil.copytree(saved, tmp_path / "net"))


def test_every_command_has_help_and_json():
    said = run("--help")
    assert list(COMMANDS) == [
        "presets",
        "show",
        "card",
        "push",
        "check",
        "launch",
        "convert",
        "export",
        "diagnose",
        "explore",
    ]
    for name, entry in COMMANDS.items():
        assert name in said
        assert "--json" in run(name, "--help")
        function = getattr(importlib.import_module(f"hf_addnorm.cli.{entry.file}"), name)
        assert entry.help == inspect.getdoc(function).splitlines()[0]
    # the script says it once more, since it may not import the package to find out
    light = runpy.run_path(str(ROOT / "hf_addnorm/entry/hf_addnorm_script.py"))["_LIGHT"]
    assert {name for name, entry in COMMANDS.items() if not entry.needs_model} == {*light} - {"--help"}


def test_the_docs_name_the_commands_that_are_there():
    named = set(re.findall(r"`hf-addnorm ([a-z]+)", (ROOT / "docs" / "hub.md").read_text()))
    assert named == set(COMMANDS)


def test_presets():
    assert list(run_json("presets")) == PRESET_NAMES
    said = run("presets")
    assert all(name in said for name in PRESET_NAMES) and "x <- N((2L)^(1/4) x + F(x))" in said


# how many parameters more than stock
MORE_PARAMETERS = {
    "pre_ln": 2 * 768,
    "rezero": 12 - 24 * 2 * 768,
    "layer_scale": 2 * 768 + 24 * 768,
    "pre_rms_norm": 768 - 25 * 768,
    "post_ln": 0,
}


# what is counted with every scheme is in test_cost.py
@pytest.mark.parametrize("preset", [slow_unless(name in {*MORE_PARAMETERS, "gtrxl"}, name) for name in PRESET_NAMES])
def test_show_a_preset(preset):
    data = run_json("show", preset)
    (part,) = data["parts"]
    assert part["add_norm"]["preset"] == preset and part["flow"] and part["places"]
    counted = data["cost"]
    more = counted["parameters"] - counted["stock_parameters"]
    assert more == MORE_PARAMETERS.get(preset, more)
    if preset == "gtrxl":
        # six square matrices for each of 24 sublayers
        assert counted["multiply_adds"] - counted["stock_multiply_adds"] == 24 * 6 * 768 * 768 * 128


# of rows with the same classes the first one
_ROWS = {row.config_class: name for name, row in reversed(FAMILIES.items())}.values()


@pytest.mark.parametrize("family", _ROWS)
def test_show_counts_in_every_family(family):
    kind = FAMILIES[family].config_class.stock_model_type
    counted = run_json("show", "pre_ln", "--family", kind)["cost"]
    layers = transformers.AutoConfig.for_model(kind).num_hidden_layers
    sizes = counted["sizes"]
    assert counted["stock_parameters"] > 0
    # the stock default of one is its smallest checkpoint
    least = 4 if family == "whisper" else 6
    assert sizes.get("num_hidden_layers", sizes.get("encoder_layers", sizes.get("num_layers"))) == layers >= least


def test_show_a_folder_ours_and_stock(saved, tmp_path):
    said = run("show", saved)
    weights = sum(value.numel() for value in AddNormBertForSequenceClassification.from_pretrained(saved).parameters())
    assert 'add_norm = "hyper_connections"' in said and f"weights in the folder: {weights:,}" in said
    transformers.BertModel(FAMILIES["bert"].stock_config("")).save_pretrained(tmp_path)
    data = run_json("show", tmp_path)
    assert data["parts"][0]["add_norm"]["preset"] == "post_ln"
    assert data["cost"]["parameters"] == data["cost"]["stock_parameters"]


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (("show", "pre_lnn"), "'pre_lnn' is no preset, no folder and no repository (OWNER/NAME): did you mean pre_ln"),
        (("show", "./nowhere"), "./nowhere does not exist."),
        (("show", "/tmp/nowhere/normforme"), "/tmp/nowhere/normforme does not exist."),
        (("show", "runs/nowhere/pre_ln"), "runs/nowhere/pre_ln does not exist."),
        (("show", "pre_ln", "--family", "berd"), "unknown family 'berd'. Did you mean bert"),
        (("check", "nowhere"), "nowhere is not a folder."),
        (("card", "nowhere"), "nowhere holds no model: there is no config.json."),
        (("push", "nowhere", "ann/net"), "nowhere is not a folder."),
        (("push", "FOLDER", "ann/net/more"), "'ann/net/more' is no name of a repository"),
        (("card", "FOLDER"), "README.md is there already: --force writes over it"),
        (("card", "FOLDER", "--force", "--result", "FOLDER/config.json"), "it has no 'config'."),
        (("card", "FOLDER", "--force", "--stock-result", "FOLDER/config.json"), "has no 'config'"),
    ],
)
def test_bad_input_gives_one_sentence(args, sentence, saved):
    args = [arg.replace("FOLDER", str(saved)) for arg in args]
    said = run(*args, code=2)
    assert sentence in said and said.startswith("error: ") and len(said.splitlines()) == 1
    assert sentence in run_json(*args, code=2)["error"]


def test_a_repository_that_is_not_there_is_a_problem():
    said = run("show", "nobody/no-such-model", code=1)
    assert said.startswith("error: ") and len(said.splitlines()) == 1


def test_card_is_written_shown_and_kept(folder):
    (folder / "README.md").unlink()
    results = ROOT / "recipes" / "results"
    options = ("--result", results / "sst2_10k_dyt_seed0.json", "--license", "mit", "--repo", "ann/net")
    shown = run("card", folder, *options, "--print")
    assert shown.startswith("---\n") and not (folder / "README.md").exists()
    made = run_json("card", folder, *options, "--stock-result", results / "sst2_10k_post_ln_seed0.json")
    text = (folder / "README.md").read_text()
    assert made["data"]["license"] == "mit" and made["path"] == str(folder / "README.md")
    assert "| stock, `post_ln` | 0.8486" in text and '"ann/net"' in text
    run("card", folder, code=2)
    assert (folder / "README.md").read_text() == text
    run("card", folder, "--force")
    assert (folder / "README.md").read_text() != text


def test_launch_names_a_file():
    listed = run_json("launch")
    path = Path(run("launch", "cpu2").strip())
    assert "cpu2" in listed and path.is_file() and path == Path(run_json("launch", "cpu2")["path"])
    assert run("launch", "cpu3", code=2).startswith("error: there is no launch file 'cpu3'; allowed are cpu, ")


def test_check_loads_every_class_as_a_stranger(saved):
    found = run_json("check", saved)
    assert found["ok"] and found["findings"] == []
    autos = set(AddNormBertConfig.auto_classes)
    assert set(found["loaded"]) == {"AutoConfig", "AutoTokenizer", "one forward of AutoModel", *autos}
    assert found["loaded"]["AutoModelForMaskedLM"] == "AddNormBertForMaskedLM"
    assert set(found["code"]) == {path.name for path in saved.glob("*.py")}
    assert all(__version__ in releases for releases in found["code"].values())


def _change(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


SPOILT = {
    "pickle": (lambda f: torch.save({}, f / "optimizer.pt"), "optimizer.pt", "can hold a pickle"),
    "hidden pickle": (lambda f: (f / "data.txt").write_bytes(b"\x80\x04."), "data.txt", "can hold a pickle"),
    "pickle in a zip": (lambda f: torch.save({}, f / "weights.zip"), "weights.zip", "can hold a pickle"),
    "other code": (
        lambda f: (f / "custom.py").write_text("1"),
        "custom.py",
        "is not the code of a known release of hf_addnorm",
    ),
    "nested code": (
        lambda f: (f / "custom_generate").mkdir() or shutil.copy(f / "spec.py", f / "custom_generate" / "generate.py"),
        "custom_generate/generate.py",
        "is not the code of a known release of hf_addnorm",
    ),
    "changed code": (
        lambda f: (f / "spec.py").write_text((f / "spec.py").read_text() + "\n"),
        "spec.py",
        f"is not the code of a known release of hf_addnorm ({', '.join(known_code())}).",
    ),
    "missing code": (
        lambda f: (f / "norms.py").unlink(),
        "norms.py",
        "is not there, and core.py imports it",
    ),
    "no model code": (
        lambda f: (f / "modeling_addnorm_bert.py").unlink(),
        "modeling_addnorm_bert.py",
        "is not there, and AutoModel in config.json names it",
    ),
    "another repository's code": (
        lambda f: _change(f / "config.json", lambda c: c["auto_map"].update(AutoModel="eve/net--code.Model")),
        "config.json",
        "AutoModel takes its code from another repository, eve/net",
    ),
    "tokenizer code": (
        lambda f: _change(f / "tokenizer_config.json", lambda c: c.update(auto_map={"AutoTokenizer": [None, "t.T"]})),
        "t.py",
        "is not there, and AutoTokenizer in tokenizer_config.json names it",
    ),
    "no class": (
        lambda f: _change(
            f / "config.json", lambda c: c["auto_map"].update(AutoModel="modeling_addnorm_bert.Nothing")
        ),
        "modeling_addnorm_bert.py",
        "has no class Nothing",
    ),
    "cut auto_map": (
        lambda f: _change(f / "config.json", lambda c: c["auto_map"].pop("AutoModelForMaskedLM")),
        "config.json",
        "its auto_map does not name AutoModelForMaskedLM",
    ),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "model.safetensors", "is not there"),
    "missing shard": (
        lambda f: (f / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-1.safetensors"}}'),
        "model-1.safetensors",
        "is not there, and model.safetensors.index.json names it",
    ),
    "token": (lambda f: (f / "notes.txt").write_text(f"used {FAKE}"), "notes.txt", "holds a token or a login"),
    "broken card": (lambda f: (f / "README.md").write_text("---\n[\n---\n"), "README.md", "cannot be read"),
    "broken config": (lambda f: (f / "config.json").write_text("{"), "config.json", "is not JSON"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_what_is_wrong_with_the_files_is_found(name, folder):
    spoil, where, what = SPOILT[name]
    assert not check_folder(folder, load=False).findings
    spoil(folder)
    found = check_folder(folder, load=False)
    assert any(each.where == where and what in each.what for each in found.errors), found.findings


def test_what_could_be_better_is_no_problem(folder):
    (folder / "README.md").unlink()
    found = check_folder(folder, load=False)
    assert [finding.level for finding in found.findings] == ["warning"] * 2 and not found.errors
    (folder / "LICENSE").write_text("MIT")
    assert [finding.what[:12] for finding in check_folder(folder, load=False).findings] == ["is not there"]


@pytest.mark.parametrize("family", [slow_unless(name == "vit", name) for name in ("vit", "bert", "wav2vec2")])
def test_a_model_as_it_was_saved_has_no_error(family, tmp_path):
    row = FAMILIES[family]
    row.model_class(BASE_MODELS[family])(row.config("", "pre_ln")).save_pretrained(tmp_path)
    found = run_json("check", tmp_path)
    assert found["ok"] and "AutoModel" in found["loaded"]
    # no card, no license, nothing that prepares inputs
    assert [finding["level"] for finding in found["findings"]] == ["warning"] * 3
    if family == "vit":
        # something that is there and does not load
        (tmp_path / "preprocessor_config.json").write_text('{"image_processor_type": "NoSuchProcessor"}')
        assert [finding.where for finding in check_folder(tmp_path).errors] == ["AutoImageProcessor"]


def test_a_saved_pipeline_is_clean(tmp_path):
    config = FAMILIES["vit"].config("AddNormViTForImageClassification", "pre_rms_norm")
    pipe = transformers.pipeline(
        "image-classification",
        model=hf_addnorm.AddNormViTForImageClassification(config),
        image_processor=transformers.ViTImageProcessor(size={"height": 16, "width": 16}),
    )
    pipe.save_pretrained(tmp_path)
    found = check_folder(tmp_path)
    assert not found.errors and "AutoImageProcessor" in found.loaded
    assert {finding.where for finding in found.findings} == {"README.md"}


def test_unknown_code_is_not_run_unless_asked_for(folder, tmp_path):
    trace = tmp_path / "trace"
    code = folder / "modeling_addnorm_bert.py"
    code.write_text(code.read_text() + f"\nopen({str(trace)!r}, 'w').close()\n")
    found = run_json("check", folder, code=1)
    assert not trace.exists() and found["loaded"] == {}
    assert {"level": "error", "where": "loading"}.items() <= found["findings"][-1].items()
    again = run_json("check", folder, "--run-unknown-code", code=1)
    assert trace.exists() and "AutoModel" in again["loaded"]


def test_nothing_is_unpickled(folder, tmp_path):
    class Trap:
        def __reduce__(self):
            return open, (str(tmp_path / "trap"), "w")

    torch.save(Trap(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    found = run_json("check", folder, code=1)
    wheres = [finding["where"] for finding in found["findings"]]
    assert {"pytorch_model.bin", "model.safetensors", "AutoModel"} <= set(wheres)
    run("show", folder)
    run("push", folder, "ann/net", code=1)
    assert not (tmp_path / "trap").exists()


def test_what_only_loading_shows_is_found(folder):
    for path in folder.glob("tokenizer*"):
        path.unlink()
    state = transformers.modeling_utils.load_state_dict(folder / "model.safetensors")
    del state["classifier.bias"]
    state["classifier.weight"] = state["classifier.weight"] * float("nan")
    transformers.modeling_utils.safe_save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    found = check_folder(folder)
    said = {finding.where: finding.what for finding in found.errors}
    assert "missing_keys: classifier.bias" in said["AutoModelForSequenceClassification"]
    # what prepares the inputs may be elsewhere
    (advice,) = [finding for finding in found.findings if finding.level == "warning"]
    assert advice.where == "AutoTokenizer" and advice.what.startswith("finds nothing here (tokenizer.json")
    assert "AutoModel" in found.loaded


def test_files_of_two_releases_are_told(folder, monkeypatch):
    releases = known_code()
    older = {"0.0.1": {name: value for name, value in releases[__version__].items() if name == "spec.py"}}
    newer = {__version__: {name: value for name, value in releases[__version__].items() if name != "spec.py"}}
    monkeypatch.setattr("hf_addnorm.hub.checks.known_code", lambda: older | newer)
    found = check_folder(folder, load=False)
    assert [finding.what for finding in found.findings] == ["the code files are of different releases of hf_addnorm."]


def test_push_shows_what_would_go(folder):
    (folder / "checkpoint-5").mkdir()
    (folder / "checkpoint-5" / "trainer_state.json").write_text("{}")
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text(f"url = https://ann:{FAKE}@hub.example/ann/net")
    torch.save({}, folder / "training_args.bin")
    said = run_json("push", folder, "ann/net")
    assert said["pushed"] is None and said["size"] == sum(said["files"].values())
    assert set(said["left_out"]) == {"training_args.bin", "checkpoint-5/trainer_state.json"}
    assert said["files"]["model.safetensors"] == (folder / "model.safetensors").stat().st_size
    assert not said["card_is_made"] and not any(name.startswith(".git") for name in said["files"])
    text = run("push", folder, "ann/net")
    assert "nothing was sent; --yes sends it" in text and "Fa1se" not in text
    (folder / "README.md").unlink()
    assert run_json("push", folder, "ann/net")["card_is_made"] and not (folder / "README.md").exists()


def test_push_refuses_what_is_dangerous(folder):
    (folder / "custom.py").write_text("1")
    said = run("push", folder, "ann/net", "--yes", code=1)
    assert "in the way: custom.py: is not the code of a known release of hf_addnorm" in said
    with pytest.raises(ValueError, match=r"is not pushed: custom\.py"):
        plan_push(folder, "ann/net").send()


def test_a_token_is_never_shown(folder, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", FAKE)
    (folder / "notes.txt").write_text(FAKE)
    # so that it is not loaded, which takes time
    (folder / "custom.py").write_text("1")
    _change(folder / "config.json", lambda content: content.update(note=FAKE, url=f"https://a:{FAKE}@h.example"))
    for args, code in (
        (("check", folder), 1),
        (("show", folder), 0),
        (("push", folder, f"{FAKE}/net"), 1),
        (("show", f"{FAKE}/net"), 1),
        (("show", FAKE), 2),
        (("card", folder, "--print", "--name", FAKE), 0),
    ):
        for options in ((), ("--json",)):
            assert "Fa1se" not in run(*args, *options, code=code), args


def test_a_stranger_is_told_no_secrets(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", FAKE)
    monkeypatch.setenv("SOME_API_KEY", "secret")
    trace = tmp_path / "environment"
    code = folder / "modeling_addnorm_bert.py"
    dump = f"\nimport json, os, pathlib\npathlib.Path({str(trace)!r}).write_text(json.dumps(dict(os.environ)))\n"
    code.write_text(code.read_text() + dump)
    check_folder(folder, run_unknown_code=True)
    told = json.loads(trace.read_text())
    assert "Fa1se" not in str(told) and "SOME_API_KEY" not in told
    assert told["HF_HUB_OFFLINE"] == "1" and told["HF_HOME"] != os.environ.get("HF_HOME")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Where pip has installed a wheel, as a user has it."""
    folder = tmp_path_factory.mktemp("installed")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (wheel,) = folder.glob("*.whl")
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", folder / "site", wheel]
    subprocess.run([*map(str, install), "--quiet", "--no-compile"], check=True, capture_output=True, timeout=120)
    return folder / "site"


def test_the_installed_script(saved, site, tmp_path):
    command = [sys.executable, str(site / "bin" / "hf-addnorm"), "check", str(saved), "--json"]
    env = os.environ | {"PYTHONPATH": str(site)}
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0 and json.loads(done.stdout)["ok"], done.stderr


def test_the_installed_script_has_its_template_and_says_what_it_lacks(saved, site, tmp_path):
    def call(*args, **env):
        env = os.environ | {"PYTHONPATH": str(site)} | env
        return forked_python.run([site / "bin" / "hf-addnorm", *args], env=env, cwd=tmp_path)

    # with the template that is in the wheel
    assert (site / "hf_addnorm" / "hub" / "card.md.jinja").is_file()
    shown = call("card", saved, "--print")
    assert shown.returncode == 0 and "hyper_connections" in shown.stdout
    # without its packages
    (tmp_path / "typer.py").write_text("raise ModuleNotFoundError('no typer', name='typer')")
    missing = call("presets", PYTHONPATH=f"{tmp_path}:{site}")
    assert missing.returncode == 2
    assert re.fullmatch(
        r"hf-addnorm needs typer, which is not installed: pip install 'hf_addnorm\[cli\]'\n", missing.stderr
    )


def test_an_encoder_decoder_is_shown_and_looked_at(tmp_path):
    tiny = {"model_type": "bert", **FAMILIES["bert"].tiny}
    parts = {"encoder": {**tiny, "add_norm": "deepnorm"}, "decoder": {**tiny, "add_norm": "pre_ln"}}
    config = hf_addnorm.AddNormEncoderDecoderConfig(**parts, pad_token_id=0, decoder_start_token_id=2)
    folder = tmp_path / "net"
    hf_addnorm.AddNormEncoderDecoderModel(config).save_pretrained(folder)
    counted = run_json("show", folder)["cost"]
    # pre_ln has one norm, the final one, more than stock
    assert counted["parameters"] - counted["stock_parameters"] == 2 * FAMILIES["bert"].tiny["hidden_size"]
    assert not check_folder(folder, load=False).errors
    written = json.loads((folder / "config.json").read_text())
    del written["auto_map"]["AutoModelForSeq2SeqLM"]
    (folder / "config.json").write_text(json.dumps(written))
    assert "AutoModelForSeq2SeqLM" in check_folder(folder, load=False).errors[0].what


def test_light_commands_import_neither_torch_nor_transformers(tmp_path):
    script = tmp_path / "light.py"
    script.write_text(
        "import sys\nfrom hf_addnorm_script import main\ntry:\n    main()\nfinally:\n"
        "    found = [name for name in ('torch', 'transformers', 'jinja2') if name in sys.modules]\n"
        "    sys.stderr.write(f'imported: {found}')\n"
    )
    for args in (["launch", "cpu2"], ["launch", "nope"], ["presets", "--json"], ["--help"]):
        # not forked: a process that has imported nothing
        done = subprocess.run(
            [sys.executable, script, *args],
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "hf_addnorm/entry")])},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stderr.endswith("imported: []"), done.stderr
        # the name of the script is in its help
        expected = "" if "nope" in args else run(*args).replace(" root ", " light.py ")
        assert (done.returncode, done.stdout.split()) == (2 * ("nope" in args), expected.split())


@pytest.mark.parametrize("columns", [60, 80])
def test_sentences_are_broken_between_words(columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    said = run("show", "hyper_connections")
    monkeypatch.setenv("COLUMNS", "10000")
    whole = run("show", "hyper_connections")
    prose = [line for line in whole.splitlines() if line.startswith(("  x is", "  note: ", "  source: "))]
    assert prose and any(len(line) > columns for line in prose)
    assert said.split() == whole.split()
    lines = said.splitlines()
    begin = next(number for number, line in enumerate(lines) if line.startswith("  x is the stream"))
    end = next(number for number, line in enumerate(lines) if number > begin and not line.startswith("  "))
    assert all(len(line) <= columns for line in lines[begin:end])


@pytest.mark.parametrize("preset", PRESETS)
def test_what_is_shown_of_a_preset_fits_80_columns(preset, monkeypatch):
    """On a terminal; what goes into a file has its tables wider."""
    monkeypatch.setenv("COLUMNS", "80")
    config = AddNormBertConfig(add_norm=preset)
    (part,) = described(config)
    for line in _said(part):
        if isinstance(line, Prose):
            line = line.wrapped(80).plain
        if isinstance(line, str):
            assert max(map(len, line.splitlines() or [""])) <= 80, line
