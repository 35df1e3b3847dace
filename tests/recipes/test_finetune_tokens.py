"""Token classification: which token carries a word's label, what counts as wrong, the figures, what is refused."""

import csv
import json
import random
from pathlib import Path

import finetune_tokens
import numpy as np
import pytest
from common import metrics, words
from common.errors import UserError
from conftest import BAD, GOOD, PLAIN
from datasets import ClassLabel, Dataset, Features, Sequence, Value
from transformers import AutoModelForTokenClassification, AutoTokenizer


NAMES = ["O", "B-good", "I-good", "B-bad", "I-bad"]


def rows(count: int, seed: int) -> dict[str, list]:
    """Sentences in which a good or bad word begins an entity, that a "films" behind it belongs to."""
    draw = random.Random(seed)
    found = {"tokens": [], "ner_tags": []}
    for _ in range(count):
        texts, tags = [], []
        for word in draw.choices([*GOOD, *BAD, *PLAIN[:-1], "films"], k=draw.randint(3, 12)):
            kind = "good" if word in GOOD else "bad" if word in BAD else None
            if kind is None and word == "films" and tags and tags[-1] != "O":
                tags.append(f"I-{tags[-1][2:]}")
            else:
                tags.append(f"B-{kind}" if kind else "O")
            texts.append(word)
        found["tokens"].append(texts)
        found["ner_tags"].append(tags)
    return found


@pytest.fixture
def tagging(config, tmp_path):
    """A run over 27 and 13 such sentences, with names as labels."""
    for seed, (split, count) in enumerate((("train", 27), ("validation", 13))):
        config[f"{split}_file"] = str(tmp_path / f"{split}.parquet")
        Dataset.from_dict(rows(count, seed)).to_parquet(config[f"{split}_file"])
    return config


@pytest.fixture
def tag(recipe):
    return lambda config, *args: recipe(config, *args, main=finetune_tokens.main)


@pytest.mark.parametrize(
    ("texts", "offsets", "places"),
    [
        (["ab", "c"], [(0, 0), (0, 1), (1, 2), (3, 4), (0, 0)], [1, 3]),
        # cut off behind the first word; a dropped word; an empty one
        (["ab", "c"], [(0, 0), (0, 1), (1, 2), (0, 0)], [1, -1]),
        (["a", "?", "b"], [(0, 0), (0, 1), (4, 5), (0, 0)], [1, -1, 2]),
        (["a", "", "b"], [(0, 1), (3, 4)], [0, -1, 1]),
        # tokens that take the blank before them along, and one over two words
        (["a", "b"], [(0, 1), (1, 3)], [0, 1]),
        (["a", "b", "c"], [(0, 3), (4, 5)], [0, -1, 1]),
        ([], [(0, 0), (0, 0)], []),
    ],
)
def test_first_tokens(texts, offsets, places):
    assert words.first_tokens(texts, offsets) == places


def test_labels_stand_at_first_tokens_alone(tiny):
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    batch = {"tokens": [["films", "good", "\u200d", "bad"], ["it"]], "word_labels": [[1, 2, 3, 4], [0]]}
    found = finetune_tokens.encode(batch, tokenizer, "tokens", 6)
    assert tokenizer.convert_ids_to_tokens(found["input_ids"][0]) == ["[CLS]", "film", "##s", "good", "bad", "[SEP]"]
    assert found["labels"] == [[-100, 1, -100, 2, 4, -100], [-100, 0, -100]]
    assert found["first_tokens"] == [[1, 3, -1, 4], [1]]
    cut = finetune_tokens.encode(batch, tokenizer, "tokens", 5)
    assert cut["labels"][0] == [-100, 1, -100, 2, -100]
    assert cut["first_tokens"][0] == [1, 3, -1, -1]


