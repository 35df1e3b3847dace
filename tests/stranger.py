"""A process in which hf_addnorm cannot be imported: loads saved cases as remote code and re-saves them.

Usage: python stranger.py CASES.json, a list of {"folder", "resave", "autos": [...], "inputs", "expected"}.
"""

import importlib.abc
import json
import sys
from pathlib import Path


class _Hide(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "hf_addnorm":
            raise ModuleNotFoundError("hf_addnorm is hidden from this process")
        return None


sys.meta_path.insert(0, _Hide())

import torch
import transformers


def _load(auto, folder):
    return getattr(transformers, auto).from_pretrained(folder, trust_remote_code=True)


def main() -> None:
    torch.set_num_threads(1)
    for case in json.loads(Path(sys.argv[1]).read_text()):
        config = _load("AutoConfig", case["folder"])
        assert type(config).__module__.startswith("transformers_modules."), type(config)
        inputs, expected = torch.load(case["inputs"]), torch.load(case["expected"])
        for auto in case["autos"]:
            model = _load(auto, case["folder"])
            assert type(model).__module__.startswith("transformers_modules."), type(model)
        assert torch.equal(model(**inputs)[0], expected), case
        model.save_pretrained(case["resave"])
        again = _load(auto, case["resave"])
        assert torch.equal(again(**inputs)[0], expected), case
        # a model that is built here, from a config alone
        fresh = getattr(transformers, auto).from_config(config, trust_remote_code=True)
        assert fresh.state_dict().keys() == model.state_dict().keys()


if __name__ == "__main__":
    main()
