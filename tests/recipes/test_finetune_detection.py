"""Object detection: a small YOLOS on drawn discs and squares, the figures, what is done to boxes, what is refused."""

import io
import random
from pathlib import Path
from types import SimpleNamespace

import finetune_detection
import numpy as np
import pytest
import torch
from common import objects, starts
from common.errors import UserError
from common.images import Pixels
from datasets import Dataset
from PIL import Image as Picture
from PIL import ImageDraw
from transformers import AutoConfig, AutoModelForObjectDetection, YolosImageProcessorPil, pipeline

from hf_addnorm import new_model


pytest.importorskip("pycocotools", reason="pip install 'hf_addnorm[detection]'")

YOLOS = {
    "model_type": "yolos",
    "image_size": [16, 24],
    "patch_size": 8,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "num_detection_tokens": 4,
    "initializer_range": 0.1,
}


def drawn(count: int, seed: int) -> dict[str, list]:
    """Grey images of 48 x 32 with up to two objects: a disc (0) or a square (1), with their boxes."""
    draw, found = random.Random(seed), {"image": [], "boxes": [], "labels": []}
    for _ in range(count):
        image, boxes, labels = Picture.new("RGB", (48, 32), (90, 90, 90)), [], []
        for half in range(draw.randint(0, 2)):
            left, upper, size = 24 * half + draw.randint(0, 10), draw.randint(0, 16), draw.randint(8, 14)
            box, label = [left, upper, left + size, upper + size], draw.randint(0, 1)
            brush = ImageDraw.Draw(image)
            (brush.rectangle if label else brush.ellipse)(box, fill=(220, 40, 40))
            boxes.append([float(side) for side in box])
            labels.append(label)
        file = io.BytesIO()
        image.save(file, "png")
        for name, value in (("image", file.getvalue()), ("boxes", boxes), ("labels", labels)):
            found[name].append(value)
    return found


@pytest.fixture
def new(drawn_run):
    """Drawn images, and a YOLOS of 2 layers of 16."""
    return drawn_run(drawn, model_config=YOLOS, label_names=["disc", "square"])


def find(recipe, config, *args):
    return recipe(config, *args, main=finetune_detection.main)


def changed(path: str, **columns: list) -> None:
    """Write other values into a file's columns."""
    Dataset.from_dict(Dataset.from_parquet(path).to_dict() | columns).to_parquet(path)


def test_a_run_is_saved_drawn_and_found_by_a_pipeline(recipe, new, use, tmp_path):
    result = find(recipe, new, "--add_norm", "hyper_connections", "--placed_start", "true")
    assert len(Path(finetune_detection.__file__).read_text().splitlines()) < 180
    assert {"map", "map50"} <= set(result["metrics"]) and set(result["mean_boxes"]) == {"map", "map50"}
    assert result["reload"]["predictions_equal"] == 5
    assert result["data"]["train"]["objects"] == sum(map(len, drawn(8, 3)["labels"]))
    folder = tmp_path / "run"
    assert Picture.open(folder / "objects.png").width > 500
    model = AutoModelForObjectDetection.from_pretrained(folder / "model")
    assert type(model).__name__ == "AddNormYolosForObjectDetection"
    assert model.config.id2label == {0: "disc", 1: "square"}
    found = pipeline("object-detection", str(folder / "model"), threshold=0.0)(Picture.new("RGB", (48, 32)))
    assert len(found) == 4 and set(found[0]["box"]) == {"xmin", "ymin", "xmax", "ymax"}
    [figures] = use("evaluate", main=finetune_detection.main)
    assert '"map50"' in figures.read_text()
    predicted = use("predict", "--predictions", str(tmp_path / "found.parquet"), main=finetune_detection.main)
    assert {"prediction", "prediction_boxes", "prediction_scores"} <= set(
        Dataset.from_parquet(str(predicted[0])).column_names
    )