def test_a_saved_model_tags_words_without_labels(tagging, tag, use, tmp_path):
    result = tag(tagging | {"epochs": 10})
    figures = json.loads(use("evaluate", main=finetune_tokens.main)[0].read_text())
    assert figures["metrics"] == {key: result["metrics"][key] for key in figures["metrics"]}
    texts = [["films", "good"], ["bad", "\u200d", "films", "the", "a"]]
    Dataset.from_dict({"tokens": texts, "id": [7, 8]}).to_json(tmp_path / "new.jsonl")
    [path] = use("predict", "--file", str(tmp_path / "new.jsonl"), main=finetune_tokens.main)
    assert path == tmp_path / "run" / "new_predictions.csv"
    found = list(csv.DictReader(path.open()))
    assert [list(row) for row in found] == 2 * [["tokens", "id", "prediction", "probability"]]
    assert [json.loads(row["tokens"]) for row in found] == texts
    tags, shares = ([json.loads(row[name]) for row in found] for name in ("prediction", "probability"))
    assert tags[1][1] == "" and shares[1][1] == 0
    assert {name for row in tags for name in row} <= {"", *NAMES}
    model = AutoModelForTokenClassification.from_pretrained(tmp_path / "run" / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run" / "model")
    logits = model(**tokenizer("films good", return_tensors="pt")).logits[0]
    # [CLS] film ##s good [SEP]
    assert tags[0] == [model.config.id2label[number] for number in logits.argmax(-1)[[1, 3]].tolist()]
    assert shares[0] == pytest.approx(logits.softmax(-1).max(-1).values[[1, 3]].tolist(), rel=1e-4)


def entities(tags: list[str]) -> set[tuple]:
    # one per B-, with the I- of its type behind it; an I- without such a begin is one of its own
    found, begin = set(), None
    for place, tag in enumerate([*tags, "O"]):
        if begin is not None and tag != f"I-{tags[begin][2:]}":
            found.add((begin, place, tags[begin][2:]))
            begin = None
        if tag != "O" and begin is None:
            begin = place
    return found


def test_metrics_against_counts():
    draw = random.Random(0)
    true = [draw.choices(NAMES, k=draw.randint(1, 9)) for _ in range(60)]
    found = [[tag if draw.random() < 0.7 else draw.choice([*NAMES, words.NOTHING]) for tag in row] for row in true]
    values = metrics.load_metrics(None, words.ENTITIES).compute(predictions=found, references=true)
    right = [a == b for pair in zip(found, true, strict=True) for a, b in zip(*pair, strict=True)]
    assert values["accuracy"] == pytest.approx(np.mean(right))
    pairs = [(entities([tag or "O" for tag in a]), entities(b)) for a, b in zip(found, true, strict=True)]
    both, predicted, actual = (sum(map(len, sets)) for sets in zip(*((a & b, a, b) for a, b in pairs), strict=True))
    assert values["precision"] == pytest.approx(both / predicted)
    assert values["recall"] == pytest.approx(both / actual)
    assert values["f1"] == pytest.approx(2 * both / (predicted + actual))
    nothing = [[words.NOTHING] * len(row) for row in true]
    missed = metrics.load_metrics(None, words.ENTITIES).compute(predictions=nothing, references=true)
    assert missed == {"f1": 0, "precision": 0, "recall": 0, "accuracy": 0}


def test_which_labels_are_entities():
    assert words.are_entities(NAMES)
    assert not words.are_entities(["NOUN", "VERB", "X"])
    assert not words.are_entities(["O", "X"])
    assert not words.are_entities(["B-good", "other"])
    assert not words.are_entities(["O", "S-Bahn", "E-mail"])
    for others in (
        ["I-good", "O"],
        ["B-good", "E-good", "I-good", "O", "S-good"],
        ["B-good", "L-good", "O", "U-good"],
    ):
        assert words.are_entities(others)


# Two entities of one type beside each other, and one of another type, as each scheme writes them.
SCHEMES = {
    "IOB1": ["I-a", "I-a", "B-a", "O", "I-b"],
    "IOB2": ["B-a", "I-a", "B-a", "O", "B-b"],
    "IOBES": ["B-a", "E-a", "S-a", "O", "S-b"],
    "BILOU": ["B-a", "L-a", "U-a", "O", "U-b"],
}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_entities_of_every_scheme(scheme):
    true = SCHEMES[scheme]
    metric = metrics.load_metrics(["f1", "precision", "recall"], words.ENTITIES)
    assert metric.compute(predictions=[true], references=[true])["f1"] == 1
    # the first entity is found as far as its first word
    found = [
        {"I-a": "O", "E-a": "O", "L-a": "O"}.get(label, label) if place == 1 else label
        for place, label in enumerate(true)
    ]
    values = metric.compute(predictions=[found], references=[true])
    assert values == pytest.approx({"f1": 2 / 3, "precision": 2 / 3, "recall": 2 / 3})


def test_entities_in_iob1_are_measured(tagging, tag, tmp_path):
    path = str(tmp_path / "iob1.parquet")
    kinds = [[f"I-{label[2:]}" if label[0] == "B" else label for label in row] for row in rows(27, 0)["ner_tags"]]
    Dataset.from_dict({"tokens": rows(27, 0)["tokens"], "ner_tags": kinds}).to_parquet(path)
    result = tag(tagging | {"train_file": path, "validation_file": path, "max_steps": 1})
    assert list(result["metrics"]) == ["step", "epoch", "f1", "precision", "recall", "accuracy"]


def test_labels_beside_entities_are_said(tagging, tag, tmp_path, capsys):
    path = str(tmp_path / "more.jsonl")
    Dataset.from_dict({"tokens": [["good", "film", "it"]], "ner_tags": [["B-good", "X", "O"]]}).to_json(path)
    tag(tagging | {"train_file": path, "validation_file": path, "max_steps": 1})
    assert "beside labels of entities there are X: words are measured, and no entities" in capsys.readouterr().out


def test_entities_are_learned(tagging, tag, tmp_path):
    result = tag(tagging | {"epochs": 20, "learning_rate": 1e-2})
    assert result["recipe"] == "finetune_tokens"
    assert list(result["metrics"]) == ["step", "epoch", "f1", "precision", "recall", "accuracy"]
    assert result["metrics"]["accuracy"] > 0.95
    assert result["metrics"]["f1"] > 0.9
    assert result["reload"] == {"predictions_equal": 13, "float32_logits_equal": 13}
    validation = result["data"]["validation"]
    assert validation["words"] == sum(map(len, rows(13, 1)["tokens"]))
    assert validation["words_without_token"] == 0
    saved = AutoModelForTokenClassification.from_pretrained(tmp_path / "run" / "model")
    assert saved.config.id2label == dict(enumerate(sorted(NAMES)))


def test_accumulation_gives_the_same_losses(tagging, tag):
    whole = tag(tagging | {"dropout": 0.0, "output_dir": tagging["output_dir"] + "_whole"})
    split = tag(tagging | {"dropout": 0.0, "micro_batch_size": 2})
    assert split["loss_history"] == pytest.approx(whole["loss_history"], rel=1e-5)
    assert split["metrics"] == whole["metrics"]


def test_words_that_are_cut_off_are_wrong(tagging, tag):
    # two tokens are special ones, so that four are left of each row
    result = tag(tagging | {"max_length": 6, "max_steps": 1})
    validation, sentences = result["data"]["validation"], rows(13, 1)["tokens"]
    kept = 0
    for sentence in sentences:
        left = 4
        for word in sentence:
            kept += left > 0
            left -= 2 if word == "films" else 1
    assert validation["words_without_token"] == validation["words"] - kept > 0
    assert result["metrics"]["accuracy"] <= kept / validation["words"]


def test_declared_classes_without_entities(tagging, tag, tmp_path):
    names = ["X", "NOUN", "VERB", "unused"]
    features = Features({"words": Sequence(Value("string")), "upos": Sequence(ClassLabel(names=names))})
    table = {"words": [["film", "was"], ["it"], []], "upos": [[1, 2], [0], []]}
    path = str(tmp_path / "pos.parquet")
    Dataset.from_dict(table, features=features).to_parquet(path)
    columns = {"words_column": "words", "labels_column": "upos"}
    result = tag(tagging | columns | {"train_file": path, "validation_file": path, "max_steps": 2})
    assert list(result["metrics"]) == ["step", "epoch", "accuracy"]
    saved = AutoModelForTokenClassification.from_pretrained(tmp_path / "run" / "model")
    assert saved.config.id2label == dict(enumerate(names))


@pytest.mark.parametrize(
    ("table", "keys", "sentence"),
    [
        (
            {"tokens": [["good"], ["bad", "film"]], "ner_tags": [["O"], ["O"]]},
            {},
            "train row 1: column 'tokens' holds 2 words and column 'ner_tags' 1 labels",
        ),
        (
            {"tokens": [["good"], ["bad", None]], "ner_tags": [["O"], ["O", "O"]]},
            {},
            "train row 1: column 'tokens' holds None at word 1, not text",
        ),
        (
            {"tokens": [["good"], ["bad", "film"]], "ner_tags": [[0], [1, None]]},
            {},
            "train row 1: column 'ner_tags' holds None at word 1; the classes are whole numbers from 0 on, or names",
        ),
        (
            {"tokens": [["good"], ["bad", "film"]], "ner_tags": [[0], [1, 7]]},
            {"num_labels": 3},
            "train row 1: column 'ner_tags' holds 7 at word 1; the classes are whole numbers from 0 to 2, or names",
        ),
        (
            {"tokens": ["good", "bad"], "ner_tags": [["O"], ["O"]]},
            {},
            "train row 0: column 'tokens' holds 'good', not a list with one per word",
        ),
        (
            {"tokens": [["good"], ["bad"]], "ner_tags": [["O"], None]},
            {},
            "train row 1: column 'ner_tags' holds None, not a list with one per word",
        ),
        (
            {"words": [["good"]], "ner_tags": [["O"]]},
            {},
            "the train split has no column 'tokens'; it has words, ner_tags",
        ),
        (
            {"tokens": [["good"]], "upos": [["O"]]},
            {},
            "the train split has no column 'ner_tags'; it has tokens, upos",
        ),
        (
            {"tokens": [["good", "was"]], "ner_tags": [["NOUN", "VERB"]]},
            {"metrics": ["f1"]},
            "metric 'f1' is not one of this task's: accuracy",
        ),
    ],
)
def test_what_is_refused(tagging, tag, tmp_path, table, keys, sentence):
    path = str(tmp_path / "table.jsonl")
    Dataset.from_dict(table).to_json(path)
    with pytest.raises(UserError, match=sentence) as caught:
        tag(tagging | keys | {"train_file": path, "validation_file": path})
    assert "\n" not in str(caught.value)
    assert not Path(tagging["output_dir"]).exists()


def test_label_that_only_validation_has(tagging, tag, tmp_path):
    path = str(tmp_path / "table.jsonl")
    Dataset.from_dict({"tokens": [["good", "film"]], "ner_tags": [["O", "B-film"]]}).to_json(path)
    with pytest.raises(UserError, match="validation row 0: column 'ner_tags' holds 'B-film' at word 1; the classes"):
        tag(tagging | {"validation_file": path})


def test_a_tokenizer_that_does_not_tell_offsets(tagging, tag, monkeypatch):
    monkeypatch.setattr("transformers.PreTrainedTokenizerFast.is_fast", False)
    with pytest.raises(UserError, match=r"BertTokenizer, which does not tell .*: this task needs a fast tokenizer"):
        tag(tagging)
