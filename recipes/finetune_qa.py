"""Fine-tune a stock or AddNorm checkpoint on extractive question answering, SQuAD's format.

    accelerate launch recipes/finetune_qa.py --config recipes/configs/squad.yaml [--key value ...]

A text that is too long becomes several windows that overlap. Each window is a row of the training: its labels are the
first and last token of the answer, or token 0 twice where the window does not have all of it. An answer is looked for
in all windows of its text. If the train split has questions without an answer (SQuAD v2.0), the model may answer with
nothing; no threshold for that is tuned.
"""

from dataclasses import dataclass

import torch
from accelerate.utils import set_seed
from common import answers, batches, data
from common.config import RunConfig
from common.ending import finish
from common.errors import run_script
from common.evaluation import PADDING, Evaluation
from common.metrics import leading_figure, load_metrics
from common.model import load_model, load_tokenizer
from common.run import main_process_first, start
from common.tokenizer_check import check_tokenizer
from common.training import Task
from jsonargparse.typing import NonNegativeInt, PositiveInt
from torch.nn import functional
from transformers import AutoModelForQuestionAnswering, DataCollatorWithPadding


@dataclass(kw_only=True)
class AnswersConfig(RunConfig):
    """Keys of this recipe, beside those that all recipes have.

    Args:
        question_column: column of the question.
        context_column: column of the text that holds the answer.
        answers_column: column of the answers, ``{"text": [...], "answer_start": [...]}``; empty lists for no answer.
        max_length: tokens of a window, with the question.
        doc_stride: tokens by which neighbouring windows of a text overlap.
        max_answer_length: most tokens of an answer that is predicted.
        n_best: so many first and last tokens of a window are combined to find its best answer.
        metrics: names of the metrics; default f1 and exact_match.
    """

    question_column: str = "question"
    context_column: str = "context"
    answers_column: str = "answers"
    max_length: PositiveInt = 384
    doc_stride: NonNegativeInt = 128
    max_answer_length: PositiveInt = 30
    n_best: PositiveInt = 20
    metrics: list[str] | None = None


def loss(model, batch):
    """Summed over the first and last tokens of all windows."""
    return sum(
        functional.cross_entropy(logits, labels, ignore_index=PADDING, reduction="sum")
        for logits, labels in zip(outputs(model, batch), batch["labels"].unbind(1), strict=True)
    )


def outputs(model, batch):
    """Logits of the first and of the last token of an answer; none of the padding, or the loss would depend on it."""
    found = model(**{name: part for name, part in batch.items() if name != "labels"})
    padding = batch["attention_mask"] == 0
    return tuple(
        logits.masked_fill(padding, torch.finfo(logits.dtype).min) for logits in (found.start_logits, found.end_logits)
    )


def encode(rows, numbers, columns, keep_spans, **options):
    """Windows of some rows, with the number of each one's row."""
    questions, contexts, found = (rows[column] for column in columns)
    windows = answers.windows(questions, contexts, **options)
    of, spans = windows.pop("of"), windows.pop("spans")
    windows["labels"] = [answers.tokens_of(window, found[row]) for window, row in zip(spans, of, strict=True)]
    # much to keep where nobody needs them
    return windows | {"row": [numbers[row] for row in of]} | ({"spans": spans} if keep_spans else {})


def read(run):
    """Rows and windows of both splits, what they are made of, and the tokenizer."""
    config, accelerator = run.config, run.accelerator
    texts = [config.question_column, config.context_column]
    columns = [*texts, config.answers_column]
    with main_process_first(accelerator):
        splits = data.load_splits(config, texts, labels=[config.answers_column])
    if config.do == "predict":
        splits["validation"] = answers.without_answers(
            splits["validation"].select_columns(texts), config.answers_column
        )
    tokenizer = load_tokenizer(config.checkpoint, config.max_length, offsets=True)
    sizes = {"max_length": config.max_length, "stride": config.doc_stride}
    encoded, sources = {}, {}
    for split, rows in splits.items():
        answers.check_answers(split, rows, config.context_column, config.answers_column)
        answers.check_questions(split, rows[config.question_column][:], tokenizer, **sizes)
        rows = rows.select_columns(columns)
        rows = data.subset(rows, config.max_train_rows if split == "train" else None, config.seed)
        with main_process_first(accelerator):
            encoded[split] = rows.map(
                encode,
                with_indices=True,
                batched=True,
                remove_columns=columns,
                fn_kwargs={"columns": columns, "keep_spans": split != "train", "tokenizer": tokenizer, **sizes},
                desc=f"tokenize {split}",
            )
        splits[split] = rows
        sources[split] = data.source(rows) | answers.counts(rows[config.answers_column], encoded[split])
        accelerator.print(f"{split}: " + ", ".join(f"{name} {value}" for name, value in sources[split].items()))
    return splits, encoded, sources, tokenizer


def main(args=None):
    """One run, from the config to the result JSON."""
    run = start(AnswersConfig, args)
    config = run.config
    metric = load_metrics(config.metrics, answers.ANSWERS)

    # Data: read, check every row, draw the subset, tokenize. What leads back to the text stays beside the batches.
    splits, encoded, sources, tokenizer = read(run)
    windows = encoded["validation"].select(batches.longest_first(batches.lengths(encoded["validation"])))
    train, validation = encoded.get("train"), windows.remove_columns(["row", "spans"])

    # Model: the same new weights on every process.
    set_seed(config.seed)
    model = load_model(AutoModelForQuestionAnswering, config, run.accelerator.device, num_labels=2)
    check_tokenizer(tokenizer, model, encoded, config.max_length)

    if config.do == "train":
        model.config.may_have_no_answer = sources["train"]["without_answer"] > 0

    reader = answers.SpanOutputs(config, metric, model, splits["validation"], windows)

    # Train, save, load as a user would, compare, report.
    task = Task(
        rows=train and train.remove_columns("row"),
        collate=DataCollatorWithPadding(tokenizer),
        loss=loss,
        evaluation=Evaluation(
            rows=validation,
            outputs=outputs,
            score=reader.score,
            best=leading_figure(config.metrics, answers.ANSWERS),
            describe=reader.describe,
        ),
        auto_class=AutoModelForQuestionAnswering,
    )
    finish(run, task, model, tokenizer, sources)


if __name__ == "__main__":
    run_script(main)