def test_the_loss_is_that_of_the_stock_model_for_each_object(new):
    torch.manual_seed(0)
    model = AutoModelForObjectDetection.from_config(AutoConfig.for_model(**YOLOS, num_labels=2)).eval()
    starts.start_zeros(model)
    assert model.vit.embeddings.detection_tokens.std() > 0.01
    images, labels = torch.randn(2, 3, 16, 24), torch.tensor([[1, 0], [1, -100]])
    boxes = torch.tensor([[[0.1, 0.2, 0.3, 0.6], [0.5, 0.5, 0.9, 1.0]], [[0.2, 0.2, 0.4, 0.8], [0.0, 0.0, 0.0, 0.0]]])
    batch = {"pixel_values": images, "labels": labels, "boxes": boxes}
    known = [
        {"class_labels": torch.tensor([1, 0]), "boxes": torch.tensor([[0.2, 0.4, 0.2, 0.4], [0.7, 0.75, 0.4, 0.5]])},
        {"class_labels": torch.tensor([1]), "boxes": torch.tensor([[0.3, 0.5, 0.2, 0.6]])},
    ]
    expected = model(images, labels=known).loss * 3
    torch.testing.assert_close(finetune_detection.loss(model, batch), expected)


def test_places_are_spread_in_rows():
    assert starts.spread(4, 1.0).tolist() == [[0.25, 0.25], [0.25, 0.75], [0.75, 0.25], [0.75, 0.75]]
    # three rows of a picture that is wide, of which the first has one token more
    places = starts.spread(10, 0.75)
    assert places.shape == (10, 2) and places[:, 0].unique(return_counts=True)[1].tolist() == [4, 3, 3]
    assert starts.spread(3, 0.01)[:, 0].tolist() == [0.5] * 3
    found = starts.sines(places, 18)
    assert found.shape == (10, 18) and found[:, 16:].abs().max() == 0 and found.unique(dim=0).shape[0] == 10


@pytest.mark.parametrize("add_norm", [None, "hyper_connections"])
def test_a_placed_start_says_boxes_at_places_and_sees_what_is_near(add_norm):
    """Of the stock model and of ours; without it, every token would say about one box."""
    torch.manual_seed(0)
    sizes = YOLOS | {"hidden_size": 32, "image_size": [32, 32], "num_detection_tokens": 9, "initializer_range": 0.05}
    model = new_model("AutoModelForObjectDetection", sizes.pop("model_type"), add_norm, **sizes, num_labels=2)
    starts.start_zeros(model)
    images, boxes = torch.randn(4, 3, 32, 32), torch.tensor([[0.5, 0.5, 0.2, 0.3], [0.1, 0.2, 0.1, 0.1]])
    starts.start_placed(model, images, boxes)
    found = model.eval()(images).pred_boxes
    places = starts.spread(9, 1.0).flip(-1)
    expected = torch.cat([places, torch.tensor([[0.15, 0.2]]).expand(9, 2)], -1)
    assert (found - expected).abs().mean() < 0.05
    assert all(parameter.grad is None for parameter in model.parameters())
    for layer in model.vit.encoder.layer:
        core = layer.attention.attention
        assert torch.equal(core.query.weight, core.key.weight)
        copied = layer.attention.output.dense.weight @ core.value.weight
        torch.testing.assert_close(copied, starts.COPY**2 * torch.eye(32), atol=1e-5, rtol=0)


def _found(labels, boxes, scores):
    return objects.Found(torch.tensor(labels), torch.tensor(boxes), torch.tensor(scores))


def test_average_precision():
    known = [_found([0, 1], [[0.1, 0.1, 0.5, 0.5], [0.6, 0.6, 0.9, 0.9]], [1.0, 1.0])]
    assert objects.average_precision(known, known, 2) == pytest.approx({"map": 1.0, "map50": 1.0})
    # boxes that overlap by 0.6: right at 0.5, 0.55 and 0.6, which are three of ten
    moved = [_found([0, 1], [[0.2, 0.1, 0.6, 0.5], [0.675, 0.6, 0.975, 0.9]], [0.9, 0.8])]
    found = objects.average_precision(moved, known, 2)
    assert found["map50"] == pytest.approx(1.0) and 0.2 <= found["map"] <= 0.3
    other = [_found([1, 0], [[0.1, 0.1, 0.5, 0.5], [0.6, 0.6, 0.9, 0.9]], [0.9, 0.8])]
    assert objects.average_precision(other, known, 2) == {"map": 0.0, "map50": 0.0}
    nothing = objects.Found(torch.zeros(0), torch.zeros(0, 4), torch.zeros(0))
    assert objects.average_precision([nothing], known, 2) == {"map": 0.0, "map50": 0.0}


