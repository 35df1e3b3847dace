"""Objects in images: their boxes, changes of an image with its boxes, average precision, pictures of what is found.

Boxes are left, upper, right and lower edge. In a row they are shares of the image's width and height, whatever a file
has; models of DETR's kind are given center, width and height.
"""

import contextlib
import io
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, List
from sklearn.cluster import KMeans

from .changes import image_changes
from .data import Classes
from .errors import UserError
from .evaluation import PADDING
from .images import Pixels


# An image has so many boxes at most in the figures, as in COCO's.
MOST_FOUND = 100
# Boxes are compared at this size: the figures do not depend on it.
SCALE = 1000.0


def as_shares(boxes: Sequence[Sequence[float]], size: tuple[int, int], form: str, where: str) -> list[list[float]]:
    """Boxes of a file as edges in shares of the image.

    Args:
        boxes: each of four numbers, in pixels.
        size: width and height of the image.
        form: ``corners`` (left, upper, right, lower edge) or ``coco`` (left, upper edge, width, height).
        where: begins the sentence of an error.
    Raises:
        UserError: for the first box that is none of the image.
    """
    found = []
    for number, box in enumerate(boxes):
        what = f"{where}: box {number}, {list(box)},"
        if len(box) != 4 or not np.isfinite(box).all():
            raise UserError(f"{what} is not made of four finite numbers")
        left, upper, right, lower = box if form == "corners" else (*box[:2], box[0] + box[2], box[1] + box[3])
        if right <= left or lower <= upper:
            raise UserError(f"{what} is empty: its right and lower edge must be behind the left and the upper one")
        if left < 0 or upper < 0 or right > size[0] or lower > size[1]:
            raise UserError(f"{what} reaches outside of the image, which is {size[0]} x {size[1]} pixels")
        found.append([left / size[0], upper / size[1], right / size[0], lower / size[1]])
    return found


def numbered(splits: dict[str, Dataset], column: str, make: Callable[[Any, list], Classes]) -> tuple[Any, dict]:
    """The classes of a column of lists, and of each split the number of every object's class.

    Args:
        splits: the rows.
        column: of the lists.
        make: of what is declared of a label, and all labels of the train split, the classes.
    """
    feature = splits["train" if "train" in splits else "validation"].features[column]
    if not isinstance(feature, List):
        raise UserError(f"column {column!r} must hold a list of labels for each image, one for each box")
    train = [value for row in splits["train"][column] for value in row] if "train" in splits else []
    classes = make(feature.feature, train)
    numbers = {
        split: [[classes.number(value, split, row) for value in values] for row, values in enumerate(rows[column])]
        for split, rows in splits.items()
    }
    return classes, numbers


def encode(rows: Dataset, split: str, pixels: Pixels, image_column: str, form: str) -> Dataset:
    """Images at the model's size beside their ``boxes``, checked, as shares of the image.

    Args:
        rows: with the columns ``boxes``, ``labels`` and that of the image.
        split: its name, for errors.
        pixels: the model's size.
        image_column, form: where an image is; of the boxes, see ``as_shares``.
    """

    boxes, labels = list(rows["boxes"]), list(rows["labels"])
    rows = rows.remove_columns("boxes").add_column("row", range(len(rows)))
    # an image that cannot be read is refused here
    encoded = pixels.encode(rows, split, image_column)
    checked = []
    for number, value in enumerate(pixels.undecoded(rows, image_column)[image_column]):
        where = f"{split} row {number}"
        if len(boxes[number]) != len(labels[number]):
            raise UserError(
                f"{where} has {len(boxes[number])} boxes and {len(labels[number])} labels: each box needs one label"
            )
        checked.append(as_shares(boxes[number], pixels.size_of(value), form, where))
    return encoded.add_column("boxes", checked)


def changing(config: Any, pixels: Pixels) -> Callable[[dict, random.Random], dict] | None:
    """What changes a training row at random, its boxes with its image; None where the config asks for nothing.

    Raises:
        UserError: albumentations is not installed.
    """
    # what is cut to less than a third of it is no object any more
    change = image_changes(
        config,
        pixels,
        bbox_params=lambda package: package.BboxParams(
            "albumentations", label_fields=["labels"], min_visibility=1 / 3, clip=True
        ),
    )
    if change is None:
        return None

    def changed(row: dict[str, Any], draw: random.Random) -> dict[str, Any]:
        change.set_random_seed(draw.getrandbits(31))
        image = np.ascontiguousarray(pixels.array(row).transpose(1, 2, 0))
        found = change(image=image, bboxes=np.array(row["boxes"]).reshape(-1, 4), labels=row["labels"])
        return row | {
            "pixels": np.ascontiguousarray(found["image"].transpose(2, 0, 1)).tobytes(),
            "boxes": np.asarray(found["bboxes"]).reshape(-1, 4).tolist(),
            "labels": [int(label) for label in found["labels"]],
        }

    return changed


