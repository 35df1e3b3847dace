"""Fine-tune a stock or AddNorm checkpoint on token classification: parts of speech, named entities.

    accelerate launch recipes/finetune_tokens.py --config recipes/configs/ud_ewt_pos.yaml [--key value ...]

A row of the data has a list of words and a list of labels. The first token of a word carries its label. Words that
have no token, being cut off by ``max_length`` or of characters that the tokenizer drops, count as wrong.
"""

from dataclasses import dataclass
from functools import partial

from accelerate.utils import set_seed
from common import batches, data, saved
from common.classes import ClassWeights, class_weights, summed_loss, weights_by_name
from common.config import RunConfig
from common.ending import finish
from common.errors import run_script
from common.evaluation import PADDING, Evaluation
from common.metrics import leading_figure, load_metrics
from common.model import load_model, load_tokenizer, saved_head
from common.run import main_process_first, start
from common.tokenizer_check import check_tokenizer
from common.training import Task
from common.words import ENTITIES, LABELS, WordOutputs, are_entities, first_tokens, word_labels
from jsonargparse.typing import PositiveInt
from transformers import AutoModelForTokenClassification, DataCollatorForTokenClassification


@dataclass(kw_only=True)
class TokensConfig(RunConfig):
    """Keys of this recipe, beside those that all recipes have.

    Args:
        words_column: column with a list of words.
        labels_column: column with a list of labels, one per word (class numbers or names).
        label_names: names of the classes in the order of their numbers: for a column that has numbers alone, or to fix
            the order, or name classes that the train split lacks.
        num_labels: number of classes; default those that the dataset declares, else those in the train split.
        class_weights: of classes in the training loss: ``balanced``, as in scikit-learn, or a weight by name of a
            class; those that are not named have 1. The loss is divided by the weights of its labels.
        max_length: longer rows are cut to this many tokens; words that are cut off count as wrong.
        metrics: names of the metrics; default all of the labels: accuracy over words, and f1, precision and recall of
            entities where the labels are O, B- and I- (IOB1 or IOB2; with E- and S-, or L- and U-, too).
    """

    words_column: str = "tokens"
    labels_column: str = "ner_tags"
    label_names: list[str] | None = None
    num_labels: PositiveInt | None = None
    class_weights: ClassWeights | None = None
    max_length: PositiveInt = 128
    metrics: list[str] | None = None


def loss(model, batch, weights=None):
    """Summed over the words, each by the weight of its class."""
    logits, labels = outputs(model, batch)
    return summed_loss(logits.flatten(0, 1), labels.flatten(), weights)


def outputs(model, batch):
    """Logits and labels of a batch."""
    return model(**{name: part for name, part in batch.items() if name != "labels"}).logits, batch["labels"]


def encode(rows, tokenizer, words, max_length):
    """Tokens of some rows, and as labels those of the words at their first tokens."""
    texts = [" ".join(row) for row in rows[words]]
    found = tokenizer(texts, truncation=True, max_length=max_length, return_offsets_mapping=True)
    found["first_tokens"] = [first_tokens(*row) for row in zip(rows[words], found.pop("offset_mapping"), strict=True)]
    found["labels"] = [[PADDING] * len(tokens) for tokens in found["input_ids"]]
    for labels, places, numbers in zip(found["labels"], found["first_tokens"], rows["word_labels"], strict=True):
        for place, number in zip(places, numbers, strict=True):
            if place >= 0:
                labels[place] = number
    return found


def read(run):
    """Tokens and labels of both splits, what they are made of, the tokenizer, and what the head must be."""
    config, accelerator = run.config, run.accelerator
    with main_process_first(accelerator):
        splits = data.load_splits(config, [], config.words_column, labels=[config.labels_column])
    classes = None if config.do == "train" else saved.classes_of(config, config.labels_column)
    asked = config.do != "predict"
    labels, head = word_labels(
        splits,
        config.words_column,
        config.labels_column if asked else None,
        config.num_labels,
        names=config.label_names,
        head=saved_head(config),
        classes=classes,
    )
    tokenizer = load_tokenizer(config.checkpoint, config.max_length, offsets=True)
    encoded, sources = {}, {}
    for split, rows in splits.items():
        rows = rows.select_columns([config.words_column]).add_column("word_labels", labels[split])
        rows = data.subset(rows, config.max_train_rows if split == "train" else None, config.seed)
        sources[split] = data.source(rows)
        with main_process_first(accelerator):
            encoded[split] = rows.map(
                encode,
                batched=True,
                remove_columns=[config.words_column],
                fn_kwargs={"tokenizer": tokenizer, "words": config.words_column, "max_length": config.max_length},
                desc=f"tokenize {split}",
            )
        places = [place for row in encoded[split]["first_tokens"] for place in row]
        sources[split] |= {"words": len(places), "words_without_token": places.count(-1)}
        accelerator.print(f"{split}: " + ", ".join(f"{name} {value}" for name, value in sources[split].items()))
    return encoded, sources, tokenizer, head


def main(args=None):
    """One run, from the config to the result JSON."""
    run = start(TokensConfig, args)
    config = run.config

    # Data: read, check every row, draw the subset, tokenize. What a word is compared by stays beside the batches.
    encoded, sources, tokenizer, head = read(run)
    names = list(head["label2id"])
    known = ENTITIES if are_entities(names) else LABELS
    metric = load_metrics(config.metrics, known)
    order = batches.longest_first(batches.lengths(encoded["validation"]))
    encoded["validation"] = encoded["validation"].select(order)
    reader = WordOutputs(metric, names, encoded["validation"])
    bare = {split: rows.remove_columns(["first_tokens", "word_labels"]) for split, rows in encoded.items()}

    # Model: the same new weights on every process.
    set_seed(config.seed)
    model = load_model(AutoModelForTokenClassification, config, run.accelerator.device, **head)
    check_tokenizer(tokenizer, model, encoded, config.max_length)

    # Train, save, load as a user would, compare, report.
    weights = class_weights(config, encoded, model, run.accelerator)
    task = Task(
        rows=bare.get("train"),
        collate=DataCollatorForTokenClassification(tokenizer),
        loss=partial(loss, weights=weights),
        weights=weights,
        record=weights_by_name(weights, model),
        evaluation=Evaluation(
            rows=bare["validation"],
            outputs=outputs,
            score=reader.score,
            best=leading_figure(config.metrics, known),
            describe=reader.describe,
            order=order,
        ),
        auto_class=AutoModelForTokenClassification,
    )
    finish(run, task, model, tokenizer, sources)


if __name__ == "__main__":
    run_script(main)
