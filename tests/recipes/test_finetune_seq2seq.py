"""The recipe for translation and summarisation, whole runs of a tiny encoder-decoder, and its metrics."""

import csv
import json
import shutil
from pathlib import Path

import finetune_seq2seq
import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from common import ending
from common.errors import UserError
from common.metrics import TEXT, load_metrics
from datasets import Dataset
from transformers import AutoModel, AutoModelForSeq2SeqLM, AutoTokenizer

from hf_addnorm import AddNormEncoderDecoderModel


WORDS = {"good": "bad", "great": "poor", "fine": "dull", "warm": "cold", "film": "story", "the": "a"}


@pytest.fixture
def pairs(config, tmp_path):
    """Sentences and what becomes of them word by word, the last one first; 9 rows."""
    words = list(WORDS)
    sources = [" ".join(words[(row + 5 * place) % 6] for place in range(2 + row % 4)) for row in range(9)]
    rows = {"source": sources, "target": [" ".join(WORDS[word] for word in text.split()[::-1]) for text in sources]}
    Dataset.from_dict(rows).to_parquet(tmp_path / "pairs.parquet")
    files = dict.fromkeys(("train_file", "validation_file"), str(tmp_path / "pairs.parquet"))
    return (
        config | files | {"batch_size": 4, "max_target_length": 12, "dropout": 0.0, "output_dir": str(tmp_path / "1")}
    )


@pytest.fixture
def translate(written):
    """Run the recipe here; returns its result JSON."""

    def call(config: dict, *args: str) -> dict:
        AcceleratorState._reset_state(True)
        GradientState._reset_state()
        finetune_seq2seq.main(written(config, *args))
        return json.loads((Path(config["output_dir"]) / "result.json").read_text())

    return call


def test_script_is_short():
    assert len(Path(finetune_seq2seq.__file__).read_text().splitlines()) < 180


def test_two_steps_and_what_they_leave(pairs, translate, tmp_path):
    schemes = ("--add_norm", "deepnorm", "--decoder_add_norm", '{"norm": "rms_norm"}')
    # a metric of several figures first: evaluations are compared by one of them
    metrics = {"metrics": ["rouge", "chrf", "bleu"], "eval_every": 1, "checkpoint_every": 1, "final_model": "best"}
    result = translate(pairs | metrics | {"max_steps": 2}, *schemes)
    assert result["recipe"] == "finetune_seq2seq"
    assert result["model"] == "AddNormEncoderDecoderModel"
    # both depths are known: that of the tiny decoder is 2
    assert result["add_norm"]["encoder"]["init"][0]["decoder_layers"] == 2
    assert result["add_norm"]["decoder"]["norm"]["kind"] == "rms_norm"
    names = {"chrf", "bleu", "rouge1", "rouge2", "rougeL"}
    assert set(result["copied_source"]) == {*names, *(f"tokenized_{name}" for name in names)}
    assert set(result["metrics"]) == {"step", "epoch", *result["copied_source"]}
    assert result["reload"] == {"predictions_equal": 9, "float32_logits_equal": 9}
    assert {example["target"] for example in result["examples"]} <= set(
        Dataset.from_parquet(pairs["train_file"])["target"]
    )
    # with [CLS] and [SEP] of the source, [SEP] of the target, a row has 2 n + 3 tokens; twice four rows
    assert 8 * 7 <= result["tokens"] <= 8 * 13
    # the folder generates by itself, as it was measured
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "1" / "model")
    assert type(model) is AddNormEncoderDecoderModel
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "1" / "model")
    example = result["examples"][0]
    rows = model.generate(**tokenizer(example["source"], return_tensors="pt"))
    assert tokenizer.decode(rows[0], skip_special_tokens=True) == example["written"]
    assert model.generation_config.max_new_tokens == 12
    # a checkpoint like any other, which keeps what it is or is loaded into another scheme
    again = {"max_steps": 1, "checkpoint": str(tmp_path / "1" / "model"), "output_dir": str(tmp_path / "2")}
    kept = translate(pairs | again, "--decoder_add_norm", "pre_ln")
    assert kept["add_norm"]["encoder"] == result["add_norm"]["encoder"]
    assert kept["add_norm"]["decoder"]["preset"] == "pre_ln"


