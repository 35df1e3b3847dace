"""A process in which hf_addnorm cannot be imported: loads saved cases as remote code and re-saves them.

Usage: python package_hidden.py CASES.json, a list of {"folder", "autos": [...], "reference", "base"}: the last two are
the model's own class and what AutoModel finds there; the folder holds "inputs" and "expected", too. With {"stock",
"stock_class"}, the stock folder loads here, and the stock class loads what is saved.
"""

import json
import sys
from pathlib import Path

from hidden import hide


hide()

import torch
import transformers
from family_inputs import first_output
from transformers.dynamic_module_utils import get_class_from_dynamic_module


def _load(case, auto, folder):
    """The model, through an Auto class or, where none finds it, its own."""
    if auto is None:
        model = get_class_from_dynamic_module(case["reference"], folder).from_pretrained(folder)
    else:
        model = getattr(transformers, auto).from_pretrained(folder, trust_remote_code=True)
    assert type(model).__module__.startswith("transformers_modules."), type(model)
    assert type(model).__name__ == case["reference"].split(".")[1]
    return model


def _copies(net) -> set[str]:
    """The copies of the saved code that a model's modules are of: a config's may be another one than the model's."""
    packages = {type(module).__module__.rpartition(".")[0] for module in net.modules()}
    return {package for package in packages if package.startswith("transformers_modules.")}


def _check(case) -> None:
    folder = case["folder"]
    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=True)
    assert type(config).__module__.startswith("transformers_modules."), type(config)
    inputs, expected = torch.load(f"{folder}/inputs"), torch.load(f"{folder}/expected")
    base = transformers.AutoModel.from_pretrained(folder, trust_remote_code=True)
    assert f"{type(base).__module__.split('.')[-1]}.{type(base).__name__}" == case["base"], type(base)
    for auto in case["autos"] or [None]:
        model = _load(case, auto, folder)
    if hasattr(model, base.base_model_prefix):
        held = getattr(model, base.base_model_prefix).state_dict()
        shared = base.state_dict().keys() & held.keys()
        assert len(shared) > 10 and all(torch.equal(base.state_dict()[key], held[key]) for key in shared), case
    assert torch.equal(first_output(model(**inputs)), expected), case
    model.save_pretrained(f"{folder}-again")
    again = _load(case, auto, f"{folder}-again")
    assert torch.equal(first_output(again(**inputs)), expected), case
    # a model that is built here, from a config alone
    if auto is not None:
        fresh = getattr(transformers, auto).from_config(config, trust_remote_code=True)
        assert fresh.state_dict().keys() == model.state_dict().keys()
        # rules for start weights know the classes of one
        assert len(_copies(model)) == len(_copies(fresh)) == 1, case
    if "stock" in case:
        stock_class = getattr(transformers, case["stock_class"])
        for cls, source in ((type(model), case["stock"]), (stock_class, f"{folder}-again")):
            net, info = cls.from_pretrained(source, output_loading_info=True)
            assert not any(info.values()), (case, info)
            assert torch.equal(first_output(net(**inputs)), expected), case


def main() -> None:
    torch.set_num_threads(1)
    cases = json.loads(Path(sys.argv[1]).read_text())
    for case in cases:
        _check(case)
    sys.stdout.write(f"checked {len(cases)}\n")


if __name__ == "__main__":
    main()
