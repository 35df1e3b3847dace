"""What a family's layout must name, so that no norm that a spec asks for is left out."""

import pytest
from families import FAMILIES
from torch import nn

from hf_addnorm.models.base.registries import NORMS
from hf_addnorm.models.core.family_layout import FamilyLayout, numbered


@pytest.mark.parametrize("place", ["embed", "final"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_norm_asked_for_in_a_place_is_there_once(family, place):
    def rms_norms(spec):
        row = FAMILIES[family]
        base = row.config_class.auto_classes["AutoModel"]
        model = row.model_class(base)(row.config(base, {"attention": [], "feed_forward": [], **spec}))
        return sum(type(module) is NORMS["rms_norm"] for module in model.modules())

    elsewhere = {"embed": False, "final": False, "norm": "rms_norm"}
    assert rms_norms({**elsewhere, place: True}) == rms_norms(elsewhere) + 1


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
