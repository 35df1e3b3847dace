"""The end of a run: what the model predicts, the saved folder, and that it predicts the same."""

import math
from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from .model import is_adapted, load_saved
from .run import RunFolder


# Of a model and a batch: tensors whose first axis is the rows.
Outputs = Callable[[Any, Any], tuple[torch.Tensor, ...]]
# Stands where a row of a batch is longer than others; also the label of what has none.
PADDING = -100
# So many rows are compared in float32 too.
SAMPLE = 256


@torch.no_grad()
def predict(accelerator: Accelerator, model: Any, loader: DataLoader, outputs: Outputs) -> tuple[list, ...]:
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


def save_and_load_again(
    accelerator: Accelerator,
    folder: RunFolder,
    model: Any,
    processor: Any,
    auto_class: Any,
    loader: DataLoader,
    outputs: Outputs,
) -> tuple[PreTrainedModel, dict[str, int]]:
    """Write ``model/``, load it as a user would, and compare: all rows as evaluated, a sample of them in float32.

    LoRA adapters are kept in ``adapter/``, then merged.

    Args:
        accelerator: the run's accelerator.
        folder: the run's folder.
        model: as the accelerator has prepared it.
        processor: what makes the model's inputs, saved beside it.
        auto_class: the AutoModel class by which the model is loaded.
        loader: the validation split, prepared.
        outputs: what is compared, bit for bit.
    Returns:
        the trained model, unwrapped, and how many rows were equal.
    Raises:
        RuntimeError: the model that was loaded gives something else.
    """
    bare = accelerator.unwrap_model(model)
    if is_adapted(bare):
        folder.save_adapter(accelerator, bare)
        model = accelerator.prepare_model(bare.merge_and_unload(), evaluation_mode=True)
    predictions = predict(accelerator, model, loader, outputs)
    folder.save_model(accelerator, model, processor)
    # takes autocast away, also from the model as it was prepared
    trained = accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    saved = load_saved(auto_class, folder.model, like=trained)
    # parts of a sharded model have no forward of their own
    sharded = any(hasattr(parameter, "device_mesh") for parameter in trained.parameters())
    step = math.ceil(len(loader.dataset) / SAMPLE)
    sample = [] if sharded else [loader.dataset[row] for row in range(0, len(loader.dataset), step)]
    equal = _same_in_float32(trained, saved, sample, loader.collate_fn, outputs)
    again = predict(accelerator, accelerator.prepare_model(saved, evaluation_mode=True), loader, outputs)
    pairs = zip(predictions, again, strict=True)
    if not (equal and all(torch.equal(*rows) for columns in pairs for rows in zip(*columns, strict=True))):
        raise RuntimeError(f"the model loaded from {folder.model} predicts something else than the trained one")
    rows = len(again[0])
    accelerator.print(
        f"loaded again from {folder.model}: {rows} predictions equal, {len(sample)} rows' float32 logits equal"
    )
    return trained, {"predictions_equal": rows, "float32_logits_equal": len(sample)}


@torch.no_grad()
def _same_in_float32(first: Any, second: Any, rows: list, collate: Callable, outputs: Outputs) -> bool:
    first.eval()
    second.eval()
    for start in range(0, len(rows), 64):
        chosen = rows[start : start + 64]
        pair = [outputs(model, collate(chosen).to(first.device)) for model in (first, second)]
        if not all(torch.equal(*parts) for parts in zip(*pair, strict=True)):
            return False
    return True
