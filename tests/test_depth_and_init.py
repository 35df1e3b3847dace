"""Numbers that depend on the depth, and the start weights that they scale, in real models."""

import dataclasses
import functools
import math
import re

import pytest
import torch
from depth_references import DEPTH_REFERENCES, INIT_REFERENCES
from encoder_references import neutral_names
from families import BASE_MODELS, FAMILIES
from transformers import BertConfig, BertModel
from transformers.pytorch_utils import Conv1D

from hf_addnorm import AddNormBertConfig, AddNormBertForMaskedLM, AddNormBertModel
from hf_addnorm.models.base.depth import Position, at_depth, parse_depth_value
from hf_addnorm.models.base.fused_roles import split_roles
from hf_addnorm.models.base.registries import DEPTH_RULES, INITS


# encoders, and a decoder with cross-attention: (layers, sublayers of a layer)
STACKS = [(1, 2), (2, 2), (12, 2), (100, 2), (4, 3)]

POWERS = [
    {"of": "layer", "exponent": -0.5},
    {"of": "layers", "exponent": -0.5, "factor": 1.4},
    {"of": "sublayer", "exponent": 1, "times": 0.5},
    {"of": "sublayers", "exponent": 0.25},
    {"of": "sublayers", "exponent": -0.25, "times": 4},
    {"of": "sublayers", "exponent": 0.5, "log_of": True},
    {"of": "layers", "exponent": 2, "times": 3, "factor": -0.1, "log_of": True},
    {"of": "layer", "exponent": 0},
]

LINEARS = [{"last": 0.3}, {"first": 0.9, "last": 0.1}, {"first": 0.25, "last": 0.25}]
BEAMS = [{"kind": "beam", "side": side} for side in ("skip", "branch")]
RULES = [*({"kind": "power", **o} for o in POWERS), *({"kind": "linear", **o} for o in LINEARS), *BEAMS]
RULES += ["cait", "admin", "deepnorm", {"kind": "deepnorm", "decoder_layers": 6}]

# every slot that an init rule may need is filled
EVERY_SLOT = dict.fromkeys(["pre", "mid", "out", "post"], True)


def positions(layers, per_layer):
    for layer in range(layers):
        for order in range(per_layer):
            yield Position(layer, layers, layer * per_layer + order, layers * per_layer)


def config(add_norm, layers=2, decoder=False, hidden=8, intermediate=12, heads=2):
    return AddNormBertConfig(
        vocab_size=11,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=intermediate,
        max_position_embeddings=8,
        is_decoder=decoder,
        add_cross_attention=decoder,
        add_norm=add_norm,
    )


def started(add_norm, model_class=AddNormBertModel, seed=0, **kwargs):
    """Weights at the start, by path."""
    torch.manual_seed(seed)
    return dict(model_class(config(add_norm, **kwargs)).named_parameters())


def role_of(path):
    """q, k, v, o, w1, w2 for the weight of a Linear in a layer, else None."""
    if not path.startswith("encoder.layer.") or "norm" in path.lower():
        return None
    *_, role, parameter = neutral_names(path)[0].split(".")
    return role if parameter == "weight" else None


def layer_of(path):
    """The layer's number in a path, from 1; 0 elsewhere."""
    found = re.match(r"encoder\.layer\.(\d+)\.", path)
    return int(found[1]) + 1 if found else 0


def with_init(init):
    return {"attention": EVERY_SLOT, "feed_forward": EVERY_SLOT, "final": True, "init": init}


@functools.cache
def unscaled(layers, decoder=False):
    """Weights at the start without an init rule."""
    return started(with_init([]), layers=layers, decoder=decoder)


# --- depth rules ---


def test_every_depth_rule_has_a_reference():
    assert set(DEPTH_REFERENCES) == set(DEPTH_RULES)
    for kind in DEPTH_RULES:
        used = {key for rule in RULES if isinstance(rule, dict) and rule["kind"] == kind for key in rule} - {"kind"}
        assert used == set(DEPTH_RULES.options(kind))
    counted = {options["of"] for options in POWERS}
    assert counted == {"layer", "layers", "sublayer", "sublayers"}


@pytest.mark.parametrize("stack", STACKS, ids=str)
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_depth_rule_matches_its_formula(rule, stack):
    value = parse_depth_value(rule, "add_norm.x")
    options = {"kind": rule} if isinstance(rule, str) else dict(rule)
    reference = DEPTH_REFERENCES[options.pop("kind")]
    for p in positions(*stack):
        expected = reference(p.layer + 1, p.layers, p.sublayer + 1, p.sublayers, **options)
        assert at_depth(value, p) == pytest.approx(expected, rel=1e-12, abs=0)


