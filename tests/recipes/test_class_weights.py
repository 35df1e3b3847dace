"""Weights of classes: the loss is torch's, however a step is split; balanced weights are scikit-learn's."""

from types import SimpleNamespace

import finetune_audio
import finetune_images
import finetune_text
import finetune_tokens
import numpy as np
import pytest
import torch
from accelerate import Accelerator
from common import classes
from common.errors import UserError
from common.training import Loop
from datasets import Dataset
from sklearn.utils.class_weight import compute_class_weight
from test_finetune_audio import WAV2VEC2, WORDS, tones  # noqa: F401  a fixture
from test_finetune_images import VIT
from test_finetune_tokens import rows as sentences


WEIGHTS = {"0": 0.3, "1": 4.0}


@pytest.fixture
def weighted(config):
    return config | {"dropout": 0.0, "class_weights": WEIGHTS}


def test_the_loss_is_that_of_torch_however_a_step_is_split(weighted, recipe, two_processes, tmp_path):
    """The mean over the whole step, divided by the weights of its labels, not by their number."""
    whole = recipe(weighted | {"output_dir": str(tmp_path / "whole"), "checkpoint_every": 1, "keep_checkpoints": 20})
    split = recipe(weighted | {"output_dir": str(tmp_path / "split"), "micro_batch_size": 2})
    two, _ = two_processes(weighted | {"micro_batch_size": 2})
    for other in (split, two):
        assert other["loss_history"] == pytest.approx(whole["loss_history"], rel=1e-5)
        assert other["grad_norm_history"] == pytest.approx(whole["grad_norm_history"], rel=1e-4)
        assert other["metrics_over_time"] == whole["metrics_over_time"]
    plain = recipe(weighted | {"output_dir": str(tmp_path / "plain"), "class_weights": None})
    assert plain["loss_history"][0] != pytest.approx(whole["loss_history"][0], rel=1e-3)
    # a weight for all is none
    same = recipe(weighted | {"output_dir": str(tmp_path / "same"), "class_weights": {"0": 2.5, "1": 2.5}})
    assert same["loss_history"] == pytest.approx(plain["loss_history"], rel=1e-5)
    assert whole["class_weights"] == WEIGHTS


def train_rows_seen(monkeypatch):
    """Loss and gradient of torch's own class for the first step, beside what the loop makes of it."""
    seen = {}
    step = Loop.step

    def compared(self, number, *args):
        if not seen:
            batch = self.task.batch(self.order.rows(0), "0/0")
            logits = self.model(**{name: part for name, part in batch.items() if name != "labels"}).logits
            labels = batch["labels"]
            if labels.dim() == 2:
                logits, labels = logits.flatten(0, 1), labels.flatten()
            loss = torch.nn.CrossEntropyLoss(self.task.weights, ignore_index=-100)(logits, labels)
            gradients = torch.autograd.grad(loss, list(self.model.parameters()))
            seen["loss"], seen["norm"] = loss.item(), torch.stack([part.norm() for part in gradients]).norm().item()
        return step(self, number, *args)

    monkeypatch.setattr(Loop, "step", compared)
    return seen


@pytest.mark.parametrize("accumulated", [False, True])
@pytest.mark.parametrize("kind", ["text", "tokens", "images", "audio"])
def test_every_recipe(config, recipe, monkeypatch, tmp_path, tones, kind, accumulated):  # noqa: F811
    bare = {key: value for key, value in config.items() if key not in ("checkpoint", "max_length")}
    if kind == "text":
        main, keys, names = finetune_text.main, config, ["0", "1"]
    elif kind == "tokens":
        Dataset.from_dict(sentences(27, 0)).to_json(tmp_path / "words.jsonl")
        files = dict.fromkeys(("train_file", "validation_file"), str(tmp_path / "words.jsonl"))
        main, keys, names = finetune_tokens.main, config | files, ["O", "B-good", "B-bad"]
    elif kind == "images":
        kept = {key: value for key, value in bare.items() if not key.endswith("_file")}
        keys = kept | {"dataset": "builtin:digits", "model_config": VIT, "max_train_rows": 27, "eval_batch_size": 100}
        main, names = finetune_images.main, ["3", "7"]
    else:
        keys = bare | tones | {"model_config": WAV2VEC2, "audio_column": "wav", "label_names": WORDS}
        main, names = finetune_audio.main, WORDS[1:]
    weights = {name: 0.25 * 6**number for number, name in enumerate(names)}
    keys = keys | {"dropout": 0.0, "class_weights": weights, "max_steps": 1, "max_grad_norm": 0}
    seen = train_rows_seen(monkeypatch)
    result = recipe(keys | ({"micro_batch_size": 2} if accumulated else {}), main=main)
    assert result["loss_history"] == pytest.approx([seen["loss"]], rel=1e-5)
    assert result["grad_norm_history"] == pytest.approx([seen["norm"]], rel=1e-4)
    assert {name: result["class_weights"][name] for name in names} == weights


def weights_of(wanted, labels, names):
    model = SimpleNamespace(config=SimpleNamespace(id2label=dict(enumerate(names)), num_labels=len(names)))
    rows = Dataset.from_dict({"labels": labels})
    return classes.class_weights(SimpleNamespace(class_weights=wanted), {"train": rows}, model, Accelerator())


def test_balanced_is_that_of_scikit_learn():
    labels = np.random.default_rng(0).choice(4, 60, p=[0.6, 0.2, 0.15, 0.05])
    expected = compute_class_weight("balanced", classes=np.arange(4), y=labels)
    found = weights_of("balanced", labels.tolist(), "abcd")
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    # of words: what has no label does not count, and a class that does not occur has none to weigh
    rows = [[-100, *labels[:30].tolist(), -100], [*labels[30:].tolist()]]
    np.testing.assert_allclose(weights_of("balanced", rows, "abcde"), [*expected, 1], rtol=1e-6)


def test_a_name_that_is_no_class(weighted, recipe, tmp_path, capfd):
    with pytest.raises(UserError, match="class_weights names 'yes', which is no class: 0, 1"):
        recipe(weighted | {"class_weights": {"yes": 2.0}})
    with pytest.raises(UserError, match='config key "class_weights"'):
        recipe(weighted | {"class_weights": {"1": 0.0}})
    with pytest.raises(UserError, match='config key "class_weights"'):
        recipe(weighted | {"class_weights": "even"})
    with pytest.raises(UserError, match="class_weights are for task classification; task is regression"):
        recipe(weighted | {"task": "regression", "label_column": "score"})
    with pytest.raises(UserError, match="class_weights are for task classification; task is ctc"):
        speech = {key: value for key, value in weighted.items() if key != "max_length"}
        recipe(speech | {"task": "ctc"}, main=finetune_audio.main)
    assert not (tmp_path / "run").exists()
    capfd.readouterr()
    assert recipe(weighted | {"class_weights": {"1": 2}, "max_steps": 1})["class_weights"] == {"0": 1, "1": 2}
    assert "class weights: 0 1, 1 2\n" in capfd.readouterr().out
