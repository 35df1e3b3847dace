"""What a norm, a residual, a stream or another component of one's own is made with, and registered in.

    # my_norms.py
    import torch
    from hf_addnorm.components import NORMS, Norm

    @NORMS.register("half_norm", travels=True)
    class HalfNorm(Norm): ...

With `travels=True` the file is saved with every checkpoint whose `add_norm` names the component, so that it
loads everywhere; see docs/adding.md. Such a file may import packages and this module, nothing else of hf_addnorm.
"""

from .models.base.depth import Position, at_depth, parse_depth_value
from .models.base.registries import DEPTH_RULES, INITS, NORMS, POSITIONS, RESIDUALS, STREAMS, WEIGHTS, WIRINGS
from .models.base.registry import ComponentSpec, Finite, Fraction, Positive, number, whole
from .models.norms.norm_base import Norm, in_full_precision, root, set_gain, slices
from .models.norms.pointwise_norms import PointwiseNorm
from .models.norms.running_norms import RunningNorm
from .models.norms.token_norms import TokenNorm
from .models.residuals.matrix_residuals import InputReadingResidual, MatrixResidual
from .models.residuals.residuals import LearnedResidual, Residual
from .models.streams.hyper_connections import SeveralStreams
from .models.streams.positions import Positions
from .models.streams.streams import SingleStream, Stream, StreamConnection
from .models.streams.wirings import Sequential
from .models.weights.initialization import InitRule
from .models.weights.weight_transforms import WeightTransform


__all__ = [
    "DEPTH_RULES",
    "INITS",
    "NORMS",
    "POSITIONS",
    "RESIDUALS",
    "STREAMS",
    "WEIGHTS",
    "WIRINGS",
    "ComponentSpec",
    "Finite",
    "Fraction",
    "InitRule",
    "InputReadingResidual",
    "LearnedResidual",
    "MatrixResidual",
    "Norm",
    "PointwiseNorm",
    "Position",
    "Positions",
    "Positive",
    "Residual",
    "RunningNorm",
    "Sequential",
    "SeveralStreams",
    "SingleStream",
    "Stream",
    "StreamConnection",
    "TokenNorm",
    "WeightTransform",
    "at_depth",
    "in_full_precision",
    "number",
    "parse_depth_value",
    "root",
    "set_gain",
    "slices",
    "whole",
]
