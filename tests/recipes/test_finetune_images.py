"""Image classification: a small ViT on the digits, what is done to images, and what is refused."""

import io
import json
import random
from pathlib import Path

import finetune_images
import numpy as np
import pytest
import torch
from common import data, images
from common.errors import UserError
from datasets import Dataset, Features, Image, Value
from PIL import Image as Picture
from transformers import (
    AutoModelForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
    pipeline,
)


VIT = {
    "model_type": "vit",
    "image_size": 8,
    "patch_size": 4,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "initializer_range": 0.1,
}


@pytest.fixture
def new(config):
    """The digits, and a ViT of 2 layers of 16."""
    kept = {key: value for key, value in config.items() if key not in ("checkpoint", "max_length")}
    kept = {key: value for key, value in kept.items() if not key.endswith("_file")}
    return kept | {"dataset": "builtin:digits", "model_config": VIT, "max_train_rows": 27, "eval_batch_size": 100}


@pytest.fixture
def classify(recipe):
    def call(config, *args):
        return recipe(config, *args, main=finetune_images.main)

    return call


def png(size: tuple[int, int], value: int) -> bytes:
    """A picture in colours, darker from left to right."""
    shades = np.linspace(value, value // 2, size[0]).astype(np.uint8)
    pixels = np.stack([np.tile(shades * share // 3, (size[1], 1)) for share in (1, 2, 3)], axis=-1)
    file = io.BytesIO()
    Picture.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def files(tmp_path):
    """Dark and bright pictures of many sizes, one column for each way to hold them."""
    paths = {}
    for split, count in (("train", 9), ("validation", 5)):
        pictures = [png((9 + row, 7 + row % 3), 200 if row % 2 else 60) for row in range(count)]
        for row, picture in enumerate(pictures):
            (tmp_path / f"{split}_{row}.png").write_bytes(picture)
        rows = {
            "picture": [{"bytes": picture, "path": None} for picture in pictures],
            "raw": pictures,
            "name": [str(tmp_path / f"{split}_{row}.png") for row in range(count)],
            "label": [("dark", "bright")[row % 2] for row in range(count)],
        }
        kinds = {"picture": Image(), "raw": Value("binary"), "name": Value("string"), "label": Value("string")}
        paths[f"{split}_file"] = str(tmp_path / f"{split}.parquet")
        Dataset.from_dict(rows, features=Features(kinds)).to_parquet(paths[f"{split}_file"])
    return paths


@pytest.fixture
def pictures(new, files):
    kept = {key: value for key, value in new.items() if key not in ("dataset", "max_train_rows")}
    return kept | files | {"image_column": "picture", "max_steps": 2}


def test_script_is_short():
    assert len(Path(finetune_images.__file__).read_text().splitlines()) < 180


@pytest.mark.parametrize("column", ["picture", "name"])
def test_a_saved_model_classifies_without_labels(pictures, classify, use, tmp_path, column):
    result = classify(pictures | {"image_column": column})
    figures = json.loads(use("evaluate", main=finetune_images.main)[0].read_text())
    assert figures["metrics"] == {key: result["metrics"][key] for key in figures["metrics"]}
    Dataset.from_parquet(pictures["validation_file"]).remove_columns("label").to_parquet(tmp_path / "new.parquet")
    [path] = use("predict", "--file", str(tmp_path / "new.parquet"), main=finetune_images.main)
    assert path.name == "new_predictions.parquet"
    found = Dataset.from_parquet(str(path))
    # no pixels
    assert found.column_names == ["name", "prediction", "probability", "probability_bright", "probability_dark"]
    folder = str(tmp_path / "run" / "model")
    asked = pipeline("image-classification", folder)
    for row in found:
        best = asked(row["name"])[0]
        assert (best["label"], best["score"]) == (row["prediction"], pytest.approx(row["probability"], rel=1e-4))


def test_digits_are_split_once():
    splits = images.digits()
    assert splits.num_rows == {"train": 1437, "validation": 360}
    assert splits["train"].features["label"].names == [str(number) for number in range(10)]
    seen = [{str(image) for image in rows["image"]} for rows in splits.values()]
    assert not seen[0] & seen[1]
    assert max(max(map(max, image)) for image in splits["train"]["image"]) == 255
    fingerprints = {split: data.fingerprint(rows) for split, rows in splits.items()}
    assert fingerprints == {split: data.fingerprint(rows) for split, rows in images.digits().items()}


def test_digits_and_what_they_leave(new, classify, tmp_path):
    result = classify(new | {"shift": 1}, "--add_norm", "pre_rms_norm")
    assert result["recipe"] == "finetune_images"
    assert result["model"] == "AddNormViTForImageClassification"
    assert result["add_norm"]["norm"]["kind"] == "rms_norm"
    # 4 patches an image, of 27 images in 3 epochs
    assert result["tokens"] == 27 * 4 * 3
    assert result["padding_share"] == 0
    assert set(result["metrics"]) == {"step", "epoch", "accuracy", "f1", "matthews_correlation"}
    assert result["reload"] == {"predictions_equal": 360, "float32_logits_equal": 360}
    # a picture of its own goes the same way through a pipeline
    classifier = pipeline("image-classification", str(tmp_path / "run" / "model"))
    picture = Picture.open(io.BytesIO(png((20, 30), 180)))
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "run" / "model")
    pixels = images.Pixels(classifier.image_processor, model)
    row = {"pixels": pixels._sized(picture).tobytes()}
    with torch.no_grad():
        expected = model(**pixels.batch([row])).logits.softmax(-1)[0]
    found = {entry["label"]: entry["score"] for entry in classifier(picture, top_k=10)}
    assert [found[str(number)] for number in range(10)] == pytest.approx(expected.tolist(), rel=1e-5)


def test_accumulation_gives_the_same_losses(new, classify, tmp_path):
    new |= {"dropout": 0.0, "shift": 1, "flip": True}
    whole = classify(new)
    split = classify(new | {"micro_batch_size": 2, "output_dir": str(tmp_path / "2")})
    assert split["loss_history"] == pytest.approx(whole["loss_history"], rel=1e-5)
    # moved images are other images, in each epoch anew
    plain = classify(new | {"shift": 0, "flip": False, "output_dir": str(tmp_path / "3")})
    assert plain["loss_history"][0] != pytest.approx(whole["loss_history"][0], rel=1e-4)


def test_resumed_run_equals_the_uninterrupted_one(new, classify, tmp_path):
    new |= {"shift": 1, "checkpoint_every": 5}
    whole = classify(new | {"output_dir": str(tmp_path / "whole")})
    classify(new)
    for name in ("result.json", "checkpoints/step_00000012", "checkpoints/step_00000010"):
        path = tmp_path / "run" / name
        if path.is_dir():
            path.rename(tmp_path / path.name)
        else:
            path.unlink(missing_ok=True)
    resumed = classify(new, "--resume")
    assert resumed["resumed_at"] == [5]
    assert resumed["loss_history"] == whole["loss_history"]
    assert resumed["metrics_over_time"] == whole["metrics_over_time"]


def test_columns_that_hold_images(pictures, classify, tmp_path):
    found = [
        classify(pictures | {"image_column": column, "output_dir": str(tmp_path / column)})
        for column in ("picture", "raw", "name")
    ]
    assert found[0]["data"]["train"]["rows"] == 9
    for other in found[1:]:
        assert other["data"] == found[0]["data"]
        assert other["loss_history"] == found[0]["loss_history"]
    # and in a stock model that was saved with its image processor
    again = classify(pictures | {"checkpoint": str(tmp_path / "raw" / "model"), "model_config": {}, "max_steps": 1})
    assert again["data"] == found[0]["data"]
    assert again["loss_history"][0] < found[0]["loss_history"][0]


def test_moved():
    image = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)
    assert (images.moved(image, random.Random(0), 0, False) == image).all()
    found = {images.moved(image, random.Random(seed), 1, True).tobytes() for seed in range(200)}
    wide = np.pad(image, ((0, 0), (1, 1), (1, 1)), mode="edge")
    windows = [wide[:, top : top + 4, left : left + 5] for top in range(3) for left in range(3)]
    assert found == {window[..., ::step].tobytes() for window in windows for step in (1, -1)}


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"image_column": "photo"}, "train split has no column 'photo'; it has picture, raw, name, label"),
        ({"label_column": "class"}, "train split has no column 'class'; it has picture, raw, name, label"),
        ({"image_column": "label"}, "train row 0: column 'label' holds dark, which is no image .* No such file"),
        ({"num_labels": 3}, "num_labels is 3, and column 'label' has 2 classes: bright, dark"),
        ({"metrics": ["pearson"]}, "metric 'pearson' is not one of this task's: accuracy, f1, matthews_correlation"),
        ({"model_config": VIT | {"hidden_act": "gleu"}}, "cannot load a new vit: "),
        ({"shift": -1}, 'config key "shift"'),
    ],
)
def test_refused(pictures, classify, keys, sentence):
    with pytest.raises(UserError, match=sentence) as caught:
        classify(pictures | keys)
    assert "\n" not in str(caught.value)
    assert not Path(pictures["output_dir"]).exists()


