"""Image classification with a stock or AddNorm vision model, from a checkpoint or from scratch.

    accelerate launch recipes/finetune_images.py --config recipes/configs/digits.yaml [--key value ...]

One YAML is one run, and every key can be given on the command line too; README.md beside this file lists them.
"""

from dataclasses import dataclass
from functools import partial

import torch
from accelerate.utils import set_seed
from common import data, saved
from common.classes import ClassOutputs, ClassWeights, class_weights, summed_loss, weights_by_name
from common.config import RunConfig
from common.ending import finish
from common.errors import run_script
from common.evaluation import Evaluation
from common.images import Pixels, load_processor, moved, patch_counter
from common.metrics import CLASSIFICATION, leading_figure, load_metrics
from common.model import load_model, saved_head
from common.run import main_process_first, start
from common.training import Task
from jsonargparse.typing import NonNegativeInt, PositiveInt
from transformers import AutoModelForImageClassification


@dataclass(kw_only=True)
class ImageConfig(RunConfig):
    """Keys of this recipe, beside those that all recipes have.

    Args:
        image_column: column of the image: of ``datasets.Image``, a file's bytes or name, or rows of pixels.
        label_column: column of the class, its number or name.
        label_names: names of the classes in the order of their numbers: for a column that has numbers alone, or to fix
            the order, or name classes that the train split lacks.
        num_labels: number of classes; default those that the dataset declares, else those in the train split.
        shift: training images are moved by up to so many pixels, the border repeated.
        flip: every other training image, on average, is mirrored.
        class_weights: of classes in the training loss: ``balanced``, as in scikit-learn, or a weight by name of a
            class; those that are not named have 1. The loss is divided by the weights of its labels.
        metrics: names of the metrics; default all of the task.
    """

    image_column: str = "image"
    label_column: str = "label"
    label_names: list[str] | None = None
    num_labels: PositiveInt | None = None
    shift: NonNegativeInt = 0
    flip: bool = False
    class_weights: ClassWeights | None = None
    metrics: list[str] | None = None


def loss(model, batch, weights=None):
    """Summed over the rows that have a label, each by the weight of its class."""
    return summed_loss(*outputs(model, batch), weights)


def outputs(model, batch):
    """Logits and labels of a batch."""
    return model(pixel_values=batch["pixel_values"]).logits, batch["labels"]


def read(run):
    """Rows and labels of both splits, and what the head must be."""
    config = run.config
    with main_process_first(run.accelerator):
        splits = data.load_splits(config, [], labels=[config.label_column])
    for split, rows in splits.items():
        data.check_columns(split, rows, [], [config.image_column])
    if config.do != "train":
        return splits, *saved.class_labels(config, splits, config.label_column)
    return splits, *data.class_labels(
        splits, config.label_column, config.num_labels, config.label_names, saved_head(config)
    )


def open_images(run, splits, labels, pixels):
    """Of both splits: draw the subset, open every image, bring it to the model's size; and what they are made of."""
    config = run.config
    encoded, sources = {}, {}
    for split, rows in splits.items():
        rows = rows.select_columns([config.image_column]).add_column("labels", labels[split])
        rows = rows.add_column("row", range(len(rows)))
        rows = data.subset(rows, config.max_train_rows if split == "train" else None, config.seed)
        with main_process_first(run.accelerator):
            encoded[split] = pixels.encode(rows, split, config.image_column)
        sources[split] = data.source(encoded[split])
        run.accelerator.print(f"{split}: {sources[split]['rows']} rows, sha256 {sources[split]['sha256']}")
    return encoded, sources


def collating(pixels):
    """Makes a batch of rows."""
    return lambda rows: pixels.batch(rows) | {"labels": torch.tensor([row["labels"] for row in rows])}


def moving(config, pixels):
    """Moves the image of a training row at random; None where the config asks for nothing."""
    if not (config.shift or config.flip):
        return None
    return lambda row, draw: row | {"pixels": moved(pixels.array(row), draw, config.shift, config.flip).tobytes()}


def main(args=None):
    """One run, from the config to the result JSON."""
    run = start(ImageConfig, args)
    config = run.config
    metric = load_metrics(config.metrics, CLASSIFICATION)

    # Data: read, check every label.
    splits, labels, head = read(run)

    # Model: the same new weights on every process. It says the size and channels of the images.
    set_seed(config.seed)
    model = load_model(AutoModelForImageClassification, config, run.accelerator.device, **head)
    pixels = Pixels(load_processor(config, model.config), model)
    encoded, sources = open_images(run, splits, labels, pixels)

    # Train, save, load as a user would, compare, report.
    weights = class_weights(config, encoded, model, run.accelerator)
    reader = ClassOutputs(metric, model.config.id2label)
    task = Task(
        rows=encoded.get("train"),
        lengths=lambda rows: [1] * len(rows),
        collate=collating(pixels),
        loss=partial(loss, weights=weights),
        weights=weights,
        record=weights_by_name(weights, model),
        evaluation=Evaluation(
            rows=encoded["validation"],
            outputs=outputs,
            score=reader.score,
            best=leading_figure(config.metrics, CLASSIFICATION),
            describe=reader.describe,
        ),
        auto_class=AutoModelForImageClassification,
        sizes=patch_counter(model, pixels),
        augment=moving(config, pixels),
    )
    finish(run, task, model, pixels.processor, sources)


if __name__ == "__main__":
    run_script(main)
