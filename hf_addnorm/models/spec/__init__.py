"""The spec: what `config.add_norm` may say (spec.py, presets.py), and what a model cannot have (refusals.py).

Importing this fills all registries (components.py).
"""

from . import components


__all__ = ["components"]
