"""Encoder-decoders: the stock model of the same parts, and in everything that a model does."""

import copy
import math
import re

import pytest
import torch
import transformers
from families import (
    CAUSAL,
    COVERING,
    FAMILIES,
    FEW_SPECS,
    SPECS,
    checkpoint_activations,
    fill_with_pattern,
    slow_unless,
    text_inputs,
)
from transformers import AutoModelForSeq2SeqLM, EncoderDecoderModel

import hf_addnorm
from hf_addnorm import AddNormEncoderDecoderConfig, AddNormEncoderDecoderModel, AddNormStackForMaskedLM
from hf_addnorm.models.composites.part_families import (
    DECODER_CONFIGS,
    DECODERS,
    ENCODER_CONFIGS,
    ENCODERS,
    PART_FAMILIES,
)


# the stock model warns of a change in version 4.12 wherever it is given labels
pytestmark = pytest.mark.filterwarnings("ignore:Version v4.12.0:FutureWarning")

# (encoder, its sizes, decoder): every family on each side, equal and unequal widths
PAIRS = {
    "bert_bert": ("bert", {}, "bert"),
    "bert_gpt2": ("bert", {"hidden_size": 24, "intermediate_size": 20}, "gpt2"),
    "albert_bert": ("albert", {}, "bert"),
    "modernbert_gpt2": ("modernbert", {}, "gpt2"),
    "deberta_v2_bert": ("deberta_v2", {"hidden_size": 24}, "bert"),
}
IDS = {"pad_token_id": 0, "decoder_start_token_id": 2}
MAPS = {"encoder": ENCODERS, "decoder": DECODERS}
FAMILY_MAPS = {"encoder": ENCODER_CONFIGS, "decoder": DECODER_CONFIGS}
SPARED = ("key.bias", "k_proj.bias", "key_proj.bias")


def _entry(family, stock=False, **kwargs):
    row = FAMILIES[family]
    layers = {"n_layer" if family == "gpt2" else "num_hidden_layers": 2}
    config_class = row.stock_config_class if stock else row.config_class
    return {"model_type": config_class.model_type, **row.tiny, **layers, **kwargs}


def _config(pair="bert_bert", encoder=None, decoder=None, **kwargs):
    family, sizes, decoder_family = (PAIRS | MEMBER_PAIRS)[pair]
    parts = {"encoder": _entry(family, **sizes, **(encoder or {})), "decoder": _entry(decoder_family, **decoder or {})}
    return AddNormEncoderDecoderConfig(**parts, **IDS | kwargs)


def _net(*args, **kwargs):
    net = AddNormEncoderDecoderModel(_config(*args, **kwargs)).eval()
    fill_with_pattern(net)
    return net


def _stock(pair):
    family, sizes, decoder = (PAIRS | MEMBER_PAIRS)[pair]
    parts = {
        "encoder": _entry(family, stock=True, **sizes),
        "decoder": _entry(decoder, stock=True, is_decoder=True, add_cross_attention=True),
    }
    return EncoderDecoderModel(transformers.EncoderDecoderConfig(**parts, **IDS)).eval()


def _inputs():
    """Three sources, the second one padded, and targets of other lengths."""
    inputs = text_inputs("")
    inputs["labels"] = torch.randint(3, 99, (3, 6), generator=torch.Generator().manual_seed(8))
    inputs["labels"][0, 4:] = -100
    return inputs


def _source():
    return {key: value for key, value in _inputs().items() if key != "labels"}


GENERATING = {
    "greedy": {"do_sample": False},
    "beams": {"do_sample": False, "num_beams": 3, "num_return_sequences": 2},
    "sampling": {"do_sample": True, "top_k": 20},
    "no_cache": {"do_sample": False, "use_cache": False},
}


def _generate(net, **kwargs):
    torch.manual_seed(5)
    return net.generate(**_source(), **kwargs, max_new_tokens=6, eos_token_id=7)


# the default is the stock model


