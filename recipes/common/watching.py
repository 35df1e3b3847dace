"""`watch`: what add & norm does while a model is trained, on the same few rows, logged to the trackers."""

from typing import Any

import torch

from hf_addnorm.diagnosis.training import ROWS, TrainingWatch

from .errors import UserError, one_line
from .run import Run


def training_watch(run: Run, task: Any, model: Any, step: int) -> TrainingWatch | None:
    """What takes the figures, on the main process; None elsewhere, and where the config does not ask for them.

    Args:
        run: the run.
        task: its first training rows are looked at, with its loss.
        model: as the accelerator has prepared it.
        step: the steps that were done before; a new run's model is looked at once here.
    Raises:
        UserError: a model that cannot be watched.
    """
    if run.config.watch is None:
        return None
    bare = run.accelerator.unwrap_model(model)
    if any(hasattr(parameter, "device_mesh") or hasattr(parameter, "ds_id") for parameter in bare.parameters()):
        raise UserError("watch looks at whole models, and this one is sharded: run it on one device, or with DDP")
    if not run.accelerator.is_main_process:
        return None
    with torch.random.fork_rng(devices=[]):
        batch = task.batch(list(range(min(ROWS, len(task.rows)))), "watch")
    try:
        watch = TrainingWatch(bare, batch, task.loss)
    except ValueError as error:
        raise UserError(f"watch: {one_line(error)}") from error
    if step == 0:
        log_watched(run, watch, step)
    return watch


def log_watched(run: Run, watch: TrainingWatch | None, step: int) -> None:
    """Log the figures where a look is due: before the first step and every ``watch`` steps."""
    if watch is not None and step % run.config.watch == 0:
        run.accelerator.log(watch.figures(), step)
