"""Object detection with a stock or AddNorm model of DETR's kind (YOLOS), from a checkpoint or from scratch.

    accelerate launch recipes/finetune_detection.py --config recipes/configs/bccd.yaml \
        --train_file bccd/train.parquet --validation_file bccd/validation.parquet [--key value ...]

One YAML is one run, and every key can be given on the command line too; README.md beside this file lists them.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal

from accelerate.utils import set_seed
from common import data, objects, saved, starts
from common.config import RunConfig
from common.ending import finish
from common.errors import run_script
from common.evaluation import Evaluation
from common.images import Pixels, load_processor, patch_counter
from common.model import load_model, saved_head
from common.run import main_process_first, start
from common.training import Task
from jsonargparse.typing import ClosedUnitInterval, NonNegativeInt
from transformers import AutoModelForObjectDetection


@dataclass(kw_only=True)
class DetectionConfig(RunConfig):
    """Keys of this recipe, beside those that all recipes have.

    Args:
        image_column: column of the image: of ``datasets.Image``, a file's bytes or name, or rows of pixels.
        boxes_column: column of the boxes of an image, four numbers each, in pixels of the file.
        labels_column: column of the classes of these boxes, their numbers or names.
        label_names: names of the classes in the order of their numbers: for a column that has numbers alone, or to fix
            the order, or name classes that the train split lacks.
        box_format: ``corners`` are left, upper, right and lower edge; ``coco`` left and upper edge, width and height.
        placed_start: the detection tokens of a new model start at places spread over the image, see what is near them,
            and say boxes of the mean size there; drawn ones, the default, find nothing for thousands of steps.
        flips: every other training image, on average, is mirrored; and every other one is turned upside down.
        crop: of every other training image a part is cut out and enlarged, as small as 1 - crop of its area.
        color: brightness, contrast and saturation of every other training image are changed by up to this share.
        pictures: so many validation images are drawn with what is found in them, in ``objects.png`` of the output_dir.
    """

    image_column: str = "image"
    boxes_column: str = "boxes"
    labels_column: str = "labels"
    label_names: list[str] | None = None
    box_format: Literal["corners", "coco"] = "corners"
    placed_start: bool = False
    flips: bool = False
    crop: ClosedUnitInterval = 0.0
    color: ClosedUnitInterval = 0.0
    pictures: NonNegativeInt = 4


def loss(model, batch):
    """That of the model, which is a mean over the objects, times their number."""
    labels = batch["labels"]
    known = objects.targets(labels, batch["boxes"])
    return model(pixel_values=batch["pixel_values"], labels=known).loss * (labels >= 0).sum()


def outputs(model, batch):
    """Logits and boxes of a batch, and what is known of it."""
    found = model(pixel_values=batch["pixel_values"])
    return found.logits, found.pred_boxes, batch["labels"], batch["boxes"]


def read(run):
    """Rows of both splits with the numbers of their classes, and what the head must be."""
    config = run.config
    with main_process_first(run.accelerator):
        splits = data.load_splits(config, [], config.image_column, labels=[config.boxes_column, config.labels_column])
    if config.do == "predict":
        classes = saved.classes_of(config, config.labels_column)
        empty = {split: [[]] * len(rows) for split, rows in splits.items()}
        boxes, labels = empty, empty
    else:
        if config.do == "evaluate":
            make = lambda feature, values: saved.classes_of(config, config.labels_column)  # noqa: E731
        else:
            make = partial(
                data.Classes, config.labels_column, num_labels=None, names=config.label_names, head=saved_head(config)
            )
        classes, labels = objects.numbered(splits, config.labels_column, make)
        boxes = {split: rows[config.boxes_column] for split, rows in splits.items()}
    chosen = {}
    for split, rows in splits.items():
        rows = rows.select_columns([config.image_column])
        rows = rows.add_column("boxes", list(boxes[split])).add_column("labels", labels[split])
        chosen[split] = data.subset(rows, config.max_train_rows if split == "train" else None, config.seed)
    return chosen, classes.head


def main(args=None):
    """One run, from the config to the result JSON."""
    run = start(DetectionConfig, args)
    config = run.config

    # Data: read, check every label.
    splits, head = read(run)

    # Model: the same new weights on every process. It says the size and channels of the images.
    set_seed(config.seed)
    model = load_model(AutoModelForObjectDetection, config, run.accelerator.device, **head)
    is_new = config.do == "train" and (config.new_weights or not config.checkpoint)
    if is_new:
        starts.start_zeros(model)
    pixels = Pixels(load_processor(config, model.config, "YolosImageProcessor"), model)
    encoded, sources = {}, {}
    for split, rows in splits.items():
        with main_process_first(run.accelerator):
            encoded[split] = objects.encode(rows, split, pixels, config.image_column, config.box_format)
        sources[split] = data.source(encoded[split]) | {"objects": sum(map(len, encoded[split]["labels"]))}
        run.accelerator.print(f"{split}: {sources[split]['rows']} images, {sources[split]['objects']} objects")

    if config.placed_start and is_new:
        some = pixels.batch([encoded["train"][row] for row in range(min(16, len(encoded["train"])))])
        starts.start_placed(model, some["pixel_values"].to(model.device), objects.all_boxes(encoded["train"]))
    names = [model.config.id2label[number] for number in range(model.config.num_labels)]
    reader = objects.ObjectOutputs(names)

    def beside(bare, predictions):
        """The figures of what needs no model, and the picture."""
        found = [objects.found_in(*parts) for parts in zip(*predictions[:2], strict=True)]
        known = [objects.known_of(*parts) for parts in zip(*predictions[2:], strict=True)]
        if config.pictures and run.accelerator.is_main_process:
            shown = [pixels.array(encoded["validation"][row]) for row in range(min(config.pictures, len(known)))]
            count = len(shown)
            objects.draw(run.folder.path / "objects.png", shown, found[:count], known[:count], names)
        guess = objects.mean_boxes(encoded["train"], len(names))
        return {"mean_boxes": objects.average_precision([guess] * len(known), known, len(names))}

    # Train, save, load as a user would, compare, report.
    task = Task(
        rows=encoded.get("train"),
        lengths=lambda rows: [1] * len(rows),
        collate=objects.collating(pixels),
        loss=loss,
        evaluation=Evaluation(
            rows=encoded["validation"],
            outputs=outputs,
            score=reader.score,
            best="map",
            describe=reader.describe,
        ),
        auto_class=AutoModelForObjectDetection,
        sizes=patch_counter(model, pixels),
        augment=objects.changing(config, pixels) if config.do == "train" else None,
    )
    finish(run, task, model, pixels.processor, sources, beside)


if __name__ == "__main__":
    run_script(main)
