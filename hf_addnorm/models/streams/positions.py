"""What is added to the embeddings for a token's position: the "add" that comes before the first layer."""

from math import log
from typing import Annotated

import torch
from torch import nn

from ..base.registries import POSITIONS
from ..base.registry import whole


Length = Annotated[int, whole(at_least=1)]


class Positions(nn.Module):
    """Base: from the numbers of the positions to what is added there, in the place of the stock model's table.

    Args:
        width (`int`): that of the embeddings.
        length (`int`): positions up to which the model numbers them by itself.
    """

    def __init__(self, width: int, length: int):
        super().__init__()
        self.width, self.length = width, length
        # of no length: it knows the dtype that the model was moved to
        self.register_buffer("moved", torch.empty(0), persistent=False)

    def extra_repr(self) -> str:
        return f"{self.width}, length={self.length}"


@POSITIONS.register("stock")
def stock(width: int) -> None:
    """The model's own: learned in BERT, RoBERTa, ALBERT and GPT-2, in the attention of others (rotary, relative)."""


@POSITIONS.register("learned")
def learned(width: int) -> None:
    """A learned table, of `max_position_embeddings` rows; what BERT, RoBERTa, ALBERT and GPT-2 have.

    Source: BERT, Devlin et al., 2018, arXiv 1810.04805.
    """


@POSITIONS.register("sinusoidal")
class SinusoidalPositions(Positions):
    """Sines and cosines of the position: `sin(p / 10000^(2i/d))` at feature 2i, `cos` of the same at feature 2i + 1.

        position_ids [batch, seq] -> angles -> sin, cos in turn -> [batch, seq, width]

    They are computed for the positions that come, so that any length is possible; nothing is learned. The dropout of
    the embeddings stands behind the sum.

    Source: Vaswani et al., "Attention Is All You Need", 2017, arXiv 1706.03762.

    Args:
        width (`int`): d, that of the embeddings.
        length (`int`, *optional*, defaults to 5000): tokens that a model takes without `position_ids`; with them, any.
    Dtype: angles in float32 at least, returned in the model's dtype. No parameters.
    """

    def __init__(self, width: int, *, length: Length = 5000):
        super().__init__(width, length)

    def forward(self, position_ids: torch.Tensor) -> torch.Tensor:
        dtype = self.get_buffer("moved").dtype
        wide = torch.promote_types(dtype, torch.float32)
        even = torch.arange(0, self.width, 2, device=position_ids.device, dtype=wide)
        angles = position_ids.to(wide).unsqueeze(-1) * torch.exp(even * (-log(10000.0) / self.width))
        pairs = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)
        return pairs[..., : self.width].to(dtype)


@POSITIONS.register("none")
class NoPositions(Positions):
    """Nothing is added: without a mask of its own, the model does not see the order of its tokens.

    Args:
        width (`int`): that of the embeddings.
        length (`int`, *optional*, defaults to 5000): tokens that a model takes without `position_ids`.
    """

    def __init__(self, width: int, *, length: Length = 5000):
        super().__init__(width, length)

    def forward(self, position_ids: torch.Tensor) -> torch.Tensor:
        moved = self.get_buffer("moved")
        return torch.zeros(1, dtype=moved.dtype, device=position_ids.device)


def put_positions(
    model: nn.Module, path: str, positions: Positions, asked_as: "type[nn.Module] | None" = None
) -> None:
    """Put `positions` in the place of the stock model's table, and let the model number as many as they are.

    Args:
        model, path: the model, and where its table is.
        positions (`Positions`): what it has instead.
        asked_as (`type`, *optional*): what the model asks, made of `positions`; by default `positions` themselves.
    """
    model.set_submodule(path, positions if asked_as is None else asked_as(positions), strict=True)
    parent = model.get_submodule(path.rpartition(".")[0])
    # BERT and its like keep the numbers of the positions, and as many token types
    for name in ("position_ids", "token_type_ids"):
        if isinstance(getattr(parent, name, None), torch.Tensor):
            start = torch.arange if name == "position_ids" else torch.zeros
            row = start(positions.length, dtype=torch.long, device=getattr(parent, name).device)
            parent.register_buffer(name, row.expand(1, -1), persistent=False)