@pytest.mark.parametrize("value", [0.0, 1, -2.5])
def test_a_number_is_itself_at_every_depth(value):
    parsed = parse_depth_value(value, "add_norm.x")
    assert isinstance(parsed, float)
    assert {at_depth(parsed, p) for p in positions(12, 2)} == {value}


@pytest.mark.parametrize(
    ("layers", "alpha", "beta"),
    [
        (2, 1.4142135623730951, 0.5),
        (12, 2.2133638394006434, 0.3194715521231362),
        (100, 3.7606030930863934, 0.18803015465431966),
    ],
)
def test_deepnorm_constants(layers, alpha, beta):
    """(2N)^(1/4) and (8N)^(-1/4) of an encoder, as DeepNet's table 2 has them."""
    (constant,) = {
        block.residual_norm.skip_scale
        for layer in AddNormBertModel(config("deepnorm", layers)).encoder.layer
        for block in (layer.connections.attention, layer.connections.feed_forward)
    }
    assert constant == pytest.approx(alpha, rel=1e-12)
    before, after = unscaled(layers), started(with_init({"kind": "deepnorm", "base": "stock"}), layers=layers)
    path = f"encoder.layer.{layers - 1}.output.dense.weight"
    assert (after[path].norm() / before[path].norm()).item() == pytest.approx(beta, rel=1e-6)


def test_deepnorm_constants_of_a_decoder_with_cross_attention():
    """(3M)^(1/4) and (12M)^(-1/4), DeepNet's table 2."""
    layers = 4
    model = AddNormBertModel(config("deepnorm", layers, decoder=True))
    constants = {
        getattr(layer.connections, name).residual_norm.skip_scale
        for layer in model.encoder.layer
        for name in ("attention", "cross_attention", "feed_forward")
    }
    assert constants == {(3 * layers) ** 0.25}
    before = unscaled(layers, decoder=True)
    after = started(with_init({"kind": "deepnorm", "base": "stock"}), layers=layers, decoder=True)
    for path in ("attention.self.value", "crossattention.self.value", "crossattention.output.dense", "output.dense"):
        path = f"encoder.layer.2.{path}.weight"
        assert (after[path].norm() / before[path].norm()).item() == pytest.approx((12 * layers) ** -0.25, rel=1e-6)


def test_a_decoder_without_cross_attention_counts_two_sublayers():
    cfg = config("deepnorm", 4)
    cfg.is_decoder = True
    model = AddNormBertModel(cfg)
    assert model.encoder.layer[3].connections.attention.residual_norm.skip_scale == pytest.approx(8**0.25)


@pytest.mark.parametrize(
    ("layers", "start"), [(1, 0.1), (12, 0.1), (18, 0.1), (19, 1e-5), (24, 1e-5), (25, 1e-6), (100, 1e-6)]
)
def test_cait_table(layers, start):
    assert {at_depth(parse_depth_value("cait", "x"), p) for p in positions(layers, 2)} == {start}


@pytest.mark.parametrize(
    ("layers", "rates"), [(1, [0.2]), (2, [0.0, 0.2]), (5, [0.0, 0.05, 0.1, 0.15, 0.2])], ids=["1", "2", "5"]
)
def test_linear_ends_at_its_ends(layers, rates):
    """The schedule of stochastic depth; the sublayers of a layer have one rate."""
    value = parse_depth_value({"kind": "linear", "last": 0.2}, "x")
    assert [at_depth(value, p) for p in positions(layers, 2)] == pytest.approx([r for r in rates for _ in "ab"])


@pytest.mark.parametrize(("layers", "start"), [(18, 0.1), (19, 1e-5), (25, 1e-6)])
def test_layer_scale_starts_at_the_cait_table(layers, start):
    weights = [p for path, p in started("layer_scale", layers=layers).items() if "residual_norm" in path]
    assert len(weights) == 2 * layers
    assert all((weight == start).all() for weight in weights)


def test_layer_norm_scaling_counts_layers_from_one():
    layers = 5
    model = AddNormBertModel(config("layer_norm_scaling", layers))
    for index, layer in enumerate(model.encoder.layer):
        for block in (layer.connections.attention, layer.connections.feed_forward):
            assert block.pre_scale == pytest.approx(1 / math.sqrt(index + 1), rel=1e-12)


