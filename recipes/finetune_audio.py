"""Spoken words with a stock or AddNorm Wav2Vec2, from a checkpoint or from scratch: their class, or their characters.

    accelerate launch recipes/finetune_audio.py --config recipes/configs/fsdd.yaml [--key value ...]

One YAML is one run, and every key can be given on the command line too; README.md beside this file lists them.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal

from accelerate.utils import set_seed
from common import batches, clips, data, saved
from common.classes import ClassOutputs, ClassWeights, class_weights, summed_loss, weights_by_name
from common.config import RunConfig
from common.ending import finish
from common.errors import UserError, run_script
from common.evaluation import Evaluation
from common.metrics import CLASSIFICATION, TRANSCRIPTION, leading_figure, load_metrics
from common.model import load_model, saved_head
from common.run import main_process_first, start
from common.spelling import CharacterOutputs, collating, ctc_loss, load_speller, load_texts, spell
from common.training import Task
from jsonargparse.typing import ClosedUnitInterval, PositiveInt
from transformers import AutoModelForAudioClassification, AutoModelForCTC, Wav2Vec2Processor


@dataclass(kw_only=True)
class AudioConfig(RunConfig):
    """Keys of this recipe, beside those that all recipes have.

    Args:
        task: the clip's class, or (ctc) its characters.
        audio_column: column of the clip: of ``datasets.Audio``, a file's bytes or its name.
        label_column: column of the class, its number or name; with ctc of the text, or of a class whose name is it.
        label_names: names of the classes in the order of their numbers: for a column that has numbers alone, or to fix
            the order, or name classes that the train split lacks.
        num_labels: number of classes; default those that the dataset declares, else those in the train split.
        stretch: training clips are played slower or faster, pitch and all, by up to this share of their length.
        spec_augment: mask frames and features in training, as the model's config says. The masks are drawn for each
            batch as it is: with them, another split of a step gives other losses.
        class_weights: of classes in the training loss: ``balanced``, as in scikit-learn, or a weight by name of a
            class; those that are not named have 1. The loss is divided by the weights of its labels.
        metrics: names of the metrics; default all of the task.
    """

    task: Literal["classification", "ctc"] = "classification"
    audio_column: str = "audio"
    label_column: str = "label"
    label_names: list[str] | None = None
    num_labels: PositiveInt | None = None
    stretch: ClosedUnitInterval = 0.0
    spec_augment: bool = False
    class_weights: ClassWeights | None = None
    metrics: list[str] | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.class_weights is not None and self.task == "ctc":
            raise UserError("class_weights are for task classification; task is ctc")


def class_loss(model, batch, weights=None):
    """Summed over the clips that have a label, each by the weight of its class."""
    return summed_loss(*outputs(model, batch)[:2], weights)


def character_loss(model, batch, blank):
    """Summed over the clips that have a text."""
    return ctc_loss(*outputs(model, batch), blank)


def outputs(model, batch):
    """Logits, labels and frames of a batch."""
    inputs = {name: batch[name] for name in ("input_values", "attention_mask") if name in batch}
    return model(**inputs).logits, batch["labels"], batch["frames"]


def read(run, ctc):
    """Clips of both splits with their targets, and what the head must be."""
    config = run.config
    with main_process_first(run.accelerator):
        splits = data.load_splits(config, [], labels=[config.label_column])
    if ctc and config.do == "predict":
        targets, head = {split: [""] * len(rows) for split, rows in splits.items()}, {}
    elif ctc:
        targets, head = load_texts(splits, config.label_column, config.label_names), {}
    elif config.do != "train":
        targets, head = saved.class_labels(config, splits, config.label_column)
    else:
        targets, head = data.class_labels(
            splits, config.label_column, config.num_labels, config.label_names, saved_head(config)
        )
    found = {}
    for split, rows in splits.items():
        data.check_columns(split, rows, [], [config.audio_column])
        rows = rows.select_columns([config.audio_column]).add_column("text" if ctc else "labels", targets[split])
        rows = rows.add_column("row", range(len(rows)))
        rows = data.subset(rows, config.max_train_rows if split == "train" else None, config.seed)
        with main_process_first(run.accelerator):
            found[split] = clips.read(rows, split, config.audio_column)
    return found, head


def measure(run, found, extractor, frames, tokenizer):
    """The clips with their frames, and their texts as characters if there is a tokenizer; what they are made of."""
    encoded, sources = {}, {}
    for split, rows in found.items():
        with main_process_first(run.accelerator):
            rows = clips.measure(rows, split, extractor.sampling_rate, frames)
            encoded[split] = (spell(rows, split, tokenizer) if tokenizer else rows).remove_columns("row")
        sources[split] = data.source(encoded[split])
        run.accelerator.print(f"{split}: {sources[split]['rows']} rows, sha256 {sources[split]['sha256']}")
    order = batches.longest_first(encoded["validation"]["frames"])
    encoded["validation"] = encoded["validation"].select(order)
    return encoded, sources, order


def reading(metric, model, tokenizer, rows):
    """What reads the outputs of this task."""
    if tokenizer is None:
        return ClassOutputs(metric, model.config.id2label)
    return CharacterOutputs(metric, tokenizer, rows["text"][:])


def main(args=None):
    """One run, from the config to the result JSON."""
    run = start(AudioConfig, args)
    config, ctc = run.config, run.config.task == "ctc"
    known, auto_class = (TRANSCRIPTION, AutoModelForCTC) if ctc else (CLASSIFICATION, AutoModelForAudioClassification)
    metric = load_metrics(config.metrics, known)

    # Data: read, check every label, draw the subset, read the clips.
    found, head = read(run, ctc)
    rows = next(iter(found.values()))
    extractor = clips.load_extractor(config, rows[0]["rate"])
    tokenizer = load_speller(config, rows["text"]) if ctc else None

    # Model: the same new weights on every process. It says how many frames a clip has.
    set_seed(config.seed)
    model = load_model(auto_class, config, run.accelerator.device, **head | clips.model_entries(config, tokenizer))
    frames = clips.frame_counter(model)
    encoded, sources, order = measure(run, found, extractor, frames, tokenizer)
    weights = None if ctc else class_weights(config, encoded, model, run.accelerator)
    reader = reading(metric, model, tokenizer, encoded["validation"])

    # Train, save, load as a user would, compare, report.
    task = Task(
        rows=encoded.get("train"),
        lengths=lambda rows: rows["frames"][:],
        collate=collating(extractor, ctc),
        loss=partial(character_loss, blank=tokenizer.pad_token_id) if ctc else partial(class_loss, weights=weights),
        weights=weights,
        record=weights_by_name(weights, model),
        evaluation=Evaluation(
            rows=encoded["validation"],
            outputs=outputs,
            score=reader.score,
            best=leading_figure(config.metrics, known),
            describe=reader.describe,
            order=order,
        ),
        auto_class=auto_class,
        sizes=clips.sizes,
        augment=clips.stretching(config.stretch, frames),
    )
    finish(run, task, model, Wav2Vec2Processor(extractor, tokenizer) if ctc else extractor, sources)


if __name__ == "__main__":
    run_script(main)
