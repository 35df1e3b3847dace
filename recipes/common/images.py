"""Images: what a column may hold, the pixels that a model takes, small changes of them, and scikit-learn's digits."""

import io
import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import transformers
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value
from sklearn.datasets import load_digits
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import is_torchvision_available

from .config import RunConfig
from .errors import UserError, one_line
from .model import UNLOADABLE, find_checkpoint


# So many of the 1,797 digits are kept for validation.
HELD_OUT = 360
# Pillow's, by the number of channels.
MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def digits() -> DatasetDict:
    """The 8 x 8 handwritten digits that come with scikit-learn; the split is the same whatever the run's seed is.

    Columns: ``image`` (rows of grey values, 0 to 255) and ``label``. Writers are not named in the data: most of those
    in ``validation`` have also written digits in ``train``.
    """
    found = load_digits()
    grey = (found.images * 255 / found.images.max()).round().astype(np.uint8)
    order = random.Random(0).sample(range(len(grey)), len(grey))
    features = Features({"image": List(List(Value("uint8"))), "label": ClassLabel(names=[str(n) for n in range(10)])})
    parts = {"train": sorted(order[HELD_OUT:]), "validation": sorted(order[:HELD_OUT])}
    return DatasetDict(
        {
            split: Dataset.from_dict({"image": grey[rows].tolist(), "label": found.target[rows]}, features=features)
            for split, rows in parts.items()
        }
    )


def load_processor(config: RunConfig, model: PreTrainedConfig, new: str = "ViTImageProcessor") -> Any:
    """The checkpoint's image processor; for a new model one for the model's size and channels.

    Args:
        config: the run's.
        model: the config of the model.
        new: the class of Transformers that a new model gets.
    Raises:
        UserError: the checkpoint has none, Pillow is not installed.
    """
    channels, size = getattr(model, "num_channels", 3), getattr(model, "image_size", None)
    # pixels from -1 to 1
    means = {"image_mean": [0.5] * channels, "image_std": [0.5] * channels}
    try:
        if config.checkpoint:
            # of new weights for another size, or other channels, than the checkpoint's
            changed = {"size": _height_and_width(size)} if "image_size" in config.model_config else {}
            changed |= means if "num_channels" in config.model_config else {}
            return transformers.AutoImageProcessor.from_pretrained(find_checkpoint(config.checkpoint), **changed)
        kind = getattr(transformers, new if is_torchvision_available() else f"{new}Pil")
        return kind(size=_height_and_width(size), **means)
    except ImportError as error:
        raise UserError(f"images need Pillow: pip install pillow ({one_line(error, 80)})") from error
    except UNLOADABLE as error:
        raise UserError(f"cannot load the image processor of {config.checkpoint}: {one_line(error)}") from error


def _height_and_width(size: Any) -> dict[str, int]:
    height, width = np.broadcast_to(size, 2).tolist()
    return {"height": height, "width": width}


