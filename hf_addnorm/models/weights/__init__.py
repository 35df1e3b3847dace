"""Weights: how they start (initialization.py) and what is done to them in every forward (weight_transforms.py).

Importing this registers all init rules and weight transforms.
"""

from . import initialization, weight_transforms


__all__ = ["initialization", "weight_transforms"]
