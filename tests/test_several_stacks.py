"""Models with an encoder and a decoder: each stack of layers has its own scheme, constants, tokens and refusals."""

import logging
import math
from typing import Any

import pytest
import torch
from families import (
    BASE_MODELS,
    FAMILIES,
    FEW_SPECS,
    SPECS,
    checkpoint_activations,
    fill_with_pattern,
    stacks_of,
)
from transformers import Trainer, TrainingArguments

from hf_addnorm import AddNormConfig, grow
from hf_addnorm.hub import create_card
from hf_addnorm.hub.cost import cost
from hf_addnorm.hub.description import described
from hf_addnorm.models.core.addnorm_config import family_configs
from hf_addnorm.models.core.layer import AddNormLayer


# every family with several stacks
SEVERAL = [family for family, row in FAMILIES.items() if row.config_class.facts.stacks]
BART = FAMILIES["bart"]
# what a family may have only in the encoder: a decoder's token would see later ones
OVER_TOKENS = {"preset": "pre_ln", "norm": "instance_norm", "final": "layer_norm"}


def build(family: str, add_norm: Any = None, add_norm_decoder: Any = None, model: str | None = None, **kwargs: Any):
    row, name = FAMILIES[family], model or FAMILIES[family].writer
    net = row.model_class(name)(row.config(name, add_norm, add_norm_decoder=add_norm_decoder, **kwargs))
    fill_with_pattern(net)
    return net.eval(), row.inputs(name)


def layers_of(net: Any) -> dict[str, list[AddNormLayer]]:
    """The layers of each stack, by its name."""
    return {
        config.stack_name: [net.get_submodule(home + path) for path in net.layout_of(config).layers(config)]
        for home, config in stacks_of(net)
    }


def test_the_table_of_families_has_those_whose_config_derives_from_a_mixin():
    configs = family_configs(AddNormConfig)
    assert {FAMILIES[family].config_class for family in SEVERAL} <= set(configs)
    assert all("auto_classes" in vars(config) for config in configs)


@pytest.mark.parametrize("family", SEVERAL)
def test_no_entry_begins_as_those_that_transformers_takes_away(family):
    config = FAMILIES[family].config("", "pre_ln", add_norm_decoder="sandwich_ln")
    for entry in config.add_norm_entries:
        assert not entry.startswith(("encoder", "decoder"))
        for half in (config.get_text_config(decoder=True), config.get_text_config(encoder=True)):
            assert getattr(half, entry) == getattr(config, entry)


@pytest.mark.parametrize("family", SEVERAL)
def test_a_bare_name_is_for_both_and_each_has_the_constants_of_its_place(family):
    net, _ = build(family, "deepnorm")
    depths = {name: len(layers) for name, layers in layers_of(net).items()}
    encoder, decoder = depths["encoder"], depths["decoder"]
    # DeepNet, table 1
    scales = {"encoder": 0.81 * (encoder**4 * decoder) ** (1 / 16), "decoder": (3 * decoder) ** 0.25}
    draws = {"encoder": 0.87 * (encoder**4 * decoder) ** (-1 / 16), "decoder": (12 * decoder) ** -0.25}
    new = type(net)(net.config)
    for name, layers in layers_of(new).items():
        for layer in layers:
            for block in layer.connections.children():
                assert block.residual_norm.skip_scale == pytest.approx(scales[name])
            sizes = {path: layer.get_submodule(path).weight for path in layer.add_norm_linears}
            for path, (roles, _) in layer.add_norm_linears.items():
                gain = draws[name] if roles[0] in ("v", "o", "w1", "w2") else 1.0
                outs, ins = sizes[path].shape
                expected = gain * math.sqrt(2 / (outs + ins))
                assert sizes[path].std().item() == pytest.approx(expected, rel=0.15), path


def test_a_decoder_alone_counts_no_cross_attention():
    for across, per_layer in ((False, 2), (True, 3)):
        net, inputs = build("bart", "deepnorm", model="AddNormBartForCausalLM", add_cross_attention=across)
        (layers,) = layers_of(net).values()
        assert len(list(layers[0].connections.children())) == per_layer
        scale = layers[0].connections.feed_forward.residual_norm.skip_scale
        assert scale == pytest.approx((per_layer * 3) ** 0.25)
        memory = {"encoder_hidden_states": torch.randn(3, 5, 32)}
        if across:
            assert net(**inputs, **memory).logits.isfinite().all()
        else:
            with pytest.raises(ValueError, match="the model has no cross-attention"):
                net(**inputs, **memory)


