"""Saved folders carry their code: loaded where hf_addnorm cannot be imported, and without remote code where it is."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from families import FAMILIES, MODELS, SPECS, fill_with_pattern

import hf_addnorm
from hf_addnorm import AddNormBertConfig, AddNormBertModel


CODE = Path(hf_addnorm.__file__).parent / "models"


@pytest.mark.parametrize("specs", [["post_ln", "all_slots"], ["rezero", "by_layer"]], ids="+".join)
def test_every_auto_class_loads_as_a_stranger_and_saves_again(specs, tmp_path):
    cases = []
    for spec in specs:
        for family, model in MODELS:
            row = FAMILIES[family]
            net = row.model_class(model)(row.config(model, SPECS[spec])).eval()
            fill_with_pattern(net)
            folder = tmp_path / f"{spec}-{model}"
            net.save_pretrained(folder)
            # as loaded: weights that are mapped from a file are aligned differently, which BLAS shows in the last bit
            net = row.model_class(model).from_pretrained(folder)
            inputs = {key: value for key, value in row.inputs(model).items() if not re.search("label|positions", key)}
            torch.save(inputs, folder.with_suffix(".in"))
            torch.save(net(**inputs)[0].detach(), folder.with_suffix(".out"))
            autos = [auto for auto, name in row.config_class.auto_classes.items() if name == model]
            cases.append(
                {
                    "folder": str(folder),
                    "resave": f"{folder}-again",
                    "autos": autos,
                    "inputs": f"{folder}.in",
                    "expected": f"{folder}.out",
                }
            )
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    env = os.environ | {"HF_HOME": str(tmp_path / "home"), "HF_MODULES_CACHE": str(tmp_path / "modules")}
    script = Path(__file__).with_name("stranger.py")
    result = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "cases.json")],
        env={key: value for key, value in env.items() if key != "PYTHONPATH"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]


@pytest.mark.parametrize(("family", "model"), MODELS)
def test_with_the_package_no_remote_code_is_needed(family, model, tmp_path):
    row = FAMILIES[family]
    net = row.model_class(model)(row.config(model, "pre_ln"))
    net.save_pretrained(tmp_path)
    assert type(transformers.AutoConfig.from_pretrained(tmp_path)) is row.config_class
    for auto in (auto for auto, name in row.config_class.auto_classes.items() if name == model):
        assert type(getattr(transformers, auto).from_pretrained(tmp_path)) is row.model_class(model)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert set(saved["auto_map"]) == {"AutoConfig", *row.config_class.auto_classes}
    for reference in saved["auto_map"].values():
        module, name = reference.split(".")
        assert f"class {name}" in (tmp_path / f"{module}.py").read_text()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_auto_class_that_knows_the_stock_family_knows_ours(family):
    row = FAMILIES[family]
    expected = {}
    for name in dir(transformers):
        mapping = (
            getattr(getattr(transformers, name), "_model_mapping", None) if name.startswith("AutoModel") else None
        )
        if mapping is not None and row.config_class.stock_model_type in mapping._model_mapping:
            stock = mapping._model_mapping[row.config_class.stock_model_type]
            expected[name] = f"AddNorm{stock if isinstance(stock, str) else stock[0]}"
    # deprecated Auto classes share the mapping of a class that is listed
    assert row.config_class.auto_classes.items() <= expected.items()
    assert set(expected) - set(row.config_class.auto_classes) <= {"AutoModelWithLMHead"}


def test_config_alone_carries_its_code(tmp_path):
    AddNormBertConfig(add_norm="deepnorm").save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.glob("*.py")} == {path.name for path in CODE.glob("[a-z]*.py")}


def test_tokenizer_of_a_folder_with_a_vocabulary_only(tmp_path):
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "hello", "world"]
    (tmp_path / "vocab.txt").write_text("\n".join(vocab))
    AddNormBertConfig(vocab_size=7).save_pretrained(tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer("hello world").input_ids == [2, 5, 6, 3]


def test_files_that_travel_import_nothing_that_does_not():
    allowed = {"torch", "transformers", "huggingface_hub"} | set(sys.stdlib_module_names)
    for file in CODE.glob("[a-z]*.py"):
        text = file.read_text()
        for line in re.findall(r"^(?:from|import) .*$", text, flags=re.MULTILINE):
            module = line.split()[1]
            assert re.fullmatch(r"\.[a-z_]+", module) or module.split(".")[0] in allowed, f"{file.name}: {line}"
        # Transformers finds the files to copy by this expression, in docstrings too
        for name in re.findall(r"^\s*from\s+\.(\S+)\s+import", text, flags=re.MULTILINE):
            assert (CODE / f"{name}.py").exists(), f"{file.name}: {name}"
        assert len(text.splitlines()) <= 600, file


def test_a_newer_format_and_an_unknown_preset_in_a_saved_config_are_named(tmp_path):
    AddNormBertModel(FAMILIES["bert"].config("AddNormBertModel", "pre_ln")).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for change, sentence in (
        ({"format_version": 99}, "format_version is 99, but this version of hf_addnorm reads up to 1"),
        ({"preset": "pre_lnn"}, "unknown preset 'pre_lnn'. Did you mean pre_ln"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config | {"add_norm": config["add_norm"] | change}))
        with pytest.raises(ValueError, match=re.escape(sentence)):
            AddNormBertModel.from_pretrained(tmp_path)


def test_saving_into_the_same_folder_twice_and_sharded(tmp_path):
    net = AddNormBertModel(FAMILIES["bert"].config("AddNormBertModel", "sub_ln"))
    net.save_pretrained(tmp_path)
    net.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    back = AddNormBertModel.from_pretrained(tmp_path)
    for key, value in net.state_dict().items():
        assert torch.equal(value, back.state_dict()[key]), key
