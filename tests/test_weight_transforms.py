"""Weights of Linear layers that are transformed in every forward: formulas, families, loading, adapters."""

import pytest
import torch
from families import (
    BASE_MODELS,
    FAMILIES,
    checkpoint_activations,
    fill_with_pattern,
    layer_paths,
    stacks_of,
)
from reference_checks import compare

from hf_addnorm import (
    AddNormBertConfig,
    AddNormBertForMaskedLM,
    AddNormBertForSequenceClassification,
    AddNormBertModel,
)
from hf_addnorm.models.base.fused_roles import join_roles
from hf_addnorm.models.base.registries import WEIGHTS
from hf_addnorm.models.weights.weight_transforms import Transformed, TransformedLinear


SPECS = {
    "standardized": {"kind": "weight_standardization", "fan_in": True},
    "standardized_official": {
        "kind": "weight_standardization",
        "roles": ["v", "o"],
        "eps_place": "outside",
        "variance": "unbiased",
        "eps": 1e-3,
    },
    "unit": {"kind": "unit_vectors", "roles": ["q", "k", "v", "o", "w1", "w2"]},
    "sigma": {"kind": "sigma_reparam"},
    "sigma_of_some": {"kind": "sigma_reparam", "roles": ["q", "w2"], "start": "spectral_norm"},
}
TINY_BERT = {
    "vocab_size": 11,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}
CASES = [
    (family, spec)
    for family in FAMILIES
    for spec in (SPECS if family == "bert" else ("standardized", "unit", "sigma"))
]


def build(kind, role="q", **options):
    choice = WEIGHTS.parse({"kind": kind, **options}, "add_norm.weights")
    return WEIGHTS.build(choice, 5, 7, role).double()


def tiny(family, spec, **kwargs):
    row, model = FAMILIES[family], BASE_MODELS[family]
    return row.model_class(model)(row.config(model, {"weights": SPECS[spec]}, **kwargs)), row.inputs(model)


def standardized(w, *, eps=1e-5, eps_place="inside", variance="biased", fan_in=False):
    rows = []
    for row in w:
        n = len(row)
        mean = row.sum() / n
        var = ((row - mean) ** 2).sum() / (n if variance == "biased" else n - 1)
        deviation = (var + eps) ** 0.5 if eps_place == "inside" else var**0.5 + eps
        rows.append((row - mean) / deviation / (n**0.5 if fan_in else 1))
    return torch.stack(rows)


@pytest.mark.parametrize("fan_in", [False, True])
@pytest.mark.parametrize(("eps_place", "variance"), [("inside", "biased"), ("outside", "unbiased")])
def test_weight_standardization_is_the_formula(eps_place, variance, fan_in):
    options = {"eps": 1e-3, "eps_place": eps_place, "variance": variance, "fan_in": fan_in}
    w = torch.randn(5, 7, dtype=torch.float64)
    compare(build("weight_standardization", **options), lambda w: standardized(w, **options), w)


def test_sigma_reparam_is_the_formula_once_its_vectors_are_found():
    """The gradient of the spectral norm too."""
    w = torch.randn(5, 7, dtype=torch.float64)
    transform = build("sigma_reparam").train()
    transform.start(w)
    with torch.no_grad():
        transform.sigma.fill_(1.7)
        for _ in range(400):
            transform(w)
    transform.eval()
    compare(transform, lambda w: 1.7 * w / torch.linalg.svdvals(w)[0], w)
    before = transform.left.clone()
    transform(2 * w + 1)
    assert torch.equal(transform.left, before)
    transform.train()(2 * w + 1)
    assert not torch.equal(transform.left, before)


@pytest.mark.parametrize(("start", "size"), [("one", 1.0), ("spectral_norm", None)])
def test_sigma_starts_as_documented(start, size):
    w = torch.randn(5, 7, dtype=torch.float64)
    transform = build("sigma_reparam", start=start)
    transform.start(w)
    norm = torch.linalg.svdvals(w)[0].item()
    assert transform.sigma.item() == pytest.approx(size or norm, rel=0.02)
    assert torch.linalg.svdvals(transform.eval()(w))[0].item() == pytest.approx(size or norm, rel=0.02)