# every other family that may be a part, as both
MEMBER_PAIRS = {
    name: (name, {}, name)
    for name, row in FAMILIES.items()
    if row.shape and name in PART_FAMILIES and "decoder" in vars(PART_FAMILIES[name])
}


@pytest.mark.parametrize("pair", [*PAIRS, *MEMBER_PAIRS])
def test_the_default_is_the_stock_model_bit_for_bit(pair):
    nets = []
    for build in (lambda: _stock(pair), lambda: AddNormEncoderDecoderModel(_config(pair))):
        torch.manual_seed(3)
        nets.append(build())
    stock, ours = nets
    assert list(stock.state_dict()) == list(ours.state_dict())
    assert all(torch.equal(value, ours.state_dict()[key]) for key, value in stock.state_dict().items())
    results = []
    for net in nets:
        fill_with_pattern(net.train())
        torch.manual_seed(4)
        output = net(**_inputs(), output_hidden_states=True)
        output.loss.backward()
        assert len(output.encoder_hidden_states) == len(output.decoder_hidden_states) == 3
        grads = {name: value.grad for name, value in net.named_parameters() if value.grad is not None}
        results.append({"loss": output.loss, "logits": output.logits, "h": output.encoder_last_hidden_state} | grads)
    assert results[0].keys() == results[1].keys()
    assert all(torch.equal(value, results[1][key]) for key, value in results[0].items())
    for kwargs in GENERATING.values():
        expected, actual = (_generate(net.eval(), **kwargs) for net in nets)
        assert torch.equal(expected, actual)
        assert actual.unique().numel() > (3 if pair in PAIRS else 1)
    as_tuple = ours(**_inputs(), return_dict=False)
    assert isinstance(as_tuple, tuple) and torch.equal(as_tuple[0], stock(**_inputs()).loss)


@pytest.mark.parametrize("pair", ["bert_bert", "albert_bert", "modernbert_gpt2"])
def test_checkpoints_load_both_ways(pair, tmp_path):
    stock = _stock(pair)
    fill_with_pattern(stock)
    stock.save_pretrained(tmp_path / "stock")
    ours, info = AddNormEncoderDecoderModel.from_pretrained(tmp_path / "stock", output_loading_info=True)
    assert not any(info.values()) and ours.config.model_type == "addnorm_encoder_decoder"
    ours.save_pretrained(tmp_path / "ours")
    back, info = EncoderDecoderModel.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info.values())
    expected = stock(**_inputs())
    for net in (ours, back):
        assert torch.equal(net(**_inputs()).logits, expected.logits)
    changed = AddNormEncoderDecoderModel.from_pretrained(tmp_path / "stock", encoder={"add_norm": "pre_rms_norm"})
    assert changed.config.encoder.add_norm.preset == "pre_rms_norm"
    assert changed.config.decoder == ours.config.decoder


# every scheme, as a model


# BERT has every scheme in every run, as a part it has few
@pytest.mark.parametrize("spec", [slow_unless(spec in FEW_SPECS, spec) for spec in COVERING])
def test_round_trip(spec, tmp_path):
    decoder = SPECS[spec if spec in CAUSAL else "post_ln"]
    net = _net(encoder={"add_norm": SPECS[spec]}, decoder={"add_norm": decoder})
    expected = _generate(net, do_sample=False)
    assert torch.equal(expected, _generate(net, do_sample=False, use_cache=False))
    net.save_pretrained(tmp_path)
    back, info = AutoModelForSeq2SeqLM.from_pretrained(tmp_path, output_loading_info=True)
    assert type(back) is AddNormEncoderDecoderModel and not any(info.values())
    assert all(torch.equal(value, back.state_dict()[key]) for key, value in net.state_dict().items())
    assert (back.config.encoder.add_norm, back.config.decoder.add_norm) == (
        net.config.encoder.add_norm,
        net.config.decoder.add_norm,
    )
    assert torch.equal(back(**_inputs()).logits, net(**_inputs()).logits)
    assert torch.equal(_generate(back, do_sample=False), expected)


