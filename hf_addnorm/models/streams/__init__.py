"""Streams: the state that runs through the layers, how a layer's sublayers meet in it, and what positions add to it.

Importing this registers all of them.

streams.py               what a stream is; single, dual, siamese
hyper_connections.py     several streams mixed by learned weights: hyper_connections
bounded_connections.py   the same with bounded weights: manifold, permutation, independent hyper-connections
layer_streams.py         something acts where a layer begins or ends: dense, embedding_skip, altup
learned_read_streams.py  each sublayer learns what to read: gated_streams, attention_residuals
wirings.py               how the sublayers of a layer meet: sequential, parallel, b2t, two_hop
positions.py             what is added to the embeddings for a token's position
"""

from . import (
    bounded_connections,
    hyper_connections,
    layer_streams,
    learned_read_streams,
    positions,
    streams,
    wirings,
)


__all__ = [
    "bounded_connections",
    "hyper_connections",
    "layer_streams",
    "learned_read_streams",
    "positions",
    "streams",
    "wirings",
]
