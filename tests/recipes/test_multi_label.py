"""Several labels to a row: the three forms of labels, the loss, the figures, the predictions, what is refused."""

import json
import math

import numpy as np
import pytest
import torch
from common import metrics, multi_label
from common.errors import UserError
from conftest import BAD, GOOD, rows
from datasets import ClassLabel, Dataset, Features, List, Value
from transformers import pipeline


NAMES = ["cheerful", "gloomy", "short"]


def labelled(count: int, seed: int) -> dict[str, list]:
    """Texts with good words, bad words, both or none, some of them short."""
    texts = rows(count, seed)["text"]
    marks = [
        [any(word in GOOD for word in text.split()), any(word in BAD for word in text.split()), len(text.split()) < 6]
        for text in texts
    ]
    found = [[name for name, there in zip(NAMES, row, strict=True) if there] for row in marks]
    return {
        "text": texts,
        "list": found,
        "joined": ["; ".join(row) or None for row in found],
        **{name: [int(row[number]) for row in marks] for number, name in enumerate(NAMES)},
    }


FORMS = {
    "list": {"label_column": "list"},
    "separator": {"label_column": "joined", "label_separator": ";"},
    "columns": {"label_columns": NAMES},
}


@pytest.fixture
def moods(config, tmp_path):
    for split, count in (("train", 27), ("validation", 13)):
        config[f"{split}_file"] = str(tmp_path / f"{split}.parquet")
        Dataset.from_dict(labelled(count, count)).to_parquet(config[f"{split}_file"])
    return config | {"task": "multi_label", "dropout": 0.0}


def test_three_forms_are_one(moods, recipe, tmp_path):
    found = {name: recipe(moods | form | {"output_dir": str(tmp_path / name)}) for name, form in FORMS.items()}
    first = found["list"]
    assert first["metrics"].keys() == {"step", "epoch", "f1_micro", "f1_macro", "exact_match", "average_precision"}
    for result in found.values():
        assert result["loss_history"] == first["loss_history"]
        assert result["metrics_over_time"] == first["metrics_over_time"]
        assert result["model_config"]["problem_type"] == "multi_label_classification"
        assert result["model_config"]["id2label"] == {str(number): name for number, name in enumerate(NAMES)}


def test_the_loss_is_that_of_torch_however_a_step_is_split(moods, recipe, two_processes):
    keys = moods | FORMS["list"] | {"max_steps": 1, "batch_size": 27, "warmup": 0.0, "group_by_length": False}
    result = recipe(keys | {"output_dir": moods["output_dir"] + "_1"})
    split = recipe(keys | {"output_dir": moods["output_dir"] + "_2", "micro_batch_size": 9})
    two, _ = two_processes(keys | {"batch_size": 28, "micro_batch_size": 7})
    assert split["loss_history"] == pytest.approx(result["loss_history"], rel=1e-5)
    assert two["loss_history"] == pytest.approx(result["loss_history"], rel=1e-5)
    # the mean over rows and classes, as Transformers has it: before training all three are about log 2
    assert result["loss_history"][0] == pytest.approx(math.log(2), rel=0.1)
    logits, marks = torch.randn(5, 3), torch.randint(0, 2, (5, 3)).float()
    expected = torch.nn.BCEWithLogitsLoss()(logits, marks)
    torch.testing.assert_close(multi_label.summed_loss(logits, marks) / marks.numel(), expected)
    marks[2] = math.nan
    kept = [0, 1, 3, 4]
    torch.testing.assert_close(
        multi_label.summed_loss(logits, marks), 12 * torch.nn.BCEWithLogitsLoss()(logits[kept], marks[kept])
    )


def test_figures_against_counts():
    draw = np.random.default_rng(0)
    scores, true = draw.normal(size=(40, 4)), draw.integers(0, 2, (40, 4))
    # a class that never occurs and is never predicted
    scores[:, 3], true[:, 3] = -1, 0
    values = metrics.load_metrics(None, metrics.MULTI_LABEL).compute(
        predictions=scores.tolist(), references=true.tolist()
    )
    found = scores > 0
    right, said, there = (found & (true == 1)).sum(0), found.sum(0), true.sum(0)
    assert values["f1_micro"] == pytest.approx(2 * right.sum() / (said.sum() + there.sum()))
    each = [2 * r / (s + t) if s + t else 0 for r, s, t in zip(right, said, there, strict=True)]
    assert values["f1_macro"] == pytest.approx(np.mean(each))
    assert values["exact_match"] == pytest.approx(np.mean([(a == b).all() for a, b in zip(found, true, strict=True)]))
    precisions = []
    for column in range(3):
        ranked = true[np.argsort(-scores[:, column]), column]
        precisions.append(np.mean([ranked[: place + 1].mean() for place in range(40) if ranked[place]]))
    assert values["average_precision"] == pytest.approx(np.mean(precisions))
    nothing = metrics.load_metrics(["average_precision"], metrics.MULTI_LABEL)
    assert math.isnan(nothing.compute(predictions=[[0.5]], references=[[0]])["average_precision"])


