"""Norms: functions of a token's features, or of those of several tokens. Importing this registers all of them.

norm_base.py           what they are made of
layer_norms.py         a token's mean is subtracted: layer_norm, group_norm, ada_norm, center_norm, ...
rms_norms.py           division by a token's length alone: rms_norm, scale_norm, l2_norm, see_dnorm, ...
pointwise_norms.py     no statistics: dyt, derf, isru, affine, learned_scale, none
token_norms.py         statistics over tokens: instance_norm, sequence_group_norm, contra_norm, sum_norm
dynamic_token_norm.py  statistics over the tokens around each: dynamic_token_norm
running_norms.py       over tokens, with running statistics: batch_norm, rep_bn, regularized_bn, ...
quadratic_norms.py     the same without a mean: power_norm, unified_norm
"""

from . import (
    dynamic_token_norm,
    layer_norms,
    norm_base,
    pointwise_norms,
    quadratic_norms,
    rms_norms,
    running_norms,
    token_norms,
)


__all__ = [
    "dynamic_token_norm",
    "layer_norms",
    "norm_base",
    "pointwise_norms",
    "quadratic_norms",
    "rms_norms",
    "running_norms",
    "token_norms",
]
