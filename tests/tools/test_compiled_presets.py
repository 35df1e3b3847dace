"""torch.compile and torch.export of BERT with every spec: one graph, and shapes that change without a new one."""

import pytest
import torch
import torch._dynamo.testing
from families import FAMILIES, SPECS, fill_with_pattern, slow_unless


BERT = FAMILIES["bert"]


def _net(spec):
    net = BERT.model_class("AddNormBertModel")(BERT.config("", SPECS[spec], num_hidden_layers=2)).eval()
    fill_with_pattern(net)
    return net


def _inputs(batch, length):
    ids = torch.randint(1, 99, (batch, length), generator=torch.Generator().manual_seed(length))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


# with two tensors in its state, Dynamo left out the context of an autograd function
@pytest.mark.parametrize("spec", [slow_unless(spec == "attention_residuals", spec) for spec in SPECS])
def test_one_graph_for_every_shape(spec):
    torch._dynamo.reset()
    net = _net(spec)
    counter = torch._dynamo.testing.CompileCounterWithBackend("eager")
    compiled = torch.compile(net, fullgraph=True, dynamic=True, backend=counter)
    with torch.no_grad():
        for shape in ((3, 10), (2, 7), (5, 12)):
            inputs = _inputs(*shape)
            torch.testing.assert_close(compiled(**inputs)[0], net(**inputs)[0], rtol=1e-4, atol=1e-5)
    assert counter.frame_count == 1


@pytest.mark.slow
@pytest.mark.parametrize("spec", SPECS)
def test_exported_for_every_shape(spec):
    net = _net(spec)
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", max=64)}
    exported = torch.export.export(
        net, (), kwargs=_inputs(3, 10), dynamic_shapes={"input_ids": axes, "attention_mask": axes}
    ).module()
    with torch.no_grad():
        for shape in ((3, 10), (2, 7), (5, 12)):
            inputs = _inputs(*shape)
            torch.testing.assert_close(exported(**inputs)[0], net(**inputs)[0], rtol=1e-4, atol=1e-5)