def collating(pixels: Pixels) -> Callable[[list[dict[str, Any]]], Any]:
    """Makes a batch: ``labels`` [images, most objects], -100 where there is none, and the edges of their ``boxes``."""

    def collate(rows: list[dict[str, Any]]) -> Any:
        most = max(1, *(len(row["labels"]) for row in rows))
        labels = torch.full((len(rows), most), PADDING)
        boxes = torch.zeros(len(rows), most, 4)
        for at, row in enumerate(rows):
            count = len(row["labels"])
            labels[at, :count] = torch.tensor(row["labels"], dtype=torch.long)
            boxes[at, :count] = torch.tensor(row["boxes"]).reshape(-1, 4)
        batch = pixels.batch(rows)
        batch.update({"labels": labels, "boxes": boxes})
        return batch

    return collate


def centered(boxes: torch.Tensor) -> torch.Tensor:
    """Edges [..., 4] as center, width and height."""
    first, last = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(first + last) / 2, last - first], -1)


def all_boxes(rows: Dataset) -> torch.Tensor:
    """Those of all encoded rows, [boxes, 4] as center, width and height."""
    return centered(torch.tensor([box for boxes in rows["boxes"] for box in boxes]).reshape(-1, 4))


def edges(boxes: torch.Tensor) -> torch.Tensor:
    """Center, width and height [..., 4] as edges."""
    middle, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([middle - half, middle + half], -1)


def targets(labels: torch.Tensor, boxes: torch.Tensor) -> list[dict[str, torch.Tensor]]:
    """What a model of DETR's kind is told of each image."""
    return [
        {"class_labels": label[label >= 0], "boxes": centered(box[label >= 0])}
        for label, box in zip(labels, boxes, strict=True)
    ]


@dataclass
class Found:
    """What is found in, or known of, one image: classes [objects], edges [objects, 4], scores [objects]."""

    labels: torch.Tensor
    boxes: torch.Tensor
    scores: torch.Tensor

    def sure(self) -> "Found":
        """What has a score of at least a half."""
        kept = self.scores >= 0.5
        return Found(self.labels[kept], self.boxes[kept], self.scores[kept])


def found_in(logits: torch.Tensor, boxes: torch.Tensor) -> Found:
    """What a model says of one image: logits [queries, classes + 1], of which the last is none; centered boxes."""
    scores, labels = logits.softmax(-1)[:, :-1].max(-1)
    order = scores.argsort(descending=True)[:MOST_FOUND]
    return Found(labels[order], edges(boxes[order]).clamp(0, 1), scores[order])


def known_of(labels: torch.Tensor, boxes: torch.Tensor) -> Found:
    """What is in one image, of a padded row of labels and edges."""
    real = labels >= 0
    return Found(labels[real], boxes[real], torch.ones(int(real.sum())))


def mean_boxes(rows: Dataset, classes: int) -> Found:
    """What can be said of any image without looking at it: of each class as many mean boxes as an image has of it.

    The boxes of the training rows are put into that many clusters, whose centers they are; the score is the share of
    all boxes that a cluster has.
    """
    labels = np.concatenate([np.array(row, dtype=int) for row in rows["labels"]])
    boxes = np.concatenate([np.array(row).reshape(-1, 4) for row in rows["boxes"]])
    found: list[tuple[int, np.ndarray, float]] = []
    for number in range(classes):
        own = boxes[labels == number]
        if len(own) == 0:
            continue
        count = max(1, round(len(own) / len(rows)))
        clusters = KMeans(count, random_state=0, n_init=4).fit(own)
        for at, center in enumerate(clusters.cluster_centers_):
            found.append((number, center, (clusters.labels_ == at).sum() / len(boxes)))
    numbers, centers, scores = zip(*found, strict=True)
    return Found(torch.tensor(numbers), torch.tensor(np.array(centers)), torch.tensor(scores))


