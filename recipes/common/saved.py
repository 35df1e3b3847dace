"""A saved model that is evaluated, or predicts, alone: its labels, its predictions as a table, its figures."""

import time
from typing import Any

from datasets import ClassLabel, Dataset, List, Value
from torch.utils.data import DataLoader

from .config import RunConfig
from .data import Classes, as_names, held_out
from .errors import UserError
from .evaluation import PADDING, predict
from .files import write_json, write_table
from .model import saved_classes
from .report import what_ran, where_it_ran
from .run import OutputFiles, Run, written
from .training import Task


# Names of what is written begin so, and a column of the file may not.
OWN_NAMES = ("prediction", "probability")


def class_labels(
    config: RunConfig, splits: dict[str, Dataset], column: str
) -> tuple[dict[str, list[int]], dict[str, Any]]:
    """Class numbers by the saved model's classes, -100 where labels are not asked for; see ``data.Classes``."""
    classes = classes_of(config, column)
    if config.do == "predict":
        return {split: [PADDING] * len(rows) for split, rows in splits.items()}, classes.head
    numbers = {
        split: [
            classes.number(value, split, row)
            for row, value in enumerate(as_names(rows[column], rows.features[column]))
        ]
        for split, rows in splits.items()
    }
    return numbers, classes.head


def classes_of(config: RunConfig, column: str) -> Classes:
    """The saved model's classes, to read a label column by."""
    return Classes(column, ClassLabel(names=saved_classes(config)), [], None)


def use_saved(run: Run, task: Task, model: Any, sources: dict[str, Any]) -> None:
    """Evaluate the model on the rows, or let it predict, as the config says; write and print what came out."""
    accelerator, evaluation, files = run.accelerator, task.evaluation, run.folder
    assert isinstance(files, OutputFiles)
    rows = held_out(run.config)
    if files.predictions is not None:
        _refuse_names(rows)
    loader = DataLoader(evaluation.rows, run.config.eval_batch_size, collate_fn=task.collate)
    prepared, clock = accelerator.prepare_model(model, evaluation_mode=True), time.perf_counter()
    columns = predict(accelerator, prepared, accelerator.prepare(loader), evaluation.outputs)
    seconds = time.perf_counter() - clock
    if files.result is not None:
        scores = evaluation.score(*columns)
        figures = ", ".join(f"{name} {score:.4f}" for name, score in scores.items())
        accelerator.print(f"{len(rows)} rows: {figures}")
        result = {
            **what_ran(run, model),
            "metrics": scores,
            "data": sources["validation"],
            "seconds": round(seconds, 2),
            **where_it_ran(run, model),
        }
        with written(accelerator):
            if accelerator.is_main_process:
                write_json(files.result, result)
        accelerator.print(f"the figures are in {files.result}")
    if files.predictions is not None:
        assert evaluation.describe is not None
        found = evaluation.describe(*columns)
        if evaluation.order is not None:
            places = sorted(range(len(rows)), key=lambda place: evaluation.order[place])
            found = {name: [values[place] for place in places] for name, values in found.items()}
        with written(accelerator):
            if accelerator.is_main_process:
                write_table(files.predictions, _readable(rows) | found)
        accelerator.print(f"{len(rows)} predictions are in {files.predictions}: columns {', '.join(found)}")


def _refuse_names(rows: Dataset) -> None:
    for column in rows.column_names:
        if column.startswith(OWN_NAMES):
            raise UserError(
                f"the file has a column {column!r}: names that begin with {' or '.join(OWN_NAMES)} are those of what "
                "is predicted; rename it"
            )


def _readable(rows: Dataset) -> dict[str, list]:
    # no pixels and no sound
    kept = [name for name, feature in rows.features.items() if _is_readable(feature)]
    return {name: as_names(rows[name], rows.features[name]) for name in kept}


def _is_readable(feature: Any) -> bool:
    if isinstance(feature, List):
        return isinstance(feature.feature, Value | ClassLabel) and _is_readable(feature.feature)
    if isinstance(feature, dict):
        return all(map(_is_readable, feature.values()))
    if isinstance(feature, Value):
        return "binary" not in feature.dtype
    return isinstance(feature, ClassLabel)
