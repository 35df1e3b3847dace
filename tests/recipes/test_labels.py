"""Classes by name: the order of a checkpoint, names from outside, numbers and texts of one column, what is refused."""

import io
import wave
from pathlib import Path

import finetune_audio
import finetune_images
import finetune_text
import finetune_tokens
import numpy as np
import pytest
import torch
from common.data import Classes, class_labels
from common.errors import UserError
from common.model import SavedHead, draw_head
from conftest import BAD, GOOD, rows
from datasets import ClassLabel, Dataset, Features, Value
from PIL import Image as Picture
from transformers import (
    AutoModelForAudioClassification,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertConfig,
    BertForSequenceClassification,
)


SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
VIT = {"model_type": "vit", "image_size": 8, "patch_size": 4, **SMALL}
CONVOLUTIONS = {"conv_dim": [8, 8], "conv_kernel": [10, 8], "conv_stride": [5, 4]}
WAV2VEC2 = {"model_type": "wav2vec2", "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2}
WAV2VEC2 |= {"classifier_proj_size": 12, **CONVOLUTIONS, **SMALL}
NEW_HEAD = {"model_config": {"ignore_mismatched_sizes": True}}


def sentences(count, seed):
    found = rows(count, seed)
    return {"text": found["text"], "label": [("bad", "good")[label] for label in found["label"]]}, {}


def tagged(count, seed):
    texts = [text.split() for text in rows(count, seed)["text"]]
    kinds = [["good" if word in GOOD else "bad" if word in BAD else "none" for word in row] for row in texts]
    return {"tokens": texts, "ner_tags": kinds}, {}


def pictures(count, seed):
    names, files = [("dark", "bright")[row % 2] for row in range(count)], []
    for row, name in enumerate(names):
        files.append(io.BytesIO())
        Picture.fromarray(np.full((9, 9, 3), {"dark": 60, "bright": 200}[name] + row, np.uint8)).save(files[-1], "PNG")
    return {"image": [file.getvalue() for file in files], "label": names}, {"image": Value("binary")}


def clips(count, seed):
    draw, names, files = np.random.default_rng(seed), [("low", "high")[row % 2] for row in range(count)], []
    for name in names:
        file = io.BytesIO()
        noise = draw.normal(0, {"low": 300, "high": 3000}[name], 400).astype("<i2")
        with wave.open(file, "wb") as clip:
            clip.setnchannels(1)
            clip.setsampwidth(2)
            clip.setframerate(8000)
            clip.writeframes(noise.tobytes())
        files.append(file.getvalue())
    return {"audio": files, "label": names}, {"audio": Value("binary")}


RECIPES = {
    "text": (finetune_text, AutoModelForSequenceClassification, sentences, {"max_length": 32}, None),
    "tokens": (finetune_tokens, AutoModelForTokenClassification, tagged, {"max_length": 32}, None),
    "images": (finetune_images, AutoModelForImageClassification, pictures, {}, VIT),
    "audio": (finetune_audio, AutoModelForAudioClassification, clips, {}, WAV2VEC2),
}


@pytest.fixture
def keys(tiny, tmp_path):
    """A run's keys for one of the recipes."""

    def make(name):
        _, _, table, more, new = RECIPES[name]
        made = {"output_dir": str(tmp_path / "run"), "batch_size": 8, "mixed_precision": "no", "learning_rate": 1e-2}
        for seed, (split, count) in enumerate((("train", 27), ("validation", 13))):
            columns, kinds = table(count, seed)
            path = made[f"{split}_file"] = str(tmp_path / f"{split}.parquet")
            found = Dataset.from_dict(columns)
            found.cast(Features({**found.features, **kinds})).to_parquet(path)
        return made | more | ({"model_config": new} if new else {"checkpoint": tiny})

    return make


@pytest.mark.parametrize("name", RECIPES)
def test_the_order_of_the_checkpoint_is_kept(name, keys, recipe, tmp_path, capsys):
    module, auto_class, *_ = RECIPES[name]
    learned = recipe(keys(name) | {"epochs": 4}, main=module.main)
    model = auto_class.from_pretrained(tmp_path / "run" / "model")
    names = [*model.config.id2label.values()]
    with torch.no_grad():
        for parameter in model.classifier.parameters():
            parameter.copy_(parameter.flip(0))
    # one in other letters is the same one
    turned = dict(enumerate([names[-1].upper(), *names[-2::-1]]))
    model.config.id2label, model.config.label2id = turned, {label: number for number, label in turned.items()}
    model.save_pretrained(tmp_path / "run" / "model")
    other = {"checkpoint": str(tmp_path / "run" / "model"), "output_dir": str(tmp_path / "again")}
    again = recipe(keys(name) | other | {"model_config": {}, "learning_rate": 1e-9, "max_steps": 1}, main=module.main)
    figures = {key: value for key, value in learned["metrics"].items() if key not in ("step", "epoch")}
    assert {key: again["metrics"][key] for key in figures} == pytest.approx(figures, abs=1e-9)
    assert auto_class.from_pretrained(tmp_path / "again" / "model").config.id2label == turned


@pytest.mark.parametrize("name", RECIPES)
def test_other_classes_need_a_new_head(name, keys, recipe, tmp_path, capsys):
    module, auto_class, *_ = RECIPES[name]
    recipe(keys(name) | {"max_steps": 1}, main=module.main)
    model = auto_class.from_pretrained(tmp_path / "run" / "model")
    there = {number: f"x{number}" for number in model.config.id2label}
    model.config.id2label, model.config.label2id = there, {label: number for number, label in there.items()}
    with torch.no_grad():
        model.classifier.weight.fill_(5.0)
    model.save_pretrained(tmp_path / "run" / "model")
    other = keys(name) | {"checkpoint": str(tmp_path / "run" / "model"), "output_dir": str(tmp_path / "again")}
    other |= {"learning_rate": 1e-9, "max_steps": 1}
    with pytest.raises(
        UserError, match=r"the checkpoint's classes are x0, x1.* and column '.*' has .*label_names that"
    ):
        recipe(other | {"model_config": {}}, main=module.main)
    capsys.readouterr()
    recipe(other | NEW_HEAD, main=module.main)
    assert "the checkpoint's classes are x0, x1" in capsys.readouterr().out
    assert auto_class.from_pretrained(tmp_path / "again" / "model").classifier.weight.abs().max() < 1


def test_a_head_of_another_size(keys, recipe, tmp_path):
    recipe(keys("text") | {"max_steps": 1})
    other = {"checkpoint": str(tmp_path / "run" / "model"), "output_dir": str(tmp_path / "again"), "max_steps": 1}
    other |= {"label_names": ["bad", "good", "so so"]}
    with pytest.raises(UserError, match=r"has bad, good, so so: .* or start a new head with model_config '.*true}'"):
        recipe(keys("text") | other)
    with pytest.raises(UserError, match=r"its head has another size .*, model_config '.*true}' starts a new one"):
        recipe(keys("text") | other | {"task": "regression", "label_column": "length", **regression_files(tmp_path)})
    result = recipe(keys("text") | other | NEW_HEAD)
    assert [*result["model_config"]["id2label"].values()] == ["bad", "good", "so so"]


def regression_files(folder):
    path = str(folder / "regression.jsonl")
    Dataset.from_dict({"text": ["good", "bad"], "length": [4.0, 3.0]}).to_json(path)
    return {"train_file": path, "validation_file": path}


def test_a_new_head_is_that_of_a_new_model():
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(vocab_size=9, **SMALL, num_labels=4)).eval()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    draw_head(model)
    changed = {name for name, weight in model.state_dict().items() if not torch.equal(weight, before[name])}
    assert changed == {"classifier.weight"}
    assert model.classifier.weight.std().item() == pytest.approx(0.02, rel=0.4)


