"""Every axis of a spec on which a registered component stands; importing this fills all registries."""

from collections.abc import Callable

from ..base.registries import INITS, NORMS, POSITIONS, RESIDUALS, STREAMS, WEIGHTS, WIRINGS
from ..base.registry import Registry
from ..norms.norm_base import Norm
from ..residuals.residuals import Residual
from ..streams.positions import Positions
from ..streams.streams import Stream
from ..streams.wirings import Sequential
from ..weights.initialization import InitRule
from ..weights.weight_transforms import WeightTransform


# the registry of each axis, and the class that its components extend
COMPONENTS: dict[str, tuple[Registry[Callable[..., object]], type]] = {
    "norm": (NORMS, Norm),
    "residual": (RESIDUALS, Residual),
    "stream": (STREAMS, Stream),
    "wiring": (WIRINGS, Sequential),
    "positions": (POSITIONS, Positions),
    "weights": (WEIGHTS, WeightTransform),
    "init": (INITS, InitRule),
}
