"""Fine-tune a stock or AddNorm checkpoint on text classification, sentence pairs or regression.

    accelerate launch recipes/finetune_text.py --config recipes/configs/docstring_match.yaml [--key value ...]

One YAML is one run, and every key can be given on the command line too; README.md beside this file lists them.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from accelerate.utils import set_seed
from common import batches, data
from common.config import RunConfig
from common.ending import finish
from common.errors import run_script
from common.evaluation import Evaluation
from common.metrics import CLASSIFICATION, REGRESSION, leading_figure, load_metrics
from common.model import Stack, load_model, load_tokenizer, saved_head
from common.run import main_process_first, start
from common.tokenizer_check import check_tokenizer
from common.training import Task
from jsonargparse.typing import PositiveInt
from torch.nn import functional
from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding


@dataclass(kw_only=True)
class TextConfig(RunConfig):
    """Keys of this recipe, beside those that all recipes have.

    Args:
        task: classification or regression.
        text_column: column of the text.
        text_pair_column: column of the second text of a pair.
        label_column: column of the class (its number or name), or of the number to predict.
        label_names: names of the classes in the order of their numbers: for a column that has numbers alone, or to fix
            the order, or name classes that the train split lacks.
        num_labels: number of classes; default those that the dataset declares, else those in the train split.
        max_length: longer inputs are cut to this many tokens.
        metrics: names of the metrics; default all of the task.
        stack: several encoders that start as the checkpoint, as one model, in ``sequence`` or in ``parallel``, where
            their outputs are added: ``{"encoders": 2, "arrangement": "sequence"}``.
    """

    task: Literal["classification", "regression"] = "classification"
    text_column: str = "text"
    text_pair_column: str | None = None
    label_column: str = "label"
    label_names: list[str] | None = None
    num_labels: PositiveInt | None = None
    max_length: PositiveInt = 128
    metrics: list[str] | None = None
    stack: Stack | None = None


def loss(model, batch):
    """Summed over the rows that have a label."""
    logits, labels = outputs(model, batch)
    if labels.is_floating_point():
        labelled = ~labels.isnan()
        return functional.mse_loss(logits.squeeze(-1)[labelled], labels[labelled], reduction="sum")
    return functional.cross_entropy(logits, labels, ignore_index=-100, reduction="sum")


def outputs(model, batch):
    """Logits and labels of a batch."""
    return model(**{name: part for name, part in batch.items() if name != "labels"}).logits, batch["labels"]


def read(run):
    """Tokens and labels of both splits, what they are made of, the tokenizer, and what the head must be."""
    config, accelerator = run.config, run.accelerator
    texts = [column for column in (config.text_column, config.text_pair_column) if column is not None]
    with main_process_first(accelerator):
        splits = data.load_splits(config, texts, config.label_column)
    if config.task == "regression":
        labels, head = data.number_labels(splits, config.label_column)
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


def main(args=None):
    """One run, from the config to the result JSON."""
    run = start(TextConfig, args)
    config, regression = run.config, run.config.task == "regression"
    known = REGRESSION if regression else CLASSIFICATION
    metric = load_metrics(config.metrics, known)

    # Data: read, check every row, draw the subset, tokenize.
    encoded, sources, tokenizer, head = read(run)

    # Model: the same new weights on every process.
    set_seed(config.seed)
    model = load_model(AutoModelForSequenceClassification, config, run.accelerator.device, stack=config.stack, **head)
    check_tokenizer(tokenizer, model, encoded, config.max_length)

    def score(logits, labels):
        logits, labels = torch.stack(logits), torch.stack(labels)
        predictions = logits.squeeze(-1) if regression else logits.argmax(-1)
        return metric.compute(predictions=predictions.numpy(), references=labels.numpy())

    # Train, save, load as a user would, compare, report.
    validation = batches.longest_first(encoded["validation"])
    task = Task(
        rows=encoded["train"],
        lengths=batches.lengths(encoded["train"]),
        collate=DataCollatorWithPadding(tokenizer),
        loss=loss,
        evaluation=Evaluation(
            rows=validation, outputs=outputs, score=score, best=leading_figure(config.metrics, known)
        ),
        auto_class=AutoModelForSequenceClassification,
    )
    finish(run, task, model, tokenizer, sources)


if __name__ == "__main__":
    run_script(main)
