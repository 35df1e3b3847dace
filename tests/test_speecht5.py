"""SpeechT5: what its models speak, with a cache and without, the loss of attention, what is refused."""

import pytest
import torch
from families import FAMILIES, SPECS, fill_with_pattern
from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig, set_seed


ROW = FAMILIES["speecht5"]
SPEAKERS = ["AddNormSpeechT5ForTextToSpeech", "AddNormSpeechT5ForSpeechToSpeech"]
# layers before the decoder, whose dropout is drawn in evaluation too
PRENET = {"speech_decoder_prenet_layers": 2, "speech_decoder_prenet_units": 24}


def _source(name):
    inputs = ROW.inputs(name)
    (key,) = {"input_ids", "input_values"} & set(inputs)
    return inputs[key], {key: inputs[key] for key in ("speaker_embeddings", "attention_mask")}


def _spoken(net, name, **options):
    set_seed(3)
    source, others = _source(name)
    # it would stop somewhere by chance
    return net.eval().generate_speech(source, **others, threshold=2.0, maxlenratio=1.0, **options)


@pytest.mark.parametrize("name", SPEAKERS)
def test_the_default_speaks_what_the_stock_model_speaks(name):
    stock = ROW.stock_class(name)(ROW.stock_config(name, **PRENET))
    fill_with_pattern(stock)
    ours = ROW.model_class(name)(ROW.config(name, **PRENET))
    ours.load_state_dict(stock.state_dict())
    vocoder = SpeechT5HifiGan(
        SpeechT5HifiGanConfig(
            model_in_dim=8, upsample_initial_channel=16, upsample_rates=[2], upsample_kernel_sizes=[4]
        )
    )
    for options in (
        {"output_cross_attentions": True},
        {"vocoder": vocoder.eval()},
        {"return_output_lengths": True, "minlenratio": 1.0},
    ):
        for one, two in zip(*(_spoken(net, name, **options) for net in (stock, ours)), strict=True):
            assert torch.equal(one, two) if isinstance(one, torch.Tensor) else one == two
    spectrograms, attentions = _spoken(ours, name, output_cross_attentions=True)
    frames, tokens = (10, 10) if name == SPEAKERS[0] else (10, 11)
    assert spectrograms.shape == (3, frames, 8)
    # three layers of two heads, half as many steps as frames
    assert attentions.shape[0] == 3 and attentions.shape[-2:] == (frames // 2, tokens)


@pytest.mark.parametrize("spec", ["pre_ln", "residual", "hyper_connections", "parallel"])
def test_what_is_spoken_with_a_cache_is_what_one_forward_says(spec):
    name = SPEAKERS[0]
    net = ROW.model_class(name)(ROW.config(name, SPECS[spec], speech_decoder_postnet_layers=0)).double().eval()
    fill_with_pattern(net)
    source, others = _source(name)
    others["speaker_embeddings"] = others["speaker_embeddings"].double()
    spoken = net.generate_speech(source, **others, threshold=2.0, maxlenratio=1.0)
    # the last frame of each pair is what the next step reads; without layers behind, what is spoken is twice that
    read = torch.cat([torch.zeros(3, 1, 8), spoken[:, 1:-1:2] / 2], dim=1)
    again = net(input_ids=source, decoder_input_values=read, **others).spectrogram
    torch.testing.assert_close(again, spoken, rtol=1e-9, atol=1e-9)


def test_the_loss_looks_at_the_attention_of_every_scheme():
    name = SPEAKERS[0]
    for spec in ("pre_ln", "hyper_connections"):
        losses = []
        for guided in (False, True):
            net = ROW.model_class(name)(ROW.config(name, spec, use_guided_attention_loss=guided))
            fill_with_pattern(net)
            losses.append(net.eval()(**ROW.inputs(name)).loss)
        assert losses[1] > losses[0], spec


def test_factors_on_positions_start_at_one_and_are_trained():
    name = SPEAKERS[0]
    net = ROW.model_class(name)(ROW.config(name, "deepnorm"))
    alphas = [value for key, value in net.named_parameters() if key.endswith("encode_positions.alpha")]
    assert [alpha.item() for alpha in alphas] == [1.0, 1.0]
    net(**ROW.inputs(name)).loss.backward()
    assert all(alpha.grad.abs() > 0 for alpha in alphas)


@pytest.mark.parametrize("add_norm", ["t_fixup", {"weights": "fix_norm"}])
def test_schemes_for_tables_are_refused_with_this_familys_reason(add_norm):
    with pytest.raises(ValueError, match="text is embedded before the stacks of layers, in some of this family's mod"):
        ROW.config("", add_norm)