@pytest.mark.parametrize("pair", PAIRS)
def test_every_parameter_has_a_gradient_but_the_pooler_which_is_frozen(pair):
    net = _net(pair).train()
    net(**_inputs()).loss.backward()
    frozen = {name for name, value in net.named_parameters() if not value.requires_grad}
    assert frozen == {name for name, _ in net.named_parameters() if name.startswith("encoder.pooler.")}
    silent = {name for name, value in net.named_parameters() if value.grad is None or not value.grad.abs().sum() > 0}
    assert {name for name in silent - frozen if not name.endswith(SPARED)} == set()


def test_loads_as_a_stranger_and_saves_again(tmp_path, load_with_package_hidden):
    cases = []
    pairs = (("bert_bert", "residual", "all_slots"), ("bert_gpt2", "hyper_connections", "pre_ln"))
    for pair, of_encoder, of_decoder in (*pairs, ("deberta_v2_bert", "deepnorm", "deepnorm")):
        folder = tmp_path / pair
        encoder, decoder = ({"add_norm": SPECS[spec]} for spec in (of_encoder, of_decoder))
        _net(pair, encoder=encoder, decoder=decoder).save_pretrained(folder)
        inputs = {**_source(), "decoder_input_ids": _inputs()["labels"].clamp(min=0)}
        net = AddNormEncoderDecoderModel.from_pretrained(folder)
        torch.save(inputs, folder / "inputs")
        torch.save(net(**inputs)[0].detach(), folder / "expected")
        name = "modeling_addnorm_encoder_decoder.AddNormEncoderDecoderModel"
        autos = list(AddNormEncoderDecoderConfig.auto_classes)
        cases.append({"folder": str(folder), "autos": autos, "reference": name, "base": name})
    load_with_package_hidden(cases)


# tokens


@pytest.mark.parametrize("norm", ["layer_norm", "instance_norm", "batch_norm"])
def test_what_padding_contains_changes_no_real_token(norm):
    net = _net(encoder={"add_norm": {"norm": norm}, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0})
    net.encoder.train()
    target = _inputs()["labels"].clamp(min=0)
    mask = torch.ones_like(target)
    # at the end and, as in generation, at the beginning
    mask[0, 4:] = mask[2, :2] = 0
    inputs = _source() | {"decoder_input_ids": target, "decoder_attention_mask": mask}
    changed = dict(inputs)
    for ids, real in (("input_ids", "attention_mask"), ("decoder_input_ids", "decoder_attention_mask")):
        changed[ids] = torch.where(inputs[real].bool(), inputs[ids], 98 - inputs[ids])
        assert not torch.equal(changed[ids], inputs[ids])
    expected, actual = (copy.deepcopy(net)(**given) for given in (inputs, changed))
    torch.testing.assert_close(actual.logits[mask.bool()], expected.logits[mask.bool()])
    source = inputs["attention_mask"].bool()
    torch.testing.assert_close(actual[-1][source], expected[-1][source])


def test_a_padded_source_is_the_source_alone():
    net = _net(encoder={"add_norm": {"norm": "instance_norm"}})
    inputs = _source()
    short = {key: value[1:2, :7] for key, value in inputs.items()}
    assert inputs["attention_mask"][1].sum() == 7
    target = _inputs()["labels"].clamp(min=0)
    alone = net(**short, decoder_input_ids=target[1:2]).logits
    torch.testing.assert_close(net(**inputs, decoder_input_ids=target).logits[1:2], alone)


@pytest.mark.parametrize("pair", ["bert_bert", "bert_gpt2"])
@pytest.mark.parametrize("norm", ["batch_norm", "power_norm", "instance_norm"])
def test_a_decoder_refuses_norms_over_tokens(pair, norm):
    with pytest.raises(ValueError, match=rf"^decoder: add_norm.* is '{norm}': its statistics over tokens would let"):
        _config(pair, decoder={"add_norm": {"cross_attention": {"k": norm, "v": norm}}})


# constants of both depths: N layers in the encoder, M in the decoder