def average_precision(predicted: list[Found], known: list[Found], classes: int) -> dict[str, float]:
    """Mean average precision over the classes, of COCO: over overlaps from 0.5 to 0.95, and at 0.5.

    Source: Lin et al., "Microsoft COCO", 2014, arXiv 1405.0312; the figures are those of its own package.

    Raises:
        UserError: pycocotools is not installed.
    """
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise UserError("the average precision needs pycocotools: pip install 'hf_addnorm[detection]'") from error
    with contextlib.redirect_stdout(io.StringIO()):
        truth, guess = COCO(), COCO()
        images = [{"id": number} for number in range(len(known))]
        categories = [{"id": number} for number in range(classes)]
        truth.dataset = {"images": images, "categories": categories, "annotations": _annotations(known)}
        guess.dataset = {"images": images, "categories": categories, "annotations": _annotations(predicted)}
        truth.createIndex()
        guess.createIndex()
        evaluation = COCOeval(truth, guess, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    # -1 where no image has an object
    return {"map": max(0.0, float(evaluation.stats[0])), "map50": max(0.0, float(evaluation.stats[1]))}


def _annotations(images: list[Found]) -> list[dict[str, Any]]:
    rows = []
    for number, image in enumerate(images):
        parts = zip(image.labels.tolist(), (image.boxes * SCALE).tolist(), image.scores.tolist(), strict=True)
        for label, (left, upper, right, lower), score in parts:
            box = [left, upper, right - left, lower - upper]
            row = {"id": len(rows) + 1, "image_id": number, "category_id": label, "bbox": box, "score": score}
            rows.append(row | {"area": box[2] * box[3], "iscrowd": 0})
    return rows


@dataclass
class ObjectOutputs:
    """Reads what a model gives for the validation rows.

    Args:
        names: of the classes, in the order of their numbers.
    """

    names: list[str]

    def score(self, *columns: list[torch.Tensor]) -> dict[str, float]:
        """The figures."""
        logits, boxes, labels, edges_of = columns
        predicted = [found_in(*parts) for parts in zip(logits, boxes, strict=True)]
        known = [known_of(*parts) for parts in zip(labels, edges_of, strict=True)]
        return average_precision(predicted, known, len(self.names))

    def describe(self, logits: list[torch.Tensor], boxes: list[torch.Tensor], *_: object) -> dict[str, list]:
        """What was found in each image with a score of at least a half: classes, and edges as shares of the image."""
        found = [found_in(*parts).sure() for parts in zip(logits, boxes, strict=True)]
        return {
            "prediction": [[self.names[label] for label in one.labels.tolist()] for one in found],
            "prediction_boxes": [[[round(x, 4) for x in box] for box in one.boxes.tolist()] for one in found],
            "prediction_scores": [[round(x, 4) for x in one.scores.tolist()] for one in found],
        }


def draw(path: Path, images: list[np.ndarray], found: list[Found], known: list[Found], names: list[str]) -> None:
    """A picture of some images: what is known on top, what was found with a score of at least a half below.

    Args:
        path: of the picture.
        images: [channels, height, width] in uint8.
        found, known: of each image.
        names: of the classes, each of which has a colour.
    """
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot
    from matplotlib.patches import Patch, Rectangle

    colours = [f"C{number}" for number in range(len(names))]
    figure, rows = pyplot.subplots(2, len(images), figsize=(4 * len(images), 6.5), squeeze=False)
    for row, (title, lists) in zip(rows, (("known", known), ("found", found)), strict=True):
        for axes, image, one in zip(row, images, lists, strict=True):
            axes.imshow(image.transpose(1, 2, 0).squeeze(), cmap="gray")
            axes.set_title(title)
            axes.axis("off")
            height, width = image.shape[1:]
            sure = one.sure()
            for label, box in zip(sure.labels.tolist(), sure.boxes.tolist(), strict=True):
                left, upper, right, lower = (side * size for side, size in zip(box, (width, height) * 2, strict=True))
                frame = Rectangle((left, upper), right - left, lower - upper, fill=False, color=colours[label], lw=1.5)
                axes.add_patch(frame)
    patches = [Patch(color=colour, label=name) for colour, name in zip(colours, names, strict=True)]
    figure.legend(handles=patches, loc="lower center", ncols=len(names))
    figure.savefig(path, dpi=80, bbox_inches="tight")
    pyplot.close(figure)
