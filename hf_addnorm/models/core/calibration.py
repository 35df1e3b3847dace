"""Start values that come from data: one forward on a batch, in which each residual sets its own."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from ..base.protocols import StockValue
from ..base.registries import RESIDUALS
from ..base.registry import one_of, to_json
from ..base.token_mask import current
from ..residuals.residuals import Residual
from .encoder import AddNormStack


class MixesTokens(Protocol):
    """A model or a layer, which is told of tokens if a norm in it takes statistics over them."""

    mixes_tokens: bool


class _Calibration:
    """Before each residual runs, sets its start from what it is given and from what the one before it returned."""

    def __init__(self) -> None:
        self.before: float | None = None

    def __call__(self, residual: nn.Module, args: tuple[torch.Tensor, torch.Tensor]) -> None:
        real = current().on(args[0])
        self.before = cast(Residual, residual).calibrate(
            *args, None if real is None else real.squeeze(-1), self.before
        )


@contextmanager
def _told_of_tokens(readers: Sequence[MixesTokens]) -> Iterator[None]:
    """While it holds, the models and layers are told of tokens, and nothing runs in chunks."""
    before = [reader.mixes_tokens for reader in readers]
    try:
        for reader in readers:
            reader.mixes_tokens = True
        yield
    finally:
        for reader, was in zip(readers, before, strict=True):
            reader.mixes_tokens = was


def _residuals_of(model: nn.Module) -> list[Residual]:
    """Those that can be calibrated."""
    return [module for module in model.modules() if isinstance(module, Residual) and module.calibrates]


@torch.no_grad()
def calibrate_residuals(
    model: PreTrainedModel, readers: Sequence[MixesTokens], batch: Mapping[str, StockValue]
) -> None:
    """See the model's `calibrate`; `readers` are the models and layers in it that are told of tokens."""
    # a stack of layers begins with what its own embeddings give
    stacks = [_residuals_of(part) for part in readers if isinstance(part, AddNormStack)] or [_residuals_of(model)]
    if not any(stacks):
        able = [name for name, factory in RESIDUALS.items() if factory.calibrates]
        raise ValueError(
            f"add_norm.residual is {to_json(model.config.add_norm.residual)!r}: there is nothing to calibrate; "
            f"allowed is {one_of(able)}."
        )
    training = {module: module.training for module in model.modules()}
    hooks = []
    for residuals in stacks:
        calibration = _Calibration()
        hooks += [residual.register_forward_pre_hook(calibration) for residual in residuals]
    try:
        with _told_of_tokens(readers):
            model.eval()(**batch)
    finally:
        for hook in hooks:
            hook.remove()
        for module, was in training.items():
            module.training = was
