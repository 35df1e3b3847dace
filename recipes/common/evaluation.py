"""What a model predicts for the validation split, on all processes, and the figures of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from datasets import Dataset
from evaluate import CombinedEvaluations
from torch.utils.data import DataLoader


# Of a model and a batch: tensors whose first axis is the rows.
Outputs = Callable[[Any, Any], tuple[torch.Tensor, ...]]
# For each tensor of the outputs a list with a tensor per row, on the CPU.
Columns = tuple[list[torch.Tensor], ...]
# Stands where a row of a batch is longer than others; also the label of what has none.
PADDING = -100


@dataclass(kw_only=True)
class Evaluation:
    """What is evaluated, and how.

    Args:
        rows: the validation rows, the longest first.
        outputs: what a model says to a batch of them.
        score: of the columns of the outputs, in the order of the rows, the figures by name.
        best: the figure by which evaluations are compared, with a minus before it where less is better.
        describe: of the columns of the outputs, what is written of every prediction, by name.
        order: of each of ``rows`` its number in the file; default the same order. What ``describe`` gives is in the
            order of the file where this is not given.
    """

    rows: Dataset
    outputs: Outputs
    score: Callable[..., dict[str, float]]
    best: str
    describe: Callable[..., dict[str, list]] | None = None
    order: list[int] | None = None


@dataclass
class NumberOutputs:
    """Reads the logit of a row as the number that is predicted.

    Args:
        metric: of numbers.
    """

    metric: CombinedEvaluations

    def score(self, logits: list[torch.Tensor], labels: list[torch.Tensor]) -> dict[str, float]:
        """The figures of the numbers."""
        return self.metric.compute(predictions=_numbers(logits), references=torch.stack(labels).tolist())

    def describe(self, logits: list[torch.Tensor], _: object) -> dict[str, list]:
        """The numbers."""
        return {"prediction": _numbers(logits)}


def _numbers(logits: list[torch.Tensor]) -> list[float]:
    return torch.stack(logits).squeeze(-1).tolist()


@torch.no_grad()
def predict(accelerator: Accelerator, model: Any, loader: DataLoader, outputs: Outputs) -> Columns:
    """What ``outputs`` gives for every row exactly once, in the order of the rows, the same on every process.

    Returns:
        for each tensor of ``outputs`` a list with a tensor per row, on the CPU; the second axis of a row may have
        been filled up with -100.
    Raises:
        RuntimeError: some rows came twice or not at all.
    """
    model.eval()
    gathered: list[tuple[torch.Tensor, ...]] = []
    for batch in loader:
        found = accelerator.pad_across_processes(outputs(model, batch), dim=1, pad_index=PADDING)
        gathered.append(tuple(part.cpu() for part in accelerator.gather_for_metrics(found)))
    columns = tuple([row for part in parts for row in part] for parts in zip(*gathered, strict=True))
    if len(columns[0]) != len(loader.dataset):
        raise RuntimeError(f"{len(loader.dataset)} rows were evaluated as {len(columns[0])}")
    return columns
