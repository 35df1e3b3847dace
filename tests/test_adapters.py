"""PEFT: LoRA on projections that have norms beside them, its defaults, the tuning of norms, running statistics."""

import os

import forked_python
import pytest
import torch
from families import BASE_MODELS, FAMILIES, SPECS, covering, fill_with_pattern, specs_of
from transformers.pytorch_utils import Conv1D

import hf_addnorm


peft = pytest.importorskip("peft")
# PEFT asks Transformers by an older name, and says of every module that it does not know that it does not
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Unsupported layer type"),
]

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


# --- without target_modules: the stock family's defaults ---


def _stock_net(family):
    row = FAMILIES[family]
    model = row.config_class.auto_classes["AutoModel"]
    return row.stock_class(model)(row.stock_config(model))


def _tuned(net, config):
    """The names of the modules that a PEFT config without target_modules takes, or PEFT's sentence."""
    try:
        adapted = peft.get_peft_model(net, config)
    except ValueError as error:
        return str(error)
    return sorted(adapted.base_model.targeted_module_names)


KINDS_OF_ADAPTERS = {
    "lora": lambda: peft.LoraConfig(),
    "dora": lambda: peft.LoraConfig(use_dora=True),
    "ia3": lambda: peft.IA3Config(),
    "adalora": lambda: peft.AdaLoraConfig(total_step=10),
    "ln": lambda: peft.LNTuningConfig(),
}


@pytest.mark.parametrize("kind", KINDS_OF_ADAPTERS)
@pytest.mark.parametrize("family", ROWS)
def test_defaults_are_those_of_the_stock_family(family, kind):
    expected = _tuned(_stock_net(family), KINDS_OF_ADAPTERS[kind]())
    net, _ = _net(family, None)
    assert _tuned(net, KINDS_OF_ADAPTERS[kind]()) == expected
    if kind != "ln":
        net, _ = _net(family, "hybrid_norm")
        assert _tuned(net, KINDS_OF_ADAPTERS[kind]()) == expected


def test_norms_that_are_elsewhere_have_no_default():
    assert _tuned(_net("gpt2", "pre_rms_norm")[0], peft.LNTuningConfig()) == _tuned(
        _stock_net("gpt2"), peft.LNTuningConfig()
    )
    assert "specify `target_modules`" in _tuned(_net("gpt2", "post_ln")[0], peft.LNTuningConfig())
    # and it is there again for a model that has them
    assert "h.0.ln_1" in _tuned(_net("gpt2", None)[0], peft.LNTuningConfig())


@pytest.mark.parametrize("first", ["peft", "hf_addnorm"])
def test_whatever_is_imported_first(first, tmp_path):
    net, _ = _net("bert", "pre_ln")
    net.float().save_pretrained(tmp_path / "ours")
    imports = ["import peft", "from transformers import AutoModel"]
    # as remote code, where the package is not imported
    load = f"net = AutoModel.from_pretrained({str(tmp_path / 'ours')!r}, trust_remote_code=True)"
    if first == "hf_addnorm":
        imports = ["import hf_addnorm", "from transformers import AutoModel"]
        load = f"net = AutoModel.from_pretrained({str(tmp_path / 'ours')!r}); import sys; import peft"
    text = "\n".join([*imports, load, "print(len(peft.get_peft_model(net, peft.LoraConfig()).targeted_module_names))"])
    (tmp_path / "script.py").write_text(text)
    env = os.environ | {"HF_MODULES_CACHE": str(tmp_path / "modules")}
    done = forked_python.run([tmp_path / "script.py"], env=env)
    assert done.stdout.split() == ["8"], done.stderr[-2000:]


# --- the tuning of norms ---


def _tunes(net, inputs, **names):
    """The tuned model, as tuned and with other values; without its adapter it is the same model as before."""
    expected = net(**inputs)[0]
    tuned = peft.get_peft_model(net, peft.LNTuningConfig(**names)).eval()
    torch.testing.assert_close(tuned(**inputs)[0], expected)
    trained = [value for value in tuned.parameters() if value.requires_grad]
    output = tuned(**inputs)
    # a pooler may have a norm, too
    for value in (output[0], output.get("pooler_output")):
        if value is not None and value.requires_grad:
            value.backward(torch.randn_like(value), retain_graph=True)
    assert all(value.grad is not None for value in trained)
    with torch.no_grad():
        for value in trained:
            value.add_(0.3)
    assert not torch.allclose(tuned(**inputs)[0], expected)
    with tuned.disable_adapter():
        torch.testing.assert_close(tuned(**inputs)[0], expected)
    return tuned, trained


