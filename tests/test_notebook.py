"""What a notebook shows of a spec and of a config, and that `repr` and `print` stay short."""

import pytest
from families import FAMILIES, PRESET_NAMES

from hf_addnorm import AddNormBertConfig, AddNormSpec
from hf_addnorm.explore.looks import choices


@pytest.mark.parametrize("preset", PRESET_NAMES)
def test_a_spec_shows_its_formula(preset):
    spec = AddNormSpec.parse(preset)
    assert "<pre>" in spec._repr_html_() and preset in spec._repr_html_()
    assert len(repr(spec)) < 80 and eval(repr(spec)) == spec


def test_what_differs_is_shown_and_what_is_html_is_escaped():
    spec = AddNormSpec.parse({"preset": "pre_ln", "norm": {"kind": "rms_norm", "eps": 1e-3}})
    assert "norm = {&quot;kind&quot;: &quot;rms_norm&quot;, &quot;eps&quot;: 0.001}" in spec._repr_html_()
    assert "-&gt; N -&gt; F" in spec._repr_html_() and "->" not in spec._repr_html_()


@pytest.mark.parametrize("family", ["bert", "bart", "modernbert", "vit"])
def test_a_config_shows_each_of_its_stacks(family):
    row = FAMILIES[family]
    html = row.config("", "pre_ln" if family != "bart" else None)._repr_html_()
    assert html.count("<div>") == (2 if family == "bart" else 1)
    assert row.config_class.__name__ in html


@pytest.mark.parametrize("axis", choices())
def test_print_of_a_config_is_short(axis):
    for choice in choices()[axis]:
        try:
            config = AddNormBertConfig(add_norm={"preset": "pre_ln", axis: choice})
        except ValueError:
            continue
        lines = repr(config).splitlines()
        # the entries that every config has, and the axis
        assert len(lines) < 20 and max(map(len, lines)) <= 80
        assert not any("initializer_range" in line for line in lines)
