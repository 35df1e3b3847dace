"""Fine-tune a stock or AddNorm checkpoint on text classification, sentence pairs or regression.

    accelerate launch recipes/finetune_text.py --config recipes/configs/docstring_match.yaml [--key value ...]

One YAML is one run, and every key can be given on the command line too; README.md beside this file lists them.
"""

import math
import time
from dataclasses import dataclass
from typing import Literal

import torch
from accelerate.utils import set_seed
from common import batches, data
from common.config import RunConfig, parse
from common.errors import UserError, run
from common.metrics import CLASSIFICATION, REGRESSION, load_metrics
from common.model import decay_groups, load_model, load_saved, load_tokenizer, same_logits
from common.progress import progress_bar
from common.report import summary
from common.run import RunFolder, main_process_first, start
from jsonargparse.typing import PositiveInt
from torch.nn import functional
from torch.utils.data import DataLoader
from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding, get_linear_schedule_with_warmup


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
    """

    task: Literal["classification", "regression"] = "classification"
    text_column: str = "text"
    text_pair_column: str | None = None
    label_column: str = "label"
    num_labels: PositiveInt | None = None
    max_length: PositiveInt = 128
    metrics: list[str] | None = None


def summed_loss(logits, labels):
    """Loss summed over the rows that have a label."""
    if labels.is_floating_point():
        labelled = ~labels.isnan()
        return functional.mse_loss(logits.squeeze(-1)[labelled], labels[labelled], reduction="sum")
    return functional.cross_entropy(logits, labels, ignore_index=-100, reduction="sum")


@torch.no_grad()
def predict(accelerator, model, loader):
    """Logits and labels of every row exactly once, on every process."""
    model.eval()
    gathered = []
    for batch in loader:
        labels = batch.pop("labels")
        gathered.append(accelerator.gather_for_metrics((model(**batch).logits, labels)))
    model.train()
    logits, labels = (torch.cat(parts).cpu() for parts in zip(*gathered, strict=True))
    if len(labels) != len(loader.dataset):
        raise RuntimeError(f"{len(loader.dataset)} rows were evaluated as {len(labels)}")
    return logits, labels


def main(args=None):
    """One run, from the config to the result JSON."""
    began = time.perf_counter()
    config, resume = parse(TextConfig, args)
    regression = config.task == "regression"
    metric = load_metrics(config.metrics, REGRESSION if regression else CLASSIFICATION)
    accelerator = start(config)
    processes, accumulation = accelerator.num_processes, accelerator.gradient_accumulation_steps
    folder = RunFolder(config, resume, processes)

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
        sources[split] = {"rows": len(rows), "sha256": data.fingerprint(rows)}
        accelerator.print(f"{split}: {len(rows)} rows, sha256 {sources[split]['sha256']}")
        with main_process_first(accelerator):
            encoded[split] = rows.map(
                lambda part: tokenizer(*(part[text] for text in texts), truncation=True, max_length=config.max_length),
                batched=True,
                remove_columns=texts,
                desc=f"tokenize {split}",
            )
    train, validation = encoded["train"], batches.longest_first(encoded["validation"])
    collate = DataCollatorWithPadding(tokenizer)
    loader = DataLoader(validation, config.eval_batch_size, collate_fn=collate)
    order = batches.BatchOrder(batches.lengths(train), config.batch_size, config.seed, config.group_by_length)
    total = min(config.max_steps or math.inf, config.epochs * order.steps_per_epoch)

    # Model: the same new weights on every process, then another dropout on each.
    set_seed(config.seed)
    model = load_model(AutoModelForSequenceClassification, config, accelerator.device, **head)
    set_seed(config.seed, device_specific=True)
    optimizer = torch.optim.AdamW(decay_groups(model, config.weight_decay), lr=config.learning_rate, fused=True)
    schedule = get_linear_schedule_with_warmup(optimizer, round(config.warmup * total), total)
    model, optimizer, schedule, loader = accelerator.prepare(model, optimizer, schedule, loader)

    folder.begin(accelerator, sources)
    progress, logits = folder.restore(accelerator), None
    bar = progress_bar(accelerator, progress, total)
    say = accelerator.on_main_process(bar.write)
    model.train()
    for step in range(progress.step + 1, total + 1):
        clock = time.perf_counter()
        share = order.share(step - 1, accumulation, accelerator.process_index, processes)
        micro_batches = [batches.make_batch(train, rows, collate).to(accelerator.device) for rows in share]
        labelled, tokens, slots = accelerator.reduce(batches.count(micro_batches)).tolist()
        loss_sum = torch.zeros((), device=accelerator.device)
        for batch in micro_batches:
            with accelerator.accumulate(model):
                targets = batch.pop("labels")
                loss = summed_loss(model(**batch).logits, targets)
                # Accelerate takes means over processes and micro-batches; wanted is the mean over the step's labels.
                accelerator.backward(loss * processes * accumulation / labelled)
                loss_sum += loss.detach()
        step_loss = accelerator.reduce(loss_sum).item() / labelled
        norm = accelerator.clip_grad_norm_(model.parameters(), config.max_grad_norm or math.inf).item()
        if not math.isfinite(step_loss + norm):
            bar.close()
            raise UserError(f"stopped at step {step}: loss {step_loss}, gradient norm {norm}; {folder.kept()}")
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        progress.add(step_loss, norm, int(tokens), int(slots), time.perf_counter() - clock)
        bar.set_postfix(loss=f"{step_loss:.4f}", tokens_per_second=round(progress.tokens_per_second), refresh=False)
        bar.update()
        if step % (config.eval_every or order.steps_per_epoch) == 0 or step == total:
            logits, targets = predict(accelerator, model, loader)
            predictions = logits.squeeze(-1) if regression else logits.argmax(-1)
            scores = metric.compute(predictions=predictions.numpy(), references=targets.numpy())
            progress.metrics.append({"step": step, "epoch": step / order.steps_per_epoch, **scores})
            say(f"step {step}: " + ", ".join(f"{name} {score:.4f}" for name, score in scores.items()))
        if config.checkpoint_every and step % config.checkpoint_every == 0:
            folder.save(accelerator, progress, config.keep_checkpoints)
    bar.close()

    # Save, load as a user would, and compare: every prediction as evaluated, and some logits in float32.
    if logits is None:
        logits, _ = predict(accelerator, model, loader)
    folder.save_model(accelerator, model, tokenizer)
    trained = accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    saved = load_saved(AutoModelForSequenceClassification, folder.model, like=trained)
    sample = [validation[row] for row in range(0, len(validation), math.ceil(len(validation) / 256))]
    equal_logits = same_logits(trained, saved, sample, collate)
    again, _ = predict(accelerator, accelerator.prepare_model(saved, evaluation_mode=True), loader)
    if not (equal_logits and torch.equal(again, logits)):
        raise RuntimeError(f"the model loaded from {folder.model} predicts something else than the trained one")
    say(f"loaded again from {folder.model}: {len(again)} predictions equal, {len(sample)} rows' float32 logits equal")
    checked = {"predictions_equal": len(again), "float32_logits_equal": len(sample)}
    result = summary(accelerator, config, trained, progress, began, data=sources, reload=checked)
    folder.finish(accelerator, {"recipe": "finetune_text", **result})


if __name__ == "__main__":
    run(main)