PAIRS = [(family, spec) for family, model in BASE_MODELS.items() for spec in specs_of(family, model)]


@pytest.mark.parametrize(("family", "spec"), covering(PAIRS))
def test_all_of_the_add_norm_is_tuned(family, spec, tmp_path):
    net, inputs = _net(family, SPECS[spec])
    parameters, names = hf_addnorm.add_norm_parameters(net), hf_addnorm.ln_tuning_names(net)
    if not names["target_modules"]:
        pytest.skip("it has no norm with a weight")
    # parameters of a layer itself, which PEFT cannot train alone
    sizes = sorted(
        value.numel() for name, value in parameters.items() if not name.endswith((".lambda_1", ".lambda_2"))
    )
    tuned, trained = _tunes(net, inputs, **names)
    assert sorted(value.numel() for value in trained) == sizes
    changed = tuned(**inputs)[0]
    tuned.save_pretrained(tmp_path)
    back = peft.PeftModel.from_pretrained(_net(family, SPECS[spec])[0], tmp_path).eval()
    torch.testing.assert_close(back(**inputs)[0], changed)
    torch.testing.assert_close(tuned.merge_and_unload()(**inputs)[0], changed)


@pytest.mark.parametrize(
    ("family", "spec"),
    [
        ("bert", "pre_ln"),
        ("bert", "hyper_connections"),
        ("albert", "pre_ln"),
        ("vit", "nanochat"),
        ("gpt2", "residual"),
    ],
)
def test_a_whole_block_is_tuned(family, spec):
    net, inputs = _net(family, SPECS[spec])
    blocks = {name: module for name, module in net.named_modules() if type(module).__name__ == "LayerAddNorm"}
    _tunes(net, inputs, target_modules=[name for name, module in blocks.items() if list(module.parameters())])


# --- a prefix of keys and values, which runs through the cache ---

PREFIXED = [
    ("bert", "AddNormBertForSequenceClassification", "SEQ_CLS"),
    ("bert", "AddNormBertLMHeadModel", "CAUSAL_LM"),
    ("gpt2", "AddNormGPT2LMHeadModel", "CAUSAL_LM"),
]


@pytest.mark.parametrize("spec", ["pre_ln", "hyper_connections"])
@pytest.mark.parametrize(("family", "model", "task"), PREFIXED)
def test_a_prefix_is_trained_and_saved(family, model, task, spec, tmp_path):
    row = FAMILIES[family]
    net = row.model_class(model)(row.config(model, SPECS[spec]))
    fill_with_pattern(net)
    inputs = {key: value for key, value in row.inputs(model).items() if key != "token_type_ids"}
    plain = net.eval()(**inputs).logits
    adapted = peft.get_peft_model(net, peft.PrefixTuningConfig(task_type=task, num_virtual_tokens=3)).eval()
    output = adapted(**inputs)
    output.loss.backward()
    prefix = next(value for name, value in adapted.named_parameters() if "prompt_encoder" in name)
    assert prefix.grad.abs().sum() > 0
    assert not torch.allclose(output.logits[:, -plain.shape[1] :], plain)
    adapted.save_pretrained(tmp_path)
    fresh = row.model_class(model)(row.config(model, SPECS[spec]))
    fill_with_pattern(fresh)
    back = peft.PeftModel.from_pretrained(fresh, tmp_path).eval()
    torch.testing.assert_close(back(**inputs).logits, output.logits)


# --- running statistics ---


@pytest.mark.parametrize(
    "norm", ["batch_norm", "power_norm", "unified_norm", "rep_bn", "progressive_rep_bn", "regularized_bn"]
)
def test_an_adapter_is_saved_with_the_statistics_of_its_norms(norm, tmp_path):
    spec = {"preset": "post_ln", "norm": norm}
    net, inputs = _net("bert", spec)
    names = hf_addnorm.norms_with_statistics(net)
    assert names and all(type(net.get_submodule(name)).__name__ for name in names)
    config = peft.LoraConfig(target_modules=["query"], modules_to_save=names)
    adapted = peft.get_peft_model(net, config, autocast_adapter_dtype=False).train()
    for _ in range(3):
        adapted(**inputs)
    expected = adapted.eval()(**inputs)[0]
    adapted.save_pretrained(tmp_path)
    back = peft.PeftModel.from_pretrained(_net("bert", spec)[0], tmp_path, autocast_adapter_dtype=False).eval()
    torch.testing.assert_close(back(**inputs)[0], expected)
    torch.testing.assert_close(adapted.merge_and_unload()(**inputs)[0], expected)


def test_most_models_have_no_norms_with_statistics():
    assert hf_addnorm.norms_with_statistics(_net("bert", "pre_ln")[0]) == []
