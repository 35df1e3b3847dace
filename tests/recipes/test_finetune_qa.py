"""Question answering: windows and the answer's place in them, the best span, SQuAD's figures, what is refused."""

import json
import random
from pathlib import Path

import finetune_qa
import numpy as np
import pytest
import torch
from common import answers, metrics
from common.errors import UserError
from common.training import Task
from conftest import BAD, GOOD, PLAIN
from datasets import Dataset
from transformers import AutoModelForQuestionAnswering, AutoTokenizer, DataCollatorWithPadding


SCRIPT = Path(finetune_qa.__file__)
# windows of 12 tokens of which 3 are special, and 1 or 2 of the question
SIZES = {"max_length": 12, "doc_stride": 3}


def rows(count: int, seed: int, unanswered: bool = False) -> dict[str, list]:
    """Texts of 6 to 20 words with one good and one bad one, which the questions ask for."""
    draw = random.Random(seed)
    found = {"question": [], "context": [], "answers": []}
    for number in range(count):
        kinds = {"good": draw.choice(GOOD[1:]), "bad": draw.choice(BAD[1:])}
        texts = draw.choices([*PLAIN[:-1], "films"], k=draw.randint(4, 18))
        for word in kinds.values():
            texts.insert(draw.randint(0, len(texts)), word)
        kind = draw.choice(list(kinds))
        context = " ".join(word for word in texts if not unanswered or number % 2 or word != kinds[kind])
        start = context.find(kinds[kind])
        found["question"].append(kind)
        found["context"].append(context)
        found["answers"].append(
            {"text": [kinds[kind]] if start >= 0 else [], "answer_start": [start] if start >= 0 else []}
        )
    return found


@pytest.fixture
def asking(config, tmp_path):
    """A run over 27 and 13 such texts."""
    del config["max_length"]
    return with_files(config | SIZES, tmp_path)


def with_files(config: dict, folder: Path, **kind) -> dict:
    files = {f"{split}_file": str(folder / f"{split}.jsonl") for split in ("train", "validation")}
    for seed, (count, path) in enumerate(zip((27, 13), files.values(), strict=True)):
        Dataset.from_dict(rows(count, seed, **kind)).to_json(path)
    return config | files


@pytest.fixture
def ask(recipe):
    return lambda config, *args: recipe(config, *args, main=finetune_qa.main)


@pytest.mark.parametrize("unanswered", [False, True])
def test_a_saved_model_answers_without_being_told(asking, ask, use, tmp_path, unanswered):
    result = ask(with_files(asking | {"epochs": 12}, tmp_path, unanswered=unanswered))
    figures = json.loads(use("evaluate", main=finetune_qa.main)[0].read_text())
    assert figures["metrics"] == {key: result["metrics"][key] for key in figures["metrics"]}
    assert figures["model_config"]["may_have_no_answer"] is unanswered
    asked = {key: values for key, values in rows(5, 3, unanswered).items() if key != "answers"}
    Dataset.from_dict(asked).to_json(tmp_path / "new.jsonl")
    [path] = use(
        "predict",
        "--file",
        str(tmp_path / "new.jsonl"),
        "--predictions",
        str(tmp_path / "a.jsonl"),
        main=finetune_qa.main,
    )
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["context"] for row in found] == asked["context"]
    for row in found:
        text, start = row["prediction"], row["prediction_start"]
        assert (start is None) == (text == "")
        assert start is None or row["context"][start : start + len(text)] == text
        assert unanswered or text


