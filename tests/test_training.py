"""Every preset learns: a two-layer model fits eight sentences within 200 steps at one common learning rate."""

import pytest
import torch
from families import FAMILIES, PRESET_NAMES

from hf_addnorm import AddNormBertForSequenceClassification


LEARNING_RATE = 1e-3


@pytest.mark.parametrize("preset", PRESET_NAMES)
def test_fits_eight_sentences(preset):
    config = FAMILIES["bert"].config("", preset, num_hidden_layers=2, hidden_size=64, intermediate_size=128)
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
    net = AddNormBertForSequenceClassification(config).train()
    ids = torch.randint(5, 99, (8, 12))
    labels = torch.tensor([0, 1] * 4)
    optimizer = torch.optim.AdamW(net.parameters(), lr=LEARNING_RATE)
    for _ in range(200):
        loss = net(input_ids=ids, labels=labels).loss
        if loss < 0.05:
            return
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    pytest.fail(f"{preset}: loss {loss:.3f} after 200 steps at {LEARNING_RATE}")
