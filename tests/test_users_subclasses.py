"""Classes that users derive from ours: what was loaded stays, and nothing is started twice."""

import os
from pathlib import Path
from typing import Any

import forked_python
import pytest
import torch
from families import (
    BASE_MODELS,
    FAMILIES,
    OWN_LAYERS,
    SPECS,
    TINY_TEXT,
    fill_with_pattern,
    is_quick,
    slow_unless,
    specs_of,
)
from torch import nn

from hf_addnorm import AddNormStackConfig, AddNormStackModel


SOME_SPECS = ["post_ln", "deepnorm", "hyper_connections", "all_slots", "ngpt"]


def _is_quick(family, model, spec):
    """One spec for every model, and for a base model with layers of its own another one, each family another one."""
    others = SOME_SPECS[1:]
    also = [others[OWN_LAYERS.index(family) % len(others)]] if family in OWN_LAYERS else []
    return is_quick(family, model) and (spec == SOME_SPECS[0] or (spec in also and model == BASE_MODELS[family]))


CASES = [
    slow_unless(_is_quick(family, model, spec), family, model, spec)
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


# a file of a user: a model type, a config and a head of their own
OWN_FILE = """
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from hf_addnorm import AddNormBertConfig, AddNormBertForSequenceClassification


class OwnConfig(AddNormBertConfig):
    model_type = "own_bert"

    def __init__(self, sharpness=1.0, **kwargs):
        super().__init__(**kwargs)
        self.sharpness = sharpness


class OwnHead(AddNormBertForSequenceClassification):
    config_class = OwnConfig

    def __init__(self, config):
        super().__init__(config)
        self.scale = torch.nn.Parameter(torch.full((1,), config.sharpness))
        self.post_init()

    def forward(self, *args, **kwargs):
        outputs = super().forward(*args, **kwargs)
        outputs.logits = outputs.logits * self.scale
        return outputs


AutoConfig.register("own_bert", OwnConfig)
AutoModelForSequenceClassification.register(OwnConfig, OwnHead)
"""
SAVE = """
import sys, torch, own_bert
folder, travels, *sizes = sys.argv[1:]
if travels == "travels":
    own_bert.OwnConfig.register_for_auto_class()
    own_bert.OwnHead.register_for_auto_class("AutoModelForSequenceClassification")
model = own_bert.OwnHead(own_bert.OwnConfig(sharpness=2.0, add_norm="deepnorm", **eval(sizes[0]))).eval()
model.save_pretrained(folder)
torch.save(model(torch.arange(8)[None]).logits, folder + "/expected.pt")
"""
LOAD = """
import sys, torch
from transformers import AutoModelForSequenceClassification
folder, travels = sys.argv[1:]
if travels == "stays":
    import own_bert
expected = torch.load(folder + "/expected.pt")
for saved in (folder, folder + "/again"):
    model = AutoModelForSequenceClassification.from_pretrained(saved, trust_remote_code=travels == "travels").eval()
    assert type(model).__name__ == "OwnHead" and model.config.sharpness == 2.0, type(model)
    # the order of a sum may depend on where in memory the weights are
    torch.testing.assert_close(model(torch.arange(8)[None]).logits, expected)
    model.save_pretrained(folder + "/again")
"""


@pytest.mark.parametrize("travels", [slow_unless(False, "stays"), slow_unless(True, "travels")])
def test_a_users_own_model_type_is_saved_loaded_and_saved_again(travels, tmp_path):
    """By a fresh process: where the user's file is at hand, and where it came with the folder."""
    code, saved = tmp_path / "code", tmp_path / "saved"
    code.mkdir()
    (code / "own_bert.py").write_text(OWN_FILE)
    (code / "save.py").write_text(SAVE)
    loading = code / "load.py" if travels == "stays" else tmp_path / "load.py"
    loading.write_text(LOAD)
    root = str(Path(__file__).parents[1])
    for script, path in (
        ([code / "save.py", saved, travels, repr(TINY_TEXT)], [str(code), root]),
        ([loading, saved, travels], [str(code), root] if travels == "stays" else [root]),
    ):
        env = os.environ | {"PYTHONPATH": os.pathsep.join(path), "HF_MODULES_CACHE": str(tmp_path / "modules")}
        done = forked_python.run([*map(str, script)], env=env, cwd=tmp_path)
        assert done.returncode == 0, done.stderr[-2000:]
    assert (saved / "own_bert.py").exists() == (saved / "again/own_bert.py").exists() == (travels == "travels")
