"""A tokenizer that does not fit the model is refused before training, in one sentence with the remedy."""

import json
import shutil
from pathlib import Path

import finetune_qa
import finetune_seq2seq
import finetune_text
import finetune_tokens
import pretrain_mlm
import pytest
import torch
from common.errors import UserError
from common.tokenizer_check import check_tokenizer, positions
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoTokenizer,
    GPT2Config,
    GPT2Model,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
)


SIZES = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
# of each recipe: its keys, and what the keys of its lengths are
RECIPES = {
    "text": (finetune_text, {}, ["max_length"]),
    "tokens": (finetune_tokens, {"words_column": "words", "labels_column": "kinds"}, ["max_length"]),
    "qa": (finetune_qa, {"question_column": "other", "context_column": "text", "doc_stride": 4}, ["max_length"]),
    "mlm": (pretrain_mlm, {}, ["max_length"]),
    "seq2seq": (
        finetune_seq2seq,
        {"source_column": "text", "target_column": "other", "max_target_length": 32},
        ["max_length", "max_target_length"],
    ),
}
CASES = [(name, key) for name, (_, _, keys) in RECIPES.items() for key in keys]


@pytest.fixture
def run(config, recipe, tmp_path):
    """A recipe on four rows, one of which is long, with a checkpoint that was changed."""

    def call(name, checkpoint, **keys):
        module, own, _ = RECIPES[name]
        texts, others = ["good film", "bad film", "it was warm", "the zebra is dull"], ["the", "a", "very", "is"]
        table = {
            "text": texts,
            "other": others,
            "label": [1, 0, 1, 0],
            "words": [text.split() for text in texts],
            "kinds": [["N" if word == "film" else "O" for word in text.split()] for text in texts],
            "answers": [{"text": [text.split()[0]], "answer_start": [0]} for text in texts],
        }
        path = str(tmp_path / "rows.jsonl")
        Dataset.from_dict(table).to_json(path)
        files = {"train_file": path, "validation_file": path}
        kept = {key: value for key, value in config.items() if not (name == "mlm" and key == "label_column")}
        return recipe(kept | files | own | {"checkpoint": checkpoint, "max_steps": 1} | keys, main=module.main)

    return call


@pytest.fixture
def copy(tiny, tmp_path):
    """The tiny checkpoint, with other entries of its tokenizer's config."""
    folder = tmp_path / "copy"
    shutil.copytree(tiny, folder)

    def change(**entries):
        path = folder / "tokenizer_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | entries))
        return str(folder)

    return change


@pytest.mark.parametrize(("name", "key"), CASES)
def test_more_tokens_than_positions(name, key, run, copy, tmp_path):
    folder = copy(model_max_length=int(1e30))
    with pytest.raises(UserError, match=f"^{key} is 65, and the model has 64 positions: set {key} to 64 or less$"):
        run(name, folder, **{key: 65})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", RECIPES)
def test_a_token_that_the_table_lacks(name, run, copy, tmp_path):
    folder = copy()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    size = len(tokenizer)
    tokenizer.add_tokens(["zebra"])
    tokenizer.save_pretrained(folder)
    expected = (
        f"tokenizer has 'zebra' as token {size}, and the model's table has {size} rows: take .* with new_weights"
    )
    with pytest.raises(UserError, match=expected):
        run(name, folder)
    assert not (tmp_path / "run").exists()
    # the remedy
    if name != "seq2seq":
        run(name, folder, new_weights=True, model_config={"vocab_size": size + 1})


def test_a_token_that_never_comes(run, copy):
    tokenizer = AutoTokenizer.from_pretrained(copy())
    tokenizer.add_tokens(["elephant"])
    tokenizer.save_pretrained(copy())
    run("text", copy())


def byte_pairs(folder: Path, **special: str) -> PreTrainedTokenizerFast:
    """A tokenizer of single letters, with an end of text alone, as GPT-2's."""
    letters = {token: number for number, token in enumerate("abcdefghijklmnopqrstuvwxyz .")}
    bpe = Tokenizer(models.BPE(vocab={**letters, "<|endoftext|>": len(letters)}, merges=[]))
    bpe.pre_tokenizer = pre_tokenizers.Split(" ", "isolated")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|endoftext|>", model_max_length=64, **special
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


@pytest.fixture
def gpt2(tmp_path):
    """A GPT-2 whose tokenizer has no pad token."""
    torch.manual_seed(0)
    GPT2Model(GPT2Config(vocab_size=29, n_positions=64, n_embd=16, n_layer=1, n_head=2)).save_pretrained(
        tmp_path / "gpt2"
    )
    byte_pairs(tmp_path / "gpt2")
    return str(tmp_path / "gpt2")


@pytest.mark.parametrize("name", ["text", "tokens"])
def test_no_pad_token(name, run, gpt2, tmp_path):
    sentence = (
        "the tokenizer has no pad token and the model no pad_token_id, .* as model_config "
        r"'\{\"pad_token_id\": 28\}' \(<\|endoftext\|>\)"
    )
    with pytest.raises(UserError, match=sentence):
        run(name, gpt2)
    assert not (tmp_path / "run").exists()
    # and the remedy works, also in what is saved
    run(name, gpt2, model_config={"pad_token_id": 28})
    assert AutoTokenizer.from_pretrained(tmp_path / "run" / "model").pad_token == "<|endoftext|>"


@pytest.mark.parametrize(("name", "missing"), [("seq2seq", "cls"), ("mlm", "cls")])
def test_no_special_tokens(name, missing, run, gpt2):
    with pytest.raises(UserError, match=f"the tokenizer has no {missing}_token, which .* needs"):
        run(name, gpt2)


def test_two_pad_tokens(tmp_path):
    model = RobertaModel(RobertaConfig(**SIZES, max_position_embeddings=20))
    assert positions(model) == 18
    tokenizer = byte_pairs(tmp_path, pad_token="<|endoftext|>")
    rows = {"train": Dataset.from_dict({"input_ids": [[3, 4]], "token_type_ids": [[0, 1]]})}
    with pytest.raises(
        UserError, match=r"token 28 \(<\|endoftext\|>\), and the model's pad_token_id is 1: set model_con"
    ):
        check_tokenizer(tokenizer, model, rows, 18)
    model.config.pad_token_id = 28
    check_tokenizer(tokenizer, model, rows, 18)
    with pytest.raises(UserError, match="max_length is 19, and the model has 18 positions"):
        check_tokenizer(tokenizer, model, rows, 19)
    model.embeddings.token_type_embeddings = torch.nn.Embedding(1, 16)
    with pytest.raises(UserError, match="the texts of a row 0 to 1, and the model's type_vocab_size is 1: take"):
        check_tokenizer(tokenizer, model, rows, 18)
