"""What Trainer needs for some models: losses that a norm adds, code that is pushed during the training."""

from typing import cast

import torch
from torch import nn
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from .models.base.auxiliary_loss import collect_losses
from .models.base.protocols import StockValue
from .models.core.addnorm_config import CodeCarryingConfig


class CarryCode(TrainerCallback):
    """Trainer callback: saves the model's code in every push, so that it loads where hf_addnorm is not installed.

    With `push_to_hub=True`, Trainer pushes at the end of the training, code included, and before that at every save
    (`hub_strategy="every_save"`), when it takes weights and config.json alone from the checkpoint. This puts the code
    beside them:

        Trainer(model, args, callbacks=[CarryCode()])
    """

    def on_push_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: PreTrainedModel | None = None,
        **kwargs: StockValue,
    ) -> None:
        """Write the code of the model into the folder that is pushed."""
        config = cast(CodeCarryingConfig, cast(PreTrainedModel, model).config)
        config.save_code(str(args.output_dir))


class AddNormTrainer(Trainer):
    """Trainer that adds what norms add to the loss (`regularized_bn`) where Trainer itself computes the loss.

    With label smoothing or `compute_loss_func` the model is given no labels, so that its forward has no loss to add
    to. Elsewhere it is Trainer: the model adds by itself. Arguments: those of `Trainer`.

    A micro-batch counts by its share of `num_items_in_batch`, where the loss is divided by that, else as one of the
    micro-batches of a step.
    """

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, StockValue],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, StockValue]:
        """As in Trainer, with what the modules of the model add."""
        labels = inputs.get("labels")
        if labels is None or (self.label_smoother is None and self.compute_loss_func is None):
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        (loss, outputs), losses = collect_losses(
            super().compute_loss, model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch
        )
        weight = self._weight(labels, num_items_in_batch)
        for extra in losses:
            loss = loss + (extra * weight).to(loss)
        return (loss, outputs) if return_outputs else loss

    def _weight(self, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None) -> torch.Tensor | float:
        """By what Trainer, whose `training_step` may take a mean later, wants the loss of a micro-batch multiplied."""
        takes_mean_later = getattr(self, "loss_is_scaled_for_ga", None) is False or (
            self.compute_loss_func is None and not (self.model_accepts_loss_kwargs and num_items_in_batch is not None)
        )
        if takes_mean_later:
            return 1.0
        if num_items_in_batch is None:
            return 1.0 / self.current_gradient_accumulation_steps
        share = labels.ne(-100).sum() / num_items_in_batch
        if self.args.average_tokens_across_devices:
            # Trainer counts the labels of all processes, whose gradients are averaged
            share = share * self.accelerator.num_processes
        return share
