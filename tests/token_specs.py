"""Norms over tokens for several suites: their kinds, specs with them, tiny models."""

import torch
from families import BASE_MODELS, FAMILIES, MEMBERS

from hf_addnorm.models.base.registries import NORMS
from hf_addnorm.models.norms.running_norms import RunningNorm


RUNNING = {
    kind: factory for kind, factory in NORMS.items() if isinstance(factory, type) and issubclass(factory, RunningNorm)
}
KINDS = ["instance_norm", *RUNNING]
NO_DROPOUT = {
    "hidden_dropout_prob": 0.0,
    "dropout": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "attention_dropout": 0.0,
    "mlp_dropout": 0.0,
    "embedding_dropout": 0.0,
    "hidden_dropout": 0.0,
    "activation_dropout": 0.0,
    "feat_proj_dropout": 0.0,
    "layerdrop": 0.0,
    "mask_time_prob": 0.0,
}
ENCODERS = [family for family, row in FAMILIES.items() if not row.causal]

SPECS = {
    "post_batch": {"preset": "post_ln", "norm": "batch_norm"},
    "pre_instance": {"preset": "pre_ln", "norm": "instance_norm"},
    "post_instance": {"preset": "post_ln", "norm": "instance_norm"},
    "pre_batch": {"preset": "pre_ln", "norm": "batch_norm"},
    "everywhere": {
        "norm": "batch_norm",
        "attention": ["pre", "q", "k", "v", "mid", "out", "post"],
        "feed_forward": ["pre", "mid", "out", "post"],
        "embed": True,
        "final": True,
        "head": True,
    },
    "pre_contra": {"preset": "pre_ln", "norm": "contra_norm"},
    "pre_around": {"preset": "pre_ln", "norm": "dynamic_token_norm"},
    "post_sum": {"preset": "post_ln", "norm": {"kind": "sum_norm", "over": "tokens", "signed": False}},
    "dual": {"preset": "residual", "norm": "batch_norm"},
    "hyper": {"preset": "hyper_connections", "norm": "sequence_group_norm"},
    "parallel": {"preset": "parallel", "norm": "batch_norm"},
}
# options with which a few steps reach all that a norm does
OPTIONS = {
    "progressive_rep_bn": {"iterations": 2},
    "power_norm": {"variant": "official", "groups": "heads", "warmup": 2},
    "unified_norm": {"window": 2, "warmup": 2},
}
RUNNING_SPECS = {kind: {"preset": "post_ln", "norm": {"kind": kind, **OPTIONS.get(kind, {})}} for kind in RUNNING} | {
    "power_norm_paper": {"preset": "post_ln", "norm": "power_norm"}
}
# of a shape's members two suffice: the layers are those of the family that has it
FAMILY_SPECS = [
    (family, spec)
    for family in ENCODERS
    for spec in SPECS
    if family not in MEMBERS or spec in ("post_batch", "pre_instance")
]
# the places are the same for all: one family of those with their own loop, and one with the stock one
FAMILY_SPECS += [(family, spec) for family in ("bert", "albert", "wav2vec2") for spec in RUNNING_SPECS]
SPECS |= RUNNING_SPECS


def build(kind, width, **options):
    norm = NORMS.build(NORMS.parse({"kind": kind, **options}, "norm"), width).double()
    norm.reset_parameters()
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(3))
    return norm


def base_model(family):
    return BASE_MODELS[family]


def tiny(family, spec, **kwargs):
    row = FAMILIES[family]
    return row.model_class(base_model(family))(row.config(base_model(family), SPECS[spec], **NO_DROPOUT | kwargs))


def counted(model):
    """The running statistics."""
    return {
        f"{path}.{name}": buffer.clone()
        for path, module in model.named_modules()
        if isinstance(module, RunningNorm)
        for name, buffer in module.named_buffers(recurse=False)
    }
