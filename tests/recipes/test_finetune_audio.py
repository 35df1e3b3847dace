"""Spoken words: a small Wav2Vec2 on tones, how clips are read, the loss of characters, error rates, refusals."""

import io
import itertools
import json
import math
import random
import wave
from pathlib import Path

import finetune_audio
import numpy as np
import pytest
import torch
from common import clips, metrics, spelling
from common.errors import UserError
from datasets import Audio, Dataset, Features, Value
from transformers import AutoProcessor, pipeline


WAV2VEC2 = {
    "model_type": "wav2vec2",
    "conv_dim": [8, 8],
    "conv_kernel": [20, 10],
    "conv_stride": [10, 8],
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "classifier_proj_size": 12,
    "initializer_range": 0.1,
}
WORDS = ["ah", "ole", "o a"]


def wav(samples, rate: int = 8000, width: int = 2, channels: int = 1) -> bytes:
    """A PCM file of samples between -1 and 1, the same in each channel."""
    top = 2 ** (8 * width - 1) - 1
    numbers = np.repeat(np.round(np.asarray(samples) * top).astype(np.int64), channels)
    if width == 1:
        numbers += 128
    data = b"".join(int(number).to_bytes(width, "little", signed=width > 1) for number in numbers)
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(channels)
        writer.setsampwidth(width)
        writer.setframerate(rate)
        writer.writeframes(data)
    return file.getvalue()


