"""Masked-LM training: packed rows, which tokens are masked, whole runs however a step is split, figures, bad input."""

import json
import math
from collections import Counter
from pathlib import Path
from random import Random

import pretrain_mlm
import pytest
import torch
from common import masked_tokens
from common.errors import UserError
from conftest import PLAIN
from datasets import Dataset
from safetensors.torch import load_file
from torch.nn import functional
from transformers import AutoModelForMaskedLM, AutoTokenizer

from hf_addnorm import AddNormBertForMaskedLM


SCRIPT = pretrain_mlm.__file__


@pytest.fixture(scope="module")
def tokenizer(tiny):
    return AutoTokenizer.from_pretrained(tiny)


@pytest.fixture
def mlm(config, recipe):
    """Run the recipe in rows of 16 tokens without dropout, with other keys where they are given."""
    base = config | {"max_length": 16, "dropout": 0.0, "masked": 0.3}

    def call(*args: str, **keys) -> dict:
        return recipe({**base, **keys}, *args, main=pretrain_mlm.main)

    return call


def test_a_saved_model_is_evaluated_alone(mlm, use, files):
    result = mlm(max_steps=2)
    [path] = use("evaluate", "--file", files["validation_file"], main=pretrain_mlm.main)
    figures = json.loads(path.read_text())
    assert figures["metrics"] == {key: result["metrics"][key] for key in ("loss", "perplexity", "accuracy")}
    with pytest.raises(UserError, match="do is predict, and a masked LM has nothing to say to a file of texts"):
        use("predict", main=pretrain_mlm.main)


def test_script_is_short():
    assert len(Path(SCRIPT).read_text().splitlines()) < 180


@pytest.mark.parametrize("length", [4, 5, 8, 64])
def test_packed_rows_are_the_texts(tokenizer, length):
    draw = Random(length)
    texts = [" ".join(draw.choices(PLAIN, k=draw.choice([0, 1, 3, 40]))) for _ in range(30)]
    rows = masked_tokens.pack("train", Dataset.from_dict({"text": texts}), "text", tokenizer, length)["input_ids"]
    first, separator = tokenizer.cls_token_id, tokenizer.sep_token_id
    stream = []
    for text in filter(None, texts):
        stream += [*tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text)), separator]
    assert all(row[0] == first and row[-1] == separator for row in rows)
    assert {len(row) for row in rows[:-1]} <= {length} and 3 <= len(rows[-1]) <= length
    joined = [token for row in rows for token in row[1:-1]]
    assert joined in (stream, stream[:-1])


def test_masking_is_80_10_10_and_a_function_of_its_draws(tokenizer):
    masking = masked_tokens.Masking(tokenizer, 0.15)
    marks = {tokenizer.cls_token_id, tokenizer.sep_token_id}
    tokens = [tokenizer.cls_token_id, *tokenizer.convert_tokens_to_ids(PLAIN) * 4, tokenizer.sep_token_id]
    fates, places = Counter(), Counter()
    for number in range(2000):
        row = masking({"input_ids": tokens}, Random(f"0/0/{number}"))
        assert row == masking({"input_ids": tokens}, Random(f"0/0/{number}"))
        chosen = [place for place, label in enumerate(row["labels"]) if label != -100]
        assert len(chosen) == 6  # 0.15 * 40
        places.update(chosen)
        for place, (token, label, seen) in enumerate(zip(tokens, row["labels"], row["input_ids"], strict=True)):
            if place not in chosen:
                assert (label, seen) == (-100, token)
                continue
            assert label == token and token not in marks
            fates["mask" if seen == tokenizer.mask_token_id else "same" if seen == token else "other"] += 1
    count = sum(fates.values())
    # a random token is the mask, or the same, with probability 1 / 23 each
    size = len(tokenizer)
    for fate, share in (("mask", 0.8 + 0.1 / size), ("other", 0.1 * (1 - 2 / size)), ("same", 0.1 + 0.1 / size)):
        assert fates[fate] / count == pytest.approx(share, abs=4 * math.sqrt(share / count))
    assert set(places) == set(range(1, 41))
    assert min(places.values()) > 0.8 * max(places.values())


def test_one_token_at_least_is_masked(tokenizer):
    row = masked_tokens.Masking(tokenizer, 0.15)({"input_ids": [2, 9, 3]}, Random(0))
    assert row["labels"] == [-100, 9, -100]


