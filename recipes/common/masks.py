"""Masks, the class of each pixel of an image: how they are read, changed with their image, measured and drawn."""

import io
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, DatasetDict, Features, Image, List, Value
from PIL import Image as Picture
from PIL import ImageDraw
from sklearn.datasets import load_sample_images
from sklearn.metrics import accuracy_score, jaccard_score
from torch import nn

from .changes import image_changes
from .errors import UserError, one_line
from .evaluation import PADDING
from .images import Pixels


# What a mask has where a pixel has no class, as in the data sets of the Hub.
NO_CLASS = 255
# Of the drawn shapes.
SHAPES = ("background", "disc", "square", "triangle")
SIZE, TRAIN, HELD_OUT = 32, 800, 64


def shapes() -> DatasetDict:
    """Up to three discs, squares and triangles, drawn over parts of the two photographs that come with scikit-learn.

    Columns: ``image`` (32 x 32 pixels) and ``mask`` (rows of numbers from 0, which is the background, to 3).
    Colours are drawn for each shape, so that none tells a class; the photographs of ``validation`` are cut from their
    right fifth, those of ``train`` from the rest.
    """
    photographs = [Picture.fromarray(array) for array in load_sample_images().images]
    draw = random.Random(0)
    features = Features({"image": Image(), "mask": List(List(Value("uint8")))})
    parts = {"train": (TRAIN, (0.0, 0.8)), "validation": (HELD_OUT, (0.8, 1.0))}
    return DatasetDict(
        {
            split: Dataset.from_list([_drawn(photographs, draw, *span) for _ in range(count)], features=features)
            for split, (count, span) in parts.items()
        }
    )


def _drawn(photographs: list[Any], draw: random.Random, first: float, last: float) -> dict[str, Any]:
    photograph = draw.choice(photographs)
    edge = draw.randint(SIZE, 3 * SIZE)
    left = draw.randint(round(first * photograph.width), round(last * photograph.width) - edge)
    upper = draw.randint(0, photograph.height - edge)
    image = photograph.crop((left, upper, left + edge, upper + edge)).resize((SIZE, SIZE))
    mask = Picture.new("L", (SIZE, SIZE))
    for _ in range(draw.randint(1, 3)):
        kind, size = draw.randint(1, 3), draw.randint(10, 16)
        x, y = draw.randint(0, SIZE - size), draw.randint(0, SIZE - size)
        colour = tuple(draw.randint(0, 255) for _ in range(3))
        for brush, fill in ((ImageDraw.Draw(image), colour), (ImageDraw.Draw(mask), kind)):
            if kind == 3:
                brush.polygon([(x, y + size), (x + size, y + size), (x + size / 2, y)], fill=fill)
            else:
                (brush.ellipse if kind == 1 else brush.rectangle)((x, y, x + size, y + size), fill=fill)
    return {"image": image, "mask": np.asarray(mask).tolist()}


def as_mask(value: Any, size: tuple[int, int], names: Sequence[str], where: str) -> np.ndarray:
    """A mask of a file, [height, width] in uint8.

    Args:
        value: rows of numbers of classes, or an image of them, as ``images.opened`` takes it.
        size: width and height of the image.
        names: of the classes.
        where: begins the sentence of an error.
    Raises:
        UserError: it is none, of another size, empty, or has numbers of no class.
    """
    try:
        mask = np.array(value) if isinstance(value, list) else np.asarray(_numbers(value))
    # Pillow's readers raise whatever their format's parser raises
    except Exception as error:
        raise UserError(f"{where}: its mask cannot be read: {one_line(error, 120)}") from error
    if mask.ndim != 2 or mask.size == 0 or mask.dtype.kind not in "iub":
        raise UserError(f"{where}: its mask is not made of rows of whole numbers, one for each pixel")
    if mask.shape[::-1] != size:
        there, here = (f"{width} x {height}" for width, height in (mask.shape[::-1], size))
        raise UserError(f"{where}: its mask is {there} pixels, and its image {here}")
    wrong = mask[(mask != NO_CLASS) & ((mask < 0) | (mask >= len(names)))]
    if wrong.size:
        raise UserError(
            f"{where}: its mask holds {wrong[0]}; the classes are 0 to {len(names) - 1} "
            f"({one_line(', '.join(names))}), and {NO_CLASS} is a pixel without one"
        )
    if (mask == NO_CLASS).all():
        raise UserError(f"{where}: no pixel of its mask has a class")
    return mask.astype(np.uint8)


