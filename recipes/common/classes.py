"""Classes that are predicted, one to a row or word: loss, weights of classes, figures, predictions as columns."""

from collections import Counter
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal, TypeAlias

import torch
from accelerate import Accelerator
from datasets import Dataset
from evaluate import CombinedEvaluations
from jsonargparse.typing import PositiveFloat
from torch.nn import functional
from transformers import PreTrainedModel

from .errors import UserError, one_line
from .evaluation import PADDING


# ``balanced``, or a weight by the name of its class.
ClassWeights: TypeAlias = Literal["balanced"] | dict[str, PositiveFloat]


def summed_loss(logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """Cross-entropy, summed over the labels that are not -100, each by the weight of its class.

    Args:
        logits: ``[labels, classes]``.
        labels: ``[labels]``.
        weights: ``[classes]``.
    """
    weights = None if weights is None else weights.to(logits)
    return functional.cross_entropy(logits, labels, weights, ignore_index=PADDING, reduction="sum")


def class_weights(
    config: Any, encoded: dict[str, Dataset], model: PreTrainedModel, accelerator: Accelerator
) -> torch.Tensor | None:
    """A weight for every class, ``[classes]``, float32, as the config's ``class_weights`` say; names them in one line.

    ``balanced`` gives each class that occurs the same weight in all, as in scikit-learn: labels / (classes that
    occur x labels of this one). A class that is not named, or does not occur, has the weight 1.

    Args:
        config: of the run.
        encoded: the rows of each split, with ``labels``, -100 where there is none.
        model: its config names the classes.
        accelerator: of the run.
    Raises:
        UserError: a name that is no class.
    """
    wanted, names = config.class_weights, [model.config.id2label[number] for number in range(model.config.num_labels)]
    if wanted is None or "train" not in encoded:
        return None
    if wanted == "balanced":
        labels = encoded["train"]["labels"][:]
        counts = Counter(chain.from_iterable(labels) if isinstance(labels[0], list) else labels)
        counts.pop(PADDING, None)
        share = counts.total() / max(len(counts), 1)
        found = {names[number]: share / count for number, count in counts.items()}
    else:
        found = wanted
        if unknown := [name for name in found if name not in names]:
            raise UserError(f"class_weights names {unknown[0]!r}, which is no class: {one_line(', '.join(names))}")
    weights = [float(found.get(name, 1.0)) for name in names]
    said = ", ".join(f"{name} {weight:.4g}" for name, weight in zip(names, weights, strict=True))
    accelerator.print(f"class weights: {one_line(said)}")
    return torch.tensor(weights)


def weights_by_name(weights: torch.Tensor | None, model: PreTrainedModel) -> dict[str, Any]:
    """The entry of the result; empty where there are none."""
    if weights is None:
        return {}
    # as they were given, without float32's digits
    return {"class_weights": {model.config.id2label[n]: float(f"{w:.6g}") for n, w in enumerate(weights.tolist())}}


@dataclass
class ClassOutputs:
    """Reads the logits of a row as its likeliest class.

    Args:
        metric: of numbers of classes.
        names: of each number the class.
    """

    metric: CombinedEvaluations
    names: dict[int, str]

    def score(self, logits: list[torch.Tensor], labels: list[torch.Tensor], *_: object) -> dict[str, float]:
        """The figures of the likeliest classes."""
        predictions, references = torch.stack(logits).argmax(-1), torch.stack(labels)
        return self.metric.compute(predictions=predictions.numpy(), references=references.numpy())

    def describe(self, logits: list[torch.Tensor], *_: object) -> dict[str, list]:
        """The likeliest class by name, its probability, and the probability of every class."""
        shares = torch.stack(logits).float().softmax(-1)
        best = shares.max(-1)
        return {
            "prediction": [self.names[number] for number in best.indices.tolist()],
            "probability": rounded(best.values),
            **probabilities(shares, self.names),
        }


def probabilities(shares: torch.Tensor, names: dict[int, str]) -> dict[str, list[float]]:
    """A column for each class, of ``[rows, classes]``."""
    return {f"probability_{names[number]}": rounded(shares[:, number]) for number in range(shares.shape[1])}


def rounded(shares: torch.Tensor) -> list[float]:
    """Probabilities with as many digits as somebody reads."""
    return [round(share, 6) for share in shares.tolist()]
