"""A tiny BERT encoder in float64, run by itself: its parameters by neutral names, its streams after every layer."""

import torch
from encoder_references import (
    neutral_names,
)
from norm_references import HEADS

from hf_addnorm import AddNormBertConfig, AddNormBertModel


def tiny_config(add_norm, layers, **kwargs):
    sizes = {"hidden_size": 12, "num_attention_heads": HEADS[12], "intermediate_size": 20, "layer_norm_eps": 1e-5}
    return AddNormBertConfig(
        vocab_size=11, max_position_embeddings=8, num_hidden_layers=layers, add_norm=add_norm, **{**sizes, **kwargs}
    )


def build_encoder(config, dtype=torch.float64):
    """An AddNormBertModel with plain attention, and its encoder's parameters by neutral name."""
    config._attn_implementation = "eager"
    model = AddNormBertModel(config, add_pooling_layer=False).to(dtype).eval()
    weights = {
        name: parameter
        for path, parameter in model.named_parameters()
        if path.startswith("encoder.")
        for name in neutral_names(path, config.add_cross_attention)
    }
    return model, weights


def additive(allowed, dtype):
    """The mask as the model's attention takes it: added to the scores, [batch, 1, queries, keys]."""
    return torch.zeros(allowed.shape, dtype=dtype).masked_fill(~allowed, torch.finfo(dtype).min)[:, None]


def run_encoder(model, hidden, allowed, memory=None, memory_allowed=None):
    """What a reader of hidden states sees after every layer, and the encoder's result."""
    streams = []
    hooks = [
        layer.register_forward_hook(lambda _, __, out: streams.append(out[0] if isinstance(out, tuple) else out))
        for layer in model.encoder.layer
    ]
    result = model.encoder(
        hidden,
        attention_mask=additive(allowed, hidden.dtype),
        encoder_hidden_states=memory,
        encoder_attention_mask=None if memory is None else additive(memory_allowed, hidden.dtype),
    )
    for hook in hooks:
        hook.remove()
    return streams, result.last_hidden_state