@pytest.mark.parametrize(
    "rule",
    [
        # the logarithm of a number below 1 to a broken power
        {"of": "layer", "times": 0.5, "exponent": 0.5, "log_of": True},
        # ln 1 to a negative power
        {"of": "layer", "exponent": -0.5, "log_of": True},
        {"of": "sublayers", "exponent": 5000},
    ],
    ids=["complex", "division-by-zero", "overflow"],
)
def test_a_rule_without_a_finite_value_is_refused(rule):
    with pytest.raises(ValueError, match="pre_scale"):
        AddNormBertModel(config({"preset": "pre_ln", "pre_scale": {"kind": "power", **rule}}))


def test_pre_scale_is_of_the_norm_in_the_slot_pre():
    specs = [
        {"preset": "pre_ln", "feed_forward": ["post"], "pre_scale": scale, "attention": ["pre"], "final": False}
        for scale in (1.0, 0.5)
    ]
    layers = [AddNormBertModel(config(spec, layers=1)).double().eval().encoder.layer[0] for spec in specs]
    layers[1].load_state_dict(layers[0].state_dict())
    for layer in layers:
        # the attention's branch is silent: what is left is the feed-forward's, which has no norm before it
        torch.nn.init.zeros_(layer.attention.output.dense.weight)
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    torch.testing.assert_close(layers[1](x), layers[0](x))


# --- init rules ---


def test_every_init_rule_has_a_reference():
    assert set(INIT_REFERENCES) == set(INITS)


@pytest.mark.parametrize("kind", INITS)
def test_every_option_is_known_to_the_reference(kind):
    reference, options = INIT_REFERENCES[kind], INITS.options(kind)
    assert set(options) == ({"base"} if len(reference.bases) > 1 else set()) | set(reference.options)
    if "base" in options:
        assert set(options["base"].annotation.__args__) == set(reference.bases)
        assert options["base"].default == reference.base


@pytest.mark.parametrize("stack", [(2, 2), (12, 2), (100, 2), (3, 3)], ids=str)
@pytest.mark.parametrize("kind", [kind for kind, r in INIT_REFERENCES.items() if "stock" in r.bases and r.roles])
def test_scales_exactly_the_documented_roles(kind, stack):
    """The same seed with and without the rule: documented weights are the same draw times the factor, bit for bit."""
    layers, per_layer = stack
    reference = INIT_REFERENCES[kind]
    base = {"kind": kind, "base": "stock"} if len(reference.bases) > 1 else {"kind": kind}
    kwargs = {"layers": layers, "decoder": per_layer == 3}
    before = unscaled(**kwargs)
    cases = [(base, reference.factor)]
    cases += [(base | reference.options, reference.factor_with_options)] if reference.options else []
    for init, formula in cases:
        after = started(with_init(init), **kwargs)
        assert before.keys() == after.keys()
        scaled = set()
        for path, weight in after.items():
            role = role_of(path)
            factor = formula(layers, layers * per_layer, layer_of(path)) if role in reference.roles else 1.0
            scaled |= {role} if role in reference.roles else set()
            torch.testing.assert_close(weight, before[path] * factor, rtol=1e-6, atol=0, msg=path)
        assert scaled == set(reference.roles)


def deviation(base, outputs, inputs):
    """That of a draw without a gain."""
    # cutting a normal draw at 3 leaves 0.9733 of its variance
    return math.sqrt(0.9733 / inputs if base == "fan_in_normal" else 2 / (inputs + outputs))


@pytest.mark.parametrize(
    ("kind", "base"), [(kind, base) for kind, r in INIT_REFERENCES.items() for base in r.bases if base != "stock"]
)
@pytest.mark.parametrize("decoder", [False, True], ids=["encoder", "decoder"])
def test_other_draws(kind, base, decoder):
    """Their variance, q and k with gain 1 where the rule has it so; the rest as in stock."""
    reference = INIT_REFERENCES[kind]
    layers, sizes = 3, {"hidden": 64, "intermediate": 192}
    kwargs = {"layers": layers, "decoder": decoder, **sizes}
    cases = [({"kind": kind}, reference.factor)]
    cases += [({"kind": kind} | reference.options, reference.factor_with_options)] if reference.options else []
    for init, formula in cases:
        by_role: dict[str, list[torch.Tensor]] = {}
        for path, weight in started(with_init(init), **kwargs).items():
            if (role := role_of(path)) is not None:
                factor = formula(layers, layers * (3 if decoder else 2), layer_of(path))
                gain = factor if role in reference.roles else 1.0
                draw = weight.detach().double() / (gain * deviation(base, *weight.shape))
                by_role.setdefault(role, []).append(draw.flatten())
            elif path.endswith("embeddings.weight"):
                std = 0.02 if reference.table is None else reference.table(64, layers)
                assert weight.std().item() == pytest.approx(std, rel=0.15)
        assert set(by_role) == {"q", "k", "v", "o", "w1", "w2"}
        for role, draws in by_role.items():
            draw = torch.cat(draws)
            # 3 x 64 x 64 numbers: a standard error of 0.6 %
            assert draw.std().item() == pytest.approx(1, rel=0.03), role
            # a uniform draw ends at 1.73 standard deviations, one that is cut at 3 of those before
            ends = {"xavier_normal": (3.2, 9), "xavier_uniform": (1.7, 1.74), "fan_in_normal": (2.9, 3.05)}
            assert ends[base][0] < draw.abs().max() < ends[base][1]
            assert abs(draw.mean().item()) < 0.05


