"""How far a converted model is from its source: outputs in float64, and predictions and branches on held-out rows."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from ..models.base.protocols import StockValue
from ..models.core.pretrained import AddNormPreTrainedModel
from ..models.core.recasting import get_part
from ..sites import Sublayer, add_norm_sites, sublayers
from .batches import Batch


# of models that choose among classes: the outputs that are scores
_SCORES = ("logits", "start_logits", "prediction_logits")


@dataclass(frozen=True)
class HeldOut:
    """How alike both models' predictions are on rows that nothing was fitted on.

    Args:
        agreement (`float`, *optional*): the share of predictions that are the same; None where no class is chosen.
        kl (`float`, *optional*): the mean Kullback-Leibler divergence of the target's from the source's.
        relative_error (`float`): of the outputs: their squared distance in parts of the source's variance.
        predictions (`int`): how many there were.
    """

    agreement: float | None
    kl: float | None
    relative_error: float
    predictions: int


@dataclass(frozen=True)
class BranchLikeness:
    """How alike what a sublayer's first Linear layers give is in both models, on held-out rows.

    Args:
        title (`str`): the sublayer.
        cosine (`float`): the mean over tokens.
        ratio (`float`): the target's size over the source's.
    """

    title: str
    cosine: float
    ratio: float


def main_output(outputs: StockValue) -> tuple[torch.Tensor, bool]:
    """A model's scores of classes, and true; of a model without, its first output, and false."""
    for name in _SCORES:
        if outputs.get(name) is not None:
            scores: torch.Tensor = outputs[name]
            return scores, scores.shape[-1] > 1
    first: torch.Tensor = outputs[0]
    return first, False


def as_dtype(batch: Batch, dtype: torch.dtype) -> Batch:
    """A batch whose floating-point inputs (images, sound) have a dtype."""
    return {
        key: value.to(dtype) if isinstance(value, torch.Tensor) and value.is_floating_point() else value
        for key, value in batch.items()
    }


@torch.no_grad()
def largest_difference(
    source: AddNormPreTrainedModel, target: AddNormPreTrainedModel, batches: Sequence[Batch]
) -> tuple[float, float]:
    """The largest difference of the outputs of two models, and the largest output of the first."""
    difference, largest = 0.0, 0.0
    for batch in batches:
        expected, found = (main_output(model(**batch))[0] for model in (source, target))
        difference = max(difference, (expected - found).abs().max().nan_to_num(nan=float("inf")).item())
        largest = max(largest, expected.abs().max().item())
    return difference, largest


@torch.no_grad()
def first_not_finite(model: AddNormPreTrainedModel, batch: Batch) -> str | None:
    """Where in a forward numbers first are not finite: a norm or the end of a branch; None where all are finite."""
    found: list[str] = []
    titles = {site.norm: site.title for site in add_norm_sites(model)}
    titles |= {sub.writer: sub.title for sub in sublayers(model)}

    def look(title: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: StockValue, output: torch.Tensor) -> None:
            if not output.isfinite().all():
                found.append(title)

        return hook

    handles = [get_part(model, path).register_forward_hook(look(title)) for path, title in titles.items()]
    try:
        outputs = main_output(model(**batch))[0]
    finally:
        for handle in handles:
            handle.remove()
    if not found and not outputs.isfinite().all():
        found.append("the head")
    return found[0] if found else None


class _Likeness:
    """Sums over tokens of what the first Linear layer of each sublayer gives in both models."""

    def __init__(self, subs: Sequence[Sublayer]):
        self.subs = subs
        self.sums = [torch.zeros(3, dtype=torch.float64) for _ in subs]

    def add(self, old: list[torch.Tensor], new: list[torch.Tensor], real: torch.Tensor | None) -> None:
        for sums, a, b in zip(self.sums, old, new, strict=True):
            a, b = (x.flatten(0, -2).double() for x in (a, b))
            if real is not None and real.numel() == len(a):
                a, b = a[real.flatten()], b[real.flatten()]
            cosine = nn.functional.cosine_similarity(a, b, dim=-1)
            sums += torch.stack(
                [cosine.sum(), (b.norm(dim=-1) / a.norm(dim=-1).clamp(min=1e-12)).sum(), cosine.new_tensor(len(a))]
            )

    def rows(self) -> list[BranchLikeness]:
        pairs = zip(self.subs, self.sums, strict=True)
        return [BranchLikeness(sub.title, (s[0] / s[2]).item(), (s[1] / s[2]).item()) for sub, s in pairs]


@contextmanager
def _first_given(model: AddNormPreTrainedModel) -> Iterator[list[torch.Tensor]]:
    """What the first reader of each sublayer gives, in the order in which they run."""
    found: list[torch.Tensor] = []
    paths = dict.fromkeys(sub.readers[0] for sub in sublayers(model))
    handles = [
        get_part(model, path).register_forward_hook(lambda module, args, output: found.append(output))
        for path in paths
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def measure(
    source: AddNormPreTrainedModel, target: AddNormPreTrainedModel, batches: Sequence[Batch]
) -> tuple[HeldOut, list[BranchLikeness]]:
    """How alike two models are on held-out batches."""
    likeness, subs = _Likeness(sublayers(source)), sublayers(source)
    totals = torch.zeros(6, dtype=torch.float64)
    chooses = False
    for batch in batches:
        with _first_given(source) as old, _first_given(target) as new:
            outputs = [main_output(model(**batch)) for model in (source, target)]
        mask = batch.get("attention_mask")
        real = mask.bool() if isinstance(mask, torch.Tensor) and mask.dim() == 2 else None
        # where a layer runs at several depths, or twice, what is compared is not clear
        if len(old) == len(new) == len(subs):
            likeness.add(old, new, real)
        (expected, chooses), (found, _) = outputs
        totals += _distance(expected, found, real, chooses)
    agree, kl, error, square, total, count = totals.tolist()
    variance = max(square - total * total / max(1.0, totals[5].item()), 1e-30)
    scores = HeldOut(agree / count if chooses else None, kl / count if chooses else None, error / variance, int(count))
    return scores, [row for row in likeness.rows() if row.cosine == row.cosine]


def _distance(expected: torch.Tensor, found: torch.Tensor, real: torch.Tensor | None, chooses: bool) -> torch.Tensor:
    """Sums over predictions: agreement, KL, squared error, square, mean, their number."""
    expected, found = expected.double(), found.double()
    if real is not None and expected.shape[: real.dim()] == real.shape:
        expected, found = expected[real], found[real]
    expected, found = (x.reshape(-1, x.shape[-1]) for x in (expected, found))
    agree = kl = torch.zeros((), dtype=torch.float64)
    if chooses:
        agree = (expected.argmax(-1) == found.argmax(-1)).double().sum()
        p, q = expected.log_softmax(-1), found.log_softmax(-1)
        kl = (p.exp() * (p - q)).sum()
    mean = expected.mean(-1)
    error = (expected - found).square().mean(-1).sum()
    return torch.stack([agree, kl, error, expected.square().mean(-1).sum(), mean.sum(), mean.new_tensor(len(mean))])
