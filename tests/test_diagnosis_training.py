"""Watching a training: the figures go to the trackers, and no number of the training changes."""

import peft
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainerCallback, TrainingArguments

from hf_addnorm import AddNormBertConfig, AddNormBertForSequenceClassification, diagnose
from hf_addnorm.diagnosis.training import ROWS, TrainingWatch, WatchAddNorm


TINY = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 37,
    "max_position_embeddings": 16,
}


def _rows(count=24):
    ids = torch.randint(3, 99, (count, 6), generator=torch.Generator().manual_seed(0))
    return [{"input_ids": row, "labels": int(row[0]) % 2} for row in ids]


def _net(add_norm="pre_ln"):
    torch.manual_seed(0)
    return AddNormBertForSequenceClassification(AddNormBertConfig(**TINY, add_norm=add_norm))


class Tracker(TrainerCallback):
    """Keeps what it is given to log, by step."""

    def __init__(self):
        self.logged = {}

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.logged.setdefault(state.global_step, {}).update(logs)


def _trained(folder, watch=None, net=None, **arguments):
    """A model after four steps with dropout, the tracker, and what the trainer kept."""
    net = net or _net()
    args = TrainingArguments(
        str(folder), max_steps=4, per_device_train_batch_size=4, report_to=[], use_cpu=True, seed=3, **arguments
    )
    tracker = Tracker()
    trainer = Trainer(net, args, train_dataset=_rows(), callbacks=[tracker])
    if watch is not None:
        trainer.add_callback(watch(trainer))
    trainer.train()
    return net, tracker.logged, trainer.state


def _stock():
    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(**TINY))


@pytest.mark.parametrize("make", [_net, _stock])
def test_the_training_is_the_same_to_the_last_bit(tmp_path, make):
    plain, _, _ = _trained(tmp_path / "a", net=make())
    watched, logged, state = _trained(tmp_path / "b", lambda trainer: WatchAddNorm(trainer, every=2), net=make())
    assert all(torch.equal(*pair) for pair in zip(plain.parameters(), watched.parameters(), strict=True))
    assert sorted(step for step, logs in logged.items() if any("add_norm/" in key for key in logs)) == [0, 2, 4]
    # not in what is saved and printed
    assert not any("add_norm/" in key for entry in state.log_history for key in entry)
    assert {"add_norm/branch_ratio/0_attention", "add_norm/gradient_norm/1_feed_forward"} <= logged[0].keys()
    assert logged[0] != logged[4]


def test_the_figures_are_those_of_a_diagnosis(tmp_path):
    net, logged, _ = _trained(
        tmp_path, lambda trainer: WatchAddNorm(trainer, every=4, measures=["stream_rms", "gradient_norm"])
    )
    rows = _rows()[:ROWS]
    batch = {
        "input_ids": torch.stack([row["input_ids"] for row in rows]),
        "labels": torch.tensor([row["labels"] for row in rows]),
    }
    found = diagnose(net, [batch])
    figures = {key: value for key, value in logged[4].items() if key.startswith("add_norm/")}
    assert {key.split("/")[1] for key in figures} == {"stream_rms", "gradient_norm"}
    for row in found.of("stream_rms") + found.of("gradient_norm"):
        assert figures[f"add_norm/{row.measure}/{row.layer}_{row.part}"] == pytest.approx(row.value, rel=1e-5)


def test_a_stock_model_is_seen_as_it_learns(tmp_path):
    _, logged, _ = _trained(tmp_path, lambda trainer: WatchAddNorm(trainer, every=4), net=_stock(), learning_rate=0.1)
    key = "add_norm/branch_rms/1_feed_forward"
    assert abs(logged[4][key] - logged[0][key]) > 0.1 * logged[0][key]


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")
def test_wrapped_and_compiled_models_are_watched():
    net = _net()
    batch = {"input_ids": torch.stack([row["input_ids"] for row in _rows(2)])}
    expected = TrainingWatch(net, batch).figures()
    adapted = peft.get_peft_model(_net(), peft.LoraConfig(target_modules=["query"]))
    assert TrainingWatch(adapted, batch).figures() == pytest.approx(expected, rel=1e-5)
    net.compile(backend="eager")
    net(**batch)
    assert TrainingWatch(net, batch).figures() == expected


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"every": 0}, "every is 0 and rows is 8; allowed are numbers from 1"),
        ({"measures": ["norm"]}, "measures has 'norm'; allowed are stream_rms"),
    ],
)
def test_what_it_cannot_do_is_refused(tmp_path, arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        _trained(tmp_path, lambda trainer: WatchAddNorm(trainer, **arguments))
