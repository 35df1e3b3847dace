"""Every scheme runs on every family, or `REFUSALS` has the mathematical reason why not; nothing else refuses one."""

import itertools

import pytest
import torch
from families import FAMILIES, ONLY_IN, PRESET_NAMES, covering, layer_paths, slow_unless

from hf_addnorm.models.base.registries import NORMS, RESIDUALS, STREAMS, WIRINGS
from hf_addnorm.models.norms.norm_base import mixes_tokens
from hf_addnorm.models.spec.refusals import REFUSALS


ATTENTION, FEED_FORWARD = ["pre", "q", "k", "v", "mid", "out"], ["pre", "up", "mid", "out"]
NARROW = {"kind": "laurel_gemma3n", "rank": 8}
# what changes one axis, over a stream and a wiring
CHANGES = [
    *({"norm": norm} for norm in NORMS),
    *({"residual": residual if residual != "laurel_gemma3n" else NARROW} for residual in RESIDUALS),
    *({"attention": ATTENTION, "feed_forward": FEED_FORWARD, "qkv_width": width} for width in ("head", "hidden")),
    *({"attention": ["pre", "qk"], "feed_forward": ["pre", "up"], "qkv_width": width} for width in ("head", "hidden")),
    {"feed_forward": ["pre", "out"], "attention": ["pre", "out"], "dropout": "after_out"},
    {"drop_path": {"kind": "linear", "last": 0.2}},
]
# every pair of axes that can get into each other's way
PAIRS = [
    *itertools.product(STREAMS, WIRINGS, [{}]),
    *itertools.product(STREAMS, ["sequential"], CHANGES),
    *itertools.product(["single"], WIRINGS, CHANGES),
]
SCHEMES = [{"preset": "pre_ln", "stream": stream, "wiring": wiring, **change} for stream, wiring, change in PAIRS]
# streams whose sublayers add to one tensor
ONE_TENSOR = ("single", "dense", "embedding_skip", "altup")
TOKEN_NORMS = [name for name in NORMS if mixes_tokens(NORMS.parse(name, "norm"))]


def _refused(family, scheme):
    """The entry of the table that refuses a scheme; None if it is allowed."""
    try:
        FAMILIES[family].config("", scheme)
    except ValueError as error:
        facts = FAMILIES[family].config_class.facts
        values = {"stream": scheme.get("stream"), "positions": facts.no_positions, "tables": facts.no_tables}
        reasons = {name: row.reason.format(**values) for name, row in REFUSALS.items()}
        rows = [name for name, reason in reasons.items() if reason in str(error)]
        assert len(rows) == 1, f"{scheme} is refused by {rows}: {error}"
        return rows[0]
    return None


def _expected(family, scheme):
    if FAMILIES[family].causal and scheme.get("norm") in TOKEN_NORMS:
        return "token_norm_in_a_causal_model"
    if scheme["wiring"] in ("b2t", "two_hop") and scheme["stream"] not in ONE_TENSOR:
        return "skips_over_several_streams"
    if scheme["stream"] not in (*ONE_TENSOR, "dual") and scheme.get("residual", "add") != "add":
        return "residual_over_several_streams"
    return None


def _rows(family):
    """The entries of the table that these schemes are about."""
    # these have their own tests: start rules, positions, one preset, a weight transform
    rows = set(REFUSALS) - {"tables_that_are_not_there", "zero_out_norm_on_rep_bn", "positions_in_the_attention"}
    rows -= {"off_the_sphere", "words_that_are_not_there"}
    return rows if FAMILIES[family].causal else rows - {"token_norm_in_a_causal_model"}


@pytest.mark.parametrize("share", range(len(FAMILIES)))
def test_what_the_table_refuses_of_every_scheme(share):
    """Every scheme with one family, and with GPT-2, which is causal; `slow` has every scheme with every family."""
    for index, scheme in enumerate(SCHEMES[share :: len(FAMILIES)]):
        for family in dict.fromkeys((list(FAMILIES)[index % len(FAMILIES)], "gpt2")):
            assert _refused(family, scheme) == _expected(family, scheme), (family, scheme)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_what_the_table_refuses_is_all_that_is_refused(family):
    refused = {str(scheme): _refused(family, scheme) for scheme in SCHEMES}
    assert refused == {str(scheme): _expected(family, scheme) for scheme in SCHEMES}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_entry_of_the_table_is_tried_and_presets_are_refused_where_they_have_no_meaning(family):
    assert {_expected(family, scheme) for scheme in SCHEMES} - {None} == _rows(family)
    elsewhere = {preset for preset, families in ONLY_IN.items() if family not in families}
    assert {preset for preset in PRESET_NAMES if _refused(family, {"preset": preset}) is not None} == elsewhere


