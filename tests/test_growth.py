"""Growing a model: whole blocks copied, or exactly the same function, for every family and every scheme."""

import pytest
import torch
from families import FAMILIES, SPECS, fill_with_pattern, slow_beyond_covering, stacks_of

import hf_addnorm
from hf_addnorm import AddNormBertConfig, AddNormBertForMaskedLM, AddNormBertModel, grow


# every preset on BERT, few on the others: those that reach all of a family's own code
FEW = ("stock", "pre_ln", "residual", "hyper_connections")
CASES = slow_beyond_covering(
    (family, spec) for family in FAMILIES for spec in (("stock", *SPECS) if family == "bert" else FEW)
)

# Schemes in which a layer whose branches add nothing is the identity, by their formulas: x <- x + c F(...). Those that
# have a norm, or a factor, on the sum or on x are refused. A scheme in neither list may be either, never inexact.
EXACT = {
    "pre_ln", "pre_rms_norm", "sandwich_ln", "res_post_norm", "sub_ln", "normformer", "layer_norm_scaling", "rezero",
    "layer_scale", "parallel", "hyper_connections", "dyt", "zero_centered", "no_norms", "skip_init",
    "norms_of_whole_q_and_k", "stochastic_depth", "two_hop", "dense_former", "dynamic_hyper_connections",
    "frac_connections",
}  # fmt: skip
REFUSED = {
    "post_ln", "mix_ln", "deepnorm", "hybrid_norm", "b2t", "residual", "post_rms", "post_dyt_everywhere", "std_form",
    "all_slots", "learned_skip", "by_layer", "scaled_branch", "siamese_norm", "mhc",
}  # fmt: skip
# where the old layers' own constants change with the depth, and where a branch of 0 would never learn
# the last one subtracts what stood in the middle of its depth
REASONS = dict.fromkeys(["deepnorm", "scaled_branch", "nanochat"], "depends on the number of layers, ") | {
    "every_residual": "no gradient where it is 0"
}
STOCK_IS_PRE = {
    family for family, row in FAMILIES.items() if row.config("").stock_add_norm()["preset"].startswith("pre_")
}


def _model(family, spec, model="AutoModel", **kwargs):
    row = FAMILIES[family]
    name = row.config_class.auto_classes[model]
    net = (
        row.model_class(name)(
            row.config(name, SPECS.get(spec) if isinstance(spec, str) else spec, **{"num_hidden_layers": 2} | kwargs)
        )
        .double()
        .eval()
    )
    fill_with_pattern(net)
    inputs = row.inputs(name)
    return net, {key: value.double() if value.is_floating_point() else value for key, value in inputs.items()}


def _outputs(net, inputs):
    with torch.no_grad():
        return net(**inputs)[0]


def _parts(net):
    """The parameters (and buffers) of every depth, by stack: of the layer that runs there, and of its blocks."""
    found = []
    for home, config in stacks_of(net):
        layout = net.layout_of(config)
        layers = [net.get_submodule(home + path) for path in layout.layers(config)]
        encoder = net.get_submodule((home + layout.encoder).removesuffix("."))
        blocks = getattr(encoder, "connections", [None] * len(layers))
        pairs = (zip(("layer", "block"), two, strict=True) for two in zip(layers, blocks, strict=True))
        found.append(
            [
                {f"{prefix}.{name}": value for prefix, part in pair if part is not None for name, value in _own(part)}
                for pair in pairs
            ]
        )
    return found


def _own(module):
    return [*module.named_parameters(), *module.named_buffers()]


@pytest.mark.parametrize(("family", "spec"), CASES)
def test_identity_is_exact_or_refused(family, spec):
    net, inputs = _model(family, spec, num_hidden_layers=4)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    exact = family in STOCK_IS_PRE if spec == "stock" else spec in EXACT
    # a language's adapter is added to the stream after the branches
    exact = exact and getattr(net.config, "adapter_attn_dim", None) is None
    try:
        grown = grow(net, how="identity")
    except ValueError as error:
        assert not exact
        assert REASONS.get(spec, "changes the stream even") in str(error)
        return
    assert exact or spec not in {"stock", *EXACT, *REFUSED}
    depths = [[config.add_norm_depth() for config in part.stack_configs.values()] for part in (net, grown)]
    assert depths[1] == [2 * depth for depth in depths[0]]
    expected = _outputs(net, inputs)
    assert torch.equal(_outputs(grown, inputs), expected)
    for key, value in net.state_dict().items():
        assert torch.equal(value, before[key]), key
    # it is no dead end: after two steps (a sublayer may be read by the next one alone), all that is new has a gradient
    optimizer = torch.optim.SGD(grown.parameters(), lr=1e-4)
    for _ in range(3):
        optimizer.zero_grad()
        output = grown(**inputs)[0]
        (output * torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)).sum().backward()
        optimizer.step()
    parts = [part for new, old in zip(_parts(grown), _parts(net), strict=True) for part in new[len(old) :]]
    gradients = {
        f"{index}.{name}": value.grad
        for index, part in enumerate(parts)
        for name, value in part.items()
        if value.requires_grad
    }
    # the softmax does not see a shift of all keys
    spared = ("key.bias", "k_proj.bias", "key_proj.bias")
    assert [name for name, grad in gradients.items() if not grad.abs().sum() > 0 and not name.endswith(spared)] == []


