"""The recipe for spoken words with Whisper: texts that a decoder writes for tones, what is refused."""

import json
from pathlib import Path

import finetune_audio
import numpy as np
import pytest
from common.errors import UserError
from datasets import Dataset, Features, Value
from test_finetune_audio import WAV2VEC2, listen, speech, tone, tones, wav
from transformers import AutoProcessor, pipeline


__all__ = ["listen", "speech", "tones"]

WHISPER = {
    "model_type": "whisper",
    "num_mel_bins": 8,
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "max_source_positions": 50,
    "max_target_positions": 12,
}


@pytest.fixture
def dictated(speech):
    return speech | {"task": "seq2seq", "model_config": WHISPER, "dropout": 0.0}


def test_texts_are_learned_and_written_by_the_pipeline(dictated, listen, tones, tmp_path, use):
    dictated |= {"label_column": "words", "label_names": None, "learning_rate": 5e-3, "epochs": 40}
    dictated |= {"validation_file": tones["train_file"], "eval_every": 1000}
    result = listen(dictated, "--add_norm", "pre_ln")
    assert result["model"] == "AddNormWhisperForConditionalGeneration"
    assert set(result["metrics"]) == {"step", "epoch", "cer", "wer"}
    assert result["metrics"]["cer"] < 0.1
    assert result["reload"] == {"predictions_equal": 11, "float32_logits_equal": 11}
    folder = tmp_path / "run" / "model"
    processor = AutoProcessor.from_pretrained(folder)
    ends = ["<|endoftext|>", "<|startoftranscript|>"]
    vocabulary = processor.tokenizer.get_vocab()
    assert sorted(vocabulary, key=vocabulary.get) == [*ends, "a", "e", "h", "l", "o", "Ġ"]
    assert processor.feature_extractor.n_samples == 8000
    card = (folder / "README.md").read_text()
    assert "pipeline_tag: automatic-speech-recognition" in card and "AutoProcessor.from_pretrained" in card
    hear = pipeline("automatic-speech-recognition", str(folder))
    assert hear.type == "seq2seq"
    # a clip of the train split
    clip = {"raw": tone(1, 900 + 140 * 5).astype(np.float32), "sampling_rate": 8000}
    assert hear(dict(clip))["text"] == "ole"
    figures = json.loads(use("evaluate", main=finetune_audio.main)[0].read_text())
    assert figures["metrics"] == {key: result["metrics"][key] for key in figures["metrics"]}
    # goes on with the characters that the checkpoint knows
    again = dictated | {"checkpoint": str(folder), "model_config": {}, "max_steps": 1}
    more = listen(again | {"output_dir": str(tmp_path / "2")})
    assert more["loss_history"][0] < result["loss_history"][0] / 2 and more["add_norm"] == result["add_norm"]
    with pytest.raises(UserError, match="train row 0: 'zero' has characters that the tokenizer lacks"):
        listen(
            again | {"label_column": "label", "label_names": ["zero", "one", "two"], "output_dir": str(tmp_path / "3")}
        )


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        (
            {"model_config": WHISPER | {"max_source_positions": 60}},
            "max_source_positions is 60, which is 120 spectra of 10 ms: .* it is a multiple of 50",
        ),
        (
            {"label_names": ["ah", "a very long text", "o a"]},
            r"train row 1: 'a very long text' has 17 tokens, and the decoder 12 positions.*\(max_target_positions\)",
        ),
        ({"metrics": ["accuracy"]}, "metric 'accuracy' is not one of this task's: cer, wer"),
        ({"class_weights": "balanced"}, "class_weights are for task classification; task is seq2seq"),
    ],
)
def test_refused(dictated, listen, keys, sentence):
    with pytest.raises(UserError, match=sentence) as caught:
        listen(dictated | keys)
    assert "\n" not in str(caught.value)
    assert not Path(dictated["output_dir"]).exists()


@pytest.mark.parametrize(
    ("clip", "stretch", "sentence"),
    [
        (wav(tone(0, 900), rate=16000), 0, "has 16000 samples a second, and the feature extractor takes 8000"),
        (wav(tone(0, 8001)), 0, r"has 8001 samples, and the model reads at most 8000.*\(max_source_positions\)"),
        (wav(tone(0, 7500)), 0.1, "has 8250 samples when stretched, and the model reads at most 8000"),
    ],
)
def test_a_clip_that_cannot_be_read(dictated, listen, tmp_path, clip, stretch, sentence):
    rows = {"wav": [wav(tone(0, 900)), clip], "label": [0, 1]}
    path = str(tmp_path / "clips.parquet")
    Dataset.from_dict(rows, features=Features({"wav": Value("binary"), "label": Value("int32")})).to_parquet(path)
    files = dict.fromkeys(("train_file", "validation_file"), path)
    with pytest.raises(UserError, match=f"train row 1: the clip {sentence}"):
        listen(dictated | files | {"stretch": stretch})
    assert not Path(dictated["output_dir"]).exists()


def test_a_checkpoint_that_reads_samples_is_refused(dictated, listen, tmp_path):
    listen(dictated | {"task": "ctc", "model_config": WAV2VEC2, "max_steps": 1})
    again = dictated | {"checkpoint": str(tmp_path / "run" / "model"), "model_config": {}}
    with pytest.raises(UserError, match="is a Wav2Vec2FeatureExtractor; task seq2seq trains models that take spec"):
        listen(again | {"output_dir": str(tmp_path / "2")})