N, M = 4, 2
DEPTHS = {
    "deepnorm": {
        "encoder": (0.81 * (N**4 * M) ** (1 / 16), 0.87 * (N**4 * M) ** (-1 / 16)),
        "decoder": ((3 * M) ** 0.25, (12 * M) ** -0.25),
    },
    "sub_ln": {
        "encoder": (None, math.sqrt(math.log(3 * M) * math.log(2 * N) / 3)),
        "decoder": (None, math.sqrt(math.log(3 * M))),
    },
}
LINEARS = {"value": 1, "dense": 1, "query": 0, "key": 0}


def _deep(add_norm, **kwargs):
    return _config(encoder={"num_hidden_layers": N, "add_norm": add_norm}, decoder={"add_norm": add_norm}, **kwargs)


def _skips(net, part):
    layers = net.encoder.encoder.layer if part == "encoder" else net.decoder.bert.encoder.layer
    names = ("attention", "feed_forward") if part == "encoder" else ("attention", "cross_attention", "feed_forward")
    return {getattr(layer.connections, name).residual_norm.skip_scale for layer in layers for name in names}


@pytest.mark.parametrize("preset", DEPTHS)
def test_constants_of_both_depths(preset):
    """DeepNet's table 2 and Magneto's figure 2, for encoder and decoder."""
    nets = []
    for init in ([], PRESETS_INIT[preset]):
        torch.manual_seed(0)
        nets.append(AddNormEncoderDecoderModel(_deep({"preset": preset, "init": init})))
    for part, (skip, factor) in DEPTHS[preset].items():
        if skip is not None:
            (constant,) = _skips(nets[1], part)
            assert constant == pytest.approx(skip, rel=1e-12)
        before, after = (dict(getattr(net, part).named_parameters()) for net in nets)
        counted = 0
        for path, value in after.items():
            role = path.split(".")[-2]
            if ".layer." in path and path.endswith("weight") and role in LINEARS:
                expected = factor ** LINEARS[role]
                assert (value.norm() / before[path].norm()).item() == pytest.approx(expected, rel=1e-5), path
                counted += 1
        assert counted == {"encoder": 6 * N, "decoder": 10 * M}[part]


PRESETS_INIT = {preset: [{"kind": preset, "base": "stock"}] for preset in DEPTHS}


def test_whose_constants_are_of_both_depths(tmp_path):
    depth_of = lambda config: config.encoder.add_norm.init[0].options["decoder_layers"]  # noqa: E731
    config = _deep("deepnorm")
    assert depth_of(config) == M and config.decoder.add_norm.init[0].options["decoder_layers"] is None
    # by an object, and by whatever is set later
    encoder = hf_addnorm.AddNormBertConfig(**FAMILIES["bert"].tiny, add_norm="sub_ln")
    given = AddNormEncoderDecoderConfig(encoder=encoder, decoder=_entry("gpt2", n_layer=3), **IDS)
    assert depth_of(given) == 3 and encoder.add_norm.init[0].options["decoder_layers"] is None
    given.encoder = _entry("bert", add_norm="deepnorm")
    assert depth_of(given) == 3
    # named by the user: kept; elsewhere than in a preset: known too
    named = {"preset": "deepnorm", "init": [{"kind": "deepnorm", "decoder_layers": 9}]}
    assert depth_of(_deep(named)) == 9
    by_layer = {"layers": [{"first": 1, "residual": {"kind": "constant", "skip_scale": "deepnorm"}}]}
    axes = _deep(by_layer).encoder.add_norm.layers[0].axes
    assert axes["residual"].options["skip_scale"].options == {"decoder_layers": M}
    # a checkpoint says what its weights were trained with
    net = AddNormEncoderDecoderModel(config)
    net.save_pretrained(tmp_path / "pair")
    assert AddNormEncoderDecoderConfig.from_pretrained(tmp_path / "pair").encoder.add_norm == config.encoder.add_norm
    net.encoder.save_pretrained(tmp_path / "encoder")
    alone = hf_addnorm.AddNormBertModel.from_pretrained(tmp_path / "encoder")
    (constant,) = {layer.connections.attention.residual_norm.skip_scale for layer in alone.encoder.layer}
    assert constant == pytest.approx(DEPTHS["deepnorm"]["encoder"][0])
    hf_addnorm.AddNormBertModel(
        hf_addnorm.AddNormBertConfig(**FAMILIES["bert"].tiny, add_norm="deepnorm")
    ).save_pretrained(tmp_path / "single")
    load = AddNormEncoderDecoderModel.from_encoder_decoder_pretrained
    kept = load(tmp_path / "single", tmp_path / "single")
    assert depth_of(kept.config) is None and _skips(kept, "encoder") == {(2 * 4) ** 0.25}
    new = load(tmp_path / "single", tmp_path / "single", encoder_add_norm="deepnorm")
    assert depth_of(new.config) == 4 and list(_skips(new, "encoder")) == [pytest.approx(0.81 * 4 ** (5 / 16))]
    again = AddNormEncoderDecoderConfig(encoder=str(tmp_path / "single"), decoder="bert")
    assert depth_of(again) is None
    changed = AddNormEncoderDecoderModel.from_pretrained(tmp_path / "pair", encoder={"add_norm": "sub_ln"})
    assert depth_of(changed.config) == M and changed.config.encoder.add_norm.preset == "sub_ln"