TOGETHER = [*((stream, "sequential") for stream in STREAMS), *(("single", wiring) for wiring in WIRINGS)]


# by their name in one, so that each is tried with BERT and with one other family
TOGETHER_OF_FAMILIES = [
    slow_unless(case.marks == (), case.values[0], *case.values[1].split("-"))
    for case in covering(itertools.product(FAMILIES, ["-".join(pair) for pair in TOGETHER]))
]


@pytest.mark.parametrize(("family", "stream", "wiring"), TOGETHER_OF_FAMILIES)
def test_all_axes_together_train_every_family(family, stream, wiring):
    row = FAMILIES[family]
    model = row.config_class.auto_classes["AutoModel"]
    slots = {"attention": [*ATTENTION, "post"], "feed_forward": [*FEED_FORWARD, "post"], "embed": True, "final": True}
    if wiring == "parallel":
        slots["attention"] = ATTENTION
    spec = {
        "preset": "post_ln",
        "stream": stream,
        "wiring": wiring,
        "dropout": "after_out",
        "drop_path": 0.1,
        "norm": "rms_norm",
        **slots,
    }
    net = row.model_class(model)(row.config(model, spec, layerdrop=0.0)).train()
    inputs = row.inputs(model)
    seen = set()
    # a branch that stochastic depth leaves out for every sample has no gradient then
    for _ in range(2):
        output = net(**inputs).last_hidden_state
        assert output.isfinite().all()
        output.backward(torch.randn_like(output))
        seen |= {name for name, p in net.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    # the softmax may not see a shift of all keys, and masked frames are drawn; the pooler is beside the stream; the
    # gains of keys wait for their query, which starts at 0
    spared = ("key.bias", "k_proj.bias", "key_proj.bias", "masked_spec_embed", "mask_token", "_norm.key_norm.weight")
    names = [name for name, p in net.named_parameters() if p.requires_grad]
    names = [name for name in names if not name.endswith(spared) and "pooler" not in name]
    assert [name for name in names if name not in seen] == []


# --- dropout and the norm in the slot out ---


# a layer of DINOv2 has none
WITH_DROPOUT = [family for family in FAMILIES if not family.startswith("dinov2")]


@pytest.mark.parametrize("place", ["before_out", "after_out"])
@pytest.mark.parametrize("family", WITH_DROPOUT)
def test_dropout_stands_on_its_side_of_the_out_norm(family, place, monkeypatch):
    row = FAMILIES[family]
    model = row.config_class.auto_classes["AutoModel"]
    spec = {"preset": "sandwich_ln", "dropout": place}
    net = row.model_class(model)(row.config(model, spec, layerdrop=0.0)).train()
    calls = []

    def note(name):
        return lambda module, given, result: calls.append((name, given[0], result))

    layer = net.get_submodule(layer_paths(net)[0])
    connections = getattr(layer, "connections", None) or net.encoder.connections[0]
    checked = 0
    for name, sublayer in layer.sublayers.items():
        if sublayer.dropout is None or not hasattr(connections, name):
            continue
        calls.clear()
        norm = getattr(connections, name).out_norm
        hooks = [norm.register_forward_hook(note("norm"))]
        if isinstance(getattr(layer, sublayer.dropout, None), float):
            # a layer with the rate alone
            def noted(x, p, training, dropout=torch.dropout):
                result = dropout(x, p, training)
                calls.append(("dropout", x, result))
                return result

            monkeypatch.setattr(torch.nn.functional, "dropout", noted)
        else:
            hooks.append(layer.get_submodule(sublayer.dropout).register_forward_hook(note("dropout")))
        net(**row.inputs(model))
        for hook in hooks:
            hook.remove()
        at = [called for called, *_ in calls].index("norm")
        if place == "before_out":
            assert calls[at - 1][0] == "dropout"
            assert calls[at][1] is calls[at - 1][2]
        else:
            assert calls[at + 1][0] == "dropout"
            assert calls[at + 1][1] is calls[at][2]
        checked += 1
    assert checked


@pytest.mark.parametrize("family", WITH_DROPOUT)
def test_the_side_of_the_dropout_is_another_function(family):
    row = FAMILIES[family]
    model = row.config_class.auto_classes["AutoModel"]
    outputs = []
    for place in ("before_out", "after_out"):
        torch.manual_seed(3)
        spec = {"preset": "sandwich_ln", "dropout": place}
        net = row.model_class(model)(row.config(model, spec, layerdrop=0.0, hidden_dropout_prob=0.1))
        torch.manual_seed(4)
        outputs.append((net.train()(**row.inputs(model))[0], net.eval()(**row.inputs(model))[0]))
    (one, one_eval), (other, other_eval) = outputs
    assert torch.equal(one_eval, other_eval)
    assert not torch.allclose(one, other, atol=1e-3)