class Pixels:
    """Images of one size, cut and scaled by an image processor; kept as bytes until a batch is made of them.

    Args:
        processor: an image processor, whose rescaling and normalisation come last, in ``batch``.
        model: what takes them.
    Raises:
        UserError: the model does not take images as the processor makes them.
    """

    def __init__(self, processor: Any, model: PreTrainedModel):
        self.processor, self.channels = processor, getattr(model.config, "num_channels", 3)
        if self.channels not in MODES:
            raise UserError(
                f"the model takes images of {self.channels} channels; there are {', '.join(map(str, MODES))}"
            )
        for name in ("image_mean", "image_std"):
            if len(values := np.atleast_1d(getattr(processor, name, 0))) not in (1, self.channels):
                raise UserError(
                    f"the model takes images of {self.channels} channels, and {name} of its image processor has "
                    f"{len(values)} values: give one per channel in the checkpoint's preprocessor_config.json"
                )
        height, width = self._height_and_width(model.config)
        self.shape = self._sized(opened(np.zeros((height, width), int).tolist(), MODES[self.channels])).shape
        self._check(model)

    def _height_and_width(self, config: PreTrainedConfig) -> list[int]:
        size = getattr(config, "image_size", None) or getattr(self.processor, "crop_size", None) or self.processor.size
        if not hasattr(size, "get"):
            return np.broadcast_to(size, 2).tolist()
        edge = size.get("shortest_edge")
        return [size.get("height", edge), size.get("width", edge)]

    @torch.no_grad()
    def _check(self, model: PreTrainedModel) -> None:
        there = " x ".join(map(str, self.shape))
        if self.shape[0] != self.channels:
            raise UserError(
                f"the image processor makes images of {there}, and the model takes {self.channels} channels: set "
                "do_convert_rgb in the checkpoint's preprocessor_config.json"
            )
        blank = self.batch([{"pixels": bytes(math.prod(self.shape))}])["pixel_values"].to(model.device)
        try:
            model.eval()(pixel_values=blank)
        # every model says so in another error
        except (ValueError, RuntimeError) as error:
            raise UserError(
                f"the model does not take the images of its image processor, {there}: {one_line(error, 160)}"
            ) from error

    def _sized(self, image: Any) -> np.ndarray:
        """Cut and scaled, ``[channels, height, width]`` in uint8."""
        sized = self.processor(image, do_rescale=False, do_normalize=False)["pixel_values"][0]
        return np.asarray(sized, dtype=np.uint8)

    def encode(self, rows: Dataset, split: str, column: str) -> Dataset:
        """The column as ``pixels``, in place of all columns but ``labels``; ``row`` says which row it was.

        The column may hold what ``datasets.Image`` does, bytes of a file, the name of one, or rows of pixels.

        Raises:
            UserError: for the first that is no image, naming split, row and value.
        """
        rows = self.undecoded(rows, column)

        def encode(row: dict[str, Any]) -> dict[str, bytes]:
            value = row[column]
            try:
                return {"pixels": self._sized(opened(value, MODES[self.channels])).reshape(self.shape).tobytes()}
            # Pillow's readers raise whatever their format's parser raises; all of it means a broken image.
            except Exception as error:
                raise UserError(
                    f"{split} row {row['row']}: column {column!r} holds {one_line(value, 40)}, which is no image that "
                    f"can be read: {one_line(error, 120)}"
                ) from error

        return rows.map(encode, remove_columns=[column, "row"], desc=f"read {split}")

    @staticmethod
    def undecoded(rows: Dataset, column: str) -> Dataset:
        """The rows with what the column's files hold, if it is one of ``datasets.Image``."""
        is_image = isinstance(rows.features[column], Image)
        return rows.cast_column(column, Image(decode=False)) if is_image else rows

    def opened(self, value: Any) -> Any:
        """An image in a column, as the file has it."""
        return opened(value, MODES[self.channels])

    def size_of(self, value: Any) -> tuple[int, int]:
        """Width and height of an image in a column, in pixels of the file."""
        return self.opened(value).size

    def array(self, row: dict[str, Any]) -> np.ndarray:
        """Of an encoded row."""
        return np.frombuffer(row["pixels"], dtype=np.uint8).reshape(self.shape)

    def batch(self, rows: list[dict[str, Any]]) -> Any:
        """``pixel_values`` of encoded rows."""
        arrays = [self.array(row) for row in rows]
        return self.processor(
            arrays, do_resize=False, do_center_crop=False, input_data_format="channels_first", return_tensors="pt"
        )


def patch_counter(model: PreTrainedModel, pixels: Pixels) -> Callable[[Any], tuple[torch.Tensor, torch.Tensor]]:
    """Of a batch, how many patches it has, all of them real; an image is one patch for a model that has none."""
    height, width = pixels.shape[1:] // np.broadcast_to(getattr(model.config, "patch_size", pixels.shape[1:]), 2)

    def sizes(batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        patches = torch.tensor(len(batch["labels"]) * height * width, device=batch["labels"].device)
        return patches, patches

    return sizes


def opened(value: Any, mode: str) -> Any:
    """A picture in Pillow's ``mode``, turned as its file says.

    Args:
        value: bytes of a file, its name, or both as ``datasets.Image`` holds them; or rows of pixels, 0 to 255.
        mode: one of ``MODES``.
    Raises:
        ValueError: pixels of another kind, as far as Pillow raises no error of its own.
    """
    from PIL import Image as Picture
    from PIL import ImageOps

    if isinstance(value, dict):
        value = value["bytes"] or value["path"]
    if isinstance(value, list):
        pixels = np.array(value)
        if pixels.dtype.kind not in "iu" or pixels.min() < 0 or pixels.max() > 255:
            raise ValueError(f"pixels from {pixels.min()} to {pixels.max()}, and not whole numbers from 0 to 255")
        return Picture.fromarray(pixels.astype(np.uint8)).convert(mode)
    picture = ImageOps.exif_transpose(Picture.open(io.BytesIO(value) if isinstance(value, bytes) else value))
    if picture.mode.startswith("I;16"):
        # Pillow would cut off what is above 255
        picture = Picture.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if picture.mode in ("I", "F"):
        raise ValueError(f"pixels of Pillow's mode {picture.mode}; allowed are those of 8 or 16 bits")
    return picture.convert(mode)


def moved(image: np.ndarray, draw: random.Random, shift: int, flip: bool) -> np.ndarray:
    """Moved by up to ``shift`` pixels along both axes, the border repeated; ``flip`` mirrors every other image.

    Args:
        image: ``[channels, height, width]``.
        draw: where the random numbers come from.
        shift: 0 moves nothing.
        flip: left becomes right.
    """
    height, width = image.shape[1:]
    top, left = draw.randint(0, 2 * shift), draw.randint(0, 2 * shift)
    wide = np.pad(image, ((0, 0), (shift, shift), (shift, shift)), mode="edge")
    image = wide[:, top : top + height, left : left + width]
    return image[:, :, ::-1] if flip and draw.random() < 0.5 else image
