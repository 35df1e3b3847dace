"""The recipe for texts that are spoken: tones that a small SpeechT5 learns, wav files, a recognizer, refusals."""

import json
import wave
from pathlib import Path

import finetune_audio
import finetune_tts
import numpy as np
import pytest
import torch
from common import clips, speaking
from common.errors import UserError
from datasets import Dataset, Features, Value
from test_finetune_audio import WAV2VEC2, tone, wav
from transformers import AutoProcessor, SpeechT5Processor


pytest.importorskip("librosa", reason="pip install 'hf_addnorm[speech]'")

SPEECHT5 = {
    "model_type": "speecht5",
    "hidden_size": 32,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "max_text_positions": 16,
    "max_speech_positions": 32,
    "num_mel_bins": 20,
    "speech_decoder_prenet_units": 16,
    "speech_decoder_postnet_layers": 2,
    "speech_decoder_postnet_units": 16,
    "speaker_embedding_dim": 4,
}
WORDS = ["ah", "ole", "o a"]


@pytest.fixture(scope="module")
def spoken(tmp_path_factory):
    """Nine clips of three words, of two speakers, of several lengths."""
    path = str(tmp_path_factory.mktemp("spoken") / "train.parquet")
    rows = {
        "wav": [wav(tone(row % 3, 2500 + 300 * (row % 4))) for row in range(9)],
        "words": [WORDS[row % 3] for row in range(9)],
        "who": [["ann", "bob"][row % 2] for row in range(9)],
    }
    kinds = {"wav": Value("binary"), "words": Value("string"), "who": Value("string")}
    Dataset.from_dict(rows, features=Features(kinds)).to_parquet(path)
    return {"train_file": path, "validation_file": path}


@pytest.fixture
def speaking_keys(config, spoken):
    kept = {key: value for key, value in config.items() if key not in ("checkpoint", "max_length")}
    columns = {"audio_column": "wav", "label_column": "words", "speaker_column": "who"}
    return kept | spoken | columns | {"model_config": SPEECHT5, "dropout": 0.0, "batch_size": 9, "samples": 2}


@pytest.fixture
def speak(recipe):
    def call(config, *args):
        return recipe(config, *args, main=finetune_tts.main)

    return call


def test_script_is_short():
    assert len(Path(finetune_tts.__file__).read_text().splitlines()) < 180


def _read_wav(path):
    return clips.decode(Path(path).read_bytes())


def test_what_is_learned_is_spoken_heard_and_drawn(speaking_keys, speak, spoken, recipe, use, tmp_path):
    ear = {"task": "classification", "audio_column": "wav", "label_column": "words", "model_config": WAV2VEC2}
    kept = {key: speaking_keys[key] for key in ("epochs", "batch_size", "learning_rate", "mixed_precision")}
    recipe(ear | kept | spoken | {"output_dir": str(tmp_path / "ear"), "max_steps": 1}, main=finetune_audio.main)
    keys = speaking_keys | {"epochs": 20, "eval_every": 100, "learning_rate": 5e-3}
    result = speak(keys, "--add_norm", "pre_ln", "--recognizer", str(tmp_path / "ear"))
    assert result["model"] == "AddNormSpeechT5ForTextToSpeech"
    assert result["reload"] == {"predictions_equal": 9, "float32_logits_equal": 9}
    assert result["loss_history"][-1] < 0.8 * result["loss_history"][0]
    assert set(result["metrics"]) == {"step", "epoch", "distance", "cer", "wer"}
    assert result["metrics"]["distance"] > 0 and result["mean_frame"]["distance"] > 0
    assert [row["text"] for row in result["examples"]] == WORDS[:2]
    assert {row["heard"] for row in result["examples"]} <= set(WORDS)
    folder = tmp_path / "run"
    assert (folder / "speech.png").stat().st_size > 1000
    names = sorted(path.name for path in (folder / "speech").iterdir())
    assert names == ["000_ah.wav", "001_ole.wav"]
    samples, rate = _read_wav(folder / "speech" / names[0])
    assert rate == 8000 and 0.01 < np.abs(samples).max() <= 1.0
    model = json.loads((folder / "model" / "config.json").read_text())
    assert model["speakers"] == ["ann", "bob"]
    processor = AutoProcessor.from_pretrained(folder / "model")
    assert type(processor) is SpeechT5Processor
    assert processor.tokenizer("ole").input_ids and processor.feature_extractor.sampling_rate == 8000
    card = (folder / "model" / "README.md").read_text()
    assert "pipeline_tag: text-to-speech" in card and "AutoModelForTextToSpectrogram" in card
    # as it was evaluated, and of texts alone
    figures = json.loads(use("evaluate", main=finetune_tts.main)[0].read_text())
    assert figures["metrics"] == {key: result["metrics"][key] for key in figures["metrics"]}
    new = tmp_path / "new.csv"
    new.write_text("words,who\nole ah,bob\n")
    written = use("predict", "--file", str(new), main=finetune_tts.main)
    (table,) = (path for path in written if path.suffix == ".csv")
    assert table.read_text().splitlines()[-1] == "ole ah,bob,new_predictions/000_ole_ah.wav"
    with wave.open(str(table.with_suffix("") / "000_ole_ah.wav")) as file:
        assert file.getframerate() == 8000 and file.getnframes() > 100


