"""nGPT as a whole, from tokens to logits, and its parts: shared norms, norms before the activation, unit vectors."""

import pytest
import torch
from families import BASE_MODELS, FAMILIES, ONLY_IN, fill_with_pattern, layer_paths, stacks_of
from test_weight_transforms import build, compare

from hf_addnorm import AddNormSpec
from hf_addnorm.models.base.registries import INITS
from hf_addnorm.models.weights.weight_transforms import Transformed


def net_of(family, add_norm, model=None, **kwargs):
    row, name = FAMILIES[family], model or BASE_MODELS[family]
    torch.manual_seed(0)
    return row.model_class(name)(row.config(name, add_norm, **kwargs)).eval(), row.inputs(name)


def unit(z):
    return z / torch.linalg.vector_norm(z, dim=-1, keepdim=True)


# --- the whole ---


def ngpt_logits(net, ids):
    """The paper's formulas, with GPT-2's position table and biases, and the path of the gate alone."""
    weights = {
        name: (p if p.dim() == 1 else unit(p))
        for name, p in net.named_parameters()
        if not name.startswith("transformer.h")
    }
    x = unit(weights["transformer.wte.weight"][ids] + weights["transformer.wpe.weight"][: ids.shape[1]])
    d = x.shape[-1]
    later = torch.ones(ids.shape[1], ids.shape[1]).triu(1).bool()
    for layer in net.transformer.h:
        gains = dict(layer.connections.named_parameters())
        # Conv1D stores [in, out]
        qkv = unit(layer.attn.c_attn.weight.T)
        q, k, v = (x @ qkv.T + layer.attn.c_attn.bias).chunk(3, -1)
        s_qk = gains["attention.qk_norm.weight"] * d**0.5
        heads = []
        for part in torch.arange(d).chunk(net.config.n_head):
            q_h, k_h = (s_qk[part] * unit(t[..., part]) for t in (q, k))
            scores = len(part) ** 0.5 * q_h @ k_h.mT
            heads.append(torch.softmax(scores.masked_fill(later, -torch.inf), -1) @ v[..., part])
        f = torch.cat(heads, -1) @ unit(layer.attn.c_proj.weight) + layer.attn.c_proj.bias
        x = step(x, f, gains["attention.residual_norm.weight"] * d**0.5 * 0.05)
        u = x @ unit(layer.mlp.c_fc.weight.T).T + layer.mlp.c_fc.bias
        u = net.transformer.h[0].mlp.act(gains["feed_forward.up_norm.weight"] * d**0.5 * u)
        f = u @ unit(layer.mlp.c_proj.weight) + layer.mlp.c_proj.bias
        x = step(x, f, gains["feed_forward.residual_norm.weight"] * d**0.5 * 0.05)
    return x @ weights["transformer.wte.weight"].T * weights["lm_head.logits_norm.weight"] * d**0.5


def step(h, f, a):
    a = a.abs()
    return unit(unit(h) + a * (unit(f) - unit(h)))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_gpt2_is_the_papers_model_from_tokens_to_logits(attention):
    net, inputs = net_of("gpt2", "ngpt", "AddNormGPT2LMHeadModel")
    net.double().set_attn_implementation(attention)
    generator = torch.Generator().manual_seed(1)
    for p in net.parameters():
        torch.nn.init.normal_(p, mean=float(p.dim() == 1), std=0.4, generator=generator)
    ids = inputs["input_ids"]
    logits, expected = net(ids).logits, ngpt_logits(net, ids)
    torch.testing.assert_close(logits, expected, rtol=1e-10, atol=1e-10)
    cotangent = torch.randn(logits.shape, generator=generator, dtype=torch.float64)
    names, parameters = zip(*net.named_parameters(), strict=True)
    # tied: one parameter
    assert "lm_head.weight" not in names
    grads, grads_expected = (torch.autograd.grad(y, parameters, cotangent) for y in (logits, expected))
    for name, grad, grad_expected in zip(names, grads, grads_expected, strict=True):
        torch.testing.assert_close(grad, grad_expected, rtol=1e-8, atol=1e-9, msg=name)


