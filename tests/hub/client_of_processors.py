"""A process in which hf_addnorm cannot be imported: loads what prepares inputs from folders that hold a model's code.

Usage: python client_of_processors.py CASES.json, a list of {"folder", "auto"}. Writes the classes that each
gives: "refusing" with `trust_remote_code=False`, "silent" without the argument where nobody answers.
"""

import builtins
import json
import sys
from pathlib import Path

from hidden import hide


hide()

import transformers


asked = []


def _nobody(question: str = "") -> str:
    asked.append(question)
    raise EOFError("nobody is there to answer")


builtins.input = _nobody
found = []
for case in json.loads(Path(sys.argv[1]).read_text()):
    loader = getattr(transformers, case["auto"])
    refusing = loader.from_pretrained(case["folder"], trust_remote_code=False)
    questions = len(asked)
    silent = loader.from_pretrained(case["folder"])
    asked.clear()
    found.append({"asked": questions, "refusing": type(refusing).__name__, "silent": type(silent).__name__})
assert not [name for name in sys.modules if name.startswith("transformers_modules.")]
sys.stdout.write(json.dumps(found))
