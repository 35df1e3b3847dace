"""The figures of a diagnosis while a model is trained: of the same few rows, every so many steps, to the trackers.

What is watched is a forward of its own, in evaluation and on a batch that stays the same, so that the figures of one
step and another can be compared, and no number of the training changes.
"""

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice

import numpy
import torch
from torch import nn
from transformers import (
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from ..models.base.protocols import StockValue
from ..models.core.pretrained import AddNormPreTrainedModel
from .looking import Batch, ComputeLoss, Look, as_add_norm
from .measures import MEASURES
from .result import rows_of
from .sums import Observation


# steps between two looks, and rows of each
EVERY, ROWS = 100, 8


class TrainingWatch:
    """Takes the figures of a model on one batch, again and again.

    Args:
        model: an AddNorm model, a stock model of a family, or a wrapper around one (PEFT).
        batch (`dict`): what it reads; a few rows are enough.
        compute_loss (`Callable`, *optional*): runs the model on the batch and gives the loss; by default the model's.
    Raises:
        ValueError: for a model of no family.
    """

    def __init__(self, model: nn.Module, batch: Batch, compute_loss: ComputeLoss | None = None):
        inside = (module for module in model.modules() if isinstance(module, AddNormPreTrainedModel))
        self.look = Look(as_add_norm(next(inside, model)))
        self.batch, self.compute_loss = batch, compute_loss

    def figures(self) -> dict[str, float]:
        """The figures now: `add_norm/<measure>/<layer>_<part>`, layers from 0 in as many digits as the last one."""
        self.look.observation = Observation()
        with _eagerly(self.look.model):
            self.look.run(self.batch, self.compute_loss)
        self.look.take_weights()
        digits, found = len(str(self.look.depth)), {}
        for row in rows_of("", self.look.observation):
            layer = [] if row.layer is None else [f"{row.layer:0{digits}}"]
            place = "_".join([*layer, *([row.part.replace(" ", "_")] if row.part else [])])
            found[f"add_norm/{row.measure}/{place}"] = row.value
        return found


@contextmanager
def _eagerly(model: nn.Module) -> Iterator[None]:
    """Run modules that are compiled in place as they are: what looks on is not to be compiled."""
    if any(getattr(module, "_compiled_call_impl", None) is not None for module in model.modules()):
        with torch.compiler.set_stance("force_eager"):
            yield
    else:
        yield


class WatchAddNorm(TrainerCallback):
    """Trainer callback: logs the figures of `hf_addnorm.diagnose` while it trains.

        trainer = Trainer(model, args, train_dataset=rows)
        trainer.add_callback(WatchAddNorm(trainer))

    The figures are those of the first rows of the training data, in evaluation. They go to the trackers
    (`report_to`) and to other callbacks that take logs, but not to those that print, nor to `state.log_history`.
    Training is the same as without it, to the last bit.

    Args:
        trainer (`Trainer`): whose model is watched; not sharded.
        every (`int`, *optional*, defaults to 100): optimizer steps between two looks; the first is before step 1.
        rows (`int`, *optional*, defaults to 8): how many rows are looked at.
        measures (`list[str]`, *optional*): keys of `MEASURES`; by default all.
    Raises:
        ValueError: an unknown measure, a number below 1, or a model of no family.
    """

    def __init__(self, trainer: Trainer, every: int = EVERY, rows: int = ROWS, measures: Iterable[str] | None = None):
        if every < 1 or rows < 1:
            raise ValueError(f"every is {every} and rows is {rows}; allowed are numbers from 1.")
        unknown = [key for key in measures or () if key not in MEASURES]
        if unknown:
            raise ValueError(f"measures has {unknown[0]!r}; allowed are {', '.join(MEASURES)}.")
        self.trainer, self.every, self.rows = trainer, every, rows
        self.measures = list(MEASURES) if measures is None else list(measures)
        self.watch: TrainingWatch | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: StockValue
    ) -> None:
        """Look at the model before the first step."""
        batch = first_rows(kwargs["train_dataloader"], self.rows)
        self.watch = TrainingWatch(self.trainer.accelerator.unwrap_model(self.trainer.model), batch)
        if state.global_step == 0:
            self._log(args, state, control)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: StockValue
    ) -> None:
        """Look at it every so many steps."""
        if state.global_step % self.every == 0:
            self._log(args, state, control)

    def _log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl) -> None:
        if self.watch is None or not state.is_world_process_zero:
            return
        found = {key: value for key, value in self.watch.figures().items() if key.split("/")[1] in self.measures}
        for callback in self.trainer.callback_handler.callbacks:
            if not isinstance(callback, (PrinterCallback, ProgressCallback)):
                callback.on_log(args, state, control, logs=dict(found), model=self.trainer.model)


def first_rows(loader: StockValue, count: int) -> Batch:
    """The first rows of a loader's data set as a batch; the random numbers of the training stay where they are."""
    data = loader.dataset
    python, numbers = random.getstate(), numpy.random.get_state()
    with torch.random.fork_rng(devices=[]):
        if hasattr(data, "__getitem__"):
            rows = [data[index] for index in range(min(count, len(data)))]
        else:
            rows = list(islice(iter(data), count))
        batch: Batch = loader.collate_fn(rows)
    random.setstate(python)
    numpy.random.set_state(numbers)
    return batch