@pytest.mark.parametrize("broken", [b"", b"GIF89a", png((9, 9), 99)[:-30], None])
def test_broken_image(pictures, classify, tmp_path, broken):
    rows = {"raw": [png((9, 9), 99), broken], "label": [0, 1]}
    path = str(tmp_path / "broken.parquet")
    Dataset.from_dict(rows, features=Features({"raw": Value("binary"), "label": Value("int64")})).to_parquet(path)
    pictures |= {"validation_file": path, "train_file": path, "image_column": "raw"}
    # whichever rows are drawn, the number is that of the file
    with pytest.raises(
        UserError, match=r"train row 1: column 'raw' holds .* which is no image that can be read: "
    ) as e:
        classify(pictures)
    assert len(str(e.value)) < 300


def test_checkpoint_without_an_image_processor(pictures, classify, tmp_path):
    torch.manual_seed(0)
    ViTForImageClassification(
        ViTConfig(**{key: value for key, value in VIT.items() if key != "model_type"})
    ).save_pretrained(tmp_path / "bare")
    pictures |= {"checkpoint": str(tmp_path / "bare"), "model_config": {}}
    with pytest.raises(UserError, match=r"cannot load the image processor of .*bare: "):
        classify(pictures)


def picture_of(pixels, mode=None, **options) -> bytes:
    file = io.BytesIO()
    picture = Picture.fromarray(pixels) if mode is None else Picture.fromarray(pixels).convert(mode)
    picture.save(file, options.pop("format", "PNG"), **options)
    return file.getvalue()


