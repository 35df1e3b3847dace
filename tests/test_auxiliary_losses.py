"""What norms add to the loss has the share in a step that the loss has: micro-batches, Trainer, other losses."""

import pytest
import torch
from families import FAMILIES, MODELS, covering_models
from token_specs import NO_DROPOUT, counted
from torch import nn
from transformers import TrainingArguments

from hf_addnorm import collect_losses
from hf_addnorm.models.base import auxiliary_loss
from hf_addnorm.trainer import AddNormTrainer


PENALISED = {"preset": "post_ln", "norm": {"kind": "regularized_bn", "mean_penalty": 3.0}}
# heads that can be told how many labels a step has
HEADS = [
    (family, model)
    for family, model in MODELS
    if not FAMILIES[family].is_causal(model) and "For" in model and "Wav2Vec2ForPreTraining" not in model
]


def penalised(family, name):
    torch.manual_seed(0)
    row = FAMILIES[family]
    return row.model_class(name)(row.config(name, PENALISED, **NO_DROPOUT)).train()


@pytest.mark.parametrize(("family", "name"), covering_models(HEADS))
def test_a_part_of_a_step_adds_a_part(family, name):
    """Told the labels of the whole step, a head's loss may be a part of the step's: so is what its norms add."""
    model, inputs = penalised(family, name), FAMILIES[family].inputs(name)
    start = counted(model)

    def run(function, *args, **kwargs):
        model.load_state_dict(start, strict=False)
        torch.manual_seed(0)
        return function(*args, **inputs, **kwargs)

    outputs, losses = run(collect_losses, model)
    if outputs.get("loss") is None:
        pytest.skip("a head without a loss")
    alone, items = outputs.loss, torch.tensor(1000)
    try:
        part = run(collect_losses, model, num_items_in_batch=items)[0].loss
    except TypeError:
        pytest.skip("a head that is not told the labels of a step")
    together = run(model, num_items_in_batch=items).loss
    torch.testing.assert_close(together, part + sum(losses) * part / alone)
    torch.testing.assert_close(run(model).loss, alone + sum(losses))


def mean_loss(outputs, labels, num_items_in_batch=None):
    """A user's own: the sum over the labels, divided by their number in the step."""
    logits = outputs["logits"].flatten(0, -2)
    loss = nn.functional.cross_entropy(logits, labels.flatten(), ignore_index=-100, reduction="sum")
    return loss / num_items_in_batch


@pytest.mark.parametrize("way", ["model", "label smoothing", "own loss"])
@pytest.mark.parametrize(("family", "name"), [("modernbert", "AddNormModernBertForMaskedLM")])
def test_trainer_counts_them_once_a_step(family, name, way, tmp_path):
    """The step of two micro-batches with other numbers of labels is the mean over all labels, what is added too."""
    model = penalised(family, name)
    rows = []
    for row in range(4):
        ids = torch.randint(5, 90, (10,))
        # two rows with two labels, two with six
        labels = torch.where(torch.arange(10) < (2 if row < 2 else 6), ids, -100)
        rows.append({"input_ids": ids, "attention_mask": torch.ones(10, dtype=torch.long), "labels": labels})
    start = {key: value.clone() for key, value in model.state_dict().items()}
    extra = {"label_smoothing_factor": 0.1} if way == "label smoothing" else {}
    arguments = TrainingArguments(
        str(tmp_path), max_steps=1, per_device_train_batch_size=2, gradient_accumulation_steps=2, optim="sgd",
        learning_rate=1.0, max_grad_norm=0.0, lr_scheduler_type="constant", report_to=[], use_cpu=True,
        save_strategy="no", disable_tqdm=True, **extra,
    )  # fmt: skip
    trainer = AddNormTrainer(
        model, arguments, train_dataset=rows, compute_loss_func=mean_loss if way == "own loss" else None
    )
    trainer._get_train_sampler = lambda *_: torch.utils.data.SequentialSampler(rows)
    logged = trainer.train().training_loss
    moved = {key: start[key] - value for key, value in model.state_dict().items()}

    model.load_state_dict(start)
    model.zero_grad()
    expected = 0.0
    for part, share in ((rows[:2], 4 / 16), (rows[2:], 12 / 16)):
        batch = {key: torch.stack([row[key] for row in part]) for key in part[0]}
        labels = batch.pop("labels")
        outputs, losses = collect_losses(model, **batch)
        epsilon = extra.get("label_smoothing_factor", 0.0)
        loss = nn.functional.cross_entropy(outputs.logits.flatten(0, 1), labels.flatten(), label_smoothing=epsilon)
        assert sum(losses) > 0.1
        whole = share * (loss + sum(losses))
        whole.backward()
        expected += whole.item()
    assert logged == pytest.approx(expected, rel=1e-5)
    for key, parameter in model.named_parameters():
        torch.testing.assert_close(moved[key], parameter.grad, rtol=1e-4, atol=1e-5, msg=lambda m, k=key: f"{k}: {m}")


def test_what_is_lost_is_said_once(monkeypatch):
    model, inputs = penalised("bert", "AddNormBertForMaskedLM"), FAMILIES["bert"].inputs("AddNormBertForMaskedLM")
    labels = inputs.pop("labels")
    said = []
    monkeypatch.setattr(auxiliary_loss.logger, "warning_once", said.append)
    model(**inputs)
    assert len(said) == 1
    assert "AddNormTrainer" in said[0] and "collect_losses" in said[0]
    collect_losses(model, **inputs)
    model(**inputs, labels=labels)
    with torch.no_grad():
        model(**inputs)
    model.eval()(**inputs)
    assert len(said) == 1
