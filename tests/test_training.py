"""Everything learns: a two-layer model fits a few samples within 200 steps at one common learning rate.

No preset needs the rate that its paper names instead.
"""

import itertools

import pytest
import torch
from families import FAMILIES, PRESET_NAMES, covering

from hf_addnorm import AddNormBertForSequenceClassification


LEARNING_RATE = 1e-3
# a classifier, or where a family has none, what writes
LEARNER = {
    family: next(
        (model for model in row.models if "SequenceClass" in model or "ImageClass" in model),
        row.writer,
    )
    for family, row in FAMILIES.items()
}


def _without_dropout(config):
    for key in vars(config):
        if "drop" in key and isinstance(getattr(config, key), float):
            setattr(config, key, 0.0)
    return config


def _fit(net, inputs):
    """The steps that it took to a loss below 0.05."""
    optimizer = torch.optim.AdamW(net.train().parameters(), lr=LEARNING_RATE)
    for step in range(200):
        loss = net(**inputs).loss
        if loss < 0.05:
            return step
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    pytest.fail(f"loss {loss:.3f} after 200 steps at {LEARNING_RATE}")


@pytest.mark.parametrize("preset", PRESET_NAMES)
def test_fits_eight_sentences(preset):
    config = FAMILIES["bert"].config("", preset, num_hidden_layers=2, hidden_size=64, intermediate_size=128)
    net = AddNormBertForSequenceClassification(_without_dropout(config))
    inputs = {"input_ids": torch.randint(5, 99, (8, 12)), "labels": torch.tensor([0, 1] * 4)}
    assert _fit(net, inputs) > 0


# a finder of objects, which learns slowly, is trained in test_finetune_detection.py
LEARNING = [family for family in FAMILIES if LEARNER[family]]
FAMILY_PRESETS = itertools.product(LEARNING, ["post_ln", "hybrid_norm", "residual", "hyper_connections"])


@pytest.mark.parametrize(("family", "preset"), covering(FAMILY_PRESETS))
def test_every_family_fits_three_samples(family, preset):
    row, model = FAMILIES[family], LEARNER[family]
    net = row.model_class(model)(_without_dropout(row.config(model, preset, hidden_size=64, intermediate_size=128)))
    inputs = row.inputs(model)
    if inputs["labels"].dim() == 1:
        inputs["labels"] = torch.tensor([0, 1, 0])
    assert _fit(net, inputs) > 0
