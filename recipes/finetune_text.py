"""Fine-tune a stock or AddNorm checkpoint on text classification, sentence pairs or regression.

    accelerate launch recipes/finetune_text.py --config recipes/configs/docstring_match.yaml [--key value ...]

One YAML is one run, and every key can be given on the command line too; README.md beside this file lists them.
"""

import time
from dataclasses import dataclass
from typing import Literal

import torch
from accelerate.utils import set_seed
from common import batches, data
from common.config import RunConfig, parse
from common.ending import predict, save_and_load_again
from common.errors import run
from common.metrics import CLASSIFICATION, REGRESSION, leading_figure, load_metrics
from common.model import Stack, choose_trained, load_model, load_tokenizer
from common.report import summary
from common.run import RunFolder, main_process_first, start
from common.training import Task, train
from jsonargparse.typing import PositiveInt
from torch.nn import functional
from torch.utils.data import DataLoader
from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding


@dataclass(kw_only=True)
class TextConfig(RunConfig):
    """Keys of this recipe, beside those that all recipes have.

    Args:
        task: classification or regression.
        text_column: column of the text.
        text_pair_column: column of the second text of a pair.
        label_column: column of the class (its number or name), or of the number to predict.
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


def main(args=None):
    """One run, from the config to the result JSON."""
    began = time.perf_counter()
    config, resume = parse(TextConfig, args)
    regression = config.task == "regression"
    known = REGRESSION if regression else CLASSIFICATION
    metric = load_metrics(config.metrics, known)
    accelerator = start(config)
    folder = RunFolder(config, resume, accelerator.num_processes)

    # Data: read, check every row, draw the subset, tokenize.
    texts = [column for column in (config.text_column, config.text_pair_column) if column is not None]
    with main_process_first(accelerator):
        splits = data.load_splits(config, texts, config.label_column)
    if regression:
        labels, head = data.number_labels(splits, config.label_column)
    else:
        labels, head = data.class_labels(splits, config.label_column, config.num_labels)
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
    collate = DataCollatorWithPadding(tokenizer)
    validation = DataLoader(batches.longest_first(encoded["validation"]), config.eval_batch_size, collate_fn=collate)
    validation = accelerator.prepare(validation)

    # Model: the same new weights on every process.
    set_seed(config.seed)
    model = load_model(AutoModelForSequenceClassification, config, accelerator.device, stack=config.stack, **head)

    def evaluate(model):
        logits, targets = (torch.stack(rows) for rows in predict(accelerator, model, validation, outputs))
        predictions = logits.squeeze(-1) if regression else logits.argmax(-1)
        return metric.compute(predictions=predictions.numpy(), references=targets.numpy())

    task = Task(
        rows=encoded["train"],
        lengths=batches.lengths(encoded["train"]),
        collate=collate,
        loss=loss,
        evaluate=evaluate,
        best=leading_figure(config.metrics, known),
    )
    model, progress = train(accelerator, config, folder, choose_trained(model, config), task, sources)

    # Save, load as a user would, and compare.
    trained, checked = save_and_load_again(
        accelerator, folder, model, tokenizer, AutoModelForSequenceClassification, validation, outputs
    )
    result = summary(accelerator, config, trained, progress, began, data=sources, reload=checked)
    folder.finish(accelerator, {"recipe": "finetune_text", **result})


if __name__ == "__main__":
    run(main)
