"""How every training script ends: training, the saved folder, the proof that it predicts the same, the result."""

import math
from collections.abc import Callable
from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from .evaluation import Columns, Outputs, predict
from .freezing import say_what_is_trained
from .model import choose_trained, is_adapted, load_saved
from .report import summary
from .run import Run
from .saved import use_saved
from .training import Task, Trained, train


# So many rows are compared in float32 too, where the training was not in it.
SAMPLE = 256


def finish(
    run: Run,
    task: Task,
    model: PreTrainedModel,
    processor: Any,
    sources: dict[str, Any],
    more: Callable[[PreTrainedModel, Columns], dict[str, Any]] | None = None,
) -> None:
    """Train, save, load as a user would and compare, then write the model's card and the result JSON.

    Where a saved model is not trained but used: evaluate it, or let it predict, and write that.

    Args:
        run: the run, of which nothing has been written so far.
        task: what is trained, and how it is evaluated.
        model: as it was loaded, the same on every process.
        processor: what makes the model's inputs, saved beside it.
        sources: rows and sha256 of each split, part of what the run is.
        more: of the trained model and what it predicts, entries of the result that only this recipe has.
    """
    if run.config.do != "train":
        return use_saved(run, task, model, sources)
    loader = DataLoader(task.evaluation.rows, run.config.eval_batch_size, collate_fn=task.collate)
    loader = run.accelerator.prepare(loader)
    model = choose_trained(model, run.config)
    record = task.record | say_what_is_trained(model, run.config, run.accelerator)
    trained = train(run, task, model, loader, sources)
    bare, predictions, checked = save_and_load_again(run, task, trained, processor, loader)
    own = {} if more is None else more(bare, predictions)
    if trained.ended:
        own["ended_early"] = trained.ended
    result = summary(run, bare, trained.progress, data=sources, reload=checked, **record, **own)
    run.folder.finish(run.accelerator, result)


def save_and_load_again(
    run: Run, task: Task, trained: Trained, processor: Any, loader: DataLoader
) -> tuple[PreTrainedModel, Columns, dict[str, int]]:
    """Write ``model/``, load it as a user would, and compare: all rows as evaluated, a sample of them in float32.

    What the last evaluation predicted is not computed anew, if it was of the weights that are saved. LoRA adapters are
    kept in ``adapter/``, then merged, and the merged model predicts.

    Returns:
        the trained model, unwrapped, what it predicts, and how many rows were equal.
    Raises:
        RuntimeError: the model that was loaded gives something else.
    """
    accelerator, outputs = run.accelerator, task.evaluation.outputs
    model, predictions = trained.model, trained.predictions
    bare = accelerator.unwrap_model(model)
    if is_adapted(bare):
        run.folder.save_adapter(accelerator, bare)
        model, predictions = accelerator.prepare_model(bare.merge_and_unload(), evaluation_mode=True), None
    if predictions is None:
        predictions = predict(accelerator, model, loader, outputs)
    run.folder.save_model(accelerator, model, processor)
    # takes autocast away, also from the model as it was prepared
    bare = accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    saved = load_saved(task.auto_class, run.folder.model, like=bare)
    # in float32 already: what all rows are compared in
    in_float32 = accelerator.mixed_precision == "no"
    sample = [] if in_float32 else _sample(bare, task.evaluation.rows)
    equal = _same_in_float32((bare, saved), sample, task.collate, outputs)
    again = predict(accelerator, accelerator.prepare_model(saved, evaluation_mode=True), loader, outputs)
    if not (equal and _same(predictions, again)):
        raise RuntimeError(f"the model loaded from {run.folder.model} predicts something else than the trained one")
    rows = len(again[0])
    checked = {"predictions_equal": rows, "float32_logits_equal": rows if in_float32 else len(sample)}
    accelerator.print(
        f"loaded again from {run.folder.model}: all {rows} predictions equal, "
        f"float32 logits of {checked['float32_logits_equal']} rows equal"
    )
    return bare, predictions, checked


def _sample(model: Any, rows: Dataset) -> list:
    # parts of a sharded model have no forward of their own
    if any(hasattr(parameter, "device_mesh") for parameter in model.parameters()):
        return []
    return [rows[row] for row in range(0, len(rows), math.ceil(len(rows) / SAMPLE))]


def _same(first: Columns, second: Columns) -> bool:
    return all(
        torch.equal(*rows) for columns in zip(first, second, strict=True) for rows in zip(*columns, strict=True)
    )


@torch.no_grad()
def _same_in_float32(models: tuple[Any, Any], rows: list, collate: Callable, outputs: Outputs) -> bool:
    for start in range(0, len(rows), 64):
        batch = collate(rows[start : start + 64])
        pair = [outputs(model.eval(), batch.to(model.device)) for model in models]
        if not all(torch.equal(*parts) for parts in zip(*pair, strict=True)):
            return False
    return True
