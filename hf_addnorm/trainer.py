"""A Trainer callback for models that are pushed to the Hub during training."""

from typing import cast

from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

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