# of checkpoints and of models


def _checkpoint(folder, family, model, **kwargs):
    row = FAMILIES[family]
    net = row.stock_class(model)(row.stock_config(model, **kwargs)).eval()
    fill_with_pattern(net)
    net.save_pretrained(folder)
    return net


def test_from_checkpoints(tmp_path):
    bert = _checkpoint(tmp_path / "bert", "bert", "AddNormBertForMaskedLM")
    lm = _checkpoint(tmp_path / "lm", "gpt2", "AddNormGPT2LMHeadModel")
    _checkpoint(tmp_path / "decoder", "bert", "AddNormBertLMHeadModel", add_cross_attention=True)
    load = AddNormEncoderDecoderModel.from_encoder_decoder_pretrained
    net = load(str(tmp_path / "bert"), str(tmp_path / "lm"), decoder_add_norm=None, **IDS)
    assert not net.training and (net.config.pad_token_id, net.config.decoder_start_token_id) == (0, 2)
    for source, part in ((bert.bert, net.encoder), (lm, net.decoder)):
        state = part.state_dict()
        assert all(torch.equal(value, state[key]) for key, value in source.state_dict().items())
    assert net.decoder.transformer.h[0].crossattention.q_attn.weight.std() < 0.03
    net(**_inputs()).loss.backward()
    # as the stock class does, under the same seed
    results = []
    for cls in (EncoderDecoderModel, AddNormEncoderDecoderModel):
        torch.manual_seed(2)
        results.append(cls.from_encoder_decoder_pretrained(tmp_path / "bert", tmp_path / "bert").state_dict())
    loaded = [key for key in results[0] if not re.search(r"crossattention|pooler|cls", key)]
    assert results[0].keys() == results[1].keys() and len(loaded) > 80
    assert all(torch.equal(results[0][key], results[1][key]) for key in loaded)
    # other schemes, each part's entries, ours again, a decoder's checkpoint as encoder
    schemes = {"encoder_add_norm": {"norm": "instance_norm"}, "decoder_add_norm": "pre_rms_norm"}
    net = load(tmp_path / "decoder", tmp_path / "bert", **schemes, encoder_hidden_dropout_prob=0.3)
    assert (net.config.encoder.is_decoder, net.config.encoder.hidden_dropout_prob) == (False, 0.3)
    assert net.config.encoder.add_norm.norm.kind == "instance_norm"
    assert net.config.decoder.add_norm.preset == "pre_rms_norm"
    assert net.config.decoder.hidden_dropout_prob == 0.1
    half = load(tmp_path / "bert", tmp_path / "lm", encoder_dtype=torch.bfloat16, decoder_dtype=torch.bfloat16)
    assert half.encoder.dtype == half.decoder.dtype == torch.bfloat16
    net.encoder.save_pretrained(tmp_path / "ours")
    both = load(tmp_path / "ours", decoder_model=net.decoder)
    assert both.decoder is net.decoder and both.config.encoder.add_norm.norm.kind == "instance_norm"
    for first, second, part in (("lm", "lm", "an encoder is one of bert"), ("bert", "deberta", "a decoder is one of")):
        if second == "deberta":
            _checkpoint(tmp_path / second, "deberta_v2", "AddNormDebertaV2Model")
        with pytest.raises(ValueError, match=part):
            load(tmp_path / first, tmp_path / second)