def test_sound_has_the_spectrogram_that_it_is_made_of():
    config = type("Config", (), {"checkpoint": None, "model_config": SPEECHT5 | {"num_mel_bins": 80}})
    made = speaking.Spectrograms(speaking.load_processor(config, 8000, WORDS).feature_extractor)
    known = made.of_clip(tone(1, 6000).astype(np.float32))
    assert known.shape[1] == 80 and len(known) % 2 == 0
    again = made.of_clip(made.sound(known))
    length = min(len(known), len(again))
    # where there is sound
    loud = known[:length] > -1
    assert np.abs(again[:length] - known[:length])[loud].mean() < 0.15


def test_a_share_without_rows_has_no_loss(speaking_keys):
    own = type("Own", (), SPEECHT5 | {"reduction_factor": 2})
    config = type("Config", (), {"checkpoint": None, "model_config": SPEECHT5})
    processor = speaking.load_processor(config, 8000, WORDS)
    frames = np.zeros((4, 20), "<f4").tobytes()
    row = {"input_ids": [3, 4], "spectrogram": frames, "frames": 4, "voice": 1}
    batch = speaking.collating(processor, own)([row, row | {"input_ids": [3], "voice": -1}])
    assert batch["attention_mask"].tolist() == [[1, 1], [1, 0]]
    assert batch["speaker_embeddings"].tolist() == [[0, 1, 0, 0], [0, 0, 0, 0]]
    from hf_addnorm import AddNormSpeechT5Config, AddNormSpeechT5ForTextToSpeech

    entries = {key: value for key, value in SPEECHT5.items() if key != "model_type"}
    model = AddNormSpeechT5ForTextToSpeech(AddNormSpeechT5Config(**entries))
    assert speaking.loss(model, batch) > 0
    batch["labels"].fill_(torch.nan)
    loss = speaking.loss(model, batch)
    loss.backward()
    assert loss == 0 and all(value.grad is None or not value.grad.any() for value in model.parameters())


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"model_config": SPEECHT5 | {"max_text_positions": 2}}, "row 1: 'ole' has 3 tokens, and the encoder 2 posit"),
        (
            {"model_config": SPEECHT5 | {"max_speech_positions": 9}},
            "row 0: the clip has 20 frames, and the decoder 9 p",
        ),
        ({"model_config": SPEECHT5 | {"speaker_embedding_dim": 1}}, "there are 2 speakers, and speaker_embedding_dim"),
        ({"recognizer": "nowhere"}, "recognizer nowhere is no run of finetune_audio.py"),
        ({"speaker_column": "which"}, "the train split has no column 'which'"),
    ],
)
def test_refusals(speaking_keys, speak, keys, sentence):
    with pytest.raises(UserError, match=sentence):
        speak(speaking_keys | keys)


def test_clips_of_another_rate_and_new_speakers_are_refused_before_training(speaking_keys, speak, spoken, tmp_path):
    rows = Dataset.from_parquet(spoken["train_file"])
    fast = rows.map(lambda row: {"wav": wav(tone(0, 4000), rate=16000)})
    fast.to_parquet(tmp_path / "fast.parquet")
    rows.map(lambda row: {"who": "eve"}).to_parquet(tmp_path / "eve.parquet")
    for name, sentence in (
        ("fast", "validation row 0: the clip has 16000 samples a second, and the feature extractor takes 8000"),
        ("eve", "validation row 0: the model does not know the speaker 'eve'; it knows ann, bob"),
    ):
        with pytest.raises(UserError, match=sentence):
            speak(speaking_keys | {"validation_file": str(tmp_path / f"{name}.parquet")})
        assert not (tmp_path / "run" / "model").exists()
