"""Watching a model: outputs stay as they are, bit for bit, and every point of every sublayer is seen."""

import pytest
import torch
from families import BASE_MODELS, FAMILIES, SPECS, covering, fill_with_pattern, specs_of

from hf_addnorm.diagnosis.watching import POINTS, watching
from hf_addnorm.models.base.token_mask import current


STILL = {"layerdrop": 0.0, "apply_spec_augment": False}
CASES = covering([(family, spec) for family, model in BASE_MODELS.items() for spec in specs_of(family, model)])


class Seen:
    """What is told, in order, and which tokens were real."""

    def __init__(self):
        self.points, self.real = {}, []

    def see(self, stack, layer, sublayer, point, x):
        self.points.setdefault((stack, layer, sublayer), {}).setdefault(point, []).append(x.detach().clone())
        if point == "branch_out":
            self.real.append(current().on(x))


def _net(family, spec, **kwargs):
    torch.manual_seed(0)
    row, model = FAMILIES[family], BASE_MODELS[family]
    net = row.model_class(model)(row.config(model, SPECS.get(spec), **STILL, **kwargs)).eval()
    fill_with_pattern(net)
    return net, row.inputs(model)


@torch.no_grad()
def _watched(net, inputs):
    seen = Seen()
    with watching(net, seen):
        out = net(**inputs).last_hidden_state
    return out, seen


@pytest.mark.parametrize(("family", "spec"), [*CASES, *((family, "stock") for family in FAMILIES)])
def test_outputs_stay_bit_for_bit_and_all_sublayers_are_seen(family, spec):
    net, inputs = _net(family, spec)
    with torch.no_grad():
        plain = net(**inputs).last_hidden_state
        out, seen = _watched(net, inputs)
        after = net(**inputs).last_hidden_state
    assert torch.equal(out, plain) and torch.equal(after, plain)
    expected = {
        (stack, layer, name)
        for stack, config in net.stack_configs.items()
        for layer in range(config.add_norm_depth())
        for name in config.add_norm_sublayers()
    }
    assert set(seen.points) == expected
    for points in seen.points.values():
        assert len(points["branch_in"]) == len(points["branch_out"]) == 1
        assert set(points) <= set(POINTS)
    # a layer reads and writes at least once
    for whole in {place[:2] for place in expected}:
        of_layer = [points for place, points in seen.points.items() if place[:2] == whole]
        assert any("stream_in" in points for points in of_layer)
