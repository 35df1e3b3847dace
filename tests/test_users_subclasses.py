"""Classes that users derive from ours: what was loaded stays, and nothing is started twice."""

from typing import Any

import pytest
import torch
from families import BASE_MODELS, FAMILIES, SPECS, fill_with_pattern, specs_of
from torch import nn

from hf_addnorm import AddNormStackConfig, AddNormStackModel


SOME_SPECS = ["post_ln", "deepnorm", "hyper_connections", "all_slots", "ngpt"]
CASES = [
    (family, model, spec)
    for family, row in FAMILIES.items()
    for model in (BASE_MODELS[family], row.models[-1])
    for spec in SOME_SPECS
    if spec in specs_of(family, model)
]


def _writing_in_place(model_class: type[Any]) -> type[Any]:
    """A subclass whose rule for start weights writes in place, as thousands of public models do; and its own head."""

    class Derived(model_class):  # type: ignore[misc]
        def __init__(self, config: Any):
            super().__init__(config)
            self.own_head = nn.Linear(3, 2)
            self.post_init()

        def _init_weights(self, module: nn.Module) -> None:
            super()._init_weights(module)
            if isinstance(module, nn.Linear):
                module.weight.data.normal_(0, 0.02)
                if module.bias is not None:
                    module.bias.data.zero_()
            if isinstance(module, nn.LayerNorm) and module.elementwise_affine:
                module.weight.data.fill_(1.0)

    return Derived


def _changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> list[str]:
    assert before.keys() == after.keys()
    return [name for name, value in before.items() if not torch.equal(value, after[name])]


@pytest.mark.parametrize(("family", "model", "spec"), CASES)
def test_what_was_loaded_is_not_drawn_again(family, model, spec, tmp_path):
    row = FAMILIES[family]
    derived = _writing_in_place(row.model_class(model))
    net = derived(row.config(model, SPECS[spec]))
    fill_with_pattern(net)
    net.save_pretrained(tmp_path)
    assert not _changed(net.state_dict(), derived.from_pretrained(tmp_path).state_dict())


@pytest.mark.parametrize(("family", "model", "spec"), CASES)
def test_a_second_post_init_changes_nothing(family, model, spec):
    row = FAMILIES[family]
    net = row.model_class(model)(row.config(model, SPECS[spec]))
    fill_with_pattern(net)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    modules = list(net.modules())
    net.post_init()
    assert not _changed(before, net.state_dict())
    assert [id(module) for module in net.modules()] == [id(module) for module in modules]


def test_so_it_is_in_a_stack(tmp_path):
    size = {"vocab_size": 11, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    entry = {"model_type": "bert", **size, "intermediate_size": 12, "max_position_embeddings": 8}
    derived = _writing_in_place(AddNormStackModel)
    net = derived(AddNormStackConfig(encoders=[entry, {**entry, "add_norm": "deepnorm"}]))
    fill_with_pattern(net)
    net.save_pretrained(tmp_path)
    assert not _changed(net.state_dict(), derived.from_pretrained(tmp_path).state_dict())
