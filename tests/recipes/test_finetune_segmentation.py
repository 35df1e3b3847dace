"""Segmentation: small models on drawn squares, the figures, what is done to masks, what is refused."""

import io
import random
from pathlib import Path
from types import SimpleNamespace

import finetune_segmentation
import numpy as np
import pytest
import torch
from common import masks
from common.data import BUILTIN
from common.errors import UserError
from common.images import Pixels
from datasets import Dataset
from PIL import Image as Picture
from transformers import AutoModelForSemanticSegmentation, BeitImageProcessorPil, pipeline


SIZES = {
    "image_size": 16,
    "patch_size": 4,
    "hidden_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "out_indices": [1, 2, 3, 4],
    "use_relative_position_bias": True,
}
BEIT = {"model_type": "beit", **SIZES, "pool_scales": [1, 2], "auxiliary_channels": 8}
UPERNET = {
    "model_type": "addnorm_upernet",
    "backbone_config": {"model_type": "beit", **SIZES, "add_fpn": True},
    "hidden_size": 16,
    "pool_scales": [1, 2],
    "auxiliary_channels": 8,
}


def drawn(count: int, seed: int) -> dict[str, list]:
    """Images of 20 x 16 with one bright square each: its mask as a picture's file, the border without class."""
    draw, found = random.Random(seed), {"image": [], "mask": []}
    for _ in range(count):
        image, mask = np.full((16, 20, 3), 60, np.uint8), np.zeros((16, 20), np.uint8)
        size = draw.randint(5, 9)
        left, upper = draw.randint(1, 19 - size), draw.randint(1, 15 - size)
        image[upper : upper + size, left : left + size] = [220, 40, 40]
        mask[upper : upper + size, left : left + size] = 1
        mask[:, 0] = 255
        for name, array in (("image", image), ("mask", mask)):
            file = io.BytesIO()
            Picture.fromarray(array).save(file, "png")
            found[name].append(file.getvalue())
    return found


@pytest.fixture
def new(drawn_run):
    """Drawn images, and a BEiT of 4 layers of 16."""
    return drawn_run(drawn, model_config=BEIT, label_names=["ground", "square"])


def segment(recipe, config, *args):
    return recipe(config, *args, main=finetune_segmentation.main)


@pytest.mark.parametrize("kind", ["beit", "upernet"])
def test_a_run_is_saved_drawn_and_found_by_a_pipeline(kind, recipe, new, use, tmp_path):
    result = segment(
        recipe, new | {"model_config": {"beit": BEIT, "upernet": UPERNET}[kind]}, "--add_norm", "hyper_connections"
    )
    assert len(Path(finetune_segmentation.__file__).read_text().splitlines()) < 180
    assert {"mean_iou", "pixel_accuracy", "iou_ground"} <= set(result["metrics"])
    assert result["commonest_class"]["class"] == "ground" and result["commonest_class"]["iou_square"] == 0
    assert result["reload"]["predictions_equal"] == 5 and result["data"]["train"]["rows"] == 8
    folder = tmp_path / "run"
    assert Picture.open(folder / "masks.png").width > 500
    model = AutoModelForSemanticSegmentation.from_pretrained(folder / "model")
    names = {"beit": "AddNormBeitForSemanticSegmentation", "upernet": "AddNormUperNetForSemanticSegmentation"}
    assert type(model).__name__ == names[kind] and model.config.id2label == {0: "ground", 1: "square"}
    scheme = (model.config if kind == "beit" else model.config.backbone_config).add_norm
    assert scheme.preset == "hyper_connections"
    found = pipeline("image-segmentation", str(folder / "model"))(Picture.new("RGB", (20, 16)))
    assert {part["label"] for part in found} <= {"ground", "square"} and found[0]["mask"].size == (20, 16)
    [figures] = use("evaluate", main=finetune_segmentation.main)
    assert '"mean_iou"' in figures.read_text()
    predicted = use("predict", "--predictions", str(tmp_path / "found.parquet"), main=finetune_segmentation.main)
    rows = Dataset.from_parquet(str(predicted[0]))
    assert np.array(rows["prediction"][0]).shape == (16, 16) and set(rows["prediction_classes"][0]) <= {
        "ground",
        "square",
    }


def test_the_loss_is_that_of_the_stock_model_for_each_pixel_with_a_class():
    model = torch.nn.Module()
    model.config = SimpleNamespace(loss_ignore_index=255)
    seen = []

    def forward(pixel_values, labels):
        seen.append(labels)
        return SimpleNamespace(loss=torch.tensor(2.0))

    model.forward = forward
    labels = torch.tensor([[[0, 1], [-100, 1]]])
    assert masks.summed_loss(model, {"pixel_values": None, "labels": labels}) == 6
    assert seen[-1].tolist() == [[[0, 1], [255, 1]]]
    # a share without rows has a loss without pixels, and no mean of none
    assert masks.summed_loss(model, {"pixel_values": None, "labels": labels * 0 - 100}) == 0
    assert seen[-1].tolist() == [[[0, 0], [0, 0]]]