@pytest.mark.parametrize("length", [None, 3.0])
def test_fix_norm_is_the_formula(length):
    w = torch.randn(5, 7, dtype=torch.float64)
    unit = lambda w: w / torch.sqrt((w * w).sum(-1, keepdim=True))  # noqa: E731
    size = length or 7**0.5
    compare(build("fix_norm", role="embed", length=length), lambda w: size * unit(w), w)
    compare(build("fix_norm", role="output", length=length), unit, w)
    w[2] = 0
    transform = build("fix_norm", role="embed", length=length)
    assert torch.equal(transform(w)[2], w[2])


def test_zero_mean_output_is_the_formula():
    x, w, b = (torch.randn(*shape, dtype=torch.float64) for shape in ((3, 7), (5, 7), (5,)))
    layer = torch.nn.Linear(7, 5).double()
    layer.__class__ = TransformedLinear
    layer.weight_norm = torch.nn.ModuleList([build("zero_mean_output", role="o")])

    def ours(x, w, b):
        return torch.func.functional_call(layer, {"weight": w, "bias": b}, (x,))

    def formula(x, w, b):
        y = x @ w.T + b
        return y - y.mean(-1, keepdim=True)

    compare(ours, formula, x, w, b)
    layer.bias = None
    torch.testing.assert_close(layer(x), formula(x, layer.weight, torch.zeros(5, dtype=torch.float64)))


# something else has a mean: a map behind the embeddings' norm, a convolution or positions between the layers
WITH_A_MEAN = {"albert", "albert_groups", "deberta_v2_conv", "electra", "yolos"}


@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - WITH_A_MEAN))
def test_rms_norm_of_a_stream_without_a_mean_is_layer_norm(family):
    """A pre-norm model with LayerNorm, and its weights in one with RMSNorm whose branches have no mean."""
    row, model = FAMILIES[family], BASE_MODELS[family]
    mean_out = {"kind": "fixed_sigma", "gain": False, "bias": False}
    specs = [
        {"preset": "pre_ln", "norm": {"kind": "layer_norm", "bias": True, "eps": 1e-3}, "embed": False},
        {
            "preset": "pre_ln",
            "norm": {"kind": "rms_norm", "bias": True, "eps": 1e-3},
            "embed": mean_out,
            "weights": "zero_mean_output",
        },
    ]
    more = {"adapter_attn_dim": None} if family == "wav2vec2_stable" else {}
    layer, rms = (row.model_class(model)(row.config(model, spec, **more)).double().eval() for spec in specs)
    fill_with_pattern(layer)
    rms.load_state_dict(layer.state_dict())
    inputs = {key: x.double() if x.is_floating_point() else x for key, x in row.inputs(model).items()}
    expected, y = layer(**inputs)[0], rms(**inputs)[0]
    torch.testing.assert_close(y, expected, rtol=1e-9, atol=1e-9)
    plain = row.model_class(model)(row.config(model, specs[1] | {"weights": "none"}, **more)).double().eval()
    plain.load_state_dict(layer.state_dict())
    assert not torch.allclose(plain(**inputs)[0], expected, atol=1e-3)


