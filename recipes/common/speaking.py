"""Texts that are spoken: log-mel spectrograms of clips, sound of spectrograms, wav files and pictures of both."""

import wave
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from datasets import Dataset, disable_progress_bars, enable_progress_bars
from transformers import AutoConfig, SpeechT5FeatureExtractor, SpeechT5Processor

from .config import RunConfig
from .errors import UserError, one_line
from .model import UNLOADABLE, find_checkpoint
from .spelling import load_speller


# that of silence, as a power of ten: zeros in a clip have none
FLOOR = 1e-5
# rounds of Griffin and Lim's algorithm
ROUNDS = 60


def load_processor(config: RunConfig, rate: int, texts: list[str]) -> SpeechT5Processor:
    """The checkpoint's processor; for a new model one for clips of this rate and the characters in ``texts``.

    Raises:
        UserError: the checkpoint has none.
    """
    if config.checkpoint is not None:
        try:
            return SpeechT5Processor.from_pretrained(find_checkpoint(config.checkpoint))
        except (*UNLOADABLE, TypeError) as error:
            raise UserError(f"cannot load the processor of {config.checkpoint}: {one_line(error)}") from error
    sizes = AutoConfig.for_model(**config.model_config)
    extractor = SpeechT5FeatureExtractor(
        sampling_rate=rate,
        num_mel_bins=sizes.num_mel_bins,
        reduction_factor=sizes.reduction_factor,
        # all but the highest twentieth, where clips have been cut off
        fmax=int(0.475 * rate),
        mel_floor=FLOOR,
    )
    return SpeechT5Processor(extractor, load_speller(config, texts))


