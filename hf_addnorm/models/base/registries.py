"""The registries: for each axis of a spec, what may be named there.

This is the one place where they are made. The rooms fill them: `norms` registers norms, `residuals` residuals, and so
on; importing `spec` imports every one of these rooms.
"""

from .registry import Registry


# functions that normalise a token's features, or those of several tokens
NORMS = Registry("norm")
# how a sublayer's output is added to the stream
RESIDUALS = Registry("residual")
# the state that runs through the layers
STREAMS = Registry("stream")
# how the sublayers of one layer meet
WIRINGS = Registry("wiring")
# what is added to the embeddings for a token's position
POSITIONS = Registry("position encoding")
# what is done to the weights in every forward
WEIGHTS = Registry("weight transform")
# how weights are drawn or scaled at the start
INITS = Registry("init rule")
# numbers that follow from a layer's depth
DEPTH_RULES = Registry("depth rule")
