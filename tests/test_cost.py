"""What a scheme costs, counted without numbers: matrix products of every part, and how many they are."""

import pytest
from families import BASE_MODELS, FAMILIES, FEW_SPECS, SPECS

from hf_addnorm.hub.cost import cost


def counted(family, add_norm):
    return cost(FAMILIES[family].config(BASE_MODELS[family], add_norm))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_scheme_is_counted(family):
    """None would say that a part looks at numbers, which a count does not have."""
    specs = SPECS if family == "bert" else FEW_SPECS
    assert [spec for spec in specs if counted(family, SPECS[spec]).multiply_adds is None] == []


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