def test_windows_cover_the_text_and_learn_the_answer_where_it_is_whole(tiny):
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    table = rows(40, 0)
    # several words, that windows may cut
    for number, context in enumerate(table["context"]):
        texts = context.split(" ")
        begin = number % (len(texts) - 2)
        answer = " ".join(texts[begin : begin + 3])
        table["answers"][number] = {"text": [answer], "answer_start": [len(" ".join(["", *texts[:begin]]))]}
    table["answers"][0] = {"text": [], "answer_start": []}
    # as far as the text of a row goes, also where the answer stands twice in it
    for context, found in zip(table["context"], table["answers"], strict=True):
        assert all(context[at:].startswith(text) for text, at in zip(*found.values(), strict=True))
    found = answers.windows(table["question"], table["context"], tokenizer, max_length=12, stride=3)
    seen = {"whole": 0, "cut": 0}
    for number, context in enumerate(table["context"]):
        windows = [window for window, of in enumerate(found["of"]) if of == number]
        covered = {char for window in windows for begin, end in found["spans"][window] for char in range(begin, end)}
        assert covered == {place for place, char in enumerate(context) if char != " "}
        for window in windows:
            spans, tokens = found["spans"][window], found["input_ids"][window]
            assert len(spans) == len(tokens) <= 12
            first, last = answers.tokens_of(spans, table["answers"][number])
            if not table["answers"][number]["text"]:
                assert (first, last) == (0, 0)
                continue
            text, begin = table["answers"][number]["text"][0], table["answers"][number]["answer_start"][0]
            chars = {char for start, stop in spans for char in range(start, stop)}
            wanted = {begin + place for place, char in enumerate(text) if char != " "}
            seen["whole" if wanted <= chars else "cut"] += 1
            if wanted <= chars:
                assert context[spans[first][0] : spans[last][1]] == text
                decoded = tokenizer.decode(tokens[first : last + 1])
                assert decoded == text
            else:
                assert (first, last) == (0, 0)
    assert min(seen.values()) > 10


@pytest.mark.parametrize(
    ("text", "start", "place"),
    [
        ("ab", 0, [2, 2]),
        ("b c", 1, [2, 3]),
        # blanks at its ends, and a part of a token
        (" cd ", 2, [3, 3]),
        ("d ef", 4, [3, 4]),
        # before and behind what the window has
        ("x", 9, [0, 0]),
        ("ef x", 6, [0, 0]),
    ],
)
def test_place_of_an_answer(text, start, place):
    # ab cd ef x, of which the window has three words, the last of them with the blank before it
    spans = [[0, 0], [0, 0], [0, 2], [3, 5], [5, 8], [0, 0]]
    assert answers.tokens_of(spans, {"text": [text], "answer_start": [start]}) == place


def test_best_spans_against_all_pairs():
    draw = np.random.default_rng(0)
    spans = [[0, 0]] * 3 + [[3 * place, 3 * place + 2] for place in range(9)] + [[0, 0]]
    for _ in range(20):
        start, end = draw.normal(size=(2, 15))
        pairs = {
            (spans[first][0], spans[last][1]): start[first] + end[last]
            for first in range(3, 12)
            for last in range(first, min(first + 4, 12))
        }
        wanted = sorted(pairs, key=lambda pair: -pairs[pair])
        found = answers.best_spans(start, end, spans, n_best=50, max_length=4)
        assert [(begin, stop) for _, begin, stop in found] == wanted
        assert [score for score, *_ in found] == pytest.approx([pairs[pair] for pair in wanted])
        few = answers.best_spans(start, end, spans, n_best=2, max_length=4)
        firsts, lasts = ({3 + place for place in np.argsort(-scores[3:12])[:2]} for scores in (start, end))
        assert {(begin, stop) for _, begin, stop in few} <= {
            (spans[first][0], spans[last][1]) for first in firsts for last in lasts
        }
        assert len(few) <= 2


def test_the_best_window_wins():
    spans = [[[0, 0], [0, 3], [4, 7]], [[0, 0], [8, 11], [0, 0]], [[0, 0], [0, 2]]]
    starts = [np.array(row) for row in ([0.0, 2.0, 0.0], [4.5, 3.0, 9.0], [9.0, 1.0])]
    ends = [np.array(row) for row in ([1.0, 2.0, 1.0], [0.5, 3.0, 9.0], [9.0, 1.0])]
    contexts = ["one two six", "no", "unseen"]

    def find(may_be_none, size=3):
        found = answers.find_answers(contexts, [0, 0, 1], spans, starts, ends, 20, size, may_be_none)
        for answer, context in zip(found, contexts, strict=True):
            assert answer.start is None or context[answer.start :].startswith(answer.text)
        return [answer.text for answer in found]

    assert find(False) == ["six", "no", ""]
    # token 0 counts as much as in the window where it counts least: 1 against 6, 18 against 2
    assert find(True) == ["six", "", ""]
    starts[1][1] = -9
    assert find(False) == ["one", "no", ""]
    ends[0][2] = 7
    assert find(False) == ["one two", "no", ""]
    assert find(False, size=1) == ["two", "no", ""]


