"""All registries: for each axis of a spec, the components that a config may name there.

This is the one place where they are made. The rooms fill them: `norms` registers norms, `residuals` residuals, and so
on; importing `spec` imports every one of these rooms.
"""

from collections.abc import Callable

from torch import nn

from .protocols import ComponentClass, ResidualClass, WeightTransformClass
from .registry import Registry


# functions that normalise a token's features, or those of several tokens
NORMS: Registry[Callable[..., nn.Module]] = Registry("norm")
# how a sublayer's output is added to the stream
RESIDUALS: Registry[ResidualClass] = Registry("residual")
# the state that runs through the layers
STREAMS: Registry[ComponentClass] = Registry("stream")
# how the sublayers of one layer meet
WIRINGS: Registry[ComponentClass] = Registry("wiring")
# what is added to the embeddings for a token's position
POSITIONS: Registry[Callable[..., nn.Module | None]] = Registry("position encoding")
# what is done to the weights in every forward
WEIGHTS: Registry[WeightTransformClass] = Registry("weight transform")
# how weights are drawn or scaled at the start
INITS: Registry[ComponentClass] = Registry("init rule")
# numbers that follow from a layer's depth
DEPTH_RULES: Registry[Callable[..., float]] = Registry("depth rule")