@pytest.mark.parametrize("family", SEVERAL)
def test_the_decoders_scheme_is_its_own(family, tmp_path):
    net, inputs = build(family, "pre_ln", "hyper_connections")
    assert {name: config.add_norm.preset for name, config in net.stack_configs.items()} == {
        "encoder": "pre_ln",
        "decoder": "hyper_connections",
    }
    residuals = {name: type(layers[0].connections.stream).__name__ for name, layers in layers_of(net).items()}
    assert residuals["encoder"] == "SingleStream" != residuals["decoder"]
    expected = net(**inputs).logits
    net.save_pretrained(tmp_path)
    back, info = type(net).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    assert torch.equal(back.eval()(**inputs).logits, expected)
    assert back.config.add_norm_decoder == net.config.add_norm_decoder
    assert "hyper_connections" in repr(back.config)


def test_an_override_of_one_entry_leaves_the_other(tmp_path):
    stock = BART.stock_class(BART.writer)(BART.stock_config(BART.writer))
    stock.save_pretrained(tmp_path)
    model_class = BART.model_class(BART.writer)

    def presets(**overrides):
        net = model_class.from_pretrained(tmp_path, **overrides)
        return [config.add_norm.preset for config in net.stack_configs.values()]

    assert presets(add_norm="pre_ln") == ["pre_ln", "pre_ln"]
    assert presets(add_norm_decoder="pre_ln") == ["post_ln", "pre_ln"]
    assert presets(add_norm_decoder="pre_ln", add_norm="rezero") == ["rezero", "pre_ln"]


def test_a_load_into_another_scheme_names_the_stack(tmp_path, caplog):
    net, _ = build("bart", "pre_ln")
    net.save_pretrained(tmp_path)
    logger = "hf_addnorm.models.core.scheme_function"
    logging.getLogger(logger).addHandler(caplog.handler)
    try:
        type(net).from_pretrained(tmp_path, add_norm_decoder="post_ln")
        assert "(decoder): the weights of" in caplog.text and "(encoder)" not in caplog.text
        caplog.clear()
        type(net).from_pretrained(tmp_path)
        assert not caplog.text
    finally:
        logging.getLogger(logger).removeHandler(caplog.handler)


REFUSED = [
    ({"add_norm_decoder": "pre_lm"}, r"^add_norm_decoder.preset: .*Did you mean pre_ln"),
    ({"add_norm_decoder": OVER_TOKENS}, r"^add_norm_decoder\.embed is 'instance_norm'"),
    ({"add_norm": OVER_TOKENS}, r"^add_norm\.embed is 'instance_norm'.* about the decoder, for which add_norm_dec"),
    ({"add_norm_decoder": {"layers": [{"index": 3, "norm": "dyt"}]}}, r"^add_norm_decoder.layers"),
    ({"decoder_add_norm": "pre_ln"}, "unknown config key 'decoder_add_norm'. Did you mean 'add_norm_decoder'"),
    ({"add_norm_decodr": "pre_ln"}, "Did you mean 'add_norm_decoder'"),
]


@pytest.mark.parametrize(("entries", "words"), REFUSED)
def test_a_refusal_names_the_entry_that_it_is_about(entries, words):
    with pytest.raises(ValueError, match=words):
        BART.config_class(**BART.tiny, **entries)


def test_a_warning_names_it_too(caplog):
    logger = logging.getLogger("hf_addnorm.models.spec.refusals")
    logger.addHandler(caplog.handler)
    try:
        BART.config("", "post_ln", add_norm_decoder={"preset": "pre_ln", "final": False})
    finally:
        logger.removeHandler(caplog.handler)
    assert "add_norm_decoder.feed_forward.pre is 'layer_norm': nothing normalises" in caplog.text


def test_reentrant_checkpointing_is_refused_for_any_stack_that_it_would_harm():
    for schemes, entry in ((("post_ln", "residual"), "add_norm_decoder"), (("residual", "post_ln"), "add_norm")):
        net, inputs = build("bart", *schemes)
        with pytest.raises(ValueError, match=rf"{entry}.stream is .*several tensors"):
            checkpoint_activations(net, {"use_reentrant": True})
        checkpoint_activations(net, {"use_reentrant": False})
        net.train()(**inputs).loss.backward()
    checkpoint_activations(build("bart", "pre_ln")[0], {"use_reentrant": True})