@pytest.mark.parametrize(
    ("found", "true", "exact", "f1"),
    [
        ("The  Cat, sat!", ["a cat SAT"], 1, 1),
        ("cat", ["dog"], 0, 0),
        # two of three words are common to both
        ("big black cat", ["black cat there"], 0, 2 / 3),
        # the best of several; a word counts as often as it stands in both
        ("new new york", ["york", "new york"], 0, 4 / 5),
        ("", [], 1, 1),
        ("cat", [], 0, 0),
        ("", ["cat"], 0, 0),
        # an article alone is nothing
        ("the", [], 1, 1),
        ("theatre", ["atre"], 0, 0),
    ],
)
def test_squads_figures(found, true, exact, f1):
    values = metrics.load_metrics(None, answers.ANSWERS).compute(predictions=[found], references=[true])
    assert values == pytest.approx({"f1": 100 * f1, "exact_match": 100 * exact})


def test_figures_are_means():
    values = metrics.load_metrics(["exact_match", "f1"], answers.ANSWERS).compute(
        predictions=["cat", "black cat", "dog", ""], references=[["cat"], ["cat"], ["cat"], []]
    )
    assert list(values) == ["exact_match", "f1"]
    assert values == pytest.approx({"exact_match": 50, "f1": 100 * (1 + 2 / 3 + 0 + 1) / 4})


def test_the_loss_is_that_of_first_and_last_token(tiny):
    model = AutoModelForQuestionAnswering.from_pretrained(tiny).double().eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    task = Task(
        rows=[
            {**tokenizer("good", text), "labels": labels}
            for text, labels in (("a film", [3, 4]), ("it was a fine story", [0, 0]))
        ],
        lengths=[6, 9],
        collate=DataCollatorWithPadding(tokenizer),
        loss=finetune_qa.loss,
        evaluation=None,
        auto_class=None,
    )
    batch = task.batch([0, 1], "0/0")
    assert task.count([batch]).tolist()[0] == 4
    with torch.no_grad():
        found = model(**{name: part for name, part in batch.items() if name != "labels"})
    wanted = 0
    for logits, places in ((found.start_logits, [3, 0]), (found.end_logits, [4, 0])):
        # the first row is three tokens shorter; padding is no place for an answer
        for row, size, place in zip(logits.numpy(), task.lengths, places, strict=True):
            wanted += np.log(np.exp(row[:size]).sum()) - row[place]
    assert finetune_qa.loss(model, batch).item() == pytest.approx(wanted)
    # an empty share has no label, no loss and no gradient
    empty = task.batch([], "0/0")
    assert task.count([empty]).tolist()[0] == 0
    nothing = finetune_qa.loss(model, empty)
    nothing.backward()
    assert nothing.item() == 0
    assert all(not parameter.grad.any() for parameter in model.parameters() if parameter.grad is not None)