def test_of_two_models():
    config = _config("bert_gpt2", encoder={"add_norm": "residual"})
    parts = _net("bert_gpt2", encoder={"add_norm": "residual"}).parts
    net = AddNormEncoderDecoderModel(encoder=parts[0], decoder=parts[1])
    assert net.encoder is parts[0] and net.config.encoder.add_norm == config.encoder.add_norm
    # whatever is in them, too: attention asks the config that it holds
    for part, part_config in zip(net.parts, (net.config.encoder, net.config.decoder), strict=True):
        held = [vars(module)["config"] for module in part.modules() if "config" in vars(module)]
        assert len(held) > 3 and all(config is part_config for config in held)
    net.set_attn_implementation("eager")
    net.config.pad_token_id, net.config.decoder_start_token_id = 0, 2
    assert net(**_inputs(), output_attentions=True).cross_attentions[0].shape == (3, 4, 6, 10)
    with pytest.raises(ValueError, match="either a config or an encoder and a decoder"):
        AddNormEncoderDecoderModel(encoder=parts[0])
    bert = transformers.BertModel(FAMILIES["bert"].stock_config(""))
    with pytest.raises(ValueError, match=r"the encoder is a BertModel; allowed is AddNormBertModel, .* or AddNorm"):
        AddNormEncoderDecoderModel(encoder=bert, decoder=parts[1])


# what else a model does


def test_gradient_checkpointing():
    def gradients(net):
        net.zero_grad()
        torch.manual_seed(11)
        net(**_inputs()).loss.backward()
        return {name: value.grad.clone() for name, value in net.named_parameters() if value.grad is not None}

    net = _net(encoder={"add_norm": "residual"}, decoder={"add_norm": "hyper_connections"}).train()
    plain = gradients(net)
    checkpoint_activations(net)
    assert all(layer.gradient_checkpointing for layer in (*net.encoder.encoder.layer, *net.decoder.bert.encoder.layer))
    for name, grad in gradients(net).items():
        torch.testing.assert_close(grad, plain[name], msg=name)
    with pytest.raises(ValueError, match="use_reentrant"):
        checkpoint_activations(net, {"use_reentrant": True})
    # an ALBERT has no checkpoints
    net = _net("albert_bert").train()
    plain = gradients(net)
    checkpoint_activations(net)
    for name, grad in gradients(net).items():
        torch.testing.assert_close(grad, plain[name], msg=name)


@pytest.mark.parametrize("decoder", ["bert", "gpt2"])
def test_shared_embeddings(decoder, tmp_path):
    pair = {"bert": "bert_bert", "gpt2": "modernbert_gpt2"}[decoder]
    net = _net(pair, share_embeddings=True)
    tables = (net.encoder.get_input_embeddings(), net.decoder.get_input_embeddings(), net.get_output_embeddings())
    assert tables[0].weight is tables[1].weight is tables[2].weight
    net.save_pretrained(tmp_path)
    back, info = AddNormEncoderDecoderModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    assert back.encoder.get_input_embeddings().weight is back.get_output_embeddings().weight
    assert torch.equal(back(**_inputs()).logits, net(**_inputs()).logits)
    # a head of its own
    net = _net(pair, share_embeddings=True, decoder={"tie_word_embeddings": False})
    assert net.encoder.get_input_embeddings().weight is not net.get_output_embeddings().weight
    net.save_pretrained(tmp_path)
    back, info = AddNormEncoderDecoderModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()) and torch.equal(back(**_inputs()).logits, net(**_inputs()).logits)


