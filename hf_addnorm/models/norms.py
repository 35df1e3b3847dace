"""Every norm kind, by its published name: importing `NORMS` from here, and nowhere else, imports all of them.

norm_base.py       what they are made of
layer_norms.py     a token's mean taken out: layer_norm, input_scaled_layer_norm, group_norm, ada_norm, center_norm,
                   fixed_sigma
rms_norms.py       a token's length alone: rms_norm, crms_norm, prms_norm, scale_norm, l2_norm, see_dnorm, ...
pointwise_norms.py no statistics: dyt, derf, isru, affine, learned_scale, none
token_norms.py     over tokens: instance_norm, sequence_group_norm, contra_norm; sum_norm, over features or tokens
dynamic_token_norm.py  over the tokens around each: dynamic_token_norm
running_norms.py   over tokens, with running statistics: batch_norm, rep_bn, progressive_rep_bn, regularized_bn
quadratic_norms.py the same without a mean: power_norm, unified_norm
"""

from .dynamic_token_norm import DynamicTokenNorm
from .layer_norms import DeviationNorm
from .norm_base import NORMS, Norm, build_norm, has_gain, is_a, mixes_tokens, set_gain
from .pointwise_norms import PointwiseNorm
from .quadratic_norms import PowerNorm
from .rms_norms import RMSNorm
from .running_norms import RunningNorm
from .token_norms import TokenNorm


__all__ = [
    "NORMS",
    "DeviationNorm",
    "DynamicTokenNorm",
    "Norm",
    "PointwiseNorm",
    "PowerNorm",
    "RMSNorm",
    "RunningNorm",
    "TokenNorm",
    "build_norm",
    "has_gain",
    "is_a",
    "mixes_tokens",
    "set_gain",
]
