"""Segmentation, a class for each pixel, with a stock or AddNorm model, from a checkpoint or from scratch.

    accelerate launch recipes/finetune_segmentation.py --config recipes/configs/shapes.yaml [--key value ...]

One YAML is one run, and every key can be given on the command line too; README.md beside this file lists them.
"""

from dataclasses import dataclass

from accelerate.utils import set_seed
from common import data, masks
from common.config import RunConfig
from common.ending import finish
from common.errors import UserError, run_script
from common.evaluation import Evaluation
from common.images import Pixels, load_processor, patch_counter
from common.model import load_model, saved_classes, saved_head
from common.run import main_process_first, start
from common.training import Task
from jsonargparse.typing import ClosedUnitInterval, NonNegativeInt
from torch import nn
from transformers import AutoModelForSemanticSegmentation


@dataclass(kw_only=True)
class SegmentationConfig(RunConfig):
    """Keys of this recipe, beside those that all recipes have.

    Args:
        image_column: column of the image: of ``datasets.Image``, a file's bytes or name, or rows of pixels.
        mask_column: column of the class of each pixel: rows of numbers, or an image of them; 255 is one without.
        label_names: names of the classes in the order of their numbers; default those of the checkpoint's head.
        flips: every other training image, on average, is mirrored; and every other one is turned upside down.
        crop: of every other training image a part is cut out and enlarged, as small as 1 - crop of its area.
        color: brightness, contrast and saturation of every other training image are changed by up to this share.
        pictures: so many validation images are drawn with their masks, in ``masks.png`` of the output_dir.
    """

    image_column: str = "image"
    mask_column: str = "mask"
    label_names: list[str] | None = None
    flips: bool = False
    crop: ClosedUnitInterval = 0.0
    color: ClosedUnitInterval = 0.0
    pictures: NonNegativeInt = 4


def classes(config):
    """The names of the classes, in the order of their numbers."""
    if config.do != "train":
        return saved_classes(config)
    head = saved_head(config)
    names = config.label_names or (head and head.names)
    if not names:
        raise UserError("label_names must say which classes the numbers in a mask are: the first one is that of 0")
    if len(set(names)) < max(2, len(names)):
        raise UserError(f"label_names must be at least two names, no two alike: {', '.join(names)}")
    return names


def refuse_single_images(config, model, rows):
    """Refuse micro-batches of one image where the model takes statistics over a batch."""
    if config.do != "train" or not any(isinstance(part, nn.BatchNorm2d) for part in model.modules()):
        return
    size = min(config.micro_batch_size or config.batch_size, config.batch_size)
    if size == 1 or len(rows) % config.batch_size == 1:
        raise UserError(
            f"{len(rows)} rows in batches of {config.batch_size} leave a batch of one image, over which the norms of "
            "this model's head cannot be trained: choose another batch_size or micro_batch_size"
        )


def main(args=None):
    """One run, from the config to the result JSON."""
    run = start(SegmentationConfig, args)
    config = run.config

    # Data, and the names of its classes.
    with main_process_first(run.accelerator):
        splits = data.load_splits(config, [], config.image_column, labels=[config.mask_column])
    names = classes(config)
    for split, rows in splits.items():
        splits[split] = data.subset(rows, config.max_train_rows if split == "train" else None, config.seed)

    # Model: the same new weights on every process. It says the size and channels of the images.
    set_seed(config.seed)
    head = {"id2label": dict(enumerate(names)), "label2id": {name: number for number, name in enumerate(names)}}
    model = load_model(AutoModelForSemanticSegmentation, config, run.accelerator.device, **head)
    pixels = Pixels(load_processor(config, model.config, "BeitImageProcessor"), model)
    masked = masks.Masked(pixels, config.image_column, config.mask_column, names)
    encoded, sources = {}, {}
    for split, rows in splits.items():
        with main_process_first(run.accelerator):
            encoded[split] = masked.encode(rows, split, known=config.do != "predict")
        sources[split] = data.source(encoded[split])
        run.accelerator.print(f"{split}: {sources[split]['rows']} images")
    refuse_single_images(config, model, encoded.get("train", ()))
    reader = masks.MaskOutputs(names)

    def beside(bare, predictions):
        """The figures of what needs no model, and the picture."""
        found, _, known = predictions
        if config.pictures and run.accelerator.is_main_process:
            shown = range(min(config.pictures, len(known)))
            images = [pixels.array(encoded["validation"][row]) for row in shown]
            parts = ([column[row] for row in shown] for column in (known, found))
            masks.draw_masks(run.folder.path / "masks.png", images, *parts, names)
        most = masks.commonest([masked.array(row) for row in encoded["train"]])
        guess = [one.new_full(one.shape, most) for one in found]
        return {"commonest_class": {"class": names[most], **masks.overlap(guess, known, names)}}

    # Train, save, load as a user would, compare, report.
    task = Task(
        rows=encoded.get("train"),
        lengths=lambda rows: [1] * len(rows),
        collate=masked.collate,
        loss=masks.summed_loss,
        evaluation=Evaluation(
            rows=encoded["validation"],
            outputs=masks.found_in,
            score=reader.score,
            best="mean_iou",
            describe=reader.describe,
        ),
        auto_class=AutoModelForSemanticSegmentation,
        sizes=patch_counter(model, pixels),
        augment=masked.changing(config) if config.do == "train" else None,
    )
    finish(run, task, model, pixels.processor, sources, beside)


if __name__ == "__main__":
    run_script(main)