@pytest.mark.parametrize(("family", "spec"), CASES)
def test_stack_copies_whole_blocks(family, spec):
    net, inputs = _model(family, spec)
    grown = grow(net)
    for old, new in zip(_parts(net), _parts(grown), strict=True):
        assert len(new) == 2 * len(old)
        for depth, state in enumerate(new):
            source = old[depth % len(old)]
            # what the stream has at its ends: the old last layer is not the last any more, a copied first not the
            # first
            ends = ("stream_norm", "head_gate", "head_norm", "backout_norm")
            gone = {len(old) - 1: ends, len(old): ("start_gate",)}.get(depth, ())
            own = {key for key in source if any(name in key for name in gone)}
            # the first block of a T5 has the distances of all
            own |= {key for key in source.keys() - state.keys() if "relative_attention_bias" in key}
            # the first sublayer of all has one output to read; a copy of it has several, and starts with their mean
            first = {key for key in state.keys() - source.keys() if "attention.residual_norm." in key}
            assert depth == len(old) or not first
            assert state.keys() - first == source.keys() - own
            for key, value in state.items():
                # an average over more layers than there were begins as the newest one
                anew = "average_norm" in key and value.shape != source[key].shape
                start = torch.eye(len(value))[-1] if anew else torch.full_like(value, float("weight" in key))
                assert torch.equal(value, start if anew or key in first else source[key]), (depth, key)
    # nothing is shared with the old model, and the copies not with each other
    assert len({value.data_ptr() for value in [*net.parameters(), *grown.parameters()]}) == len(
        [*net.parameters(), *grown.parameters()]
    )
    assert _outputs(grown, inputs).isfinite().all()