@pytest.mark.parametrize(
    "family", [family for family, row in FAMILIES.items() if "input_ids" in row.inputs(BASE_MODELS[family])]
)
def test_fix_norm_reaches_the_words_alone(family):
    """A model with plain weights that hold what the transform gives is the same model."""
    row, model = FAMILIES[family], BASE_MODELS[family]
    net = row.model_class(model)(row.config(model, {"weights": "fix_norm"})).eval()
    fill_with_pattern(net)
    plain = row.model_class(model)(row.config(model)).eval()
    plain.load_state_dict(net.state_dict())
    inputs = row.inputs(model)
    words, reader = plain.get_input_embeddings().weight, net.get_submodule(stacks_of(net)[0][0].removesuffix("."))
    assert reader.get_input_embeddings()(torch.arange(4)).norm(dim=-1).tolist() == pytest.approx(
        4 * [words.shape[1] ** 0.5]
    )
    with torch.no_grad():
        before = plain(**inputs)[0]
        words.mul_(words.shape[1] ** 0.5 / words.norm(dim=-1, keepdim=True).clamp(min=1e-12))
        expected = plain(**inputs)[0]
    torch.testing.assert_close(net(**inputs)[0], expected)
    assert not torch.allclose(before, expected)


def test_fix_norm_makes_the_logits_cosines():
    """The table tied to the output layer stays one parameter, and has another length at each end."""
    config = AddNormBertConfig(
        **TINY_BERT, add_norm={"preset": "pre_ln", "final": "scale_norm", "weights": "fix_norm"}
    )
    net = AddNormBertForMaskedLM(config).eval()
    fill_with_pattern(net)
    decoder = net.get_output_embeddings()
    assert decoder.weight is net.get_input_embeddings().weight
    hidden = net.cls.predictions.transform(net.bert(torch.arange(5)[None]).last_hidden_state)
    rows = torch.nn.functional.normalize(decoder.weight, dim=-1)
    torch.testing.assert_close(net(torch.arange(5)[None]).logits, hidden @ rows.T + decoder.bias)


@pytest.mark.parametrize("family", ["vit", "wav2vec2"])
def test_fix_norm_is_refused_where_there_are_no_words(family):
    row, model = FAMILIES[family], BASE_MODELS[family]
    with pytest.raises(ValueError, match=r"add_norm.weights is 'fix_norm': it is for the table of the words"):
        row.model_class(model)(row.config(model, {"weights": "fix_norm"}))


@pytest.mark.parametrize(("family", "spec"), CASES)
def test_every_role_of_every_family_is_transformed(family, spec):
    """A model with plain weights that hold what the transforms give is the same model."""
    net, inputs = tiny(family, spec, layerdrop=0.0)
    net.eval()
    row, model = FAMILIES[family], BASE_MODELS[family]
    plain = row.model_class(model)(row.config(model)).eval()
    missing, unexpected = plain.load_state_dict(net.state_dict(), strict=False)
    assert missing == []
    assert all(".weight_norm." in key for key in unexpected)
    transformed = {name: m for name, m in net.named_modules() if isinstance(m, Transformed)}
    roles = SPECS[spec].get("roles", ["q", "k", "v", "o", "w1", "w2"])
    found = set()
    for path in layer_paths(net):
        for place, (of, _) in net.get_submodule(path).add_norm_linears.items():
            assert (f"{path}.{place}" in transformed) == (not set(of).isdisjoint(roles))
            found |= set(of)
    assert found == {"q", "k", "v", "o", "w1", "w2"}
    assert not torch.allclose(net(**inputs)[0], plain(**inputs)[0], atol=1e-3) or "some" in spec
    with torch.no_grad():
        for name, module in transformed.items():
            parts = [t(p) for t, p in zip(module.weight_norm, module.parts(), strict=True)]
            # of the heads one after the other, or of the roles
            weight = join_roles(parts, module.blocks)
            target = plain.get_submodule(name).weight
            target.copy_(weight if target.shape == weight.shape and "c_" not in name else weight.T)
    torch.testing.assert_close(net(**inputs)[0], plain(**inputs)[0], rtol=1e-4, atol=1e-5)
    net.train()(**inputs)[0].square().mean().backward()
    assert all(p.grad.isfinite().all() for p in net.parameters() if p.grad is not None)
    sigmas = [p for name, p in net.named_parameters() if name.endswith("sigma")]
    assert all(p.grad is not None for p in sigmas)
    assert bool(sigmas) == (SPECS[spec]["kind"] == "sigma_reparam")