def test_it_learns_the_pairs(pairs, translate):
    result = translate(pairs | {"epochs": 60, "eval_every": 1000, "learning_rate": 5e-3, "num_beams": 2})
    assert result["metrics"]["chrf"] > 90 > 40 > result["copied_source"]["chrf"]
    assert result["metrics"]["tokenized_chrf"] == result["metrics"]["chrf"]


def test_a_saved_model_writes_without_targets(pairs, translate, use, tmp_path):
    result = translate(pairs | {"epochs": 6, "add_norm": "pre_ln", "decoder_add_norm": "deepnorm"})
    main = finetune_seq2seq.main
    figures = json.loads(use("evaluate", run="1", main=main)[0].read_text())
    assert figures["metrics"] == {key: result["metrics"][key] for key in figures["metrics"]}
    sources = [example["source"] for example in result["examples"]]
    Dataset.from_dict({"source": sources}).to_csv(tmp_path / "new.csv")
    [path] = use("predict", "--file", str(tmp_path / "new.csv"), run="1", main=main)
    found = list(csv.DictReader(path.open()))
    assert [row["source"] for row in found] == sources
    assert [row["prediction"] for row in found] == [example["written"] for example in result["examples"]]
    assert "add_norm" in result["model_config"]["encoder"]


NEW = {"model_type": "bert", "num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 4}


def test_new_weights_with_a_tokenizer_of_their_own(pairs, translate, tmp_path):
    """Capitals and umlauts, which the tiny tokenizer does not have, are learned and written."""
    rows = Dataset.from_parquet(pairs["train_file"])
    rows = rows.map(lambda row: {"target": row["target"].replace("a", "Ä").replace("o", "ß")})
    rows.to_parquet(tmp_path / "cased.parquet")
    files = dict.fromkeys(("train_file", "validation_file"), str(tmp_path / "cased.parquet"))
    new = {
        "checkpoint": None,
        "model_config": NEW | {"intermediate_size": 64},
        "new_tokenizer": 280,
        "max_length": 96,
        "max_target_length": 96,
        "share_embeddings": True,
    }
    length = {"epochs": 120, "eval_every": 1000, "learning_rate": 5e-3}
    schemes = ("--add_norm", "pre_ln", "--decoder_add_norm", "pre_rms_norm")
    result = translate(pairs | files | new | length, *schemes)
    assert result["metrics"]["chrf"] > 90
    assert any("Ä" in example["written"] for example in result["examples"])
    assert result["add_norm"]["encoder"]["preset"] == "pre_ln"
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "1" / "model")
    assert len(tokenizer) == 280
    assert tokenizer.decode(tokenizer("Größe 7 & ñ").input_ids, skip_special_tokens=True).strip() == "Größe 7 & ñ"
    # goes on from there, with its tokenizer and its words
    again = {"max_steps": 1, "checkpoint": str(tmp_path / "1" / "model"), "output_dir": str(tmp_path / "2")}
    kept = translate(pairs | files | again | {"max_target_length": 96})
    assert kept["add_norm"] == result["add_norm"]
    assert kept["metrics"]["chrf"] > 80


def test_a_tokenizer_is_trained_on_the_drawn_rows_alone(pairs, translate, tmp_path):
    words = ["xylophone", "zeppelin"]
    rows = {"source": [" ".join([word] * 5) for word in words], "target": words}
    Dataset.from_dict(rows).to_parquet(tmp_path / "words.parquet")
    new = {"new_weights": True, "new_tokenizer": 285, "max_steps": 1, "max_target_length": 40}
    for drawn in (1, 2):
        folder = str(tmp_path / f"of_{drawn}")
        files = {"train_file": str(tmp_path / "words.parquet"), "output_dir": folder}
        translate(pairs | new | files | {"max_train_rows": drawn})
        tokenizer = AutoTokenizer.from_pretrained(f"{folder}/model")
        assert sum(len(tokenizer.tokenize(f" {word}")) == 1 for word in words) == drawn