@pytest.mark.parametrize("share", [False, True])
def test_more_words(share, tmp_path):
    net = _net(share_embeddings=share)
    before = net(**_inputs()).logits
    assert net.resize_token_embeddings(120) is net.encoder.get_input_embeddings()
    assert [part.config.vocab_size for part in net.parts] == [120, 120]
    assert (net.encoder.get_input_embeddings().weight is net.decoder.get_input_embeddings().weight) is share
    after = net(**_inputs() | {"labels": _inputs()["labels"] + 20 * (_inputs()["labels"] > 0)})
    assert after.logits.shape == (3, 6, 120)
    torch.testing.assert_close(net(**_inputs()).logits[..., :99], before)
    net.save_pretrained(tmp_path)
    assert not any(AddNormEncoderDecoderModel.from_pretrained(tmp_path, output_loading_info=True)[1].values())
    net.decoder.resize_token_embeddings(130)
    with pytest.raises(ValueError, match=r"the encoder has 120 words and the decoder 130: resize model.encoder or"):
        net.resize_token_embeddings(140)


def test_the_loss():
    net, inputs = _net(), _inputs()
    logits = net(**inputs).logits
    assert net(**_source(), decoder_input_ids=inputs["labels"].clamp(min=0)).loss is None
    real = inputs["labels"] >= 0
    each = -logits.log_softmax(-1).gather(-1, inputs["labels"].clamp(min=0)[..., None])[..., 0][real]
    torch.testing.assert_close(net(**inputs).loss, each.mean())
    torch.testing.assert_close(net(**inputs, num_items_in_batch=40).loss, each.sum() / 40)
    torch.testing.assert_close(net(**inputs, num_items_in_batch=torch.tensor(40)).loss, each.sum() / 40)
    own = net(**_source(), decoder_input_ids=inputs["labels"].clamp(min=0), labels=inputs["labels"])
    assert own.loss != net(**inputs).loss


def test_penalties_reach_the_loss():
    """What a norm adds to the loss, the model that has a loss adds: an encoder-decoder, and a stack's head."""
    spec = {"norm": "regularized_bn"}
    stack = {"encoders": [_entry("bert", add_norm=spec), _entry("bert")]}
    for net in (
        _net(encoder={"add_norm": spec}),
        AddNormStackForMaskedLM(hf_addnorm.AddNormStackConfig(**stack)),
    ):
        labels = _inputs()["labels"] if net.config.is_encoder_decoder else _source()["input_ids"]
        inputs = _source() | {"labels": labels}
        # as the statistics are before a forward
        torch.manual_seed(1)
        plain, losses = hf_addnorm.collect_losses(copy.deepcopy(net).train(), **inputs)
        torch.manual_seed(1)
        loss = net.train()(**inputs).loss
        assert len(losses) > 3 and sum(losses) > 0
        torch.testing.assert_close(loss, plain.loss + sum(losses))


def test_attention_and_dtype_of_the_parts(tmp_path):
    for given, expected in (
        ("eager", ["eager", "eager"]),
        ({"encoder": "eager", "decoder": "sdpa"}, ["eager", "sdpa"]),
    ):
        net = AutoModelForSeq2SeqLM.from_config(_config(), attn_implementation=given)
        assert [part.config._attn_implementation for part in net.parts] == expected
    # DeBERTa has eager attention alone
    net = AutoModelForSeq2SeqLM.from_config(_config("deberta_v2_bert"))
    assert [part.config._attn_implementation for part in net.parts] == ["eager", "sdpa"]
    net = _net("bert_gpt2", encoder={"add_norm": "mhc"}, decoder={"add_norm": {"residual": "gpas"}})
    net.save_pretrained(tmp_path)
    half = AutoModelForSeq2SeqLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    wide = {name for name, value in half.named_parameters() if value.dtype == torch.float32}
    assert {name.split(".")[0] for name in wide} == {"encoder", "decoder"}
    torch.testing.assert_close(half(**_inputs()).logits.float(), net(**_inputs()).logits, atol=0.4, rtol=0.2)
    present = {type(module).__name__ for module in net.modules()}
    assert {"AddNormBertLayer", "AddNormGPT2Block"} <= net._no_split_modules <= present