@pytest.mark.parametrize("family", SEVERAL)
def test_norms_over_tokens_in_the_encoder_see_its_real_tokens(family):
    net, inputs = build(family, OVER_TOKENS, "pre_ln", BASE_MODELS[family])
    if "attention_mask" not in inputs:
        pytest.skip("its source is no padded text: all frames count")
    (key,) = {"input_ids", "input_values"} & set(inputs)
    padding = inputs["attention_mask"] == 0
    changed = inputs | {key: inputs[key].masked_fill(padding if inputs[key].dim() == 2 else padding[..., None], 9)}
    assert not torch.equal(changed[key], inputs[key])
    torch.testing.assert_close(net(**changed)[0], net(**inputs)[0], rtol=1e-5, atol=1e-5)
    # and what the decoder's tokens are has nothing to do with it
    del inputs["decoder_attention_mask"]
    assert net(**inputs)[0].isfinite().all()


def test_what_a_norm_of_the_encoder_adds_to_the_loss_is_added():
    net, inputs = build("bart", {"preset": "pre_ln", "norm": "regularized_bn", "final": "layer_norm"}, "pre_ln")
    assert net.adds_loss
    loss = net.train()(**inputs).loss
    plain, _ = build("bart", {"preset": "pre_ln", "norm": "batch_norm", "final": "layer_norm"}, "pre_ln")
    assert not plain.adds_loss
    assert loss.isfinite()


def test_the_table_that_both_stacks_share_starts_as_the_scheme_says():
    config = BART.config("", "t_fixup", vocab_size=999, max_position_embeddings=512)
    net = BART.model_class(BART.writer)(config)
    stds = {"encoder": 32**-0.5 * 36**-0.25, "decoder": 32**-0.5 * 27**-0.25}
    assert net.model.shared.weight is net.lm_head.weight is net.model.decoder.embed_tokens.weight
    rows = torch.arange(999) != net.model.shared.padding_idx
    assert net.model.shared.weight[rows].std().item() == pytest.approx(stds["encoder"], rel=0.05)
    for stack, std in stds.items():
        table = getattr(net.model, stack).embed_positions.weight
        assert table.std().item() == pytest.approx(std, rel=0.05)


@pytest.mark.parametrize("family", SEVERAL)
def test_layers_are_left_out_at_the_stacks_own_rates_whatever_the_stream(family):
    if "encoder_layerdrop" not in vars(FAMILIES[family].config("")):
        pytest.skip("it has no layer drop")
    for spec in ("pre_ln", "residual", "hyper_connections"):
        net, inputs = build(family, spec, encoder_layerdrop=1.0, dropout=0.0)
        called = []
        for name, layers in layers_of(net).items():
            for layer in layers:
                attention = layer.self_attn if hasattr(layer, "self_attn") else layer.attention
                attention.register_forward_hook(lambda *_, name=name, called=called: called.append(name))
        net.train()(**inputs)
        assert called == 3 * ["decoder"], spec


def test_an_encoder_stays_finite_in_float16():
    for spec in (None, "pre_ln", "hyper_connections"):
        net, _ = build("bart", spec, model="AddNormBartModel")
        layer = layers_of(net)["encoder"][0]
        with torch.no_grad():
            if spec is None:
                layer.final_layer_norm.weight.fill_(6e4)
            else:
                net.encoder.layernorm_embedding.bias.fill_(2e4)
                layer.fc2.bias.fill_(6e4)
        outputs = net.half().encoder(torch.randint(5, 99, (2, 6)), output_hidden_states=True).hidden_states
        assert outputs[1].isfinite().all() and outputs[1].abs().max() > 6e4


@pytest.mark.parametrize("family", SEVERAL)
@pytest.mark.parametrize("spec", ["post_ln", "pre_rms_norm", "hyper_connections", "hybrid_norm"])
def test_what_is_written_is_the_same_with_a_cache(family, spec):
    net, inputs = build(family, SPECS[spec])
    net = net.double()
    inputs = {key: x.double() if x.is_floating_point() else x for key, x in inputs.items()}
    source = FAMILIES[family].source(inputs)
    options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "forced_eos_token_id": None}
    for beams in (1, 3):
        written = [net.generate(**source, **options, num_beams=beams, use_cache=cache) for cache in (True, False)]
        assert torch.equal(*written)
        # Whisper's own generate leaves out the token that all begins with
        assert written[0].shape[1] == (6 if family == "whisper" else 7)
    # and a run of the encoder may be given
    outputs = net.get_encoder()(**source)
    masks = {key: mask for key, mask in source.items() if key == "attention_mask"}
    again = net.generate(encoder_outputs=outputs, **masks, **options)
    assert torch.equal(again, net.generate(**source, **options))


