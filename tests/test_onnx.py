"""ONNX: what is exported loads in ONNX Runtime and computes the same, at other shapes than it was exported with."""

import pytest
import torch
from families import FAMILIES, SPECS, fill_with_pattern
from torch import nn


onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

BERT = FAMILIES["bert"]
# products of tensors of different shapes, which the runtime is picky about
QUICK = ["hyper_connections", "altup"]
WARNINGS = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
SHAPES = [(3, 10), (1, 4), (2, 17)]


class _Tokens(nn.Module):
    """A base model as a function of ids and mask to its last hidden state."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, input_ids, attention_mask):
        return self.net(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state


def _inputs(batch, length):
    ids = torch.randint(1, 99, (batch, length), generator=torch.Generator().manual_seed(length))
    mask = torch.ones_like(ids)
    mask[0, length - 2 :] = 0
    return ids, mask


def _agrees_at_every_shape(spec, layers, tmp_path):
    torch.manual_seed(0)
    net = BERT.model_class("AddNormBertModel")(BERT.config("", SPECS[spec], num_hidden_layers=layers)).eval()
    fill_with_pattern(net)
    model, file = _Tokens(net), str(tmp_path / "model.onnx")
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length")}
    names = ("input_ids", "attention_mask")
    torch.onnx.export(
        model, _inputs(3, 10), file, input_names=names, dynamo=True, verbose=False,
        dynamic_shapes=dict.fromkeys(names, axes),
    )  # fmt: skip
    session = onnxruntime.InferenceSession(file)
    for shape in SHAPES:
        ids, mask = _inputs(*shape)
        with torch.no_grad():
            expected = model(ids, mask)
        (found,) = session.run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
        real = mask.bool()
        torch.testing.assert_close(torch.from_numpy(found)[real], expected[real], rtol=1e-3, atol=1e-4)


@WARNINGS
@pytest.mark.parametrize("spec", QUICK)
def test_a_layer_runs_in_onnx_runtime(spec, tmp_path):
    _agrees_at_every_shape(spec, 1, tmp_path)


@WARNINGS
@pytest.mark.slow
@pytest.mark.parametrize("spec", SPECS)
def test_every_spec_runs_in_onnx_runtime(spec, tmp_path):
    _agrees_at_every_shape(spec, 2, tmp_path)
