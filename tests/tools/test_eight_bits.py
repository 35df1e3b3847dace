"""Eight bits: torchao, ONNX Runtime and OpenVINO quantise the Linear layers; what is added and normed stays exact."""

import pytest
import torch
from small_models import THREE_SPECS, batch, classifier
from transformers import AutoModelForSequenceClassification


WARNINGS = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
pytestmark = WARNINGS
# the logits of a classifier of pattern weights are about 1 apart
TOLERANCE = {"rtol": 0.1, "atol": 0.05}


def _net(spec):
    net = classifier(spec)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(parameter + 0.02 * torch.randn(parameter.shape))
    return net


@pytest.mark.parametrize("spec", THREE_SPECS)
def test_torchao_weights_of_eight_bits(spec, tmp_path):
    ao = pytest.importorskip("torchao.quantization", reason="torchao is not installed (extra `tools`)")
    from transformers import TorchAoConfig

    net, inputs = _net(spec), batch()
    net.save_pretrained(tmp_path)
    eight = AutoModelForSequenceClassification.from_pretrained(
        tmp_path, quantization_config=TorchAoConfig(ao.Int8WeightOnlyConfig()), device_map="cpu"
    ).eval()
    kinds = {type(module.weight).__name__ for name, module in eight.named_modules() if name.endswith("query")}
    assert kinds != {"Parameter"}
    with torch.no_grad():
        torch.testing.assert_close(eight(**inputs).logits, net(**inputs).logits, **TOLERANCE)


@pytest.mark.parametrize("spec", THREE_SPECS)
def test_torchao_activations_of_eight_bits(spec):
    ao = pytest.importorskip("torchao.quantization", reason="torchao is not installed (extra `tools`)")
    net, inputs = _net(spec), batch()
    with torch.no_grad():
        expected = net(**inputs).logits
        ao.quantize_(net, ao.Int8DynamicActivationInt8WeightConfig())
        torch.testing.assert_close(net(**inputs).logits, expected, **TOLERANCE)


def _exported(net, inputs, file):
    torch.onnx.export(net, (), str(file), kwargs=inputs, dynamo=True, verbose=False, external_data=False)


@pytest.mark.parametrize("spec", ["hyper_connections"])
def test_onnx_runtime_of_eight_bits(spec, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    net, inputs = _net(spec), batch()
    _exported(net, inputs, tmp_path / "model.onnx")
    # as the runtime's own documentation asks for; the exporter's shapes are fixed ones
    quant_pre_process(str(tmp_path / "model.onnx"), str(tmp_path / "ready.onnx"), skip_symbolic_shape=True)
    quantize_dynamic(str(tmp_path / "ready.onnx"), str(tmp_path / "eight.onnx"), weight_type=QuantType.QInt8)
    session = onnxruntime.InferenceSession(str(tmp_path / "eight.onnx"))
    (logits, *_) = session.run(None, {key: value.numpy() for key, value in inputs.items()})
    torch.testing.assert_close(torch.from_numpy(logits), net(**inputs).logits.detach(), **TOLERANCE)


@pytest.mark.parametrize("spec", ["pre_rms_norm", "hyper_connections"])
def test_openvino(spec, tmp_path):
    openvino = pytest.importorskip("openvino", reason="openvino is not installed (extra `tools`)")
    pytest.importorskip("onnxscript")
    net, inputs = _net(spec), batch()
    _exported(net, inputs, tmp_path / "model.onnx")
    core = openvino.Core()
    model = core.read_model(str(tmp_path / "model.onnx"))
    given = {key: value.numpy() for key, value in inputs.items()}
    expected = net(**inputs).logits.detach()
    exact = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(given)[0]
    torch.testing.assert_close(torch.from_numpy(exact), expected, rtol=1e-3, atol=1e-4)
    nncf = pytest.importorskip("nncf", reason="nncf is not installed (extra `tools`)")
    eight = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_SYM)
    found = core.compile_model(eight, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(given)[0]
    torch.testing.assert_close(torch.from_numpy(found), expected, **TOLERANCE)
