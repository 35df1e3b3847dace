"""A saved model, evaluated or predicting alone: the call, the figures, the files, what is refused."""

import csv
import json
import shutil
from pathlib import Path

import forked_python
import pytest
from common.errors import UserError
from datasets import ClassLabel, Dataset, Features, Value
from transformers import pipeline


ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "recipes" / "finetune_text.py"


@pytest.fixture
def trained(config, recipe, tmp_path):
    """A run with names of classes; its config."""
    for split in ("train", "validation"):
        rows = Dataset.from_parquet(config[f"{split}_file"])
        names = [("bad", "good")[label] for label in rows["label"]]
        config[f"{split}_file"] = str(tmp_path / f"{split}.csv")
        rows.remove_columns("label").add_column("label", names).to_csv(config[f"{split}_file"])
    return config | {"result": recipe(config | {"add_norm": "pre_ln", "learning_rate": 5e-3})}


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.open()))


def test_the_figures_are_those_of_the_run(trained, use, capfd, tmp_path):
    capfd.readouterr()
    [path] = use("evaluate")
    assert path == tmp_path / "run" / "validation_evaluation.json"
    figures = json.loads(path.read_text())
    assert figures["metrics"] == {key: trained["result"]["metrics"][key] for key in figures["metrics"]}
    assert figures["data"] == trained["result"]["data"]["validation"]
    assert figures["add_norm"] == trained["result"]["add_norm"]
    accuracy = figures["metrics"]["accuracy"]
    printed = capfd.readouterr().out
    assert printed.startswith("evaluates on ")
    assert f"13 rows: accuracy {accuracy:.4f}, f1 " in printed
    assert f"the figures are in {path}" in printed


def test_predictions_are_in_the_order_of_the_file_and_as_the_pipeline_says(trained, use, capfd, tmp_path):
    # longest first is the order of the evaluation, and shortest first that of this file
    texts = sorted(Dataset.from_csv(trained["validation_file"])["text"], key=len)
    Dataset.from_dict({"id": list(range(13)), "text": texts}).to_csv(tmp_path / "new.csv")
    [path] = use("predict", "--file", str(tmp_path / "new.csv"))
    assert path == tmp_path / "run" / "new_predictions.csv"
    found = table(path)
    assert list(found[0]) == ["id", "text", "prediction", "probability", "probability_bad", "probability_good"]
    assert [row["text"] for row in found] == texts
    for row, best in zip(found, pipeline("text-classification", str(tmp_path / "run" / "model"))(texts), strict=True):
        assert row["prediction"] == best["label"]
        assert float(row["probability"]) == pytest.approx(best["score"], rel=1e-4)
        assert row["probability"] == row[f"probability_{best['label']}"]
    assert f"13 predictions are in {path}: columns prediction, probability, prob" in capfd.readouterr().out
    # what is evaluated can be written too, in another form
    parquet = tmp_path / "all.parquet"
    use("evaluate", "--result_file", str(tmp_path / "r.json"), "--predictions", str(parquet))
    rows = Dataset.from_parquet(str(parquet))
    figures = json.loads((tmp_path / "r.json").read_text())
    right = [row["prediction"] == row["label"] for row in rows]
    assert figures["metrics"]["accuracy"] == pytest.approx(sum(right) / 13)


def test_classes_are_matched_by_name(trained, use, tmp_path):
    """A file whose numbers stand for the classes in another order."""
    rows = Dataset.from_csv(trained["validation_file"])
    kinds = Features({"text": Value("string"), "label": ClassLabel(names=["good", "bad"])})
    turned = [("good", "bad").index(name) for name in rows["label"]]
    Dataset.from_dict({"text": rows["text"][:], "label": turned}, features=kinds).to_parquet(tmp_path / "t.parquet")
    figures = json.loads(use("evaluate", "--file", str(tmp_path / "t.parquet"))[0].read_text())
    assert figures["metrics"]["accuracy"] == trained["result"]["metrics"]["accuracy"]