def classes(train, validation=(), feature=None, num_labels=None, names=None, head=None):
    """The numbers of both splits, the names, and what was said."""
    found = Classes("label", feature, list(train), num_labels, names, head)
    found.report()
    numbers = [
        [found.number(value, split, 0) for value in part] for split, part in (("train", train), ("v", validation))
    ]
    return *numbers, found.names, " ".join(found.remarks)


@pytest.mark.parametrize(
    ("train", "validation", "keys", "numbers", "names"),
    [
        # a number is the class of that name
        (["1", "2"], [1, 2, "1"], {}, [0, 1, 0], ["1", "2"]),
        ([0, 1, 2], ["2", 0], {}, [2, 0], ["0", "1", "2"]),
        # else it counts the classes
        (["no", "yes"], [1, "no"], {}, [1, 0], ["no", "yes"]),
        (["no", "yes"], [1, 2, "maybe"], {"names": ["no", "yes", "maybe"]}, [1, 2, 2], ["no", "yes", "maybe"]),
        ([0, 1], ["yes", 0], {"names": ["no", "yes"]}, [1, 0], ["no", "yes"]),
        (["0", "1"], ["yes", 0], {"names": ["no", "yes"]}, [1, 0], ["no", "yes"]),
        (["0", "1"], [0, 1], {"names": ["1", "0"]}, [1, 0], ["1", "0"]),
        ([True, False], [1, 0], {}, [1, 0], ["0", "1"]),
        (["False", "True"], [True, False], {"names": ["True", "False"]}, [0, 1], ["True", "False"]),
        # five stars are five classes
        ([1, 5, 2, 3, 4], [5], {}, [4], ["1", "2", "3", "4", "5"]),
        ([1, 5, 2, 3, 4], [5], {"num_labels": 5}, [4], ["1", "2", "3", "4", "5"]),
        ([1, 5, 2, 3, 4], [5], {"num_labels": 6}, [5], ["0", "1", "2", "3", "4", "5"]),
        ([1, 3], [2], {"names": ["3", "2", "1"]}, [1], ["3", "2", "1"]),
    ],
)
def test_numbers_and_names(train, validation, keys, numbers, names):
    assert classes(train, validation, **keys)[1:3] == (numbers, names)