def model_entries(config: Any, tokenizer: Any, speakers: list[str]) -> dict[str, Any]:
    """Entries of the model's config for this run."""
    # a layer that is left out has no gradient, which several processes do not stand
    found: dict[str, Any] = {"encoder_layerdrop": 0.0, "decoder_layerdrop": 0.0}
    if config.checkpoint is None:
        found |= {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    return found | ({"speakers": speakers} if speakers else {})


class Spectrograms:
    """What a model speaks of: log-mel spectrograms, and the sound that has one.

    Source: Griffin & Lim, "Signal Estimation from Modified Short-Time Fourier Transform", 1984, as in librosa.

    Args:
        extractor: makes spectrograms [frames, numbers] of clips.
    Raises:
        UserError: librosa is not installed.
    """

    def __init__(self, extractor: SpeechT5FeatureExtractor):
        try:
            import librosa
        except ImportError as error:
            raise UserError("librosa makes sound of a spectrogram: pip install 'hf_addnorm[speech]'") from error
        self.librosa, self.extractor, self.rate = librosa, extractor, extractor.sampling_rate
        # seconds from one frame to the next
        self.hop = extractor.sample_stride / self.rate

    def of_clip(self, samples: np.ndarray) -> np.ndarray:
        """The spectrogram, float32, with as many frames as the decoder's steps write."""
        found = self.extractor(audio_target=samples, sampling_rate=self.rate)["input_values"][0]
        factor = self.extractor.reduction_factor
        # silence to the end of the last step
        missing = -len(found) % factor
        return np.pad(found, ((0, missing), (0, 0)), constant_values=np.log10(FLOOR)).astype("<f4")

    def sound(self, spectrogram: np.ndarray) -> np.ndarray:
        """Samples between -1 and 1 that have this spectrogram, nearly."""
        powers = 10.0 ** np.clip(spectrogram.T.astype(np.float64), np.log10(FLOOR), 3.0)
        magnitudes = self.librosa.util.nnls(self.extractor.mel_filters.T, powers)
        samples = self.librosa.griffinlim(
            magnitudes,
            n_iter=ROUNDS,
            hop_length=self.extractor.sample_stride,
            win_length=self.extractor.sample_size,
            n_fft=self.extractor.n_fft,
            random_state=0,
        )
        return np.clip(samples, -1.0, 1.0).astype(np.float32)


def encode(rows: Dataset, split: str, processor: SpeechT5Processor, made: Spectrograms, model: Any) -> Dataset:
    """With ``input_ids`` of ``text``, and of the clip its ``spectrogram`` (bytes of float32) and ``frames``.

    Raises:
        UserError: for the first clip of another rate than the extractor's, or with more frames than the decoder has
            positions; the first text without a character, with one that the tokenizer lacks, or with more than the
            encoder has positions; the first speaker that the model does not know.
    """
    own, tokenizer = model.config, processor.tokenizer

    def encode_one(row: dict[str, Any]) -> dict[str, Any]:
        place, text = f"{split} row {row['row']}", one_line(row["text"], 80)
        ids = tokenizer(row["text"]).input_ids
        if not ids or tokenizer.unk_token_id in ids:
            wrong = "has characters that the tokenizer lacks" if ids else "has no character to speak"
            raise UserError(f"{place}: {text!r} {wrong}")
        if len(ids) > own.max_text_positions:
            raise UserError(
                f"{place}: {text!r} has {len(ids)} tokens, and the encoder {own.max_text_positions} positions: give "
                "it more (max_text_positions)"
            )
        found = {"input_ids": ids, "spectrogram": b"", "frames": 0, "voice": _number(row["speaker"], place, own)}
        if row["samples"] is None:
            return found
        if row["rate"] != made.rate:
            raise UserError(
                f"{place}: the clip has {row['rate']} samples a second, and the feature extractor takes {made.rate}"
            )
        spectrogram = made.of_clip(np.frombuffer(row["samples"], "<f4"))
        if len(spectrogram) > own.max_speech_positions * own.reduction_factor:
            raise UserError(
                f"{place}: the clip has {len(spectrogram)} frames, and the decoder {own.max_speech_positions} "
                f"positions of {own.reduction_factor} frames each: give it more (max_speech_positions), or leave the "
                "clip out"
            )
        return found | {"spectrogram": spectrogram.tobytes(), "frames": len(spectrogram)}

    return rows.map(encode_one, remove_columns=["samples", "rate"], desc=f"encode {split}")


def _number(speaker: str, place: str, own: Any) -> int:
    known = getattr(own, "speakers", None)
    if known is None:
        return -1
    if speaker not in known:
        raise UserError(f"{place}: the model does not know the speaker {speaker!r}; it knows {', '.join(known)}")
    return int(known.index(speaker))


def collating(processor: SpeechT5Processor, own: Any) -> Callable[[list], Any]:
    """Makes a batch: tokens, one number of each speaker's own, spectrograms as ``labels`` filled up with nan."""

    def collate(rows: list[dict[str, Any]]) -> Any:
        batch = processor.tokenizer.pad([{"input_ids": row["input_ids"]} for row in rows], return_tensors="pt")
        frames = [row["frames"] for row in rows]
        labels = torch.full((len(rows), max(*frames, own.reduction_factor), own.num_mel_bins), torch.nan)
        speakers = torch.zeros(len(rows), own.speaker_embedding_dim)
        for number, row in enumerate(rows):
            known = np.frombuffer(row["spectrogram"], "<f4").reshape(-1, own.num_mel_bins)
            labels[number, : len(known)] = torch.tensor(known)
            if row["voice"] >= 0:
                speakers[number, row["voice"]] = 1.0
        batch["labels"], batch["frames"], batch["speaker_embeddings"] = labels, torch.tensor(frames), speakers
        return batch

    return collate


def sizes(batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Frames of a batch, and frames with padding."""
    return batch["frames"].sum(), batch["frames"].max() * len(batch["frames"])


def _read(model: Any, batch: Any) -> tuple[Any, torch.Tensor]:
    """What a model makes of the known frames before each, and which numbers are known."""
    known = ~batch["labels"].isnan()
    names = ("input_ids", "attention_mask", "speaker_embeddings")
    # a row without labels has a frame nevertheless, which a loss needs
    labels = batch["labels"].nan_to_num(0.0 if not known.any() else -100.0)
    return model(**{name: batch[name] for name in names}, labels=labels), known


def loss(model: Any, batch: Any) -> torch.Tensor:
    """That of the model, a mean over the frames, times the numbers that are known."""
    found, known = _read(model, batch)
    return found.loss * known.sum()


def speaking(accelerator: Any, seed: int) -> Callable[[Any, Any], tuple[torch.Tensor, ...]]:
    """Of a batch how far each row's frames are from the known ones, and what is spoken: spectrograms, their lengths.

    The decoder drops a part of the frames that it reads, in evaluation too: always the same.
    """

    def outputs(model: Any, batch: Any) -> tuple[torch.Tensor, ...]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            found, known = _read(model, batch)
            apart = ((found.spectrogram.float() - batch["labels"]).abs().nan_to_num(0.0) * known).sum((1, 2))
            names = ("input_ids", "attention_mask", "speaker_embeddings")
            spoken, lengths = accelerator.unwrap_model(model).generate_speech(
                **{name: batch[name] for name in names}, return_output_lengths=True
            )
        return apart / known.sum((1, 2)).clamp(min=1), spoken.float(), torch.tensor(lengths, device=spoken.device)

    return outputs


class Recognizer:
    """A model of finetune_audio.py that says what it hears, by the folder of its run.

    Args:
        folder (`str`): of a run, with ``run.json`` and ``model``.
        rate (`int`): samples a second of what it is to hear.
    Raises:
        UserError: there is no such model, or it takes another rate.
    """

    def __init__(self, folder: str, rate: int):
        # these need all that finetune_audio.py does
        import json

        from .hearing import HEARINGS
        from .metrics import CLASSIFICATION, load_metrics
        from .model import load_trained

        record = Path(folder) / "run.json"
        try:
            task = json.loads(record.read_text())["task"]
            kind = HEARINGS[task]
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"recognizer {folder} is no run of finetune_audio.py: {one_line(error)}") from error
        config: Any = SimpleNamespace(
            checkpoint=str(Path(folder) / "model"), do="predict", stretch=0.0, attn_implementation=None
        )
        self.hearing = kind(config, rate, [])
        takes = self.hearing.extractor.sampling_rate
        if takes != rate:
            raise UserError(f"the recognizer takes {takes} samples a second, and the clips have {rate}")
        self.rate = rate
        self.model = load_trained(kind.auto_class, config, torch.device("cpu")).eval()
        self.hearing.use(self.model)
        metric = load_metrics(None, CLASSIFICATION)
        self.read = lambda rows, columns: self.hearing.reader(metric, self.model, rows).describe(*columns)

    @torch.no_grad()
    def hear(self, clips: Sequence[np.ndarray]) -> list[str]:
        """What is said in each clip."""
        longest = getattr(self.hearing.extractor, "n_samples", None)
        rows = [
            {"samples": clip[:longest].tobytes(), "rate": self.rate, "row": row, "text": "", "labels": -100}
            for row, clip in enumerate(clips)
        ]
        disable_progress_bars()
        encoded = self.hearing.encode(Dataset.from_list(rows), "spoken")
        enable_progress_bars()
        collate, outputs = self.hearing.collate(), self.hearing.outputs(SimpleNamespace(unwrap_model=lambda one: one))
        # one at a time: padding is not to be heard
        found = [outputs(self.model, collate([row])) for row in encoded]
        columns = [[part[0] for part in parts] for parts in zip(*found, strict=True)]
        texts: list[str] = self.read(encoded, columns)["prediction"]
        return texts


class Speech:
    """Reads what a model spoke.

    Args:
        made: makes sound of spectrograms.
        texts: what is to be said in each row.
        recognizer: says what it hears; None where nobody listens.
        metric: of texts.
    """

    def __init__(self, made: Spectrograms, texts: list[str], recognizer: Recognizer | None, metric: Any):
        self.made, self.texts, self.recognizer, self.metric = made, texts, recognizer, metric

    def spectrograms(self, spoken: list[torch.Tensor], lengths: list[torch.Tensor]) -> list[np.ndarray]:
        """Those of the rows, without what fills up a batch."""
        return [row[:length].numpy() for row, length in zip(spoken, lengths, strict=True)]

    def sounds(self, spoken: list[torch.Tensor], lengths: list[torch.Tensor]) -> list[np.ndarray]:
        """The samples of each row."""
        return [self.made.sound(spectrogram) for spectrogram in self.spectrograms(spoken, lengths)]

    def score(self, apart: list[torch.Tensor], *spoken: list[torch.Tensor]) -> dict[str, float]:
        """How far the frames are from the known ones, and the errors in what is heard."""
        figures = {"distance": float(torch.stack(apart).mean())}
        if self.recognizer is None:
            return figures
        heard = self.recognizer.hear(self.sounds(*spoken))
        return figures | self.metric.compute(predictions=heard, references=self.texts)

    def known(self, rows: Dataset) -> list[np.ndarray]:
        """The spectrograms of the clips."""
        numbers = self.made.extractor.num_mel_bins
        return [np.frombuffer(one, "<f4").reshape(-1, numbers) for one in rows["spectrogram"]]

    def mean_frame(self, rows: Dataset, held_out: Dataset) -> float:
        """How far the frames of ``held_out`` are from the mean frame of ``rows``: the figure of no model."""
        mean = np.concatenate(self.known(rows)).mean(0)
        return float(np.mean([np.abs(frames - mean).mean() for frames in self.known(held_out)]))

    def write(self, folder: Path, *spoken: list[torch.Tensor]) -> list[str]:
        """A wav file of each row; their names."""
        folder.mkdir(parents=True, exist_ok=True)
        names = []
        for number, (text, samples) in enumerate(zip(self.texts, self.sounds(*spoken), strict=False)):
            letters = "".join(letter if letter.isalnum() else "_" for letter in text)[:40]
            names.append(f"{number:03}_{letters}.wav")
            write_wav(folder / names[-1], samples, self.made.rate)
        return names


def write_wav(path: Path, samples: np.ndarray, rate: int) -> None:
    """One channel of 16-bit numbers."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples * 32767).round().astype("<i2").tobytes())


def draw(path: Path, known: list[np.ndarray], spoken: list[np.ndarray], texts: list[str], seconds: float) -> None:
    """A picture of spectrograms: those of the clips on top, what was spoken below.

    Args:
        path: of the picture.
        known, spoken: of each row, [frames, numbers].
        texts: of each row.
        seconds: from one frame to the next.
    """
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, len(texts), figsize=(1.7 * len(texts), 4.2), squeeze=False, sharey=True)
    for row, (title, spectrograms) in enumerate((("clip", known), ("spoken", spoken))):
        for place, text, spectrogram in zip(axes[row], texts, spectrograms, strict=True):
            end = seconds * len(spectrogram)
            place.imshow(
                spectrogram.T,
                origin="lower",
                aspect="auto",
                extent=(0, end, 0, spectrogram.shape[1]),
                vmin=-3,
                vmax=1.5,
            )
            place.set_title(text if row == 0 else "", fontsize=10)
            place.set_xlabel("seconds" if row else "", fontsize=8)
        axes[row][0].set_ylabel(f"{title}: mel number")
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    pyplot.close(figure)
