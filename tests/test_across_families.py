"""A family with another family's scheme is that other one, bit for bit: a scheme means the same in all of them."""

import re

import pytest
import torch
from families import BASE_MODELS, FAMILIES, fill_with_pattern


# ours, its scheme, the stock family that it then is, and what the same weights are called there
SAME = [
    (
        "roberta",
        "pre_ln",
        "roberta_prelayernorm",
        {
            r"connections\.attention\.pre_norm": "attention.LayerNorm",
            r"connections\.feed_forward\.pre_norm": "intermediate.LayerNorm",
            r"encoder\.final_norm": "LayerNorm",
        },
    ),
    (
        "roberta_prelayernorm",
        "post_ln",
        "roberta",
        {
            r"connections\.attention\.post_norm": "attention.output.LayerNorm",
            r"connections\.feed_forward\.post_norm": "output.LayerNorm",
        },
    ),
    ("hubert", "post_ln", "wav2vec2", {}),
    (
        "bart",
        "pre_ln",
        "mbart",
        {
            r"connections\.attention\.pre_norm": "self_attn_layer_norm",
            r"connections\.cross_attention\.pre_norm": "encoder_attn_layer_norm",
            r"connections\.feed_forward\.pre_norm": "final_layer_norm",
            r"\.final_norm": ".layer_norm",
        },
    ),
    (
        "mbart",
        "post_ln",
        "bart",
        {
            r"connections\.attention\.post_norm": "self_attn_layer_norm",
            r"connections\.cross_attention\.post_norm": "encoder_attn_layer_norm",
            r"connections\.feed_forward\.post_norm": "final_layer_norm",
        },
    ),
    (
        "dinov2",
        {"preset": "pre_ln"},
        "vit",
        {
            r"encoder\.layer\.": "layers.",
            r"norm1": "layernorm_before",
            r"norm2": "layernorm_after",
        },
    ),
    (
        "hubert",
        {"preset": "pre_ln", "embed": False},
        "unispeech_stable",
        {
            r"connections\.attention\.pre_norm": "layer_norm",
            r"connections\.feed_forward\.pre_norm": "final_layer_norm",
            r"encoder\.final_norm": "encoder.layer_norm",
        },
    ),
    (
        "unispeech_stable",
        {"preset": "post_ln", "embed": True},
        "hubert",
        {
            r"connections\.attention\.post_norm": "layer_norm",
            r"connections\.feed_forward\.post_norm": "final_layer_norm",
            r"encoder\.dropout\.embed_norm": "encoder.layer_norm",
        },
    ),
]


# some families of sound mask padded frames too, others do not
_ALIKE = {"apply_spec_augment": False}
# DINOv2 has no dropout in its layers, its width inside is a multiple, its eps another one, and it can mask patches
_AS_DINOV2 = {"attention_probs_dropout_prob": 0.1, "intermediate_size": 64, "layer_norm_eps": 1e-6}
_AS_VIT = {"hidden_dropout_prob": 0.0, "use_mask_token": False}


def _base(family, scheme, other):
    row, name = FAMILIES[family], BASE_MODELS[family]
    size = {("vit", "dinov2"): _AS_DINOV2, ("dinov2", "vit"): _AS_VIT}.get((family, other), _ALIKE)
    if scheme is None:
        return row.stock_class(name)(row.stock_config(name, **size))
    return row.model_class(name)(row.config(name, scheme, **size))


@pytest.mark.parametrize(("ours", "scheme", "stock", "names"), SAME)
@pytest.mark.parametrize("training", [False, True])
def test_a_family_with_the_scheme_of_another_is_that_family(ours, scheme, stock, names, training):
    first, second = _base(ours, scheme, stock), _base(stock, None, ours)
    fill_with_pattern(first)

    def stock_name(name):
        for ours_part, stock_part in names.items():
            name = re.sub(ours_part, stock_part, name)
        return name

    renamed = {stock_name(name): value for name, value in first.state_dict().items()}
    loaded = second.load_state_dict(renamed, strict=False)
    assert not loaded.unexpected_keys
    # DINOv2 has nothing of it behind the layers
    behind = ("pooler.",) if ours == "dinov2" else ()
    assert all(key.startswith(behind) for key in loaded.missing_keys)
    outputs = []
    for model in (first, second):
        model.train(training)
        torch.manual_seed(3)
        outputs.append(model(**FAMILIES[ours].inputs(BASE_MODELS[ours])).last_hidden_state)
        outputs[-1].square().mean().backward()
    assert torch.equal(*outputs)
    gradients = {name: parameter.grad for name, parameter in second.named_parameters()}
    assert sum(gradient is not None for gradient in gradients.values()) > 10
    for name, parameter in first.named_parameters():
        expected = gradients[stock_name(name)]
        assert parameter.grad is expected is None or torch.equal(parameter.grad, expected), name