def test_what_is_said():
    assert classes([1, 2, 4])[3] == (
        "column 'label' has no 0: the whole numbers 1, 2, 4 are taken as the names of 3 classes"
    )
    assert classes([0, 1, 3])[3] == "no row of the train split has the class 2"
    head = SavedHead(["neg", "pos"], 2, False)
    assert classes([0, 1], head=head)[2:] == (
        ["neg", "pos"],
        "the numbers of column 'label' are the checkpoint's classes neg, pos",
    )
    head = SavedHead(None, 2, False)
    assert classes(["b", "a"], head=head)[3] == (
        "the checkpoint's head has no names for its classes: they are taken to be a, b"
    )


@pytest.mark.parametrize(
    ("train", "validation", "keys", "sentence"),
    [
        (["1", "2"], [0], {}, "v row 0: column 'label' holds 0; the classes are the names 1, 2$"),
        ([1, 2], [0], {}, "v row 0: column 'label' holds 0; the classes are those of the train split, 1, 2$"),
        ([0, 1], [], {"names": ["1", "2"]}, "label_names are 1, 2, and column 'label' has the classes 0, 1"),
        (["a", "b"], [], {"names": ["a", "c"]}, "label_names are a, c, and column 'label' has the classes a, b"),
        (["a", "b"], [], {"names": ["a", "b", "a"]}, "label_names has a name twice: a, b, a"),
        (["a", "a "], [], {}, "has the classes 'a' and 'a ', which differ in blanks alone"),
        ([0, 10**9], [], {}, "has 2 whole numbers up to 1000000000, which would make 1000000001 classes: num_labels"),
        (["a", "a"], [], {}, "column 'label' has one class alone, a: there is nothing to learn"),
        (["a", ""], [], {}, "has one class alone|holds ''"),
        (["a", "b", "  "], [], {}, "train row 0: column 'label' holds '  '; the classes are the names a, b"),
    ],
)
def test_what_is_refused(train, validation, keys, sentence):
    with pytest.raises(UserError, match=sentence):
        classes(train, validation, **keys)


def test_splits_that_declare_another_order():
    splits = {
        split: Dataset.from_dict({"label": [0, 1]}, features=Features({"label": ClassLabel(names=names)}))
        for split, names in (("train", ["no", "yes"]), ("validation", ["yes", "no"]))
    }
    numbers, head = class_labels(splits, "label", None)
    assert numbers == {"train": [0, 1], "validation": [1, 0]}
    assert head["id2label"] == {0: "no", 1: "yes"}


@pytest.mark.parametrize("split", ["train", "validation"])
def test_an_empty_cell_is_named(config, recipe, tmp_path, split):
    # the whole numbers of a csv with an empty cell are read as 0.0, 1.0 and nan
    path = tmp_path / "table.csv"
    path.write_text("text,label\n" + "\n".join(f"good,{'' if row == 16 else row % 2}" for row in range(20)))
    with pytest.raises(UserError, match=f"{split} row 16: column 'label' holds None; the classes are"):
        recipe(config | {f"{split}_file": str(path)})
    assert not Path(config["output_dir"]).exists()