def _numbers(value: Any) -> Any:
    # a picture with a palette has the numbers themselves; grey values are numbers, too
    if isinstance(value, dict):
        value = value["bytes"] or value["path"]
    picture = Picture.open(io.BytesIO(value) if isinstance(value, bytes) else value)
    if picture.mode not in ("1", "L", "P", "I", "I;16"):
        raise ValueError(f"it has Pillow's mode {picture.mode}; a mask has one number for each pixel")
    return picture


@dataclass
class Masked:
    """Images with masks at a model's size.

    Args:
        pixels: the model's.
        image_column, mask_column: where they are in a row.
        names: of the classes.
    """

    pixels: Pixels
    image_column: str
    mask_column: str
    names: Sequence[str]

    def encode(self, rows: Dataset, split: str, known: bool) -> Dataset:
        """Columns ``pixels`` and ``mask``, bytes of either; without masks that are ``known``, all are without class.

        Raises:
            UserError: for the first that is none; see ``as_mask``.
        """
        rows = rows.add_column("row", range(len(rows)))
        encoded = self.pixels.encode(rows.select_columns([self.image_column, "row"]), split, self.image_column)
        if not known:
            nothing = np.full(self.pixels.shape[1:], NO_CLASS, np.uint8).tobytes()
            return encoded.add_column("mask", [nothing] * len(rows))
        bare = Pixels.undecoded(Pixels.undecoded(rows, self.image_column), self.mask_column)
        found = []
        for number, row in enumerate(bare):
            image = self.pixels.opened(row[self.image_column])
            mask = as_mask(row[self.mask_column], image.size, self.names, f"{split} row {number}")
            found.append(self._sized(image, mask).tobytes())
        return encoded.add_column("mask", found)

    def _sized(self, image: Any, mask: np.ndarray) -> np.ndarray:
        # Transformers 5.23 resizes masks as it does images, and a mean of two classes is a third one
        nearest = Picture.Resampling.NEAREST
        made = self.pixels.processor(
            image, segmentation_maps=mask, resample=nearest, do_rescale=False, do_normalize=False
        )
        return np.asarray(made["labels"][0]).astype(np.uint8)

    def array(self, row: dict[str, Any]) -> np.ndarray:
        """The mask of an encoded row, [height, width]."""
        return np.frombuffer(row["mask"], np.uint8).reshape(self.pixels.shape[1:])

    def collate(self, rows: list[dict[str, Any]]) -> Any:
        """A batch: ``labels`` [images, height, width], -100 where a pixel has no class."""
        labels = torch.tensor(np.stack([self.array(row) for row in rows]), dtype=torch.long)
        batch = self.pixels.batch(rows)
        batch["labels"] = labels.masked_fill(labels == NO_CLASS, PADDING)
        return batch

    def changing(self, config: Any) -> Callable[[dict, random.Random], dict] | None:
        """What changes a training row at random, its mask with its image; None where the config asks for nothing."""
        change = image_changes(config, self.pixels)
        if change is None:
            return None

        def changed(row: dict[str, Any], draw: random.Random) -> dict[str, Any]:
            change.set_random_seed(draw.getrandbits(31))
            image = np.ascontiguousarray(self.pixels.array(row).transpose(1, 2, 0))
            found = change(image=image, mask=self.array(row))
            image, mask = found["image"].transpose(2, 0, 1), found["mask"]
            return row | {
                "pixels": np.ascontiguousarray(image).tobytes(),
                "mask": np.ascontiguousarray(mask).tobytes(),
            }

        return changed


def summed_loss(model: Any, batch: Any) -> torch.Tensor:
    """That of the model, which is a mean over the pixels that have a class, times their number."""
    labels, config = batch["labels"], getattr(model, "module", model).config
    known = labels != PADDING
    ignored = getattr(config, "semantic_loss_ignore_index", getattr(config, "loss_ignore_index", NO_CLASS))
    # a batch without any, of a process that has no rows left: its mean would be no number
    given = labels.masked_fill(~known, ignored) if known.any() else labels.clamp(min=0)
    return model(pixel_values=batch["pixel_values"], labels=given).loss * known.sum()