@pytest.mark.parametrize("kind", [kind for kind, r in INIT_REFERENCES.items() if r.table is not None])
def test_tables_of_the_embeddings(kind):
    """Each has the rule's deviation, and a padding token that is 0; what is no table of the embeddings is stock's."""
    table = INIT_REFERENCES[kind].table
    sizes = {"vocab_size": 999, "max_position_embeddings": 512, "type_vocab_size": 64}
    families = ("bert", "albert", "modernbert", "deberta_v2", "gpt2")
    # a head builds a stock base first, whose tables are started by then
    heads = [(family, f"{BASE_MODELS[family].removesuffix('Model')}ForTokenClassification") for family in families]
    for family, model in [(family, BASE_MODELS[family]) for family in families] + heads:
        row = FAMILIES[family]
        net = row.model_class(model)(row.config(model, {"init": kind}, **sizes))
        tables = {n: m for n, m in net.named_modules() if isinstance(m, torch.nn.Embedding)}
        assert tables
        for name, module in tables.items():
            width, std = module.embedding_dim, module.weight.std().item()
            if "rel_embeddings" in name:
                assert std == pytest.approx(0.02, rel=0.2), name
                continue
            rows = [i for i in range(module.num_embeddings) if i != module.padding_idx]
            assert module.weight[rows].std().item() == pytest.approx(table(width, 4), rel=0.1), (family, name)
            if module.padding_idx is not None:
                assert not module.weight[module.padding_idx].any()


@pytest.mark.parametrize("kind", INITS)
def test_biases_and_other_norms_keep_their_start(kind):
    for path, value in started(with_init(kind), decoder=True).items():
        if path.endswith("bias"):
            assert (value == 0).all(), path
        elif re.search("norm", path, re.IGNORECASE):
            zeroed = "out_norm" in INIT_REFERENCES[kind].zeroes and "out_norm" in path
            assert (value == (0 if zeroed else 1)).all(), path


@pytest.mark.parametrize("base", ["stock", "xavier_normal"])
def test_a_head_starts_as_its_base_model_does(base):
    """A head builds a stock base first: it must not be scaled twice, nor left as the stock rules drew it."""
    sizes = {"layers": 12, "hidden": 64, "intermediate": 192}
    add_norm = with_init({"kind": "deepnorm", "base": base})
    for model_class, prefix in ((AddNormBertModel, ""), (AddNormBertForMaskedLM, "bert.")):
        for path, weight in started(add_norm, model_class, **sizes).items():
            path = path.removeprefix(prefix)
            if (role := role_of(path)) is not None:
                std = 0.02 if base == "stock" else math.sqrt(2 / sum(weight.shape))
                factor = 96**-0.25 if role in ("v", "o", "w1", "w2") else 1.0
                assert weight.std().item() == pytest.approx(std * factor, rel=0.08), path