@pytest.mark.parametrize("whole", [True, False], ids=["encoder_decoder", "encoder"])
def test_accelerate_takes_its_own_wrapper_away_and_not_ours(whole):
    """It goes down to the function that no decorator is on: the token mask would be lost, and `return_dict`."""
    accelerate = pytest.importorskip("accelerate")
    # an earlier test's, of another precision
    accelerate.state.AcceleratorState._reset_state(True)
    accelerator = accelerate.Accelerator(mixed_precision="bf16", cpu=True)
    net = _net(encoder={"add_norm": {"norm": "instance_norm"}})
    net, inputs = (net, _inputs()) if whole else (net.encoder, _source())
    expected = net(**inputs, return_dict=True)
    prepared = accelerator.prepare(net)
    assert not torch.equal(prepared(**inputs)[1], expected[1])
    bare = accelerator.unwrap_model(prepared, keep_fp32_wrapper=False)
    accelerator.free_memory()
    for ours, before in zip(bare(**inputs, return_dict=True)[:2], expected[:2], strict=True):
        assert torch.equal(ours, before)


def test_a_deep_copy_is_another_model():
    net = _net(encoder={"add_norm": "deepnorm"})
    twin = copy.deepcopy(net)
    assert twin.config == net.config and twin.config.encoder is not net.config.encoder
    assert torch.equal(twin(**_inputs()).logits, net(**_inputs()).logits)


def test_the_families_of_the_config_are_the_models():
    for part, models in MAPS.items():
        assert set(models) == {config_class.model_type for config_class in FAMILY_MAPS[part].values()}


REFUSED = {
    "family": ({"encoder": "brt"}, "encoder is 'brt', which is no family (bert, addnorm_bert, albert,"),
    "decoder family": ({"decoder": {"model_type": "albert"}}, "decoder: unknown family 'albert'."),
    "no type": ({"encoder": {"add_norm": "pre_ln"}}, "encoder is {'add_norm': 'pre_ln'}; allowed is a config, a dict"),
    "scheme": ({"decoder": {"model_type": "bert", "add_norm": "pre_lm"}}, "decoder: add_norm.preset: unknown preset"),
    "a decoder": (
        {"encoder": {"model_type": "bert", "is_decoder": True}},
        "encoder is a decoder, and a decoder reads",
    ),
    "near miss": ({"encoders": "bert"}, "unknown config key 'encoders'. Did you mean 'encoder'?"),
    "tables": (
        {"encoder": _entry("albert", embedding_size=16), "decoder": _entry("bert"), "share_embeddings": True},
        "share_embeddings is true, and the tables are (99, 16) in the encoder and (99, 32) in the decoder",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_a_sentence(case):
    kwargs, sentence = REFUSED[case]
    with pytest.raises(ValueError, match=re.escape(sentence)) as caught:
        AddNormEncoderDecoderConfig(**kwargs)
    assert "\n" not in str(caught.value)


def test_the_defaults_and_what_is_refused_of_a_model():
    config = AddNormEncoderDecoderConfig()
    assert (config.encoder.model_type, config.decoder.model_type) == ("addnorm_bert", "addnorm_bert")
    assert config.decoder.is_decoder and config.decoder.add_cross_attention and not config.encoder.is_decoder
    config = _config(decoder={"cross_attention_hidden_size": 24})
    with pytest.raises(ValueError, match="cross_attention_hidden_size is 24; allowed is null or the encoder's"):
        AddNormEncoderDecoderModel(config)
