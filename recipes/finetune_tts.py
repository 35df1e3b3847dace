"""Texts that are spoken, by a stock or AddNorm SpeechT5, from a checkpoint or from scratch.

    accelerate launch recipes/finetune_tts.py --config recipes/configs/fsdd_tts.yaml \
        --train_file fsdd/train.parquet --validation_file fsdd/test.parquet [--key value ...]

One YAML is one run, and every key can be given on the command line too; README.md beside this file lists them.
"""

from dataclasses import dataclass

from accelerate.utils import set_seed
from common import clips, data, speaking
from common.config import RunConfig
from common.ending import finish
from common.errors import UserError, run_script
from common.evaluation import Evaluation
from common.metrics import TRANSCRIPTION, load_metrics
from common.model import load_model
from common.run import main_process_first, start
from common.spelling import load_texts
from common.training import Task
from jsonargparse.typing import NonNegativeInt
from transformers import AutoModelForTextToSpectrogram


@dataclass(kw_only=True)
class SpeechConfig(RunConfig):
    """Keys of this recipe, beside those that all recipes have.

    A step's loss depends on how it is split over processes: the model normalises its spectrograms over a batch.

    Args:
        audio_column: column of the clip: of ``datasets.Audio``, a file's bytes or its name.
        label_column: column of the text that is spoken in it, or of a class whose name is it.
        label_names: names of the classes in the order of their numbers, for a column that has numbers alone.
        speaker_column: column of the speaker's name; by default there is one speaker.
        recognizer: folder of a run of finetune_audio.py, whose model says what it hears: the errors are figures.
        samples: so many validation rows are spoken into wav files, in ``speech`` of the output_dir, and drawn beside
            their clips, in ``speech.png``.
    """

    audio_column: str = "audio"
    label_column: str = "label"
    label_names: list[str] | None = None
    speaker_column: str | None = None
    recognizer: str | None = None
    samples: NonNegativeInt = 10


def read(run):
    """Clips of both splits with their texts, and the speakers."""
    config, speaks = run.config, run.config.do == "predict"
    others = [config.speaker_column] if config.speaker_column else []
    with main_process_first(run.accelerator):
        splits = data.load_splits(
            config, [config.label_column] if speaks else [], *others, labels=[config.label_column]
        )
    texts, found = load_texts(splits, config.label_column, config.label_names), {}
    for split, rows in splits.items():
        names = data.as_names(rows[others[0]], rows.features[others[0]]) if others else [""] * len(rows)
        if not speaks:
            data.check_columns(split, rows, [], [config.audio_column])
        kept = rows.select_columns([] if speaks else [config.audio_column])
        kept = data.Dataset.from_dict({"text": texts[split]}) if speaks else kept.add_column("text", texts[split])
        kept = kept.add_column("speaker", [str(name) for name in names]).add_column("row", range(len(rows)))
        kept = data.subset(kept, config.max_train_rows if split == "train" else None, config.seed)
        with main_process_first(run.accelerator):
            if speaks:
                found[split] = kept.add_column("samples", [None] * len(kept)).add_column("rate", [0] * len(kept))
            else:
                found[split] = clips.read(kept, split, config.audio_column)
    return found, sorted(set(found["train"]["speaker"])) if others and "train" in found else []


def main(args=None):
    """One run, from the config to the result JSON."""
    run = start(SpeechConfig, args)
    config = run.config

    # Data: read, check every text, draw the subset, read the clips.
    found, speakers = read(run)
    rows = next(iter(found.values()))
    processor = speaking.load_processor(config, rows[0]["rate"], rows["text"][:])
    made = speaking.Spectrograms(processor.feature_extractor)
    listener = speaking.Recognizer(config.recognizer, made.rate) if config.recognizer else None

    # Model: the same new weights on every process. It says how long texts and clips may be.
    set_seed(config.seed)
    entries = speaking.model_entries(config, processor.tokenizer, speakers)
    model = load_model(AutoModelForTextToSpectrogram, config, run.accelerator.device, **entries)
    if len(speakers) > model.config.speaker_embedding_dim:
        raise UserError(f"there are {len(speakers)} speakers, and speaker_embedding_dim is smaller: give it as many")
    encoded, sources = {}, {}
    for split, rows in found.items():
        with main_process_first(run.accelerator):
            encoded[split] = speaking.encode(rows, split, processor, made, model).remove_columns(["row", "speaker"])
        sources[split] = data.source(encoded[split])
        run.accelerator.print(f"{split}: {sources[split]['rows']} rows, sha256 {sources[split]['sha256']}")
    held_out = encoded["validation"]
    speech = speaking.Speech(made, held_out["text"][:], listener, load_metrics(None, TRANSCRIPTION))

    def describe(_, *spoken):
        """The wav file of each row, beside the table of predictions."""
        folder = run.folder.predictions.with_suffix("")
        return {"prediction": [f"{folder.name}/{name}" for name in speech.write(folder, *spoken)]}

    def beside(bare, predictions):
        """The figure of what needs no model, what is heard, wav files and the picture."""
        count = min(config.samples, len(held_out))
        spoken = [column[:count] for column in predictions[1:]]
        if count and run.accelerator.is_main_process:
            speech.write(run.folder.path / "speech", *spoken)
            drawn = speech.known(held_out.select(range(count))), speech.spectrograms(*spoken)
            speaking.draw(run.folder.path / "speech.png", *drawn, speech.texts[:count], made.hop)
        heard = listener.hear(speech.sounds(*spoken)) if listener else []
        examples = [{"text": text, "heard": said} for text, said in zip(speech.texts, heard, strict=False)]
        apart = speech.mean_frame(encoded["train"], held_out)
        return {"mean_frame": {"distance": apart}} | ({"examples": examples} if examples else {})

    # Train, save, load as a user would, compare, report.
    task = Task(
        rows=encoded.get("train"),
        lengths=lambda rows: rows["frames"][:],
        collate=speaking.collating(processor, model.config),
        loss=speaking.loss,
        evaluation=Evaluation(
            rows=held_out,
            outputs=speaking.speaking(run.accelerator, config.seed),
            score=speech.score,
            best="-cer" if listener else "-distance",
            describe=describe,
        ),
        auto_class=AutoModelForTextToSpectrogram,
        sizes=speaking.sizes,
    )
    finish(run, task, model, processor, sources, beside)


if __name__ == "__main__":
    run_script(main)