def test_answers_are_learned(asking, ask):
    # the rows that it trains on: a text of windows is learned by heart
    result = ask(
        asking | {"validation_file": asking["train_file"], "epochs": 30, "learning_rate": 1e-2, "dropout": 0.0}
    )
    assert result["recipe"] == "finetune_qa"
    assert list(result["metrics"]) == ["step", "epoch", "f1", "exact_match"]
    assert result["metrics"]["f1"] > 95
    source = result["data"]["validation"]
    assert source["windows"] > source["rows"] == 27
    assert (source["without_answer"], source["answer_in_no_window"]) == (0, 0)
    windows = source["windows"]
    assert result["reload"]["predictions_equal"] == windows
    assert result["steps"] == 30 * -(-windows // 8)


def test_questions_without_an_answer(asking, ask, tmp_path):
    config = with_files(asking, tmp_path, unanswered=True)
    result = ask(
        config | {"validation_file": config["train_file"], "epochs": 20, "learning_rate": 1e-2, "dropout": 0.0}
    )
    assert result["data"]["train"]["without_answer"] == 14
    # of which "always some answer" gets none right
    assert result["metrics"]["exact_match"] > 90


def test_an_answer_that_no_window_holds(asking, ask, tmp_path):
    path = str(tmp_path / "long.jsonl")
    context = "the film was good and the story was fine and it is very warm"
    Dataset.from_dict(
        {"question": ["good"], "context": [context], "answers": [{"text": [context], "answer_start": [0]}]}
    ).to_json(path)
    result = ask(asking | {"train_file": path, "validation_file": path, "max_steps": 1})
    assert result["data"]["train"]["answer_in_no_window"] == 1


@pytest.mark.slow  # test_recipe_runs.py has it for text in every run
def test_two_processes_give_the_same_losses_and_metrics(asking, ask, two_processes, tmp_path):
    asking |= {"dropout": 0.0, "epochs": 1}
    whole = ask(asking | {"output_dir": str(tmp_path / "whole")})
    split = ask(asking | {"output_dir": str(tmp_path / "split"), "micro_batch_size": 2})
    assert split["loss_history"] == pytest.approx(whole["loss_history"], rel=1e-5)
    two, _ = two_processes(asking, main=finetune_qa.main)
    assert two["loss_history"] == pytest.approx(whole["loss_history"], rel=1e-5)
    assert two["metrics"] == whole["metrics"]
    # in the order of the windows, which differ in length: rows of both processes were filled up
    assert two["reload"] == whole["reload"]


GOOD_ROW = {"question": "good", "context": "the film was good", "answers": {"text": ["good"], "answer_start": [13]}}


@pytest.mark.parametrize(
    ("change", "keys", "sentence"),
    [
        (
            {"answers": {"text": ["good"], "answer_start": [12]}},
            {},
            "train row 1: column 'answers' holds the answer 'good' at 12, where column 'context' has ' goo'",
        ),
        (
            {"answers": {"text": ["good"], "answer_start": [-4]}},
            {},
            "train row 1: column 'answers' holds the answer 'good' at -4, where column 'context' has ''",
        ),
        (
            {"answers": {"text": ["good", "film"], "answer_start": [13]}},
            {},
            "train row 1: column 'answers' holds {.*}, not the lists 'text' and 'answer_start' with one entry",
        ),
        (
            {"answers": {"text": [" "], "answer_start": [3]}},
            {},
            "train row 1: column 'answers' holds the answer ' ' at 3, not a text at a number",
        ),
        (
            {"answers": None},
            {},
            "train row 1: column 'answers' holds None, not the lists 'text' and 'answer_start'",
        ),
        ({"context": None}, {}, "train row 1: column 'context' holds None, not text"),
        ({}, {"context_column": "text"}, "the train split has no column 'text'; it has question, context, answers"),
        (
            {},
            {"answers_column": "answer"},
            "the train split has no column 'answer'; it has question, context, answers",
        ),
        (
            {"question": "was it a good film or " * 2},
            {},
            "train row 1: the question 'was it .*' has 12 tokens, which leaves 0 of max_length 12 for the text; "
            "it must be more than doc_stride 3",
        ),
        ({}, {"metrics": ["accuracy"]}, "metric 'accuracy' is not one of this task's: f1, exact_match"),
    ],
)
def test_what_is_refused(asking, ask, tmp_path, change, keys, sentence):
    path = tmp_path / "table.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in (GOOD_ROW, GOOD_ROW | change)))
    with pytest.raises(UserError, match=sentence) as caught:
        ask(asking | keys | {"train_file": str(path), "validation_file": str(path)})
    assert "\n" not in str(caught.value)
    assert not Path(asking["output_dir"]).exists()