@pytest.mark.parametrize("spec", SPECS)
def test_stock_weights_load_and_a_saved_model_comes_back(spec, tmp_path):
    row = FAMILIES["bert"]
    stock = row.stock_class("AddNormBertModel")(row.stock_config("AddNormBertModel"))
    fill_with_pattern(stock)
    stock.save_pretrained(tmp_path / "stock")
    garbage = [torch.full((size,), 7e7) for size in (1, 32, 37) for _ in range(50)]
    del garbage
    net, info = AddNormBertModel.from_pretrained(
        tmp_path / "stock", add_norm={"weights": SPECS[spec]}, output_loading_info=True
    )
    assert not info["unexpected_keys"]
    assert all(".weight_norm." in key for key in info["missing_keys"])
    for key, value in stock.state_dict().items():
        assert torch.equal(net.state_dict()[key], value), key
    for module in net.modules():
        if isinstance(module, Transformed) and "sigma" in spec:
            for transform, part in zip(module.weight_norm, module.parts(), strict=True):
                if hasattr(transform, "sigma"):
                    norm = torch.linalg.svdvals(part)[0]
                    estimate = transform.left @ part @ transform.right
                    torch.testing.assert_close(estimate, norm, rtol=0.02, atol=0)
                    assert transform.sigma == (estimate if "start" in SPECS[spec] else 1)
    inputs = row.inputs("AddNormBertModel")
    net.train()(**inputs)
    net.eval().save_pretrained(tmp_path / "ours")
    back, info = AddNormBertModel.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info.values())
    torch.testing.assert_close(back(**inputs)[0], net(**inputs)[0])
    assert all(torch.equal(value, back.state_dict()[key]) for key, value in net.state_dict().items())


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_checkpoints_recomputation_iterates_no_more(reentrant):
    results = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        net, inputs = tiny("bert", "sigma", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        net.double()
        if checkpointing:
            checkpoint_activations(net, {"use_reentrant": reentrant})
            net.enable_input_require_grads()
        # both forwards before a backward
        sum(net.train()(**inputs)[0].square().mean() for _ in range(2)).backward()
        grads = {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
        results.append(grads | dict(net.named_buffers()))
    assert results[0].keys() == results[1].keys()
    for name, value in results[0].items():
        torch.testing.assert_close(value, results[1][name], rtol=1e-8, atol=1e-12)


def test_a_linear_that_forgets_its_transform_is_named():
    net, inputs = tiny("bert", "sigma")
    layer = net.encoder.layer[1]
    layer.output.dense = torch.nn.Linear(37, 32)
    with pytest.raises(RuntimeError, match=r"output.dense has been replaced by a Linear"):
        net(**inputs)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")
def test_an_adapter_adds_to_the_transformed_layer():
    peft = pytest.importorskip("peft")
    net = AddNormBertForSequenceClassification(FAMILIES["bert"].config("", {"weights": SPECS["sigma"]}))
    inputs = {key: value for key, value in FAMILIES["bert"].inputs("").items() if key != "labels"}
    expected = net.eval()(**inputs).logits
    adapted = peft.get_peft_model(net, peft.LoraConfig(target_modules="all-linear", task_type="SEQ_CLS")).eval()
    torch.testing.assert_close(adapted(**inputs).logits, expected)


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ("weight_standardisation", "Did you mean weight_standardization"),
        (
            {"kind": "sigma_reparam", "roles": ["x"]},
            r"roles is \['x'\]; allowed is .*list of roles",
        ),
        ({"kind": "sigma_reparam", "roles": ["q", "q"]}, "list of roles"),
        ({"kind": "sigma_reparam", "roles": []}, "list of roles"),
    ],
)
def test_bad_transforms_are_refused_in_words(weights, words):
    with pytest.raises(ValueError, match=words):
        FAMILIES["bert"].config("", {"weights": weights})


def test_compiles_as_one_graph():
    net, inputs = tiny("bert", "sigma", num_hidden_layers=2)
    net.eval()
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(**inputs)[0], net(**inputs)[0])
