"""A client process of the Hub of the tests that has no hf_addnorm: pushes a model whose code came with it.

Usage: python client_of_remote_code.py FROM TO, two repositories.
"""

import importlib.abc
import sys


class _Hide(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "hf_addnorm":
            raise ModuleNotFoundError("hf_addnorm is hidden from this process")
        return None


sys.meta_path.insert(0, _Hide())

import transformers
from huggingface_hub import HfApi, ModelCard


source, target = sys.argv[1:]
model = transformers.AutoModelForSequenceClassification.from_pretrained(source, trust_remote_code=True)
assert type(model).__module__.startswith("transformers_modules."), type(model)
model.push_to_hub(target)
# nothing there can write another
assert "automatically generated" in ModelCard.load(target).text
assert HfApi().file_exists(target, "core.py")
transformers.AutoModel.from_pretrained(target, trust_remote_code=True)
