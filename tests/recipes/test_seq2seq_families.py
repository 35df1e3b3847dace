"""The recipe for translation with families that have an encoder and a decoder of their own: T5, BART, Marian."""

import pytest
import torch
import transformers
from common.errors import UserError
from families import FAMILIES
from test_finetune_seq2seq import pairs, translate
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, PreTrainedTokenizerFast


__all__ = ["pairs", "translate"]

NEW = {"checkpoint": None, "new_tokenizer": 280, "max_length": 48, "max_target_length": 48}
SIZES = {
    "t5": {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1, "num_decoder_layers": 1, "num_heads": 4},
    **{
        family: {
            "d_model": 32,
            "encoder_layers": 1,
            "decoder_layers": 1,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 64,
            "decoder_ffn_dim": 64,
            "max_position_embeddings": 64,
        }
        for family in ("bart", "marian")
    },
}


@pytest.mark.parametrize("family", SIZES)
def test_new_ones_write_with_the_tokenizer_of_the_run(pairs, translate, tmp_path, family):
    new = pairs | NEW | {"model_config": {"model_type": family} | SIZES[family], "max_steps": 2}
    result = translate(new, "--add_norm", "pre_ln", "--decoder_add_norm", "sandwich_ln")
    assert {name: spec["preset"] for name, spec in result["add_norm"].items()} == {
        "encoder": "pre_ln",
        "decoder": "sandwich_ln",
    }
    assert result["reload"] == {"predictions_equal": 9, "float32_logits_equal": 9}
    folder = tmp_path / "1" / "model"
    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert type(model).__name__ == FAMILIES[family].writer
    ends = model.generation_config
    assert (ends.decoder_start_token_id, ends.eos_token_id) == (tokenizer.cls_token_id, tokenizer.sep_token_id)
    example = result["examples"][0]
    rows = model.generate(**tokenizer(example["source"], return_tensors="pt", return_token_type_ids=False))
    assert tokenizer.decode(rows[0], skip_special_tokens=True).strip() == example["written"]


def test_the_loss_of_a_stock_one_is_that_of_all_tokens(pairs, translate):
    """T5's own loss is a mean over a batch: with it, pieces of a batch would weigh as much as all of it."""
    new = pairs | NEW | {"model_config": {"model_type": "t5"} | SIZES["t5"], "max_steps": 3, "eval_every": 1000}
    whole = translate(new)
    assert whole["model"] == "T5ForConditionalGeneration" and whole["add_norm"] is None
    pieces = translate(new | {"micro_batch_size": 1, "output_dir": new["output_dir"] + "1"})
    assert pieces["loss_history"] == pytest.approx(whole["loss_history"], rel=1e-4)


@pytest.fixture
def checkpoint(pairs, tmp_path):
    """A small T5 with a tokenizer as T5's: it has an end and no beginning."""
    words = [
        "<pad>",
        "</s>",
        "<unk>",
        *sorted({"good", "great", "fine", "warm", "film", "the", "bad", "poor", "dull"}),
    ]
    words += ["cold", "story", "a"]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    marks = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    config = transformers.T5Config(**SIZES["t5"], vocab_size=len(words), decoder_start_token_id=0)
    torch.manual_seed(0)
    transformers.T5ForConditionalGeneration(config).save_pretrained(tmp_path / "t5")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=512, **marks).save_pretrained(tmp_path / "t5")
    return str(tmp_path / "t5")


def test_a_checkpoint_keeps_what_it_begins_and_ends_with(pairs, translate, checkpoint):
    given = pairs | {"checkpoint": checkpoint, "max_target_length": 12, "max_steps": 2, "eval_every": 1000}
    result = translate(given, "--add_norm", '{"preset": "pre_rms_norm", "feed_forward": ["pre", "out"]}')
    assert result["model"] == "AddNormT5ForConditionalGeneration"
    saved = AutoModelForSeq2SeqLM.from_pretrained(pairs["output_dir"] + "/model")
    assert (saved.generation_config.decoder_start_token_id, saved.generation_config.eos_token_id) == (0, 1)
    assert saved.generation_config.max_new_tokens == 12


def test_the_first_token_is_not_written_and_no_other_is_lost():
    from common.pairs import _without_first

    assert _without_first([2, 7, 3], 2) == [7, 3]
    assert _without_first([7, 3], 2) == [7, 3] == _without_first([7, 3], None)


def test_more_tokens_than_positions_are_refused_before_the_training(pairs, translate):
    new = pairs | NEW | {"model_config": {"model_type": "bart"} | SIZES["bart"]}
    for key, sentence in (("max_length", "max_length is 65"), ("max_target_length", "max_target_length is 65")):
        with pytest.raises(UserError, match=f"{sentence}, and the model has 64 positions: set {key} to 64 or less"):
            translate(new | {key: 65})


def test_a_tokenizer_without_an_end_is_refused(pairs, translate, checkpoint, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    tokenizer.eos_token = None
    tokenizer.save_pretrained(checkpoint)
    with pytest.raises(UserError, match="the tokenizer has no eos_token, which a text that is written"):
        translate(pairs | {"checkpoint": checkpoint})
