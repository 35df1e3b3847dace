"""Image classification with a stock or AddNorm vision model, from a checkpoint or from scratch.

    accelerate launch recipes/finetune_images.py --config recipes/configs/digits.yaml [--key value ...]

One YAML is one run, and every key can be given on the command line too; README.md beside this file lists them.
"""

import time
from dataclasses import dataclass

import numpy as np
import torch
from accelerate.utils import set_seed
from common import data
from common.config import RunConfig, parse
from common.ending import predict, save_and_load_again
from common.errors import run
from common.images import Pixels, load_processor, moved
from common.metrics import CLASSIFICATION, leading_figure, load_metrics
from common.model import choose_trained, load_model
from common.report import summary
from common.run import RunFolder, main_process_first, start
from common.training import Task, train
from jsonargparse.typing import NonNegativeInt, PositiveInt
from torch.nn import functional
from torch.utils.data import DataLoader
from transformers import AutoModelForImageClassification


@dataclass(kw_only=True)
class ImageConfig(RunConfig):
    """Keys of this recipe, beside those that all recipes have.

    Args:
        image_column: column of the image: of ``datasets.Image``, a file's bytes or name, or rows of pixels.
        label_column: column of the class, its number or name.
        num_labels: number of classes; default those that the dataset declares, else those in the train split.
        shift: training images are moved by up to so many pixels, the border repeated.
        flip: every other training image, on average, is mirrored.
        metrics: names of the metrics; default all of the task.
    """

    image_column: str = "image"
    label_column: str = "label"
    num_labels: PositiveInt | None = None
    shift: NonNegativeInt = 0
    flip: bool = False
    metrics: list[str] | None = None


def loss(model, batch):
    """Summed over the rows that have a label."""
    logits, labels = outputs(model, batch)
    return functional.cross_entropy(logits, labels, ignore_index=-100, reduction="sum")


def outputs(model, batch):
    """Logits and labels of a batch."""
    return model(pixel_values=batch["pixel_values"]).logits, batch["labels"]


def main(args=None):
    """One run, from the config to the result JSON."""
    began = time.perf_counter()
    config, resume = parse(ImageConfig, args)
    metric = load_metrics(config.metrics, CLASSIFICATION)
    accelerator = start(config)
    folder = RunFolder(config, resume, accelerator.num_processes)

    # Data: read, check every label.
    with main_process_first(accelerator):
        splits = data.load_splits(config, [], config.label_column)
    for split, rows in splits.items():
        data.check_columns(split, rows, [], [config.image_column])
    labels, head = data.class_labels(splits, config.label_column, config.num_labels)

    # Model: the same new weights on every process.
    set_seed(config.seed)
    model = load_model(AutoModelForImageClassification, config, accelerator.device, **head)

    # Images: draw the subset, open every one, bring it to the model's size.
    pixels = Pixels(load_processor(config, model.config.image_size), model.config.image_size)
    encoded, sources = {}, {}
    for split, rows in splits.items():
        rows = rows.select_columns([config.image_column]).add_column("labels", labels[split])
        rows = rows.add_column("row", range(len(rows)))
        rows = data.subset(rows, config.max_train_rows if split == "train" else None, config.seed)
        with main_process_first(accelerator):
            encoded[split] = pixels.encode(rows, split, config.image_column)
        sources[split] = data.source(encoded[split])
        accelerator.print(f"{split}: {sources[split]['rows']} rows, sha256 {sources[split]['sha256']}")

    def collate(rows):
        return pixels.batch(rows) | {"labels": torch.tensor([row["labels"] for row in rows])}

    def augment(row, draw):
        return row | {"pixels": moved(pixels.array(row), draw, config.shift, config.flip).tobytes()}

    # of an image; one for a model that has none
    height, width = pixels.shape[1:] // np.broadcast_to(getattr(model.config, "patch_size", pixels.shape[1:]), 2)

    def sizes(batch):
        patches = torch.tensor(len(batch["labels"]) * height * width, device=batch["labels"].device)
        return patches, patches

    validation = DataLoader(encoded["validation"], config.eval_batch_size, collate_fn=collate)
    validation = accelerator.prepare(validation)

    def evaluate(model):
        logits, targets = (torch.stack(rows) for rows in predict(accelerator, model, validation, outputs))
        return metric.compute(predictions=logits.argmax(-1).numpy(), references=targets.numpy())

    task = Task(
        rows=encoded["train"],
        lengths=[1] * len(encoded["train"]),
        collate=collate,
        loss=loss,
        evaluate=evaluate,
        best=leading_figure(config.metrics, CLASSIFICATION),
        sizes=sizes,
        augment=augment if config.shift or config.flip else None,
    )
    model, progress = train(accelerator, config, folder, choose_trained(model, config), task, sources)

    # Save, load as a user would, and compare.
    trained, checked = save_and_load_again(
        accelerator, folder, model, pixels.processor, AutoModelForImageClassification, validation, outputs
    )
    result = summary(accelerator, config, trained, progress, began, data=sources, reload=checked)
    folder.finish(accelerator, {"recipe": "finetune_images", **result})


if __name__ == "__main__":
    run(main)
