"""Models go through pickle and copy: what spawns processes, and what keeps a model in a cache, does both."""

import copy
import pickle
from typing import Any

import pytest
import torch
from families import BASE_MODELS, FAMILIES, SPECS
from torch.nn.utils.parametrize import is_parametrized


def _build(family: str, add_norm: Any, layers: int = 2) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """A tiny base model in evaluation, and its inputs."""
    row, name = FAMILIES[family], BASE_MODELS[family]
    key = "n_layer" if family == "gpt2" else "num_hidden_layers"
    config = row.config(name, add_norm, **({key: layers} if layers else {}))
    return row.model_class(name)(config).eval(), row.inputs(name)


@torch.no_grad()
def _output(model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    return model(**inputs).last_hidden_state


@pytest.mark.parametrize("spec", SPECS)
def test_a_model_with_any_spec_is_pickled_and_copied(spec):
    model, inputs = _build("bert", SPECS[spec], layers=4)
    expected = _output(model, inputs)
    assert torch.equal(_output(pickle.loads(pickle.dumps(model)), inputs), expected)
    assert torch.equal(_output(copy.deepcopy(model), inputs), expected)


@pytest.mark.parametrize("family", BASE_MODELS)
def test_a_model_of_any_family_is_pickled_and_copied(family):
    model, inputs = _build(family, "deepnorm", layers=0)
    expected = _output(model, inputs)
    assert torch.equal(_output(copy.deepcopy(model), inputs), expected)
    if any(is_parametrized(module) for module in model.modules()):
        pytest.skip("torch pickles no parametrised module, and the stock model has one: its convolution of positions")
    assert torch.equal(_output(pickle.loads(pickle.dumps(model)), inputs), expected)


def test_a_pickled_model_can_be_trained_and_started_anew():
    model = pickle.loads(pickle.dumps(_build("bert", "deepnorm")[0]))
    weight = model.encoder.layer[0].output.dense.weight
    before = weight.detach().clone()
    model.apply(lambda module: setattr(module, "_is_hf_initialized", False))
    for parameter in model.parameters():
        parameter._is_hf_initialized = False
    model.init_weights()
    # drawn again, by the rule that went along
    assert not torch.equal(weight, before)
    assert weight.std().item() == pytest.approx(before.std().item(), rel=0.1)


def test_a_model_goes_to_a_spawned_process():
    model, inputs = _build("bert", "hybrid_norm")
    expected = _output(model.requires_grad_(False), inputs)
    with torch.multiprocessing.get_context("spawn").Pool(1) as processes:
        assert torch.equal(processes.apply(model, (), inputs).last_hidden_state, expected)