def test_overlap():
    known = [np.array([[0, 0, 1, 1]]), np.array([[2, -100, 0, 0]])]
    right = masks.overlap([np.array([[0, 0, 1, 1]]), np.array([[2, 1, 0, 0]])], known, ["a", "b", "c", "d"])
    assert right == {"mean_iou": 1.0, "pixel_accuracy": 1.0, "iou_a": 1.0, "iou_b": 1.0, "iou_c": 1.0}
    # of a: 3 of 5, of b: 1 of 3, of c: none of 1
    found = masks.overlap([np.array([[0, 1, 1, 0]]), np.array([[1, 1, 0, 0]])], known, ["a", "b", "c", "d"])
    assert found["iou_a"] == pytest.approx(3 / 5) and found["iou_b"] == pytest.approx(1 / 4) and found["iou_c"] == 0
    assert found["mean_iou"] == pytest.approx((3 / 5 + 1 / 4) / 3) and found["pixel_accuracy"] == pytest.approx(4 / 7)


def test_a_mask_goes_with_its_image():
    """Mirrored or turned, or cut out: what is red stays in the mask, and a draw gives the same again."""
    pytest.importorskip("albumentations", reason="pip install 'hf_addnorm[detection]'")
    pixels = Pixels.__new__(Pixels)
    pixels.processor, pixels.channels, pixels.shape = BeitImageProcessorPil(), 3, (3, 32, 48)
    image, mask = np.full((3, 32, 48), 90, np.uint8), np.zeros((32, 48), np.uint8)
    image[:, 4:12, 6:18] = np.array([220, 40, 40], np.uint8)[:, None, None]
    mask[4:12, 6:18] = 1
    row = {"pixels": image.tobytes(), "mask": mask.tobytes()}
    masked = masks.Masked(pixels, "image", "mask", ["ground", "red"])
    change, seen = masked.changing(SimpleNamespace(flips=True, crop=0.5, color=0.0)), set()
    for number in range(20):
        found = change(row, random.Random(number))
        assert found == change(row, random.Random(number))
        red = pixels.array(found)[0].astype(int) > 150
        assert (red == (masked.array(found) == 1)).mean() > 0.97
        seen.add(found["mask"])
    assert len(seen) > 4 and masked.changing(SimpleNamespace(flips=False, crop=0.0, color=0.0)) is None


def test_the_drawn_shapes_are_the_same_each_time(monkeypatch):
    monkeypatch.setattr(masks, "TRAIN", 20)
    monkeypatch.setattr(masks, "HELD_OUT", 12)
    first, again = BUILTIN["shapes"](), BUILTIN["shapes"]()
    assert {split: len(rows) for split, rows in first.items()} == {"train": 20, "validation": 12}
    for split in first:
        assert np.array_equal(first[split]["mask"], again[split]["mask"])
        assert np.array_equal(first[split][0]["image"], again[split][0]["image"])
        assert set(np.unique(first[split]["mask"])) == {0, 1, 2, 3}


ROWS = [[0] * 20] * 16
BAD = {
    "train row 2: its mask is 19 x 16 pixels, and its image 20 x 16": [[0] * 19] * 16,
    r"train row 2: its mask holds 2; the classes are 0 to 1 \(ground, square\), and 255 is a pixel without": [[2] * 20]
    * 16,
    "train row 2: its mask holds -1; the classes are": [[-1] * 20] * 16,
    "train row 2: no pixel of its mask has a class": [[255] * 20] * 16,
    "train row 2: its mask is not made of rows of whole numbers": [],
}


@pytest.mark.parametrize(("sentence", "mask"), BAD.items())
def test_bad_masks_are_refused_before_the_training(recipe, new, sentence, mask):
    values = [ROWS, ROWS, mask, *[ROWS] * 5]
    images = Dataset.from_parquet(new["train_file"])["image"]
    Dataset.from_dict({"image": images, "mask": values}).to_parquet(new["train_file"])
    with pytest.raises(UserError, match=sentence):
        segment(recipe, new)
    assert not Path(new["output_dir"], "result.json").exists()


def test_what_else_is_refused(recipe, new):
    for entries, sentence in (
        ({"label_names": None}, "label_names must say which classes the numbers in a mask are"),
        ({"label_names": ["a", "a"]}, "label_names must be at least two names, no two alike: a, a"),
        ({"batch_size": 7}, "8 rows in batches of 7 leave a batch of one image, over which the norms"),
        ({"mask_column": "masks"}, "has no column 'masks'"),
    ):
        with pytest.raises(UserError, match=sentence):
            segment(recipe, new | entries)
    images = Dataset.from_parquet(new["train_file"])["image"]
    Dataset.from_dict({"image": images, "mask": images}).to_parquet(new["train_file"])
    with pytest.raises(UserError, match="train row 0: its mask cannot be read: it has Pillow's mode RGB; a mask has"):
        segment(recipe, new)


@pytest.mark.slow
def test_thirty_two_images_by_heart(recipe, new, tmp_path):
    """A model that can tell pixels tells those that it was trained on."""
    file = str(tmp_path / "all.parquet")
    Dataset.from_dict(drawn(32, 9)).to_parquet(file)
    entries = {"model_config": BEIT, "train_file": file, "validation_file": file, "eval_every": 200}
    result = segment(recipe, new | entries | {"epochs": 50, "learning_rate": 3e-3, "weight_decay": 0.0})
    assert result["metrics"]["mean_iou"] >= 0.9
