"""What a scheme costs, counted without numbers: matrix products of every part, and how many they are."""

import pytest
from families import BASE_MODELS, FAMILIES, FEW_SPECS, SPECS, covering

from hf_addnorm.hub.cost import cost


def counted(family, add_norm, **sizes):
    return cost(FAMILIES[family].config(BASE_MODELS[family], add_norm, **sizes))


CASES = [("bert", spec) for spec in SPECS]
# Megatron-BERT's stock model looks at the numbers of the mask that it makes
CASES += [(family, spec) for family in FAMILIES if family not in ("bert", "megatron_bert") for spec in FEW_SPECS]


@pytest.mark.parametrize(("family", "spec"), covering(CASES))
def test_every_scheme_is_counted(family, spec):
    """None would say that a part looks at numbers, which a count does not have."""
    assert counted(family, SPECS[spec], num_hidden_layers=2).multiply_adds is not None


@pytest.mark.parametrize(
    ("add_norm", "extra"),
    [
        ("post_ln", 0),
        # 4 layers of 2 sublayers, 32 wide, of 4 heads; as many tokens as it has positions
        ({"residual": "highway"}, 8 * 64 * 32 * 32),
        # cosines and the mixed tokens, also behind the embeddings
        ({"norm": "contra_norm"}, 9 * 2 * 64 * 64 * 32),
        # means, mean squares, and what three shifts weigh for each head
        ({"norm": "dynamic_token_norm"}, 9 * (2 * 64 * 64 * 32 + 64 * 64 * 3 * 4)),
    ],
    ids=str,
)
def test_what_is_multiplied_is_counted(add_norm, extra):
    found = counted("bert", add_norm)
    assert found.input == "64 tokens"
    assert found.multiply_adds - found.stock_multiply_adds == extra