@pytest.mark.parametrize("threshold", [0.2, 0.9])
def test_the_threshold_decides(threshold):
    shares = torch.tensor([[0.1, 0.25, 0.95], [0.85, 0.19, 0.21]])
    logits = list(shares.logit())
    metric = metrics.load_metrics(["exact_match"], metrics.MULTI_LABEL)
    reader = multi_label.MultiLabelOutputs(metric, dict(enumerate(NAMES)), threshold)
    found = reader.describe(logits, None)
    assert found["prediction"] == [
        [name for name, share in zip(NAMES, row, strict=True) if share > threshold] for row in shares.tolist()
    ]
    assert found["probability_gloomy"] == pytest.approx([0.25, 0.19])
    assert ((multi_label.above(threshold, logits) > 0) == (shares > threshold)).all()


def test_the_saved_model(moods, recipe, use, tmp_path):
    result = recipe(moods | FORMS["separator"] | {"threshold": 0.4, "learning_rate": 1e-2, "epochs": 30})
    [path] = use("evaluate")
    figures = json.loads(path.read_text())["metrics"]
    assert figures == {key: result["metrics"][key] for key in figures}
    # the same rows in another form, the columns in another order
    [path] = use(
        "evaluate",
        "--result_file",
        str(tmp_path / "2.json"),
        "--label_separator",
        "null",
        "--label_columns",
        json.dumps(NAMES[::-1]),
    )
    assert json.loads(path.read_text())["metrics"] == figures
    Dataset.from_dict({"text": labelled(40, 9)["text"]}).to_parquet(tmp_path / "new.parquet")
    [path] = use("predict", "--file", str(tmp_path / "new.parquet"))
    found = Dataset.from_parquet(str(path))
    assert found.column_names == ["text", "prediction", *(f"probability_{name}" for name in NAMES)]
    asked = pipeline("text-classification", str(tmp_path / "run" / "model"), top_k=None)
    for row in found:
        shares = {entry["label"]: entry["score"] for entry in asked([row["text"]])[0]}
        assert {name: row[f"probability_{name}"] for name in NAMES} == pytest.approx(shares, rel=1e-4)
        assert row["prediction"] == [name for name in NAMES if shares[name] > 0.4]
    assert len(set(map(tuple, found["prediction"]))) > 1
    card = (tmp_path / "run" / "model" / "README.md").read_text()
    assert all(name in card for name in figures)


def test_declared_names(moods, recipe, tmp_path):
    """Numbers of declared classes, in a list."""
    rows = labelled(27, 1)
    numbers = [[NAMES.index(name) for name in row] for row in rows["list"]]
    kinds = Features({"text": Value("string"), "list": List(ClassLabel(names=NAMES))})
    Dataset.from_dict({"text": rows["text"], "list": numbers}, features=kinds).to_parquet(
        tmp_path / "declared.parquet"
    )
    keys = moods | dict.fromkeys(("train_file", "validation_file"), str(tmp_path / "declared.parquet"))
    result = recipe(keys | FORMS["list"] | {"max_steps": 1})
    assert list(result["model_config"]["id2label"].values()) == NAMES


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        (
            {"label_column": "joined"},
            "train row 0: column 'joined' holds .*, not a list of labels; for labels in a text",
        ),
        (
            {"label_column": "list", "label_separator": ";"},
            r"train row 0: column 'list' holds \[.*, not a text with lab",
        ),
        (
            {"label_columns": ["cheerful", "text"]},
            "train row 0: column 'text' holds .*; a column of a class has 0 or 1",
        ),
        ({"label_columns": ["merry"]}, "the train split has no column 'merry'"),
        ({"label_columns": NAMES, "label_separator": ";"}, "are two forms of labels: give one of them"),
        ({"label_column": "list", "num_labels": 5}, "num_labels is 5, and column 'list' has 3 classes"),
        ({"label_column": "list", "threshold": 1.0}, "threshold is 1.0; allowed is a number between 0 and 1"),
        (
            {"label_column": "list", "class_weights": "balanced"},
            "class_weights are for task classification; task is mu",
        ),
        ({"label_columns": NAMES, "task": "classification"}, "label_columns is for task multi_label; task is classif"),
        ({"label_column": "list", "metrics": ["accuracy"]}, "metric 'accuracy' is not one of this task's: f1_micro,"),
    ],
)
def test_refused(moods, recipe, tmp_path, keys, sentence):
    with pytest.raises(UserError, match=sentence) as caught:
        recipe(moods | keys)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_label_that_only_validation_has(moods, recipe, tmp_path):
    Dataset.from_dict({"text": ["a film"], "list": [["sad"]]}).to_json(tmp_path / "other.jsonl")
    with pytest.raises(
        UserError, match="validation row 0: column 'list' holds 'sad'; the classes are the names cheer"
    ):
        recipe(moods | FORMS["list"] | {"validation_file": str(tmp_path / "other.jsonl")})
