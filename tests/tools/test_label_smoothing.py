"""Label smoothing of Trainer: which labels it shifts, it decides by the name of a model's class."""

import os

import forked_python
import pytest
import torch
import transformers
from families import FAMILIES, MEMBERS, slow_unless
from transformers import Trainer, TrainingArguments


CAUSAL = {
    family: name
    for family, row in FAMILIES.items()
    if (name := row.config_class.auto_classes.get("AutoModelForCausalLM"))
}
HEADS = [
    ("bert", "AddNormBertForMaskedLM"),
    ("bert", "AddNormBertForSequenceClassification"),
    ("t5", "AddNormT5ForConditionalGeneration"),
]


def _loss(net, inputs, folder):
    arguments = TrainingArguments(str(folder), label_smoothing_factor=0.1, report_to=[], use_cpu=True)
    return Trainer(net.eval(), arguments).compute_loss(net, dict(inputs))


@pytest.mark.parametrize(
    ("family", "model"),
    [slow_unless(family not in MEMBERS, family, model) for family, model in [*CAUSAL.items(), *HEADS]],
)
def test_the_loss_is_that_of_the_stock_model(family, model, tmp_path):
    row = FAMILIES[family]
    stock = row.stock_class(model)(row.stock_config(model))
    net = row.model_class(model)(row.config(model))
    net.load_state_dict(stock.state_dict())
    inputs = row.inputs(model)
    assert torch.equal(_loss(net, inputs, tmp_path), _loss(stock, inputs, tmp_path))


@pytest.mark.slow
def test_a_causal_model_as_remote_code_has_its_labels_shifted(tmp_path):
    """Where the package is not installed, the name comes from the code that travels."""
    row = FAMILIES["gpt2"]
    net = row.model_class("AddNormGPT2LMHeadModel")(row.config("AddNormGPT2LMHeadModel"))
    inputs = row.inputs("AddNormGPT2LMHeadModel")
    net.save_pretrained(tmp_path / "model")
    stock = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "model")
    torch.save(dict(inputs), tmp_path / "inputs")
    script = tmp_path / "script.py"
    script.write_text(_STRANGER.format(folder=tmp_path))
    done = forked_python.run([script], env=_env(tmp_path))
    assert done.returncode == 0, done.stderr[-2000:]
    assert float(done.stdout.split()[-1]) == pytest.approx(_loss(stock, inputs, tmp_path).item(), rel=1e-5)


_STRANGER = """
import sys, torch
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments
net = AutoModelForCausalLM.from_pretrained("{folder}/model", trust_remote_code=True).eval()
assert "hf_addnorm" not in sys.modules
arguments = TrainingArguments("{folder}", label_smoothing_factor=0.1, report_to=[], use_cpu=True)
print(Trainer(net, arguments).compute_loss(net, torch.load("{folder}/inputs")).item())
"""


def _env(folder):
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return env | {"HF_HOME": str(folder / "home"), "HF_MODULES_CACHE": str(folder / "modules")}