@pytest.mark.parametrize("family", SEVERAL)
def test_the_default_writes_what_the_stock_model_writes(family):
    row, name = FAMILIES[family], FAMILIES[family].writer
    stock = row.stock_class(name)(row.stock_config(name))
    fill_with_pattern(stock)
    ours, inputs = build(family)
    ours.load_state_dict(stock.state_dict())
    source = FAMILIES[family].source(inputs)
    for options in ({}, {"num_beams": 3}, {"use_cache": False}):
        options |= {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "forced_eos_token_id": None}
        assert torch.equal(stock.eval().generate(**source, **options), ours.generate(**source, **options))


@pytest.mark.parametrize("family", SEVERAL)
@pytest.mark.parametrize("spec", FEW_SPECS)
def test_padding_changes_no_real_token(family, spec):
    net, inputs = build(family, SPECS[spec])
    expected = net(**inputs).logits
    changed = inputs | {key: inputs[key].clone() for key in inputs if key.endswith("input_ids")}
    if "input_ids" in changed:
        changed["input_ids"][1, 7:] = 9
    changed["decoder_input_ids"][2, 4:] = 9
    real = inputs["decoder_attention_mask"].bool()
    torch.testing.assert_close(net(**changed).logits[real], expected[real], rtol=1e-5, atol=1e-5)


def test_a_card_and_its_drawings_are_of_both():
    net, _ = build("bart", "pre_ln", "deepnorm")
    assert [part.title for part in described(net.config)] == ["encoder", "decoder"]
    card = str(create_card(net, name="x", repo="y/x"))
    for preset in ("pre_ln", "deepnorm"):
        assert f"`{preset}`" in card
    decoder = described(net.config)[1]
    assert decoder.depth == 3 and "cross_attention" in decoder.config.add_norm_sublayers()
    assert {part.title for part in described(build("bart", None, None, "AddNormBartForCausalLM")[0].config)} == {
        "decoder"
    }


def test_the_cost_is_that_of_both_stacks():
    counted = cost(BART.config("", "post_ln", add_norm_decoder="sandwich_ln"))
    # three sublayers in each of three layers have a second norm, and one stands after the last layer
    assert counted.parameters - counted.stock_parameters == (3 * 3 + 1) * 2 * 32
    assert (counted.sizes["encoder_layers"], counted.sizes["decoder_layers"]) == (4, 3)
    assert counted.multiply_adds == counted.stock_multiply_adds > 0


@pytest.mark.parametrize("family", SEVERAL)
def test_weight_decay_spares_the_norms_of_both(family, tmp_path):
    net, _ = build(family, SPECS["all_slots"], "residual")
    trainer = Trainer(net, TrainingArguments(tmp_path, report_to="none", use_cpu=True))
    decayed = trainer.get_decay_parameter_names(net)
    assert decayed and not [name for name in decayed if "norm" in name.lower()]
    spared = [name for name, _ in net.named_parameters() if name not in decayed]
    assert {name.split(".layers.")[0].split(".block.")[0] for name in spared if ".connections." in name} == {
        home.removesuffix(".") for home, _ in stacks_of(net)
    }


def test_a_grown_model_writes():
    net, inputs = build("bart", "pre_ln")
    assert grow(net, how="identity")(**inputs).logits.shape == net(**inputs).logits.shape


@pytest.mark.parametrize("weights", ["fix_norm", "unit_vectors"])
def test_a_table_that_both_stacks_share_is_still_transformed_when_it_is_resized(weights):
    net, inputs = build("bart", {"preset": "pre_ln", "weights": weights})
    before = net(**inputs).logits
    net.resize_token_embeddings(104)
    tables = [net.model.encoder.embed_tokens, net.model.decoder.embed_tokens]
    assert {type(table).__name__ for table in tables} == {"AddNormBartWords"}
    assert all(table.weight is net.model.shared.weight is net.lm_head.weight for table in tables)
    assert tables[0](torch.tensor([103])).shape == (1, 32)
    torch.testing.assert_close(net(**inputs).logits[..., :99], before)


def test_rows_are_scaled_behind_their_transform():
    net, _ = build("bart", {"preset": "pre_ln", "weights": "unit_vectors"}, scale_embedding=True)
    table = net.model.encoder.embed_tokens
    torch.testing.assert_close(table(torch.arange(5, 9)).norm(dim=-1), torch.full((4,), 32**0.5))