@pytest.mark.parametrize("family", sorted(ONLY_IN["ngpt"]))
def test_every_token_is_a_unit_vector_wherever_it_is_shown(family):
    net, inputs = net_of(family, "ngpt")
    if family in ("beit", "beit_plain", "deit", "dinov2_with_registers"):
        # tokens of no patch start as zeros
        fill_with_pattern(net.embeddings)
    outputs = net(**inputs, output_hidden_states=True)
    states = [state for key in outputs if key.endswith("hidden_states") for state in outputs[key]]
    assert len(states) == sum(config.add_norm_depth() + 1 for config in net.stack_configs.values())
    for state in states:
        torch.testing.assert_close(state.norm(dim=-1), torch.ones(state.shape[:-1]))


def test_starts_as_in_the_paper():
    net, _ = net_of("bert", "ngpt", "AddNormBertForMaskedLM")
    root = 32**0.5
    starts = {"qk_norm.weight": 1 / root, "up_norm.weight": 1.0, "residual_norm.weight": 1 / root}
    starts["logits_norm.weight"] = 1 / root
    found = set()
    for name, p in net.named_parameters():
        for end, start in starts.items():
            if name.endswith(end):
                torch.testing.assert_close(p.detach(), torch.full_like(p, start))
                found.add(end)
    assert found == set(starts)
    layer = net.bert.encoder.layer[0].connections
    x, f = unit(torch.randn(2, 3, 32)), torch.randn(2, 3, 32)
    torch.testing.assert_close(layer.attention.residual_norm(x, f), unit(0.95 * x + 0.05 * unit(f)))
    # what passes before the activation starts sqrt(d) times as large, the logits as cosines
    torch.testing.assert_close(layer.feed_forward.up_norm(torch.ones(37)), torch.full((37,), root))
    output = net.cls.predictions.decoder
    logits = output(unit(torch.randn(5, 32)))
    assert logits.abs().max() < 1


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"norm": "rms_norm"}, "norm"),
        ({"embed": False}, "embed"),
        ({"attention": ["pre"]}, "attention"),
        ({"residual": "add"}, "residual"),
        ({"residual": {"start": 0.1}}, "residual"),
        ({"stream": "dual"}, "stream"),
        ({"drop_path": 0.1}, "drop_path"),
        ({"weights": "none"}, "weights"),
        ({"init": []}, "init"),
        ({"layers": [{"first": 1, "norm": "dyt"}]}, "layers"),
    ],
    ids=str,
)
def test_no_axis_may_be_changed(change, field):
    with pytest.raises(ValueError, match=rf"add_norm\.{field} is .*: 'ngpt' is one whole, .*; allowed is "):
        AddNormSpec.parse({"preset": "ngpt", **change})
    whole = AddNormSpec.parse("ngpt")
    assert AddNormSpec.parse(whole.to_dict()) == whole
    assert AddNormSpec.parse({"preset": "ngpt", field: whole.to_dict()[field]}) == whole
    # the parts are free
    parts = whole.to_dict() | {"preset": "post_ln"}
    AddNormSpec.parse({**parts, field: AddNormSpec.parse("post_ln").to_dict()[field]})


@pytest.mark.parametrize(
    ("family", "kwargs"),
    [
        ("albert", {}),
        ("modernbert", {}),
        ("deberta_v2", {}),
        ("wav2vec2_stable", {}),
        ("gpt2", {"scale_attn_weights": False}),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
    ],
)
def test_where_something_leaves_the_sphere_it_is_refused(family, kwargs):
    with pytest.raises(ValueError, match=r"add_norm\.preset is 'ngpt': all vectors of nGPT are unit vectors"):
        FAMILIES[family].config("", "ngpt", **kwargs)


# --- one norm for q and k; a norm before the activation ---


