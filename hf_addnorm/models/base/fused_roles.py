"""Fused Linear layers: one weight whose output features are those of several roles (q, k, v)."""

from collections.abc import Sequence

import torch


def split_roles(x: torch.Tensor, roles: int, blocks: int = 1, dim: int = 0) -> Sequence[torch.Tensor]:
    """The part of each role of a fused layer's weight, bias or output.

        [q q q k k k v v v]   one block          [q k v | q k v | q k v]   a block for each head (GPT-NeoX)

    Args:
        x: [..., out, ...]; a part is [..., out / roles, ...], a view where there is one block.
        roles (`int`): how many the layer has.
        blocks (`int`, *optional*, defaults to 1): how often the roles follow each other.
        dim (`int`, *optional*, defaults to 0): the axis of the output features.
    """
    if blocks == 1:
        return x.chunk(roles, dim)
    dim %= x.dim()
    return [part.flatten(dim, dim + 1) for part in x.unflatten(dim, (blocks, roles, -1)).unbind(dim + 1)]


def join_roles(parts: Sequence[torch.Tensor], blocks: int = 1, dim: int = 0) -> torch.Tensor:
    """What `split_roles` split."""
    if blocks == 1:
        return torch.cat(list(parts), dim) if len(parts) > 1 else parts[0]
    dim %= parts[0].dim()
    return torch.stack([part.unflatten(dim, (blocks, -1)) for part in parts], dim + 1).flatten(dim, dim + 2)
