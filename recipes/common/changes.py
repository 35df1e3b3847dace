"""Random changes of training images together with what is drawn on them, by albumentations."""

import os
from typing import Any

from .errors import UserError
from .images import Pixels


def image_changes(config: Any, pixels: Pixels, **options: Any) -> Any:
    """What changes an image as the keys ``flips``, ``crop`` and ``color`` say; None where they ask for nothing.

    Args:
        config: with these keys.
        pixels: the model's size.
        options: of ``albumentations.Compose``; a function is called with the package.
    Raises:
        UserError: albumentations is not installed.
    """
    if not (config.flips or config.crop or config.color):
        return None
    # it would ask the network for its newest version
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    try:
        import albumentations
    except ImportError as error:
        raise UserError("flips, crop and color need albumentations: pip install 'hf_addnorm[detection]'") from error
    height, width = pixels.shape[1:]
    steps: list[Any] = []
    if config.flips:
        steps += [albumentations.HorizontalFlip(p=0.5), albumentations.VerticalFlip(p=0.5)]
    if config.crop:
        scale = (1 - config.crop, 1.0)
        steps.append(albumentations.RandomResizedCrop(size=(height, width), scale=scale, ratio=(0.8, 1.25), p=0.5))
    if config.color:
        steps.append(albumentations.ColorJitter(*[config.color] * 3, config.color / 4, p=0.5))
    made = {key: option(albumentations) if callable(option) else option for key, option in options.items()}
    return albumentations.Compose(steps, **made)
