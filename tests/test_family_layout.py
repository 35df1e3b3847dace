"""What a family's layout must name, so that no norm that a spec asks for is left out."""

import pytest
from families import FAMILIES
from torch import nn

from hf_addnorm.models.base.registries import NORMS
from hf_addnorm.models.core.family_layout import FamilyLayout, numbered


@pytest.mark.parametrize("place", ["embed", "final"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_norm_asked_for_in_a_place_is_there_once(family, place):
    """In each stack of layers."""
    row = FAMILIES[family]
    base = row.config_class.auto_classes["AutoModel"]

    def model(spec):
        return row.model_class(base)(row.config(base, {"attention": [], "feed_forward": [], **spec}))

    def rms_norms(net):
        return sum(type(module) is NORMS["rms_norm"] for module in net.modules())

    elsewhere = {"embed": False, "final": False, "norm": "rms_norm"}
    net = model({**elsewhere, place: True})
    assert rms_norms(net) == rms_norms(model(elsewhere)) + len(net.stack_configs)


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ({"final_norm": "norm"}, "neither embed_norm nor embed_dropout"),
        ({"embed_norm": "norm"}, "neither final_norm nor encoder_class"),
    ],
)
def test_a_layout_without_a_place_for_a_norm_is_refused(given, missing):
    with pytest.raises(ValueError, match=missing):
        FamilyLayout(layer=nn.Linear, layers=numbered("layers"), **given)