def test_mean_boxes_are_those_of_a_class_in_the_number_that_an_image_has():
    boxes = [[[0.0, 0.0, 0.2, 0.2], [0.5, 0.5, 0.7, 0.7]], [[0.02, 0.0, 0.22, 0.2], [0.52, 0.5, 0.72, 0.7]]]
    rows = Dataset.from_dict({"labels": [[0, 0], [0, 0]], "boxes": boxes})
    found = objects.mean_boxes(rows, 2)
    assert found.labels.tolist() == [0, 0] and found.scores.tolist() == [0.5, 0.5]
    expected = torch.tensor([[0.01, 0.0, 0.21, 0.2], [0.51, 0.5, 0.71, 0.7]], dtype=torch.float64)
    torch.testing.assert_close(found.boxes.sort(0).values, expected)


def test_boxes_of_coco_are_the_same_as_edges():
    assert objects.as_shares([[10, 4, 20, 8]], (40, 16), "coco", "row") == [[0.25, 0.25, 0.75, 0.75]]
    edges = torch.tensor([[0.25, 0.25, 0.75, 0.5]])
    assert objects.centered(edges).tolist() == [[0.5, 0.375, 0.5, 0.25]]
    assert torch.equal(objects.edges(objects.centered(edges)), edges)


def test_a_box_goes_with_its_image():
    """Mirrored or turned, or cut out: the red of the object stays in its box, and a draw gives the same again."""
    pytest.importorskip("albumentations", reason="pip install 'hf_addnorm[detection]'")
    model = SimpleNamespace(config=SimpleNamespace(num_channels=3, image_size=[32, 48]), device="cpu")
    pixels = Pixels.__new__(Pixels)
    pixels.processor, pixels.channels, pixels.shape = YolosImageProcessorPil(), model.config.num_channels, (3, 32, 48)
    image = np.full((3, 32, 48), 90, np.uint8)
    image[:, 4:12, 6:18] = np.array([220, 40, 40], np.uint8)[:, None, None]
    row = {"pixels": image.tobytes(), "boxes": [[6 / 48, 4 / 32, 18 / 48, 12 / 32]], "labels": [1]}
    change = objects.changing(SimpleNamespace(flips=True, crop=0.5, color=0.0), pixels)
    seen = set()
    for number in range(40):
        found = change(row, random.Random(number))
        again = change(row, random.Random(number))
        assert found["pixels"] == again["pixels"] and found["boxes"] == again["boxes"]
        for box in found["boxes"]:
            left, upper, right, lower = (round(x * size) for x, size in zip(box, (48, 32, 48, 32), strict=True))
            red = pixels.array(found)[0].astype(int)[upper:lower, left:right] > 150
            assert red.mean() > 0.7
            seen.add((left, upper))
    assert len(seen) > 4


NONE = [[]] * 7
BAD = {
    "train row 0: box 0, .* reaches outside of the image, which is 48 x 32": ([[[0, 0, 49, 10]], *NONE], [[0], *NONE]),
    "train row 0: box 0, .* is empty": ([[[5, 5, 5, 9]], *NONE], [[0], *NONE]),
    "train row 0: box 0, .* is not made of four finite numbers": ([[[1, 2, 3, float("nan")]], *NONE], [[0], *NONE]),
    "train row 0 has 1 boxes and 2 labels: each box needs one label": ([[[1, 2, 3, 4]], *NONE], [[0, 1], *NONE]),
    "must hold a list of labels for each image": ([[[1, 2, 3, 4]], *NONE], [0] * 8),
    "7": ([[[1, 2, 3, 4]], *NONE], [[7], *NONE]),
}


@pytest.mark.parametrize(("sentence", "boxes", "labels"), [(sentence, *columns) for sentence, columns in BAD.items()])
def test_bad_boxes_are_refused_before_the_training(recipe, new, sentence, boxes, labels):
    changed(new["train_file"], boxes=boxes, labels=labels)
    with pytest.raises(UserError, match=sentence):
        find(recipe, new)
    assert not Path(new["output_dir"], "result.json").exists()


@pytest.mark.slow
def test_thirty_two_images_by_heart(recipe, new, tmp_path):
    """A model that can find objects finds those that it was trained on."""
    file = str(tmp_path / "all.parquet")
    Dataset.from_dict(drawn(32, 9)).to_parquet(file)
    size = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 128}
    entries = {"model_config": YOLOS | size, "train_file": file, "validation_file": file, "eval_every": 400}
    result = find(recipe, new | entries | {"epochs": 200, "learning_rate": 2e-3, "weight_decay": 0.0})
    assert result["metrics"]["map50"] >= 0.9