def test_figures_against_naive_ones(mlm, tmp_path):
    result = mlm(masked=0.3, max_steps=4, eval_every=2)
    assert [entry["step"] for entry in result["metrics_over_time"]] == [2, 4]
    assert set(result["metrics"]) == {"step", "epoch", "loss", "perplexity", "accuracy"}
    model = AutoModelForMaskedLM.from_pretrained(tmp_path / "run" / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run" / "model")
    texts = Dataset.from_parquet(result["config"]["validation_file"])
    rows = masked_tokens.pack("validation", texts, "text", tokenizer, 16)
    assert result["data"]["validation"]["rows"] == len(rows) == result["reload"]["predictions_equal"]
    masking, losses, right = masked_tokens.Masking(tokenizer, 0.3), [], []
    for number, row in enumerate(rows):
        row = masking(row, Random(f"0/validation/{number}"))
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([row["input_ids"]])).logits[0].double()
        for place, label in enumerate(row["labels"]):
            if label != -100:
                losses.append(functional.cross_entropy(logits[place], torch.tensor(label)).item())
                right.append(logits[place].argmax().item() == label)
    mean = sum(losses) / len(losses)
    assert result["metrics"]["loss"] == pytest.approx(mean, rel=1e-5)
    assert result["metrics"]["perplexity"] == pytest.approx(math.exp(mean), rel=1e-5)
    assert result["metrics"]["accuracy"] == pytest.approx(sum(right) / len(right))


def test_a_new_model_learns(mlm, tmp_path):
    path = str(tmp_path / "cycles.jsonl")
    words = PLAIN[:-1]
    Dataset.from_dict({"text": [" ".join((words * 3)[k : k + 14]) for k in range(9)] * 6}).to_json(path)
    new = {"new_weights": True, "model_config": {"num_hidden_layers": 1}, "add_norm": "pre_ln"}
    result = mlm(train_file=path, validation_file=path, epochs=20, eval_every=80, learning_rate=1e-2, **new)
    assert result["model"] == AddNormBertForMaskedLM.__name__
    assert result["metrics_over_time"][0]["perplexity"] > 1.2 * result["metrics"]["perplexity"]
    # each of nine words stands as often as another
    assert result["metrics"]["accuracy"] > 0.5


def test_two_processes_and_accumulation_give_the_same(mlm, config, two_processes, tmp_path):
    whole = mlm(output_dir=str(tmp_path / "whole"))
    split = mlm(output_dir=str(tmp_path / "split"), micro_batch_size=2)
    keys = config | {"max_length": 16, "dropout": 0.0, "masked": 0.3, "micro_batch_size": 2}
    two, _ = two_processes(keys, main=pretrain_mlm.main)
    assert two["processes"] == 2
    for other in (split, two):
        assert other["loss_history"] == pytest.approx(whole["loss_history"], rel=1e-5)
        assert other["data"] == whole["data"]
        assert other["metrics"] == pytest.approx(whole["metrics"], rel=1e-5)


def test_resume_draws_the_same_masks(mlm, tmp_path):
    keys = {"max_steps": 6, "checkpoint_every": 2, "keep_checkpoints": 3, "eval_every": 6, "dropout": 0.1}
    whole = mlm(**keys)
    before = load_file(tmp_path / "run" / "model" / "model.safetensors")
    (tmp_path / "run" / "result.json").unlink()
    for step in (4, 6):
        (tmp_path / "run" / "checkpoints" / f"step_{step:08d}").rename(tmp_path / f"taken_{step}")
    again = mlm("--resume", **keys)
    assert again["resumed_at"] == [2]
    assert again["loss_history"] == whole["loss_history"]
    assert again["metrics_over_time"] == whole["metrics_over_time"]
    after = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"max_length": 3}, "max_length is 3; a packed row has at least 4 tokens"),
        ({"max_length": 65}, "max_length is 65; .* takes at most 64 tokens"),
        ({"lora": 4}, "lora: this head shares its weights with the embeddings, and training it would part them"),
        ({"masked": 1.5}, 'config key "masked": Not of type ClosedUnitInterval'),
        ({"text_column": "words"}, "train split has no column 'words'; it has text, other, label, score"),
        ({"text_column": "score"}, "train row 0: column 'score' holds -?[0-9.]+, not text"),
        (
            {"new_weights": True, "model_config": {"vocab_size": 9}},
            "the tokenizer has '##s' as token 22, and the model's table has 9 rows: take",
        ),
        (
            {"new_weights": True, "model_config": {"max_position_embeddings": 8}},
            "max_length is 16, and the model has 8 positions: set max_length to 8 or less",
        ),
    ],
)
def test_bad_input(mlm, tmp_path, keys, sentence):
    with pytest.raises(UserError, match=sentence):
        mlm(**keys)
    assert not (tmp_path / "run").exists()


def test_texts_without_tokens_and_a_tokenizer_without_a_mask(mlm, tokenizer, tmp_path):
    path = str(tmp_path / "blank.jsonl")
    Dataset.from_dict({"text": ["", " \n", ""]}).to_json(path)
    with pytest.raises(UserError, match="the validation split has no text with a token in column 'text'"):
        mlm(validation_file=path)
    without = AutoTokenizer.from_pretrained(tokenizer.name_or_path, mask_token=None)
    with pytest.raises(UserError, match="the tokenizer has no mask_token, which a masked LM needs"):
        masked_tokens.Masking(without, 0.15)