@pytest.mark.parametrize("width", ["head", "hidden"])
@pytest.mark.parametrize("family", FAMILIES)
def test_qk_is_one_norm_for_both(family, width):
    slots = {"qk": ["pre", "qk"], "each": ["pre", "q", "k"]}
    nets = {}
    for name, attention in slots.items():
        spec = {"preset": "pre_rms_norm", "attention": attention, "qkv_width": width}
        nets[name], inputs = net_of(family, spec)
    for p in nets["qk"].parameters():
        torch.nn.init.normal_(p, mean=float(p.dim() == 1), std=0.3)
    state = nets["qk"].state_dict()
    shared = [key for key in state if ".qk_norm." in key]
    # in ALBERT, one for each depth
    sublayers = sum(
        config.add_norm_depth() * (len(config.add_norm_sublayers()) - 1)
        for config in nets["qk"].stack_configs.values()
    )
    assert len(shared) == {"albert_groups": 8}.get(family, sublayers)
    for key in shared:
        value = state.pop(key)
        state |= {key.replace("qk_norm", f"{role}_norm"): value for role in "qk"}
    nets["each"].load_state_dict(state)
    torch.testing.assert_close(nets["qk"](**inputs)[0], nets["each"](**inputs)[0])
    plain, _ = net_of(family, "pre_rms_norm")
    plain.load_state_dict(state, strict=False)
    assert not torch.allclose(plain(**inputs)[0], nets["qk"](**inputs)[0], atol=1e-3)


def test_qk_beside_q_or_k_is_refused():
    for slots in (["qk", "q"], {"qk": "dyt", "k": True}):
        with pytest.raises(ValueError, match=r"add_norm.attention fills .*qk is one norm for q and k"):
            AddNormSpec.parse({"attention": slots})
    assert AddNormSpec.parse({"attention": {"qk": "dyt", "k": False}}).attention.keys() == {"qk"}


@pytest.mark.parametrize("family", FAMILIES)
def test_up_stands_before_the_activation(family):
    """A gain of 2 there is a first projection of twice the weight and bias."""
    nets = [
        net_of(family, {"preset": "pre_ln", "feed_forward": slots})[0]
        for slots in (["pre"], {"pre": True, "up": "learned_scale"})
    ]
    fill_with_pattern(nets[0])
    nets[1].load_state_dict(nets[0].state_dict(), strict=False)
    with torch.no_grad():
        for name, p in nets[1].named_parameters():
            if ".up_norm." in name:
                p.fill_(2.0)
        for path in layer_paths(nets[0]):
            layer = nets[0].get_submodule(path)
            for place, (roles, _) in layer.add_norm_linears.items():
                if roles[0] == "w1":
                    for p in layer.get_submodule(place).parameters():
                        p.mul_(2.0)
    inputs = FAMILIES[family].inputs(BASE_MODELS[family])
    torch.testing.assert_close(nets[0](**inputs)[0], nets[1](**inputs)[0], rtol=1e-4, atol=1e-5)


# --- unit vectors ---


@pytest.mark.parametrize("role", ["q", "w1", "embed", "output", "o", "w2"])
def test_unit_vectors_are_the_formula(role):
    w = torch.randn(5, 7, dtype=torch.float64)
    columns = role in ("o", "w2")
    compare(build("unit_vectors", role=role), lambda w: unit(w.T).T if columns else unit(w), w)
    # a vector of nothing stays nothing
    w = w.T if columns else w
    w[0] = 0.0
    transformed = build("unit_vectors", role=role)(w.T if columns else w)
    assert transformed.isfinite().all()


@pytest.mark.parametrize("family", FAMILIES)
def test_unit_draws_are_unit_vectors(family):
    net, _ = net_of(family, {"preset": "pre_ln", "weights": "unit_vectors", "init": "unit_vectors"})
    seen = set()
    for module in net.modules():
        if isinstance(module, Transformed):
            for transform, part in zip(module.weight_norm, module.parts(), strict=True):
                torch.testing.assert_close(transform(part), part.detach(), rtol=1e-5, atol=1e-6)
                seen.add(module)
    assert seen
    shared = net if not stacks_of(net)[0][0] else net.get_encoder()
    for table in [*net._embedding_tables(), *shared._embedding_tables()]:
        rows = table.weight.norm(dim=-1)
        assert ((rows - 1).abs() < 1e-5).sum() >= len(rows) - 1
    assert INITS["unit_vectors"]().roles[-1] == "embed"
