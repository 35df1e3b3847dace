"""LoRA on projections that have norms beside them: merged equals unmerged, and no norm is adapted."""

import pytest
import torch
from families import FAMILIES, fill_with_pattern
from transformers.pytorch_utils import Conv1D


peft = pytest.importorskip("peft")
# PEFT asks Transformers by an older name
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")

# a row for each kind of projection: apart, fused, Conv1D
ROWS = {
    "bert": ["query", "key", "value"],
    "vit": ["q_proj", "k_proj", "o_proj"],
    "albert": ["query", "dense"],
    "modernbert": ["Wqkv", "Wo"],
    "deberta_v2": ["query_proj", "value_proj", "dense"],
    "deberta_v2_conv": ["key_proj", "dense"],
    "wav2vec2": ["v_proj", "output_dense"],
    "wav2vec2_stable": ["q_proj", "intermediate_dense"],
    "gpt2": ["c_attn", "c_proj"],
}


def _net(family, spec):
    row = FAMILIES[family]
    model = row.config_class.auto_classes["AutoModel"]
    net = row.model_class(model)(row.config(model, spec)).eval().double()
    fill_with_pattern(net)
    inputs = {key: v.double() if v.is_floating_point() else v for key, v in row.inputs(model).items()}
    return net, inputs


def _adapt(net, targets):
    """The model with LoRA at random values, and the modules that have it."""
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=targets, fan_in_fan_out="c_attn" in str(net))
    adapted = peft.get_peft_model(net, config, autocast_adapter_dtype=False).eval()
    layers = {name: m for name, m in adapted.named_modules() if isinstance(m, peft.tuners.lora.LoraLayer)}
    with torch.no_grad():
        for layer in layers.values():
            layer.lora_A["default"].weight.copy_(torch.randn_like(layer.lora_A["default"].weight) / 8)
            layer.lora_B["default"].weight.copy_(torch.randn_like(layer.lora_B["default"].weight) / 8)
    return adapted, layers


@pytest.mark.parametrize("named", [False, True], ids=["all-linear", "named"])
@pytest.mark.parametrize("spec", ["hybrid_norm", "sub_ln", "residual"])
@pytest.mark.parametrize("family", ROWS)
def test_lora_merged_equals_unmerged(family, spec, named):
    net, inputs = _net(family, spec)
    expected, classes = net(**inputs)[0], [type(module) for module in net.modules()]
    linears = [name for name, module in net.named_modules() if isinstance(module, (torch.nn.Linear, Conv1D))]
    adapted, layers = _adapt(net, ROWS[family] if named else "all-linear")
    names = [name.removeprefix("base_model.model.") for name in layers]
    assert names == [name for name in linears if not named or name.split(".")[-1] in ROWS[family]]
    assert all("lora_" in name for name, value in adapted.named_parameters() if value.requires_grad)
    unmerged = adapted(**inputs)[0]
    assert (unmerged - expected).abs().max() > 1e-3
    with adapted.disable_adapter():
        assert torch.equal(adapted(**inputs)[0], expected)
    merged = adapted.merge_and_unload()
    assert [type(module) for module in merged.modules()] == classes
    torch.testing.assert_close(merged(**inputs)[0], unmerged, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("family", ROWS)
def test_every_adapter_has_a_gradient_and_is_saved(family, tmp_path):
    net, inputs = _net(family, "hybrid_norm")
    adapted, layers = _adapt(net, "all-linear")
    output = adapted(**inputs)
    for value in (output.last_hidden_state, output.get("pooler_output")):
        if value is not None:
            value.backward(torch.randn_like(value), retain_graph=True)
    for name, value in adapted.named_parameters():
        assert (value.grad is not None and value.grad.abs().sum() > 0) == ("lora_" in name), name
    adapted.save_pretrained(tmp_path)
    fresh, _ = _net(family, "hybrid_norm")
    back = peft.PeftModel.from_pretrained(fresh, tmp_path, autocast_adapter_dtype=False).eval()
    torch.testing.assert_close(back(**inputs)[0], output[0])
    assert layers