def tone(word: int, length: int) -> np.ndarray:
    """A tone for each character."""
    pitch = [0.15 + 0.3 * " aehlo".index(char) for char in WORDS[word]]
    return 0.5 * np.sin(np.cumsum(np.repeat(pitch, -(-length // len(pitch)))[:length]))


@pytest.fixture(scope="module")
def tones(tmp_path_factory):
    """11 clips to train on and 7 to validate, of a tone for each word and many lengths."""
    folder, paths = tmp_path_factory.mktemp("tones"), {}
    for split, count in (("train", 11), ("validation", 7)):
        sounds = [wav(tone(row % 3, 900 + 140 * (5 * row % 7))) for row in range(count)]
        for row, sound in enumerate(sounds):
            (folder / f"{split}_{row}.wav").write_bytes(sound)
        rows = {
            "wav": sounds,
            "sound": [{"bytes": sound, "path": None} for sound in sounds],
            "name": [str(folder / f"{split}_{row}.wav") for row in range(count)],
            "label": [row % 3 for row in range(count)],
            "words": [WORDS[row % 3] for row in range(count)],
        }
        file = {"bytes": Value("binary"), "path": Value("string")}
        kinds = {"wav": Value("binary"), "sound": file, "name": Value("string"), "label": Value("int32")}
        paths[f"{split}_file"] = str(folder / f"{split}.parquet")
        table = Dataset.from_dict(rows, features=Features(kinds | {"words": Value("string")}))
        # encoding into it would need torchcodec
        table.cast_column("sound", Audio()).to_parquet(paths[f"{split}_file"])
    return paths


@pytest.fixture
def speech(config, tones):
    kept = {key: value for key, value in config.items() if key not in ("checkpoint", "max_length")}
    return kept | tones | {"model_config": WAV2VEC2, "audio_column": "wav", "label_names": WORDS, "batch_size": 4}


@pytest.fixture
def listen(recipe):
    def call(config, *args):
        return recipe(config, *args, main=finetune_audio.main)

    return call


@pytest.mark.parametrize("task", ["classification", "ctc"])
def test_a_saved_model_hears_without_labels(speech, listen, use, tones, tmp_path, task):
    result = listen(speech | {"task": task, "max_steps": 6})
    figures = json.loads(use("evaluate", main=finetune_audio.main)[0].read_text())
    assert figures["metrics"] == {key: result["metrics"][key] for key in figures["metrics"]}
    kept = Dataset.from_parquet(tones["validation_file"]).select_columns(["wav", "name"])
    kept.to_parquet(tmp_path / "new.parquet")
    [path] = use("predict", "--file", str(tmp_path / "new.parquet"), main=finetune_audio.main)
    found = Dataset.from_parquet(str(path))
    assert found["name"][:] == kept["name"][:]
    assert [name for name in found.column_names if not name.startswith("probability")] == ["name", "prediction"]
    if task == "classification":
        assert set(found["prediction"]) <= set(WORDS)
        assert found[0]["probability"] == max(found[0][f"probability_{word}"] for word in WORDS)


def test_script_is_short():
    assert len(Path(finetune_audio.__file__).read_text().splitlines()) < 180


def test_classes_and_what_they_leave(speech, listen, tones, tmp_path):
    result = listen(speech, "--add_norm", "pre_rms_norm", "--stretch", "0.1")
    assert result["recipe"] == "finetune_audio"
    assert result["model"] == "AddNormWav2Vec2ForSequenceClassification"
    assert result["reload"] == {"predictions_equal": 7, "float32_logits_equal": 7}
    assert set(result["metrics"]) == {"step", "epoch", "accuracy", "f1", "matthews_correlation"}
    assert 0 < result["padding_share"] < 0.5
    classifier = pipeline("audio-classification", str(tmp_path / "run" / "model"))
    assert classifier.feature_extractor.sampling_rate == 8000
    heard = classifier({"raw": tone(1, 1000).astype(np.float32), "sampling_rate": 8000}, top_k=3)
    assert {entry["label"] for entry in heard} == set(WORDS)
    # the saved folder is a checkpoint, with names of its own
    again = speech | {"checkpoint": str(tmp_path / "run" / "model"), "model_config": {}, "max_steps": 1}
    assert listen(again | {"output_dir": str(tmp_path / "2")})["add_norm"] == result["add_norm"]


@pytest.mark.parametrize("task", ["classification", "ctc"])
def test_accumulation_gives_the_same_losses(speech, listen, tmp_path, task):
    # clips of other lengths beside each other mean other padding
    speech |= {"task": task, "dropout": 0.0, "stretch": 0.1, "group_by_length": False}
    whole = listen(speech)
    split = listen(speech | {"micro_batch_size": 1, "output_dir": str(tmp_path / "2")})
    assert split["loss_history"] == pytest.approx(whole["loss_history"], rel=1e-5)
    assert split["metrics"] == whole["metrics"]
    assert split["padding_share"] == 0 < whole["padding_share"]


def test_resumed_run_equals_the_uninterrupted_one(speech, listen, tmp_path):
    # dropout and masks stay on; the masks come from numpy's random numbers
    masks = {"mask_time_prob": 0.3, "mask_time_length": 2, "mask_feature_prob": 0.2, "mask_feature_length": 3}
    speech |= {"spec_augment": True, "model_config": WAV2VEC2 | masks, "checkpoint_every": 4}
    whole = listen(speech | {"output_dir": str(tmp_path / "whole")})
    listen(speech)
    (tmp_path / "run" / "result.json").unlink()
    (tmp_path / "run" / "checkpoints" / "step_00000008").rename(tmp_path / "step_00000008")
    for path in (tmp_path / "run" / "checkpoints").glob("step_*"):
        path.rename(tmp_path / f"{path.name}_removed")
    (tmp_path / "step_00000008").rename(tmp_path / "run" / "checkpoints" / "step_00000008")
    np.random.seed(5)
    resumed = listen(speech, "--resume")
    assert resumed["resumed_at"] == [8]
    assert resumed["loss_history"] == whole["loss_history"]
    unmasked = listen(speech | {"spec_augment": False, "output_dir": str(tmp_path / "3")})
    assert unmasked["loss_history"] != whole["loss_history"]


def test_characters_are_learned(speech, listen, tones, tmp_path):
    speech |= {"task": "ctc", "label_column": "words", "label_names": None, "learning_rate": 1e-2, "epochs": 80}
    speech |= {"validation_file": tones["train_file"], "eval_every": 120, "dropout": 0.0}
    result = listen(speech | {"add_norm": "pre_ln", "checkpoint_every": 120, "final_model": "best"})
    assert result["model"] == "AddNormWav2Vec2ForCTC"
    assert set(result["metrics"]) == {"step", "epoch", "cer", "wer"}
    assert result["metrics"]["cer"] < 0.1
    folder = tmp_path / "run" / "model"
    processor = AutoProcessor.from_pretrained(folder)
    assert processor.tokenizer.get_vocab() == {
        token: number for number, token in enumerate(["<pad>", "<unk>", "|", "a", "e", "h", "l", "o"])
    }
    hear = pipeline("automatic-speech-recognition", str(folder))
    # a clip of the train split
    assert hear({"raw": tone(1, 900 + 140 * 5).astype(np.float32), "sampling_rate": 8000})["text"] == "ole"
    # goes on with the characters that the checkpoint knows
    again = speech | {"checkpoint": str(folder), "model_config": {}, "max_steps": 1, "output_dir": str(tmp_path / "2")}
    assert listen(again)["loss_history"][0] < result["loss_history"][0] / 2
    with pytest.raises(UserError, match="train row 0: 'zero' has characters that the tokenizer lacks: rz"):
        listen(
            again | {"label_column": "label", "label_names": ["zero", "one", "two"], "output_dir": str(tmp_path / "3")}
        )


def test_columns_that_hold_clips(speech, listen, tmp_path):
    found = [
        listen(speech | {"audio_column": column, "max_steps": 1, "output_dir": str(tmp_path / column)})
        for column in ("wav", "sound", "name")
    ]
    assert found[1]["data"] == found[2]["data"] == found[0]["data"]
    assert found[1]["loss_history"] == found[2]["loss_history"] == found[0]["loss_history"]


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_decode(width, channels):
    samples = np.linspace(-0.9, 0.9, 37)
    found, rate = clips.decode(wav(samples, 11025, width, channels))
    assert (found.dtype, rate) == (np.float32, 11025)
    assert found == pytest.approx(samples, abs=2.0 ** (2 - 8 * width) + 1e-6)


def test_stretched():
    row = {"samples": np.sin(np.arange(2000) / 20).astype("<f4").tobytes(), "frames": 20, "least": 15}
    lengths = set()
    for seed in range(50):
        found = clips.stretched(row, random.Random(seed), 0.4, lambda samples: samples // 100)
        samples = np.frombuffer(found["samples"], "<f4")
        lengths.add(len(samples))
        assert found["frames"] == len(samples) // 100 >= 15
        # the same wave, slower or faster
        assert samples == pytest.approx(np.sin(np.linspace(0, 1999, len(samples)) / 20), abs=1e-3)
    assert 1500 <= min(lengths) < 1700
    assert 2500 < max(lengths) <= 2800


def test_loss_of_characters_against_all_alignments():
    torch.manual_seed(0)
    logits = torch.randn(3, 4, 3, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([[1, 2], [2, -100], [-100, -100]])
    frames = torch.tensor([4, 3, 4])

    def log_probability(row, wanted):
        total = 0
        for path in itertools.product(range(3), repeat=int(frames[row])):
            kept = [token for token, _ in itertools.groupby(path) if token != 0]
            if kept == wanted:
                total = total + logits[row].softmax(-1)[torch.arange(len(path)), torch.tensor(path)].prod()
        return total.log()

    expected = -log_probability(0, [1, 2]) - log_probability(1, [2])
    found = spelling.ctc_loss(logits, labels, frames, blank=0)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    gradients = [torch.autograd.grad(loss, logits, retain_graph=True)[0] for loss in (expected, found)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)
    # a batch without any text still has a gradient, of zeros
    nothing = spelling.ctc_loss(logits, torch.full((3, 2), -100), frames, blank=0)
    assert nothing.item() == 0
    assert not torch.autograd.grad(nothing, logits)[0].any()


def test_error_rates():
    metric = metrics.load_metrics(None, metrics.TRANSCRIPTION)
    assert metric.compute(predictions=["kitten sat"], references=["sitting sat"]) == {"cer": 3 / 11, "wer": 1 / 2}
    # insertions count too, and all characters of all references together
    values = metric.compute(predictions=["", "one two"], references=["a b", "two"])
    assert values == {"cer": (3 + 4) / 6, "wer": (2 + 1) / 3}
    assert all(math.isnan(value) for value in metric.compute(predictions=["a"], references=[""]).values())


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"audio_column": "clip"}, "train split has no column 'clip'; it has wav, sound, name, label, words"),
        (
            {"audio_column": "label"},
            "train row 0: column 'label' holds 0, which is no clip .*: neither a file's bytes",
        ),
        ({"audio_column": "words"}, "train row 0: column 'words' holds ah, which is no clip .*: .*No such file"),
        (
            {"label_names": ["a", "b"]},
            "train row 2: column 'label' holds 2; the classes are whole numbers from 0 to 1",
        ),
        (
            {"label_names": ["ah", "o a"], "label_column": "words"},
            "label_names are ah, o a, and column 'words' has the classes ah, o a, ole",
        ),
        (
            {"task": "ctc", "label_names": ["a long word", "b", "c"]},
            "train row 0: the clip has 10 frames, and 'a long",
        ),
        ({"task": "ctc", "metrics": ["accuracy"]}, "metric 'accuracy' is not one of this task's: cer, wer"),
        ({"stretch": 2}, 'config key "stretch"'),
        ({"model_config": WAV2VEC2 | {"num_attention_heads": 3}}, "cannot load a new wav2vec2: "),
    ],
)
def test_refused(speech, listen, keys, sentence):
    with pytest.raises(UserError, match=sentence) as caught:
        listen(speech | keys)
    assert "\n" not in str(caught.value)
    assert not Path(speech["output_dir"]).exists()


@pytest.mark.parametrize(
    ("clip", "sentence"),
    [
        (b"fLaC\x00 not really", "which is no clip .*: not a wav file of whole numbers"),
        (wav(tone(0, 900))[:20], "which is no clip that can be read: "),
        (wav([]), "which is no clip that can be read: no samples"),
        (b"", "which is no clip that can be read: neither a file's bytes nor its name"),
        (None, "holds None, which is no clip that can be read: neither"),
        (wav(tone(0, 900), rate=16000), "the clip has 16000 samples a second, and the feature extractor takes 8000"),
        (wav(tone(0, 50)), "the clip has 50 samples, too few for one frame"),
    ],
)
def test_broken_clip(speech, listen, tmp_path, clip, sentence):
    rows = {"wav": [wav(tone(0, 900)), clip], "label": [0, 1]}
    path = str(tmp_path / "broken.parquet")
    Dataset.from_dict(rows, features=Features({"wav": Value("binary"), "label": Value("int32")})).to_parquet(path)
    with pytest.raises(UserError, match=f"validation row 1: .*{sentence}"):
        listen(speech | {"validation_file": path})
    assert not Path(speech["output_dir"]).exists()