# where each family's Linear layers are, by the end of their path, and what their output features are
_BERTS = {"attention.output.dense": "o", "intermediate.dense": "w1", "output.dense": "w2"}
_GPT2 = {"c_fc": "w1", "mlp.c_proj": "w2"}
FAMILY_LINEARS = {
    "bert": {"query": "q", "key": "k", "value": "v", **_BERTS},
    "vit": {"q_proj": "q", "k_proj": "k", "v_proj": "v", "o_proj": "o", "fc1": "w1", "fc2": "w2"},
    "albert": {"query": "q", "key": "k", "value": "v", "attention.dense": "o", "ffn": "w1", "ffn_output": "w2"},
    "modernbert": {"Wqkv": "q k v", "attn.Wo": "o", "Wi": "w1 w1", "mlp.Wo": "w2"},
    "deberta_v2": {"query_proj": "q", "key_proj": "k", "value_proj": "v", **_BERTS},
    "wav2vec2": {
        "q_proj": "q",
        "k_proj": "k",
        "v_proj": "v",
        "out_proj": "o",
        "intermediate_dense": "w1",
        "output_dense": "w2",
    },
    "gpt2": {"attn.c_attn": "q k v", "attn.c_proj": "o", **_GPT2},
    "gpt_neox": {
        "query_key_value": "q k v",
        "attention.dense": "o",
        "dense_h_to_4h": "w1",
        "dense_4h_to_h": "w2",
    },
    "gpt2_across": {
        "attn.c_attn": "q k v",
        "attn.c_proj": "o",
        "crossattention.q_attn": "q",
        "crossattention.c_attn": "k v",
        "crossattention.c_proj": "o",
        **_GPT2,
    },
}
# the stock models that scale their output projections by depth themselves
SCALED_BY_STOCK = ("modernbert", "gpt2", "gpt2_across")


def drawn(family, add_norm):
    """The weights of a family's layers at the start, by role, none twice; the layer of each; a layer's sublayers."""
    row, across = FAMILIES[family.removesuffix("_across")], family.endswith("_across")
    model = row.config_class.auto_classes["AutoModel"]
    sizes = {"hidden_size": 64, "intermediate_size": 96, "n_inner": 96, "add_cross_attention": across}
    net = row.model_class(model)(row.config(model, add_norm, **sizes))
    found: dict[str, list[torch.Tensor]] = {}
    layers: dict[str, list[int]] = {}
    for path, module in net.named_modules():
        # from the layer on, so that what is like it elsewhere is not taken for it
        _, _, name = re.sub(r"^.*?(layers?|h)\.\d+\.(albert_layers\.\d+\.)?", " @ ", path).partition(" @ ")
        ends = [end for end in FAMILY_LINEARS[family] if f".{name}".endswith(f".{end}")]
        if ends and getattr(module, "weight", None) is not None:
            roles = FAMILY_LINEARS[family][max(ends, key=len)].split()
            weight = module.weight.T if isinstance(module, Conv1D) else module.weight
            # GPT-NeoX has q, k, v of one head after the other
            blocks = 4 if len(roles) > 1 and family == "gpt_neox" else 1
            for role, part in zip(roles, split_roles(weight.detach(), len(roles), blocks), strict=True):
                found.setdefault(role, []).append(part)
                layers.setdefault(role, []).append(int(re.search(r"\.(\d+)\.", f".{path}")[1]) + 1)
    # in parallel all sublayers write once
    return found, layers, 1 if family == "gpt_neox" else 3 if across else 2


@pytest.mark.parametrize("kind", [kind for kind, r in INIT_REFERENCES.items() if r.roles])
@pytest.mark.parametrize("family", FAMILY_LINEARS)
def test_every_family_starts_at_the_documented_scales(family, kind):
    """Also where weights are fused, and where the stock model has a factor of its own, which must not count twice."""
    reference, layers = INIT_REFERENCES[kind], 4
    if kind in FAMILIES[family.removesuffix("_across")].without:
        pytest.skip("refused: there are no tables of embeddings to start")
    if family.startswith("albert") and kind in ("ds_init", "mitchell"):
        pytest.skip("what differs by layer is that of the first depth at which a shared one runs")
    before, _, _ = drawn(family, with_init([]))
    assert set(before) == {"q", "k", "v", "o", "w1", "w2"}
    stock = torch.cat([part.flatten() for part in before["q"]]).std().item()
    for role, parts in before.items():
        own = (2 * layers) ** -0.5 if role in ("o", "w2") and family in SCALED_BY_STOCK else 1.0
        assert torch.cat([p.flatten() for p in parts]).std().item() == pytest.approx(stock * own, rel=0.06), role
    for base in reference.bases:
        init = {"kind": kind, "base": base} if len(reference.bases) > 1 else kind
        after, at, per_layer = drawn(family, with_init(init))
        for role, parts in after.items():
            own = 1 / (stock if base == "stock" else deviation(base, *parts[0].shape))
            factors = [
                reference.factor(layers, layers * per_layer, layer) if role in reference.roles else 1.0
                for layer in at[role]
            ]
            plain = torch.cat([part.flatten() / factor for part, factor in zip(parts, factors, strict=True)])
            assert plain.std().item() * own == pytest.approx(1, rel=0.06), (role, base)


