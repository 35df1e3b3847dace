"""Spoken words with a stock or AddNorm Wav2Vec2 or Whisper, from a checkpoint or from scratch: class or characters.

    accelerate launch recipes/finetune_audio.py --config recipes/configs/fsdd.yaml [--key value ...]

One YAML is one run, and every key can be given on the command line too; README.md beside this file lists them.
"""

from dataclasses import dataclass
from typing import Literal

from accelerate.utils import set_seed
from common import batches, clips, data, saved
from common.classes import ClassWeights, class_weights, weights_by_name
from common.config import RunConfig
from common.ending import finish
from common.errors import UserError, run_script
from common.evaluation import Evaluation
from common.hearing import HEARINGS
from common.metrics import leading_figure, load_metrics
from common.model import load_model, saved_head
from common.run import main_process_first, start
from common.spelling import load_texts
from common.training import Task
from jsonargparse.typing import ClosedUnitInterval, PositiveInt


@dataclass(kw_only=True)
class AudioConfig(RunConfig):
    """Keys of this recipe, beside those that all recipes have.

    Args:
        task: the clip's class, or its characters: one for each frame (ctc, as Wav2Vec2 does), or one after the other
            by a decoder (seq2seq, as Whisper does).
        audio_column: column of the clip: of ``datasets.Audio``, a file's bytes or its name.
        label_column: column of the class, its number or name; else of the text, or of a class whose name is it.
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

    task: Literal["classification", "ctc", "seq2seq"] = "classification"
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
        if self.class_weights is not None and self.task != "classification":
            raise UserError(f"class_weights are for task classification; task is {self.task}")


def read(run, spelled):
    """Clips of both splits with their targets, and what the head must be."""
    config = run.config
    with main_process_first(run.accelerator):
        splits = data.load_splits(config, [], labels=[config.label_column])
    if spelled and config.do == "predict":
        targets, head = {split: [""] * len(rows) for split, rows in splits.items()}, {}
    elif spelled:
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
        rows = rows.select_columns([config.audio_column]).add_column("text" if spelled else "labels", targets[split])
        rows = rows.add_column("row", range(len(rows)))
        rows = data.subset(rows, config.max_train_rows if split == "train" else None, config.seed)
        with main_process_first(run.accelerator):
            found[split] = clips.read(rows, split, config.audio_column)
    return found, head


def encode(run, found, hearing):
    """The clips with their frames and labels; what they are made of."""
    encoded, sources = {}, {}
    for split, rows in found.items():
        with main_process_first(run.accelerator):
            encoded[split] = hearing.encode(rows, split).remove_columns("row")
        sources[split] = data.source(encoded[split])
        run.accelerator.print(f"{split}: {sources[split]['rows']} rows, sha256 {sources[split]['sha256']}")
    order = batches.longest_first(encoded["validation"]["frames"])
    encoded["validation"] = encoded["validation"].select(order)
    return encoded, sources, order


def main(args=None):
    """One run, from the config to the result JSON."""
    run = start(AudioConfig, args)
    config, task_class = run.config, HEARINGS[run.config.task]
    spelled, known = task_class.spelled, task_class.metrics
    metric = load_metrics(config.metrics, known)

    # Data: read, check every label, draw the subset, read the clips.
    found, head = read(run, spelled)
    rows = next(iter(found.values()))
    hearing = task_class(config, rows[0]["rate"], rows["text"][:] if spelled else None)

    # Model: the same new weights on every process. It says how many frames a clip has.
    set_seed(config.seed)
    model = load_model(task_class.auto_class, config, run.accelerator.device, **head | hearing.model_entries())
    hearing.use(model)
    encoded, sources, order = encode(run, found, hearing)
    weights = None if spelled else class_weights(config, encoded, model, run.accelerator)
    reader = hearing.reader(metric, model, encoded["validation"])

    # Train, save, load as a user would, compare, report.
    task = Task(
        rows=encoded.get("train"),
        lengths=lambda rows: rows["frames"][:],
        collate=hearing.collate(),
        loss=hearing.loss(weights),
        weights=weights,
        record=weights_by_name(weights, model),
        evaluation=Evaluation(
            rows=encoded["validation"],
            outputs=hearing.outputs(run.accelerator),
            score=reader.score,
            best=leading_figure(config.metrics, known),
            describe=reader.describe,
            order=order,
        ),
        auto_class=task_class.auto_class,
        sizes=clips.sizes,
        augment=clips.stretching(config.stretch, hearing.frames),
    )
    finish(run, task, model, hearing.processor(), sources)


if __name__ == "__main__":
    run_script(main)
