"""Linear layers as a conversion edits them: torch's and GPT-2's, whose weight lies the other way round."""

from typing import cast

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D


class CannotFold(ValueError):
    """Something that a Linear layer cannot take in; the sentence says what."""


class LinearEdit:
    """A Linear layer whose weight is read and written as [out, in].

    Args:
        path (`str`): what it is called in a sentence.
        module (`torch.nn.Module`): a `torch.nn.Linear`, a convolution of patches, or GPT-2's `Conv1D`.
    """

    def __init__(self, path: str, module: nn.Module):
        self.path, self.module = path, module

    @property
    def weight(self) -> torch.Tensor:
        """The weight [out, in], in the memory of the module's own."""
        stored = cast(nn.Parameter, self.module.weight).detach()
        return stored.T if isinstance(self.module, Conv1D) else stored.flatten(1)

    @property
    def bias(self) -> torch.Tensor | None:
        """The bias [out], in the memory of the module's own, or None."""
        own: nn.Parameter | None = getattr(self.module, "bias", None)
        return None if own is None else own.detach()

    def add(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        """Add to the weight [out, in] and to the bias [out]; where there is no bias, to the weight alone."""
        self.weight.add_(weight.to(self.weight.dtype))
        if self.bias is not None:
            self.bias.add_(bias.to(self.bias.dtype))

    def times_inputs(self, factor: torch.Tensor) -> None:
        """Let it read `factor * x` where it read `x`; `factor` [in]."""
        self.weight.mul_(factor)

    def times_outputs(self, factor: torch.Tensor) -> None:
        """Multiply what it gives by `factor`, [out] or one number."""
        self.weight.mul_(factor.reshape(-1, 1))
        if self.bias is not None:
            self.bias.mul_(factor)

    def plus_bias(self, shift: torch.Tensor) -> None:
        """Add `shift` [out] to what it gives.

        Raises:
            CannotFold: if it has no bias, and `shift` is not 0.
        """
        if self.bias is not None:
            self.bias.add_(shift)
        elif shift.abs().max() > 0:
            raise CannotFold(f"{self.path} has no bias, into which the norm's bias could go")

    def plus_input(self, shift: torch.Tensor) -> None:
        """Let it read `x + shift` where it read `x`; `shift` [in]. Raises as `plus_bias`."""
        self.plus_bias(self.weight @ shift)

    def centre_inputs(self) -> None:
        """Let it read `x - mean(x)` where it read `x`."""
        self.weight.sub_(self.weight.mean(1, keepdim=True))

    def centre_outputs(self) -> None:
        """Take the mean over the outputs out of what it gives."""
        self.weight.sub_(self.weight.mean(0, keepdim=True))
        if self.bias is not None:
            self.bias.sub_(self.bias.mean())
