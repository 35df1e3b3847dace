"""A family with another family's scheme is that other one, bit for bit: a scheme means the same in all of them."""

import re

import pytest
import torch
from families import BASE_MODELS, FAMILIES, fill_with_pattern


# ours, its scheme, the stock family that it then is, and what the same weights are called there
SAME = [
    (
        "roberta",
        "pre_ln",
        "roberta_prelayernorm",
        {
            r"connections\.attention\.pre_norm": "attention.LayerNorm",
            r"connections\.feed_forward\.pre_norm": "intermediate.LayerNorm",
            r"encoder\.final_norm": "LayerNorm",
        },
    ),
    (
        "roberta_prelayernorm",
        "post_ln",
        "roberta",
        {
            r"connections\.attention\.post_norm": "attention.output.LayerNorm",
            r"connections\.feed_forward\.post_norm": "output.LayerNorm",
        },
    ),
]


def _base(family, scheme):
    row, name = FAMILIES[family], BASE_MODELS[family]
    if scheme is None:
        return row.stock_class(name)(row.stock_config(name))
    return row.model_class(name)(row.config(name, scheme))


@pytest.mark.parametrize(("ours", "scheme", "stock", "names"), SAME)
@pytest.mark.parametrize("training", [False, True])
def test_a_family_with_the_scheme_of_another_is_that_family(ours, scheme, stock, names, training):
    first, second = _base(ours, scheme), _base(stock, None)
    fill_with_pattern(first)
    weights = first.state_dict()
    for ours_name, stock_name in names.items():
        weights = {re.sub(ours_name, stock_name, key): value for key, value in weights.items()}
    second.load_state_dict(weights)
    results = []
    for model in (first, second):
        model.train(training)
        torch.manual_seed(3)
        output = model(**FAMILIES[ours].inputs(BASE_MODELS[ours])).last_hidden_state
        output.square().mean().backward()
        results.append((output, model.get_input_embeddings().weight.grad))
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)
