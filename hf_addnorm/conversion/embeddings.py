"""Taking the mean out of embeddings by their weights."""

from collections.abc import Iterator

import torch
from torch import nn

from ..models.base.protocols import StockValue
from ..models.core.pretrained import AddNormPreTrainedModel
from ..models.core.recasting import get_part
from ..sites import LayerStack
from .linears import LinearEdit
from .pairs import Workpiece


# a mean that counts as none, in parts of the largest value
_NO_MEAN = 1e-12


class EmbeddingTables:
    """The tables of a model's embeddings.

    Args:
        model: of one family.
    """

    def __init__(self, model: AddNormPreTrainedModel):
        paths = model.layout_of(model.config).embeddings
        parts = [part for path in paths for part in get_part(model.base_model, path).modules()]
        self.tables = [part for part in parts if isinstance(part, nn.Embedding)]
        output = model.get_output_embeddings()
        weights = [table.weight for table in self.tables]
        # a table that gives the logits too
        self.tied = output is not None and any(getattr(output, "weight", None) is weight for weight in weights)


def _summands(model: AddNormPreTrainedModel, width: int) -> Iterator[nn.Module | torch.Tensor]:
    """What may be summed to what enters the stream: tables, vectors, and the last map before it."""
    tables = EmbeddingTables(model).tables
    if tables:
        yield from (table.weight for table in tables if table.embedding_dim == width)
        return
    inside = {id(module) for path in LayerStack(model).paths for module in get_part(model, path).modules()}
    for name, module in model.base_model.named_modules():
        if id(module) in inside or name.startswith("pooler"):
            continue
        if isinstance(module, (nn.Linear, nn.Conv2d)) and module.weight.shape[0] == width:
            yield module
        yield from (p for p in module.parameters(recurse=False) if p.dim() == 3 and p.shape[-1] == width)


@torch.no_grad()
def takes_mean_out(work: Workpiece, norm_path: str | None) -> bool:
    """Take the mean out of each summand of the embeddings; everything is put back if a mean is left.

    Args:
        work: whose target is changed.
        norm_path (`str`, *optional*): the norm that reads the sum; by default the first layer does.
    """
    model = work.target
    if EmbeddingTables(model).tied:
        return False
    path = LayerStack(model).paths[0] if norm_path is None else norm_path
    before = _given(work, path)
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    for part in _summands(model, before.shape[-1]):
        if isinstance(part, torch.Tensor):
            part.sub_(part.mean(-1, keepdim=True))
        else:
            LinearEdit("", part).centre_outputs()
    after = _given(work, path)
    expected = before - before.mean(-1, keepdim=True)
    if (after - expected).abs().max() <= _NO_MEAN * before.abs().max():
        return True
    model.load_state_dict(kept)
    return False


class _Seen(Exception):
    """Ends a forward where what was looked for has been seen."""

    def __init__(self, value: torch.Tensor):
        self.value = value


def _stop(_: nn.Module, args: tuple[torch.Tensor, ...], kwargs: dict[str, StockValue]) -> None:
    raise _Seen((args or tuple(kwargs.values()))[0])


def _given(work: Workpiece, path: str) -> torch.Tensor:
    """What the module at a path of the target is given."""
    handle = get_part(work.target, path).register_forward_pre_hook(_stop, with_kwargs=True)
    try:
        work.target(**work.inputs)
    except _Seen as seen:
        return seen.value
    finally:
        handle.remove()
    raise ValueError(f"{path} was not run; inputs must be those of the whole model.")