def test_new_weights_of_a_checkpoint_are_new(pairs, translate):
    translate(pairs | {"max_steps": 1, "new_weights": True, "learning_rate": 1e-9, "seed": 1})
    old, new = (AutoModel.from_pretrained(path) for path in (pairs["checkpoint"], pairs["output_dir"] + "/model"))
    assert new.encoder.config.num_hidden_layers == old.config.num_hidden_layers
    assert not torch.allclose(new.encoder.get_input_embeddings().weight, old.get_input_embeddings().weight, atol=1e-3)


def test_accumulation_gives_the_same_losses(pairs, translate, tmp_path):
    whole = translate(pairs | {"max_steps": 3})
    split = translate(pairs | {"max_steps": 3, "micro_batch_size": 2, "output_dir": str(tmp_path / "2")})
    assert split["loss_history"] == pytest.approx(whole["loss_history"], rel=1e-5)
    assert split["metrics"] == whole["metrics"]


def interrupted(*args):
    raise UserError("stopped")


def test_changed_pairs_are_the_same_in_a_resumed_run(pairs, translate, tmp_path):
    pairs |= {
        "new_weights": True,
        "new_tokenizer": 300,
        "max_target_length": 40,
        "max_steps": 6,
        "checkpoint_every": 2,
    }
    changes = {"copied_targets": 0.5, "swapped_names": 0.5, "bpe_dropout": 0.2, "label_smoothing": 0.1}
    whole = translate(pairs | changes)
    plain = translate(pairs | {"output_dir": str(tmp_path / "2")})
    assert whole["loss_history"] != plain["loss_history"]
    config = pairs | changes | {"output_dir": str(tmp_path / "3")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ending, "save_and_load_again", interrupted)
        with pytest.raises(UserError, match="stopped"):
            translate(config)
    shutil.rmtree(max((tmp_path / "3" / "checkpoints").iterdir()))
    assert translate(config, "--resume")["loss_history"] == whole["loss_history"]


def test_embeddings_are_shared_if_wanted(pairs, translate):
    own, shared = (
        translate(pairs | {"max_steps": 1, "share_embeddings": share, "output_dir": pairs["output_dir"] + str(share)})
        for share in (False, True)
    )
    saved = AutoModelForSeq2SeqLM.from_pretrained(pairs["output_dir"] + "True/model")
    table = saved.encoder.get_input_embeddings().weight
    assert table is saved.get_output_embeddings().weight
    assert own["parameters"] - shared["parameters"] == table.numel()
    assert not torch.equal(table, torch.zeros_like(table))


def test_what_cannot_be_loaded_is_named(pairs, translate):
    for key, value, sentence in (
        ("decoder_add_norm", "instance_norm", "cannot load .*unknown preset 'instance_norm'"),
        ("decoder_add_norm", {"norm": "instance_norm"}, "cannot load .*its statistics over tokens would let a token"),
        ("target_column", "de", "the train split has no column 'de'; it has source, target"),
        (
            "new_tokenizer",
            300,
            "new_tokenizer has other tokens than the checkpoint's weights are for",
        ),
        ("metrics", ["bleurt"], "metric 'bleurt' is not one of this task's: chrf, bleu, rouge"),
    ):
        with pytest.raises(UserError, match=sentence):
            translate(pairs | {key: value})
    with pytest.raises(UserError, match="new_tokenizer is 100; the bytes and the special tokens alone are 261 pieces"):
        translate(pairs | {"new_tokenizer": 100, "new_weights": True})


def test_metrics_of_texts():
    texts = ["the cat sat on the mat today", "a dog"]
    assert load_metrics(None, TEXT).compute(predictions=texts, references=texts) == pytest.approx(
        dict.fromkeys(("chrf", "bleu", "rouge1", "rouge2", "rougeL"), 100.0)
    )
    other = load_metrics(["rouge"], TEXT).compute(predictions=["a cat sat"], references=["the cat sat down"])
    # 2 of 3 and 2 of 4 words; 1 of 2 and 1 of 3 pairs; the two words in their order
    assert other == pytest.approx({"rouge1": 400 / 7, "rouge2": 40.0, "rougeL": 400 / 7})
    # n-grams of one text, up to order 2: precision 2/3 and 1/2, recall 2/2 and 1/1 ...
    assert 0 < load_metrics(["chrf"], TEXT).compute(predictions=["abc"], references=["ab"])["chrf"] < 100