@pytest.mark.parametrize("spec", ["stock", "residual"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_grown_model_is_saved_like_any_other(family, spec, tmp_path):
    net, inputs = _model(family, spec)
    grown = grow(net)
    grown.save_pretrained(tmp_path)
    back, info = type(grown).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    assert back.config.add_norm == grown.config.add_norm
    assert back.config.num_hidden_layers == 2 * net.config.num_hidden_layers
    torch.testing.assert_close(_outputs(back.double(), inputs), _outputs(grown, inputs))


def test_heads_ties_dtypes_and_modes_are_kept():
    net, inputs = _model("bert", "hyper_connections", "AutoModelForMaskedLM")
    net.config.num_labels = 5
    net.bfloat16().train()
    for module in net.modules():
        for name in ("alpha", "beta"):
            if isinstance(getattr(module, name, None), torch.nn.Parameter):
                module._parameters[name].data = module._parameters[name].data.float()
    grown = grow(net)
    assert type(grown) is AddNormBertForMaskedLM and grown.training and grown.dtype == torch.bfloat16
    assert grown.cls.predictions.decoder.weight is grown.bert.embeddings.word_embeddings.weight
    assert torch.equal(grown.cls.predictions.transform.dense.weight, net.cls.predictions.transform.dense.weight)
    assert grown.bert.encoder.layer[3].connections.attention.residual_norm.alpha.dtype == torch.float32
    assert grown(**inputs).loss.isfinite()


def test_any_number_of_layers_for_identity_and_multiples_for_stack():
    net, inputs = _model("bert", "pre_ln")
    assert torch.equal(_outputs(grow(net, 3, "identity"), inputs), _outputs(net, inputs))
    assert grow(net, 6).config.num_hidden_layers == 6
    sound, inputs = _model("wav2vec2_stable", "stock", adapter_attn_dim=None)
    assert torch.equal(_outputs(grow(sound, how="identity"), inputs), _outputs(sound, inputs))
    for layers in (3, 2, 1, 4.0, "4"):
        with pytest.raises(ValueError, match=f"layers is {layers!r}, and the model has 2; allowed is a mult"):
            grow(net, layers)
    with pytest.raises(ValueError, match="allowed is a whole number above 2"):
        grow(net, 2, "identity")
    albert, _ = _model("albert", "pre_ln")
    with pytest.raises(ValueError, match="layers is 3, and the model has 2; allowed is a multiple of 2"):
        grow(albert, 3, "identity")


def test_exceptions_go_with_their_layers():
    spec = {
        "preset": "pre_ln",
        "layers": [{"first": 1, "norm": "rms_norm"}, {"index": -1, "feed_forward": ["pre", "out"]}],
    }
    net = AddNormBertModel(AddNormBertConfig(**FAMILIES["bert"].tiny | {"num_hidden_layers": 3}, add_norm=spec))
    grown = grow(net).config.add_norm
    old = net.config.add_norm
    assert [grown.layer(index, 6) for index in range(6)] == 2 * [old.layer(index, 3) for index in range(3)]
    assert [override.value for override in grown.layers] == [[0, 3], [2, 5]]
    modern, _ = _model("modernbert", "stock")
    assert grow(modern).config.layer_types == 2 * modern.config.layer_types


def test_shared_layers_become_groups():
    net, _ = _model("albert", "pre_ln")
    grown = grow(net, 6)
    assert (net.config.num_hidden_groups, grown.config.num_hidden_groups) == (1, 3)
    uneven, _ = _model("albert", "pre_ln", num_hidden_groups=2)
    assert grow(uneven).config.num_hidden_groups == 4


def test_what_the_stream_is_given_beside_the_branches_is_seen_in_the_weights():
    net, inputs = _model("bert", "hyper_connections")
    # trained: old layers mix as they have learned to, and the new ones begin as they are
    assert torch.equal(_outputs(grow(net, how="identity"), inputs), _outputs(net, inputs))
    skip = {
        "attention": ["pre"],
        "feed_forward": ["pre"],
        "residual": {"kind": "vector", "side": "skip", "start": 0.5},
    }
    net = AddNormBertModel(AddNormBertConfig(**FAMILIES["bert"].tiny, add_norm=skip))
    with pytest.raises(ValueError, match="layer 5 changes the stream"):
        grow(net, how="identity")


def test_refusals():
    net, _ = _model("bert", "pre_ln")
    with pytest.raises(ValueError, match="how is 'stak'; allowed is 'stack' or 'identity'"):
        grow(net, how="stak")
    row, spec = FAMILIES["bert"], {"preset": "pre_ln", "residual": "deep_delta"}
    without_a_zero = row.model_class("AddNormBertModel")(row.config("AddNormBertModel", spec))
    with pytest.raises(ValueError, match="how is 'identity', and DeepDeltaResidual gives a branch no gradient"):
        grow(without_a_zero, how="identity")
    with pytest.raises(ValueError, match="got a BertModel"):
        grow(FAMILIES["bert"].stock_class("AddNormBertModel")(FAMILIES["bert"].stock_config("AddNormBertModel")))

    assert hf_addnorm.grow is grow


def test_one_stack_of_two_grows_alone():
    spec = {"preset": "pre_ln", "layers": [{"index": -1, "norm": "rms_norm"}]}
    net, inputs = _model("bart", spec, encoder_layers=2, decoder_layers=3)
    grown = grow(net, {"encoder": 4}, "identity")
    assert torch.equal(_outputs(grown, inputs), _outputs(net, inputs))
    assert (grown.config.encoder_layers, grown.config.decoder_layers) == (4, 3)
    # the exceptions were one entry, and are about other layers in one of the stacks now
    encoder, decoder = (config.add_norm for config in grown.stack_configs.values())
    assert [encoder.layer(index, 4).norm.kind for index in range(4)] == 2 * ["layer_norm", "rms_norm"]
    assert [decoder.layer(index, 3).norm.kind for index in range(3)] == [*2 * ["layer_norm"], "rms_norm"]
    with pytest.raises(ValueError, match="layers is 3, and the encoder has 2; allowed is a multiple of 2"):
        grow(net, {"encoder": 3})
    with pytest.raises(ValueError, match="layers: unknown stack of layers 'middle'"):
        grow(net, {"middle": 4})


def test_an_encoder_whose_constants_know_the_decoders_depth_has_others_when_that_grows():
    net, _ = _model("bart", "deepnorm")
    assert grow(net).config.add_norm_stacks()["encoder"].add_norm.init[0].options["decoder_layers"] == 6
    with pytest.raises(ValueError, match="depends on the number of layers"):
        grow(net, {"decoder": 6}, "identity")
