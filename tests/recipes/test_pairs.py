"""Pairs of texts that are changed in training, their loss, and a tokenizer of one's own."""

import random
from types import SimpleNamespace

import pytest
import torch
from common.errors import UserError
from common.own_tokenizer import DroppedMerges, train_tokenizer
from common.pairs import PairChanges, shared_words, summed_loss
from transformers import BertTokenizer


PAIRS = [
    ("In 1914 Ernest Shackleton left Grytviken.", "1914 verließ Ernest Shackleton Grytviken."),
    ("The Treaty of Paris, May 5, 1763", "Der Vertrag von Paris, 5. Mai 1763"),
    ("a dog", "ein Hund"),
]


def test_names_and_numbers_in_both_texts():
    assert [shared_words(*pair) for pair in PAIRS] == [
        ["1914", "Ernest", "Grytviken", "Shackleton"],
        ["1763", "5", "Paris"],
        [],
    ]
    assert shared_words("It was O\u2019Neill-Smith", "Es war O\u2019Neill-Smith") == ["O\u2019Neill-Smith"]


def test_nothing_is_changed_unless_it_is_wanted():
    changes = PairChanges(PAIRS, 0.0, 0.0)
    assert [changes(*pair, random.Random(0)) for pair in PAIRS] == PAIRS


def test_a_share_of_the_rows_is_copied():
    changes = PairChanges(PAIRS, 0.25, 0.0)
    drawn = [changes(*PAIRS[2], random.Random(seed)) for seed in range(2000)]
    assert set(drawn) == {PAIRS[2], ("ein Hund", "ein Hund")}
    assert 0.2 < sum(source == target for source, target in drawn) / len(drawn) < 0.3


def test_other_names_stand_in_both_texts():
    changes = PairChanges(PAIRS, 0.0, 1.0)
    seen = set()
    for seed in range(50):
        source, target = changes(*PAIRS[0], random.Random(seed))
        assert (source, target) == changes(*PAIRS[0], random.Random(seed))
        year, first, last, place = source.removeprefix("In ").removesuffix(".").replace(" left ", " ").split()
        assert target == f"{year} verließ {first} {last} {place}."
        assert len(year) == 4 and year.isdigit()
        seen |= {first, last, place}
    # those of other rows, and ones that are in none
    assert {"Paris", "Ernest"} < seen and seen - {word for pair in PAIRS for word in shared_words(*pair)}


def test_half_of_them_if_half_are_wanted():
    changes = PairChanges(PAIRS, 0.0, 0.5)
    kept = [changes(*PAIRS[1], random.Random(seed))[0].count("1763") for seed in range(2000)]
    assert 0.45 < sum(kept) / len(kept) < 0.55


def test_the_loss_is_the_sum_over_the_targets_with_weight_on_all_tokens():
    logits = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[1, 4, -100], [0, 2, 3]])
    model = lambda **batch: SimpleNamespace(logits=logits)  # noqa: E731
    expected = 0.0
    for row, column in ((0, 0), (0, 1), (1, 0), (1, 1), (1, 2)):
        probabilities = torch.log_softmax(logits[row, column], -1)
        expected -= 0.8 * probabilities[labels[row, column]] + 0.2 * probabilities.mean()
    torch.testing.assert_close(summed_loss(0.2)(model, {"labels": labels}), expected)


def test_a_tokenizer_writes_every_text():
    accelerator = SimpleNamespace(is_main_process=True)
    tokenizer = train_tokenizer(accelerator, [text for pair in PAIRS for text in pair], 300, 64)
    assert len(tokenizer) == 300 and tokenizer.model_max_length == 64
    for text in ("Größe", "日本 & ñ", "two  spaces", ""):
        ids = tokenizer(text).input_ids
        assert [ids[0], ids[-1]] == [tokenizer.cls_token_id, tokenizer.sep_token_id]
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids, skip_special_tokens=True).removeprefix(" ") == text
    again = train_tokenizer(accelerator, [text for pair in PAIRS for text in pair], 300, 64)
    assert again.get_vocab() == tokenizer.get_vocab()


def test_without_a_rate_merges_are_those_of_the_tokenizer():
    tokenizer = train_tokenizer(SimpleNamespace(is_main_process=True), [" ".join(pair) for pair in PAIRS], 330, 64)
    for text in (*PAIRS[0], *PAIRS[1], "Größe 日本", ""):
        assert DroppedMerges(tokenizer, 0.0)(text, 64, random.Random(0)) == tokenizer(text).input_ids
    assert (
        DroppedMerges(tokenizer, 0.0)(PAIRS[0][0], 9, random.Random(0))
        == tokenizer(PAIRS[0][0], truncation=True, max_length=9).input_ids
    )


def test_merges_are_dropped_at_their_rate():
    tokenizer = train_tokenizer(SimpleNamespace(is_main_process=True), ["ab ab ab"] * 9, 264, 64)
    encode, counts = DroppedMerges(tokenizer, 0.25), []
    for seed in range(2000):
        ids = encode("ab", 64, random.Random(seed))
        assert ids == encode("ab", 64, random.Random(seed))
        assert tokenizer.decode(ids, skip_special_tokens=True) == " ab"
        counts.append("ab" in [token.strip("Ġ") for token in tokenizer.convert_ids_to_tokens(ids)])
    # two merges are possible at first; where the first is dropped, the other may be done
    assert 0.7 < sum(counts) / len(counts) < 0.8
    assert len(DroppedMerges(tokenizer, 1.0)("ab", 64, random.Random(0))) == 2 + len(" ab")


def test_only_bpe_has_merges():
    words = BertTokenizer(vocab={"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4, "a": 5})
    with pytest.raises(UserError, match=r"bpe_dropout is 0\.1, and the tokenizer is a WordPiece: only BPE has merges"):
        DroppedMerges(words, 0.1)


@pytest.mark.parametrize("pieces", [0, 260])
def test_a_tokenizer_too_small_for_its_bytes(pieces):
    with pytest.raises(UserError, match=f"new_tokenizer is {pieces}; the bytes and the special tokens alone are 261"):
        train_tokenizer(SimpleNamespace(is_main_process=True), [], pieces, 64)
