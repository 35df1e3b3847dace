"""Start values that come from data: one forward on a batch, in which each residual sets its own."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from ..base.registries import RESIDUALS
from ..base.registry import one_of, to_json
from ..base.token_mask import current
from ..residuals.residuals import Residual


class _Calibration:
    """Before each residual runs, sets its start from what it is given and from what the one before it returned."""

    def __init__(self) -> None:
        self.before: Any = None

    def __call__(self, residual: Any, args: tuple[torch.Tensor, torch.Tensor]) -> None:
        real = current().on(args[0])
        self.before = residual.calibrate(*args, None if real is None else real.squeeze(-1), self.before)


@contextmanager
def _told_of_tokens(readers: Sequence[Any]) -> Iterator[None]:
    """While it holds, the models and layers are told of tokens, and nothing runs in chunks."""
    before = [reader.mixes_tokens for reader in readers]
    try:
        for reader in readers:
            reader.mixes_tokens = True
        yield
    finally:
        for reader, was in zip(readers, before, strict=True):
            reader.mixes_tokens = was


@torch.no_grad()
def calibrate_residuals(model: Any, readers: Sequence[Any], batch: Mapping[str, Any]) -> None:
    """See the model's `calibrate`; `readers` are the models and layers in it that are told of tokens."""
    residuals = [module for module in model.modules() if isinstance(module, Residual) and module.calibrates]
    if not residuals:
        able = [name for name, factory in RESIDUALS.items() if factory.calibrates]
        raise ValueError(
            f"add_norm.residual is {to_json(model.config.add_norm.residual)!r}: there is nothing to calibrate; "
            f"allowed is {one_of(able)}."
        )
    training, calibration = {module: module.training for module in model.modules()}, _Calibration()
    hooks = [residual.register_forward_pre_hook(calibration) for residual in residuals]
    try:
        with _told_of_tokens(readers):
            model.eval()(**batch)
    finally:
        for hook in hooks:
            hook.remove()
        for module, was in training.items():
            module.training = was
