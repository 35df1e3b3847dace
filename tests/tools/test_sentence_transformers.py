"""sentence-transformers: a model as its module, its training, encoding, CrossEncoder, saving, remote code."""

import json

import pytest
import torch
from families import slow_unless
from small_models import TEXTS, THREE_SPECS, as_stranger, classifier, net, saved


pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed (extra `tools`)")
# its import is heavy, and its progress bars write
from datasets import Dataset
from sentence_transformers import (
    CrossEncoder,
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss


# one of each kind of tokens and of attention
CASES = [
    *(slow_unless(spec == "hyper_connections", "bert", "AddNormBertModel", spec) for spec in THREE_SPECS),
    ("modernbert", "AddNormModernBertModel", "residual"),
    slow_unless(False, "mpnet", "AddNormMPNetModel", "hybrid_norm"),
    slow_unless(False, "distilbert", "AddNormDistilBertModel", "pre_ln"),
]


def _pooled(model, encoded):
    """The mean of the real tokens, computed by hand."""
    with torch.no_grad():
        hidden = model(**encoded).last_hidden_state
    real = encoded["attention_mask"].unsqueeze(-1)
    return (hidden * real).sum(1) / real.sum(1)


@pytest.mark.parametrize(("family", "model", "spec"), CASES)
def test_encodes_saves_and_loads(family, model, spec, tmp_path):
    made = net(family, model, spec)
    sentences = SentenceTransformer(saved(made, tmp_path / "model"), device="cpu")
    found = sentences.encode(TEXTS, convert_to_tensor=True)
    encoded = sentences.tokenizer(TEXTS, padding=True, return_tensors="pt")
    encoded = {key: encoded[key] for key in ("input_ids", "attention_mask")}
    torch.testing.assert_close(found, _pooled(made, encoded), rtol=1e-4, atol=1e-5)
    sentences.save_pretrained(str(tmp_path / "sentences"))
    back = SentenceTransformer(str(tmp_path / "sentences"), device="cpu")
    torch.testing.assert_close(back.encode(TEXTS, convert_to_tensor=True), found)
    assert type(back[0].auto_model if hasattr(back[0], "auto_model") else back[0].model) is type(made)


@pytest.mark.parametrize("spec", ["hyper_connections"])
def test_trains(spec, tmp_path):
    sentences = SentenceTransformer(saved(net("bert", "AddNormBertModel", spec), tmp_path / "model"), device="cpu")
    before = {name: value.detach().clone() for name, value in sentences.named_parameters()}
    rows = {"anchor": TEXTS * 2, "positive": TEXTS[::-1] * 2}
    arguments = SentenceTransformerTrainingArguments(
        str(tmp_path / "run"), max_steps=2, per_device_train_batch_size=4, report_to=[], use_cpu=True,
        learning_rate=1e-2, save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    trainer = SentenceTransformerTrainer(
        sentences, arguments, Dataset.from_dict(rows), loss=MultipleNegativesRankingLoss(sentences)
    )
    trainer.train()
    still = [name for name, value in sentences.named_parameters() if torch.equal(value, before[name])]
    # pooling by the mean does not ask the pooler, and the softmax sees no shift of all keys
    assert [name for name in still if "pooler" not in name and not name.endswith("key.bias")] == []


def test_a_cross_encoder_scores_saves_and_trains(tmp_path):
    scorer = CrossEncoder(saved(classifier("hyper_connections", num_labels=1), tmp_path / "model"), device="cpu")
    pairs = [("w1 w2", "w3"), ("w4", "w5 w6")]
    scores = scorer.predict(pairs)
    assert scores.shape == (2,)
    scorer.save_pretrained(str(tmp_path / "scorer"))
    assert (CrossEncoder(str(tmp_path / "scorer"), device="cpu").predict(pairs) == scores).all()


@pytest.mark.slow
def test_as_remote_code(tmp_path):
    """What sentence-transformers saved loads where hf_addnorm is not installed."""
    sentences = SentenceTransformer(
        saved(net("bert", "AddNormBertModel", "hyper_connections"), tmp_path / "model"), device="cpu"
    )
    sentences.save_pretrained(str(tmp_path / "sentences"))
    expected = sentences.encode(TEXTS, convert_to_tensor=True)
    script = f"""
import json
from sentence_transformers import SentenceTransformer
back = SentenceTransformer({str(tmp_path / "sentences")!r}, trust_remote_code=True, device="cpu")
assert "hf_addnorm" not in sys.modules
print(json.dumps(back.encode({TEXTS!r}).tolist()))
"""
    found = torch.tensor(json.loads(as_stranger(script, tmp_path)))
    torch.testing.assert_close(found, expected.cpu(), rtol=1e-4, atol=1e-5)
