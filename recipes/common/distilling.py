"""Distillation: a converted model learns, without labels, to give what its source gives in each layer and at last."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch.nn import functional
from transformers import PreTrainedModel

from hf_addnorm import convert
from hf_addnorm.conversion.measuring import main_output
from hf_addnorm.sites import sublayers

from .errors import UserError, one_line
from .switching import Switching


# So many batches tell how much what a Linear layer gives varies.
BATCHES = 8


class Distillation:
    """What a model gives beside its source, on the same rows.

    Norms are compared by what reads them: the Linear layers that begin each sublayer give the same in both models,
    wherever the norm stands and whatever of it is folded into weights.

        loss = hidden_weight * mean over Linear layers of |difference|^2 / variance + logits_weight * KL

    Args:
        source: the trained model, which is not trained here.
        accelerator: of the run.
        batches: some of the inputs, on which the variances are taken.
        hidden_weight, logits_weight: of the two parts of the loss. A model without scores of classes has, in the place
            of the KL divergence, the squared distance of its output in parts of the variance.
    """

    def __init__(
        self,
        source: PreTrainedModel,
        accelerator: Accelerator,
        batches: list[dict[str, Any]],
        hidden_weight: float = 1.0,
        logits_weight: float = 1.0,
        switching: Switching | None = None,
    ):
        self.source, self.accelerator = source.to(accelerator.device).eval().requires_grad_(False), accelerator
        self.hidden_weight, self.logits_weight, self.switching = hidden_weight, logits_weight, switching
        # where layers are shared, one path stands for every depth
        self.paths = list(dict.fromkeys(path for sub in sublayers(source) for path in sub.readers))
        self.variances = self._variances(batches[:BATCHES])

    @torch.no_grad()
    def _variances(self, batches: list[dict[str, Any]]) -> list[torch.Tensor]:
        kept: list[list[torch.Tensor]] = []
        for batch in batches:
            batch = {name: part.to(self.accelerator.device) for name, part in batch.items()}
            real = batch["attention_mask"].bool()
            (output, _), given = self._run(self.source, batch)
            parts = given if output.dim() < 3 else [*given, output]
            kept.append([part[real].float() for part in parts])
        # a mean over features, so that a feature that never varies divides nothing by 0
        return [torch.cat(parts).var(0).mean().clamp(min=1e-12) for parts in zip(*kept, strict=True)]

    def _run(self, model: Any, inputs: dict[str, Any]) -> tuple[tuple[torch.Tensor, bool], list[torch.Tensor]]:
        """A model's main output, whether it is scores, and what its sublayers' first Linear layers give, in order."""
        with _given_by(self.accelerator.unwrap_model(model), self.paths) as given:
            output = main_output(model(**inputs))
        return output, given

    def compare(self, model: Any, batch: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of each row, [rows]: error of the layers; divergence of the outputs; share of the predictions that agree."""
        inputs = {name: part for name, part in batch.items() if name != "labels"}
        # dropout would ask for what the source does not give, and running statistics stay as they were fitted
        model.eval()
        with torch.no_grad(), self.accelerator.autocast():
            (wanted, is_scores), wanted_inside = self._run(self.source, inputs)
        (found, _), inside = self._run(model, inputs)
        real = inputs["attention_mask"].float()
        pairs = zip(inside, wanted_inside, self.variances, strict=False)
        errors = [(a.float() - b.float()).square().mean(-1) / variance for a, b, variance in pairs]
        hidden = _row_means(torch.stack(errors).mean(0), real)
        divergence, agrees = self._outputs(found.float(), wanted.float(), is_scores)
        if found.dim() == 3:
            divergence, agrees = _row_means(divergence, real), _row_means(agrees, real)
        return hidden, divergence, agrees

    def _outputs(
        self, found: torch.Tensor, wanted: torch.Tensor, is_scores: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        agrees = (found.argmax(-1) == wanted.argmax(-1)).float()
        if not is_scores:
            return (found - wanted).square().mean(-1) / self.variances[-1], agrees
        log_wanted = wanted.log_softmax(-1)
        return functional.kl_div(found.log_softmax(-1), log_wanted, reduction="none", log_target=True).sum(-1), agrees

    def loss(self, model: Any, batch: Any) -> torch.Tensor:
        """Summed over the rows; those that fill up a process's share are left out."""
        switching = self.switching
        with nullcontext() if switching is None else switching.mixed(self.accelerator.unwrap_model(model)):
            hidden, divergence, _ = self.compare(model, batch)
        total = self.hidden_weight * hidden + self.logits_weight * divergence
        return total[batch["labels"] != -100].sum()

    @staticmethod
    def score(hidden: list, divergence: list, agrees: list) -> dict[str, float]:
        """The means over rows; the divergence is the figure by which evaluations are compared."""
        parts = {"kl": divergence, "agreement": agrees, "hidden_error": hidden}
        return {name: torch.stack(rows).double().mean().item() for name, rows in parts.items()}


@contextmanager
def _given_by(model: PreTrainedModel, paths: list[str]) -> Iterator[list[torch.Tensor]]:
    """What the modules at the paths give while the context holds, in the order in which they run."""
    given: list[torch.Tensor] = []
    handles = [
        model.get_submodule(path).register_forward_hook(lambda module, args, output: given.append(output))
        for path in paths
    ]
    try:
        yield given
    finally:
        for handle in handles:
            handle.remove()


def _row_means(of_tokens: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    return (of_tokens * real).sum(-1) / real.sum(-1)


def converted(
    source: PreTrainedModel, accelerator: Accelerator, batches: list[dict[str, Any]], method: str, add_norm: Any
) -> PreTrainedModel:
    """The model that the distillation begins with, the same on every process.

    The main process fits it and prints the report; the others get its weights.

    Raises:
        UserError: for whatever the conversion refuses.
    """
    method = method if accelerator.is_main_process else "mapped"
    try:
        model, report = convert(source, add_norm=add_norm, calibration=batches, method=method)
    except ValueError as error:
        raise UserError(f"add_norm: {one_line(error)}") from error
    if accelerator.num_processes > 1:
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.data.copy_(broadcast(tensor.data.to(accelerator.device)))
    accelerator.print(report)
    return model