# --- norms that start at zero ---


@pytest.mark.parametrize(
    "out",
    ["layer_norm", "rms_norm", {"kind": "rms_norm", "zero_centered": True, "bias": True}, "dyt", "affine"],
    ids=str,
)
def test_zero_out_norm_zeroes_the_out_norms_only(out):
    add_norm = {"attention": {**EVERY_SLOT, "out": out}, "feed_forward": {**EVERY_SLOT, "out": out}, "final": True}
    before, after = started(add_norm), started({**add_norm, "init": "zero_out_norm"})
    changed = {path for path in after if not torch.equal(after[path], before[path])}
    gains = {p for p in after if p.endswith(("out_norm.weight", "out_norm.zero_centered_weight"))}
    assert len(gains) == 4
    assert changed == gains
    for path in gains:
        assert (after[path] == (-1 if "zero_centered" in path else 0)).all()


def test_zero_out_norm_starts_as_the_identity():
    model = AddNormBertModel(config("res_post_norm")).eval()
    x = torch.randn(2, 5, 8)
    torch.testing.assert_close(model.encoder(x).last_hidden_state, model.encoder.final_norm(x), rtol=0, atol=0)


@pytest.mark.parametrize(
    "out", ["none", {"kind": "layer_norm", "gain": False}, "rep_bn", "progressive_rep_bn"], ids=str
)
def test_zero_out_norm_on_a_norm_that_cannot_start_at_zero_is_refused(out):
    with pytest.raises(ValueError, match="zero_out_norm"):
        config({"attention": {"out": out}, "feed_forward": {"out": out}, "init": "zero_out_norm"})


# --- with a checkpoint ---


@pytest.mark.parametrize(
    ("add_norm", "std", "scaled"),
    [
        ("deepnorm", "xavier", {"v": 96**-0.25, "o": 96**-0.25, "w1": 96**-0.25, "w2": 96**-0.25}),
        ({"preset": "deepnorm", "init": {"kind": "deepnorm", "base": "stock"}}, "stock", {"v": 96**-0.25}),
        ("sub_ln", "xavier", dict.fromkeys(["v", "o", "w1", "w2"], math.sqrt(math.log(24)))),
        ({"preset": "pre_ln", "init": "scaled_output"}, "stock", {"o": 24**-0.5, "w2": 24**-0.5}),
        ("b2t", "stock", dict.fromkeys(["q", "k", "v", "o", "w1", "w2"], 12**-0.5)),
        ("hybrid_norm", "stock", {"o": 24**-0.5, "w2": 24**-0.5}),
        ("res_post_norm", "stock", {}),
    ],
    ids=["deepnorm", "deepnorm-stock", "sub_ln", "scaled_output", "b2t", "hybrid_norm", "zero_out_norm"],
)
def test_loaded_weights_are_not_scaled_and_missing_ones_are(add_norm, std, scaled, tmp_path):
    stock_keys = {f.name for f in dataclasses.fields(BertConfig)} - {"architectures"}
    sizes = {key: value for key, value in config("post_ln", 12).to_dict().items() if key in stock_keys}
    stock = BertModel(BertConfig(**sizes))
    for parameter in stock.parameters():
        torch.nn.init.normal_(parameter)
    # as if the last layer had never been trained, and of every Linear in the first one only the weight had been kept
    state = {
        key: value
        for key, value in stock.state_dict().items()
        if not key.startswith("encoder.layer.11.") and not (key.startswith("encoder.layer.0.") and "bias" in key)
    }
    stock.save_pretrained(tmp_path, state_dict=state)
    model = AddNormBertModel.from_pretrained(tmp_path, add_norm=add_norm)
    loaded = model.state_dict()
    for key, value in state.items():
        if key in loaded:
            assert torch.equal(loaded[key], value), key
    for path, weight in model.named_parameters():
        role = role_of(path)
        if path.startswith("encoder.layer.11.") and role in (*scaled, "q", "k"):
            draw = 0.02 if std == "stock" else math.sqrt(2 / sum(weight.shape))
            # few numbers each: a wrong draw or a missing factor is off by more than a third
            assert weight.std().item() == pytest.approx(draw * scaled.get(role, 1.0), rel=0.3), path
        elif path.startswith("encoder.layer.0.") and path.endswith("bias"):
            assert (weight == 0).all(), path
        elif "out_norm" in path:
            assert (weight == 0).all() == (add_norm == "res_post_norm"), path