@pytest.mark.parametrize("folder", [".", "model"])
def test_without_a_config(trained, use, tmp_path, folder):
    """The folder and the file are enough: the keys are those of the run, also where it has been moved."""
    output, folder = tmp_path / "out.csv", shutil.copytree(tmp_path / "run", tmp_path / "moved") / folder
    done = forked_python.run(
        [SCRIPT, "--do", "predict", "--model", folder, "--file", trained["validation_file"], "--predictions", output]
    )
    assert done.returncode == 0, done.stderr
    assert table(output) == table(use("predict")[0])


def test_two_processes_predict_the_same(trained, use, tmp_path):
    alone = table(use("predict")[0])
    command = [
        SCRIPT,
        "--config",
        tmp_path / "run" / "run.json",
        "--do",
        "predict",
        "--predictions",
        tmp_path / "2.csv",
    ]
    for done in forked_python.run_distributed([str(part) for part in command]):
        assert done.returncode == 0, done.stderr
    two = table(tmp_path / "2.csv")
    assert len(two) == 13
    for first, second in zip(alone, two, strict=True):
        assert first["text"] == second["text"]
        assert float(first["probability_good"]) == pytest.approx(float(second["probability_good"]), rel=1e-5)


def test_regression(config, recipe, use, tmp_path):
    keys = {"task": "regression", "label_column": "score"}
    result = recipe(config | keys)
    figures = json.loads(use("evaluate")[0].read_text())
    assert figures["metrics"] == {key: result["metrics"][key] for key in figures["metrics"]}
    rows = Dataset.from_parquet(config["validation_file"]).select_columns("text")
    rows.to_parquet(tmp_path / "new.parquet")
    found = Dataset.from_parquet(str(use("predict", "--file", str(tmp_path / "new.parquet"))[0]))
    assert found.column_names == ["text", "prediction"]
    assert len(set(found["prediction"])) > 5


@pytest.mark.parametrize(
    ("do", "args", "sentence"),
    [
        ("predict", ["--file", "nowhere.csv"], "there is no file nowhere.csv"),
        ("predict", ["--predictions", "out.xlsx"], "cannot write out.xlsx: its ending must be one of .parquet, .csv,"),
        ("predict", ["--model", "/nowhere/at/all"], "there is no saved model in /nowhere/at/all: train one, or name"),
        ("predict", ["--text_column", "body"], "the validation split has no column 'body'; it has text, other, score"),
        ("evaluate", ["--label_column", "kind"], "the validation split has no column 'kind'; it has text, other"),
        (
            "evaluate",
            ["--label_column", "other"],
            "validation row 0: column 'other' holds .*; the classes are the names",
        ),
        ("evaluate", ["--resume"], "there is nothing to resume: do is evaluate"),
        ("train", ["--file", "a.csv"], "file is for a saved model, with do evaluate or predict; do is train"),
        ("train", ["--predictions", "a.csv"], "predictions is for a saved model, with do evaluate or predict"),
    ],
)
def test_refused(trained, use, tmp_path, do, args, sentence):
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=sentence) as caught:
        use(do, *args)
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_nothing_is_overwritten_and_names_do_not_clash(trained, use, tmp_path):
    [path] = use("predict")
    with pytest.raises(UserError, match=f"predictions {path} exists: choose another name with --predictions"):
        use("predict")
    with pytest.raises(
        UserError, match="the file has a column 'prediction': names that begin with prediction or prob"
    ):
        use("predict", "--file", str(path))
    with pytest.raises(UserError, match="do is predict, and no model is given: a saved folder, or the output_dir of"):
        from finetune_text import main

        main(["--do", "predict"])


def test_a_model_without_a_head_is_refused(tiny, use, trained):
    with pytest.raises(
        UserError, match=r"has no weights for .*classifier\.weight.*: it was not trained for this task"
    ):
        use("predict", "--model", tiny)


def test_a_record_is_a_config(trained, recipe, tmp_path):
    """The record of a run begins another one with the same keys."""
    from finetune_text import main

    main(["--config", str(tmp_path / "run" / "run.json"), "--output_dir", str(tmp_path / "2"), "--max_steps", "1"])
    again = json.loads((tmp_path / "2" / "result.json").read_text())
    assert again["loss_history"][0] == trained["result"]["loss_history"][0]
