"""Small models and texts that the tests of other libraries share; a saved model has its tokenizer beside it."""

import os
from pathlib import Path
from typing import Any

import forked_python
import torch
import transformers
from families import FAMILIES, SPECS, fill_with_pattern


WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{index}" for index in range(94))]
TEXTS = ["w1 w2 w3", "w4 w5", "w6 w7 w8 w9", "w10 w11 w12"]
# one tensor as stream, several, norms elsewhere and of another kind
THREE_SPECS = ["pre_rms_norm", "hyper_connections", "sandwich_ln"]


def tokenizer() -> Any:
    """One token for each of the words w0 to w93."""
    made = transformers.BertTokenizer(vocab={word: index for index, word in enumerate(WORDS)})
    made.model_max_length = 64
    return made


def net(family: str, model: str, spec: str | None, **entries: Any) -> Any:
    """A model of a family at its tiny size, with weights that all differ."""
    row = FAMILIES[family]
    made = row.model_class(model)(row.config(model, SPECS.get(spec), **entries)).eval()
    fill_with_pattern(made)
    return made


def classifier(spec: str | None, **entries: Any) -> Any:
    """A BERT that sorts texts into two kinds."""
    return net("bert", "AddNormBertForSequenceClassification", spec, **entries)


def saved(model: Any, folder: Path) -> str:
    """The folder of a model with its tokenizer."""
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return str(folder)


def labelled(count: int = 16) -> list[dict[str, Any]]:
    """Rows with a label, as Trainer takes them."""
    encode = tokenizer()
    texts = [f"w{i} w{i + 1} w{i % 5}" for i in range(count)]
    return [{**encode(text, padding="max_length", max_length=6), "labels": i % 2} for i, text in enumerate(texts)]


def batch(count: int = 4) -> dict[str, torch.Tensor]:
    """The same as tensors, without labels."""
    rows = labelled(count)
    return {key: torch.tensor([row[key] for row in rows]) for key in ("input_ids", "attention_mask")}


def as_stranger(script: str, folder: Path) -> str:
    """The last line that a script prints in a process where hf_addnorm cannot be imported."""
    file = folder / "stranger.py"
    hidden = Path(forked_python.__file__).parent
    file.write_text(f"import sys\nsys.path.insert(0, {str(hidden)!r})\nfrom hidden import hide\nhide()\n{script}")
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    env |= {"HF_HOME": str(folder / "home"), "HF_MODULES_CACHE": str(folder / "modules")}
    done = forked_python.run([file], env=env, cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    # other libraries print what they think of the machine
    return done.stdout.splitlines()[-1]