@pytest.mark.parametrize("data", ["digits", "pictures"])
def test_grey_images(new, pictures, classify, tmp_path, data):
    config = (new if data == "digits" else pictures) | {"model_config": VIT | {"num_channels": 1}, "max_steps": 2}
    result = classify(config)
    assert result["model_config"]["num_channels"] == 1
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "run" / "model")
    assert model.vit.embeddings.patch_embeddings.projection.weight.shape == (16, 1, 4, 4)
    # and again from what was saved
    again = {"checkpoint": str(tmp_path / "run" / "model"), "model_config": {}, "output_dir": str(tmp_path / "again")}
    assert classify(config | again)["data"] == result["data"]
    # weights for colours, of which the config is taken alone
    colours = {"model_config": VIT, "output_dir": str(tmp_path / "colours")}
    classify(config | colours)
    anew = {
        "checkpoint": str(tmp_path / "colours" / "model"),
        "new_weights": True,
        "model_config": {"num_channels": 1},
    }
    assert classify(config | anew | {"output_dir": str(tmp_path / "anew")})["data"] == result["data"]


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_modes(channels):
    grey = np.arange(0, 240, 4, dtype=np.uint8).reshape(6, 10)
    colours = np.stack([grey, grey // 2, grey // 4], -1)
    mode = images.MODES[channels]
    plain = np.asarray(images.opened(picture_of(grey), mode))
    assert plain.shape[:2] == (6, 10)
    assert (plain.reshape(6, 10, channels)[..., 0] == grey).all()
    # 16 bits, which Pillow itself would cut to 255
    deep = picture_of((grey.astype(np.uint16) << 8) + 7)
    assert (np.asarray(images.opened(deep, mode)) == plain).all()
    # rows of pixels, with and without colours
    assert (np.asarray(images.opened(grey.tolist(), mode)) == plain).all()
    assert np.asarray(images.opened(colours.tolist(), mode)).reshape(6, 10, -1).shape == (6, 10, channels)
    for other in ("1", "P", "LA", "RGBA", "CMYK"):
        options = {"format": "TIFF"} if other == "CMYK" else {}
        found = np.asarray(images.opened(picture_of(colours, other, **options), mode))
        assert found.reshape(6, 10, -1).shape == (6, 10, channels)
    # turned in the camera, as the pipeline turns it too
    exif = Picture.Exif()
    exif[274] = 6
    assert np.asarray(images.opened(picture_of(grey, exif=exif), mode)).shape[:2] == (10, 6)
    with pytest.raises(ValueError, match="pixels of Pillow's mode F; allowed are those of 8 or 16 bits"):
        images.opened(picture_of(grey.astype(np.float32), format="TIFF"), mode)
    for wrong in ([[0.1, 0.9]], [[0, 256]], [[-1, 0]]):
        with pytest.raises(ValueError, match=r"pixels from .* to .*, and not whole numbers from 0 to 255"):
            images.opened(wrong, mode)


def saved_vit(folder, **entries):
    """A ViT whose image processor has other entries."""
    torch.manual_seed(0)
    sizes = {key: value for key, value in VIT.items() if key != "model_type"}
    channels = entries.pop("num_channels", 3)
    ViTForImageClassification(ViTConfig(**sizes, num_channels=channels)).save_pretrained(folder)
    ViTImageProcessorPil(**({"size": {"height": 8, "width": 8}} | entries)).save_pretrained(folder)
    return {"checkpoint": str(folder), "model_config": {}}


@pytest.mark.parametrize(
    ("entries", "sentence"),
    [
        (
            {"num_channels": 1},
            "the model takes images of 1 channels, and image_mean of its image processor has 3 values: give one per",
        ),
        (
            {"num_channels": 1, "image_mean": [0.5], "image_std": [0.5], "do_convert_rgb": True},
            "the image processor makes images of 3 x 8 x 8, and the model takes 1 channels: set do_convert_rgb",
        ),
        ({"num_channels": 2}, "the model takes images of 2 channels; there are 1, 3, 4"),
        (
            {"size": {"height": 12, "width": 8}},
            r"does not take the images of its image processor, 3 x 12 x 8: Input image size \(12\*8\) doesn't match",
        ),
    ],
)
def test_images_that_the_model_does_not_take(pictures, classify, tmp_path, entries, sentence):
    with pytest.raises(UserError, match=sentence):
        classify(pictures | saved_vit(tmp_path / "vit", **entries))
    assert not Path(pictures["output_dir"]).exists()


def test_a_model_that_says_no_size(pictures, classify, tmp_path):
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 8], "depths": [1, 1], "layer_type": "basic"}
    ResNetForImageClassification(ResNetConfig(**sizes)).save_pretrained(tmp_path / "resnet")
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "resnet")
    result = classify(pictures | {"checkpoint": str(tmp_path / "resnet"), "model_config": {}, "max_steps": 1})
    assert result["model"] == "ResNetForImageClassification"
