"""Fine-tune a stock or AddNorm checkpoint on text classification, sentence pairs or regression.

    accelerate launch recipes/finetune_text.py --config recipes/configs/docstring_match.yaml [--key value ...]

One YAML is one run, and every key can be given on the command line too; README.md beside this file lists them.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal

from accelerate.utils import set_seed
from common import batches, data, multi_label, saved
from common.classes import ClassOutputs, ClassWeights, class_weights, summed_loss, weights_by_name
from common.config import RunConfig
from common.ending import finish
from common.errors import UserError, run_script
from common.evaluation import Evaluation, NumberOutputs
from common.metrics import CLASSIFICATION, MULTI_LABEL, REGRESSION, leading_figure, load_metrics
from common.model import Stack, load_model, load_tokenizer, saved_head
from common.run import main_process_first, start
from common.tokenizer_check import check_tokenizer
from common.training import Task
from jsonargparse.typing import ClosedUnitInterval, PositiveInt
from torch.nn import functional
from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding


@dataclass(kw_only=True)
class TextConfig(RunConfig):
    """Keys of this recipe, beside those that all recipes have.

    Args:
        task: classification; multi_label, where a row has any number of classes; or regression.
        text_column: column of the text.
        text_pair_column: column of the second text of a pair.
        label_column: column of the class (its number or name), of the list of classes, or of the number to predict.
        label_separator: with multi_label, ``label_column`` has texts, with this between the labels.
        label_columns: with multi_label, columns of 0 and 1 in the place of ``label_column``, one for each class.
        threshold: with multi_label, a class is predicted where its probability is above this.
        label_names: names of the classes in the order of their numbers: for a column that has numbers alone, or to fix
            the order, or name classes that the train split lacks.
        class_weights: of classes in the training loss: ``balanced``, as in scikit-learn, or a weight by name of a
            class; those that are not named have 1. The loss is divided by the weights of its labels.
        num_labels: number of classes; default those that the dataset declares, else those in the train split.
        max_length: longer inputs are cut to this many tokens.
        metrics: names of the metrics; default all of the task.
        stack: several encoders that start as the checkpoint, as one model, in ``sequence`` or in ``parallel``, where
            their outputs are added: ``{"encoders": 2, "arrangement": "sequence"}``.
    """

    task: Literal["classification", "multi_label", "regression"] = "classification"
    text_column: str = "text"
    text_pair_column: str | None = None
    label_column: str = "label"
    label_separator: str | None = None
    label_columns: list[str] | None = None
    threshold: ClosedUnitInterval = 0.5
    label_names: list[str] | None = None
    class_weights: ClassWeights | None = None
    num_labels: PositiveInt | None = None
    max_length: PositiveInt = 128
    metrics: list[str] | None = None
    stack: Stack | None = None

    def __post_init__(self):
        super().__post_init__()
        multi_label.check(self)
        if self.class_weights is not None and self.task != "classification":
            raise UserError(f"class_weights are for task classification; task is {self.task}")


def loss(model, batch, weights=None):
    """Summed over the rows that have a label, each by the weight of its class."""
    logits, labels = outputs(model, batch)
    if labels.dim() == 2:
        return multi_label.summed_loss(logits, labels)
    if labels.is_floating_point():
        labelled = ~labels.isnan()
        return functional.mse_loss(logits.squeeze(-1)[labelled], labels[labelled], reduction="sum")
    return summed_loss(logits, labels, weights)


def outputs(model, batch):
    """Logits and labels of a batch."""
    return model(**{name: part for name, part in batch.items() if name != "labels"}).logits, batch["labels"]


def read(run):
    """Tokens and labels of both splits, what they are made of, the tokenizer, and what the head must be."""
    config, accelerator = run.config, run.accelerator
    texts = [column for column in (config.text_column, config.text_pair_column) if column is not None]
    with main_process_first(accelerator):
        splits = data.load_splits(config, texts, labels=multi_label.label_columns(config))
    if config.task == "multi_label":
        labels, head = multi_label.marks(config, splits)
    elif config.task == "regression":
        labels, head = data.number_labels(splits, config.label_column, asked=config.do != "predict")
    elif config.do != "train":
        labels, head = saved.class_labels(config, splits, config.label_column)
    else:
        labels, head = data.class_labels(
            splits, config.label_column, config.num_labels, config.label_names, saved_head(config)
        )
    tokenizer = load_tokenizer(config.checkpoint, config.max_length)
    encoded, sources = {}, {}
    for split, rows in splits.items():
        rows = rows.select_columns(texts).add_column("labels", labels[split])
        rows = data.subset(rows, config.max_train_rows if split == "train" else None, config.seed)
        sources[split] = data.source(rows)
        accelerator.print(f"{split}: {sources[split]['rows']} rows, sha256 {sources[split]['sha256']}")
        with main_process_first(accelerator):
            encoded[split] = rows.map(
                lambda part: tokenizer(*(part[text] for text in texts), truncation=True, max_length=config.max_length),
                batched=True,
                remove_columns=texts,
                desc=f"tokenize {split}",
            )
    return encoded, sources, tokenizer, head


def reading(config, metric, model):
    """What reads the outputs of this task."""
    if config.task == "regression":
        return NumberOutputs(metric)
    if config.task == "multi_label":
        return multi_label.MultiLabelOutputs(metric, model.config.id2label, config.threshold)
    return ClassOutputs(metric, model.config.id2label)


def main(args=None):
    """One run, from the config to the result JSON."""
    run = start(TextConfig, args)
    config = run.config
    known = {"classification": CLASSIFICATION, "multi_label": MULTI_LABEL, "regression": REGRESSION}[config.task]
    metric = load_metrics(config.metrics, known)

    # Data: read, check every row, draw the subset, tokenize.
    encoded, sources, tokenizer, head = read(run)

    # Model: the same new weights on every process.
    set_seed(config.seed)
    model = load_model(AutoModelForSequenceClassification, config, run.accelerator.device, stack=config.stack, **head)
    check_tokenizer(tokenizer, model, encoded, config.max_length)

    # Train, save, load as a user would, compare, report.
    reader = reading(config, metric, model)
    weights = class_weights(config, encoded, model, run.accelerator)
    order = batches.longest_first(batches.lengths(encoded["validation"]))
    task = Task(
        rows=encoded.get("train"),
        collate=DataCollatorWithPadding(tokenizer),
        loss=partial(loss, weights=weights),
        weights=weights,
        record=weights_by_name(weights, model),
        evaluation=Evaluation(
            rows=encoded["validation"].select(order),
            outputs=outputs,
            score=reader.score,
            best=leading_figure(config.metrics, known),
            describe=reader.describe,
            order=order,
        ),
        auto_class=AutoModelForSequenceClassification,
    )
    finish(run, task, model, tokenizer, sources)


if __name__ == "__main__":
    run_script(main)