def found_in(model: Any, batch: Any) -> tuple[torch.Tensor, ...]:
    """Of each pixel the class, [images, height, width], and its logit; and what is known of it."""
    logits = model(pixel_values=batch["pixel_values"]).logits.float()
    logits = nn.functional.interpolate(logits, batch["labels"].shape[-2:], mode="bilinear", align_corners=False)
    best = logits.max(1)
    return best.indices, best.values, batch["labels"]


def overlap(found: Sequence[Any], known: Sequence[Any], names: Sequence[str]) -> dict[str, float]:
    """Mean over the classes that are there of intersection over union, and the share of pixels that are right.

    Args:
        found, known: classes of the pixels of each image; pixels that are known as none (-100) are left out.
        names: of the classes.
    Returns:
        ``mean_iou`` and ``pixel_accuracy``, and ``iou_`` of each class that is known or found.
    """
    truth = np.concatenate([np.asarray(one).ravel() for one in known])
    guess = np.concatenate([np.asarray(one).ravel() for one in found])[truth != PADDING]
    truth = truth[truth != PADDING]
    there = np.union1d(truth, guess)
    each = jaccard_score(truth, guess, labels=there, average=None)
    classes = {f"iou_{names[number]}": float(value) for number, value in zip(there, each, strict=True)}
    return {"mean_iou": float(each.mean()), "pixel_accuracy": float(accuracy_score(truth, guess)), **classes}


@dataclass
class MaskOutputs:
    """Reads what a model gives for the validation rows.

    Args:
        names: of the classes, in the order of their numbers.
    """

    names: Sequence[str]

    def score(self, found: list[torch.Tensor], _: object, known: list[torch.Tensor]) -> dict[str, float]:
        """The figures."""
        return overlap(found, known, self.names)

    def describe(self, found: list[torch.Tensor], *_: object) -> dict[str, list]:
        """The class of each pixel, in rows, at the size of the model's images; and the classes that are in it."""
        return {
            "prediction": [one.tolist() for one in found],
            "prediction_classes": [[self.names[number] for number in one.unique().tolist()] for one in found],
        }


def commonest(rows: Sequence[np.ndarray]) -> int:
    """The class that most pixels of these masks have."""
    counts = sum(np.bincount(one.ravel(), minlength=NO_CLASS + 1) for one in rows)
    return int(np.argmax(counts[:NO_CLASS]))


def draw_masks(
    path: Path, images: list[np.ndarray], known: list[torch.Tensor], found: list[torch.Tensor], names: Sequence[str]
) -> None:
    """A picture of some images: above the image, then what is known of it, below what was found.

    Args:
        path: of the picture.
        images: [channels, height, width] in uint8.
        known, found: of each image, [height, width].
        names: of the classes, each of which has a colour.
    """
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import colors, pyplot
    from matplotlib.patches import Patch

    shades = colors.ListedColormap(["0.85", *(f"C{number % 10}" for number in range(len(names) - 1))])
    figure, rows = pyplot.subplots(3, len(images), figsize=(2.4 * len(images), 7.6), squeeze=False)
    for axes, image in zip(rows[0], images, strict=True):
        axes.imshow(image.transpose(1, 2, 0).squeeze(), cmap="gray")
        axes.set_title("image")
    for row, title, masks in ((rows[1], "known", known), (rows[2], "found", found)):
        for axes, mask in zip(row, masks, strict=True):
            shown = np.ma.masked_less(mask.numpy(), 0)
            axes.imshow(shown, cmap=shades, vmin=-0.5, vmax=len(names) - 0.5, interpolation="nearest")
            axes.set_title(title)
    for axes in rows.ravel():
        axes.axis("off")
    patches = [Patch(color=shades(number), label=name) for number, name in enumerate(names)]
    figure.legend(handles=patches, loc="lower center", ncols=len(names))
    figure.savefig(path, dpi=80, bbox_inches="tight")
    pyplot.close(figure)
