"""The one training loop: what a script says about its task, and the steps, evaluations and checkpoints of a run."""

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from datasets import Dataset
from transformers import PreTrainedModel, get_linear_schedule_with_warmup

from hf_addnorm import collect_losses

from .batches import BatchOrder
from .config import RunConfig
from .errors import Stopped, UserError, lost_process
from .interrupt import Interrupt
from .model import decay_groups
from .progress import Progress, progress_bar
from .run import RunFolder


Batch = Any


def by_mask(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens, and slots (tokens with padding), of a batch that has an attention mask."""
    mask = batch["attention_mask"]
    return mask.sum(), torch.ones_like(mask).sum()


@dataclass(kw_only=True)
class Task:
    """What the loop needs to know of a task.

    Args:
        rows: the training rows.
        lengths: of every row, in tokens; rows of similar length come into one batch.
        collate: makes a batch of a list of rows; its ``labels`` are the targets, -100 or nan where there is none.
        loss: of a model and a batch, summed over its labels (a scalar).
        evaluate: of a model, the figures of the validation split by name; called by all processes together.
        best: the figure by which evaluations are compared, with a minus before it where less is better.
        sizes: of a batch, how many tokens it has, and how many with padding.
        augment: changes a row before it is collated, with random numbers that are a function of seed, epoch and row.
    """

    rows: Dataset
    lengths: Sequence[int]
    collate: Callable[[list], Batch]
    loss: Callable[[Any, Batch], torch.Tensor]
    evaluate: Callable[[Any], dict[str, float]]
    best: str
    sizes: Callable[[Batch], tuple[torch.Tensor, torch.Tensor]] = by_mask
    augment: Callable[[dict, random.Random], dict] | None = None

    def batch(self, rows: list[int], draws: str) -> Batch:
        """Collate the rows; an empty share becomes one row without labels: every process has a forward pass."""
        chosen = [self.rows[row] for row in rows or [0]]
        if self.augment is not None:
            chosen = [
                self.augment(row, random.Random(f"{draws}/{n}")) for n, row in zip(rows or [0], chosen, strict=True)
            ]
        batch = self.collate(chosen)
        if not rows:
            batch["labels"].fill_(math.nan if batch["labels"].is_floating_point() else -100)
        return batch

    def count(self, batches: list[Batch]) -> torch.Tensor:
        """Labels, tokens and slots of these batches (int64, 3)."""
        total = 0
        for batch in batches:
            labels = batch["labels"]
            labelled = ~labels.isnan() if labels.is_floating_point() else labels != -100
            total += torch.stack([labelled.sum(), *self.sizes(batch)])
        return total


def train(
    accelerator: Accelerator, config: RunConfig, folder: RunFolder, model: PreTrainedModel, task: Task, sources: dict
) -> tuple[Any, Progress]:
    """Train, from the beginning or from the newest checkpoint, to the last step.

    Args:
        accelerator: the run's accelerator.
        config: the run's config.
        folder: the run's folder; it is written from here on.
        model: as it was loaded, the same on every process.
        task: what is trained.
        sources: rows and sha256 of each split, part of what the run is.
    Returns:
        the model as the accelerator has prepared it, at the step that ``config.final_model`` says, and the progress.
    Raises:
        UserError: a loss or gradient that is not finite, another process that has ended, a disk that is full.
        Stopped: Ctrl-C or SIGTERM; a checkpoint has been written.
    """
    processes, accumulation = accelerator.num_processes, accelerator.gradient_accumulation_steps
    order = BatchOrder(task.lengths, config.batch_size, config.seed, config.group_by_length)
    total = min(config.max_steps or math.inf, config.epochs * order.steps_per_epoch)
    # another dropout on each process, after the same new weights
    set_seed(config.seed, device_specific=True)
    groups, betas = decay_groups(model, config.weight_decay), (0.9, config.adam_beta2)
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, betas=betas, fused=True)
    schedule = get_linear_schedule_with_warmup(optimizer, round(config.warmup * total), total)
    model, optimizer, schedule = accelerator.prepare(model, optimizer, schedule)

    folder.begin(accelerator, sources)
    progress = folder.restore(accelerator)
    bar = progress_bar(accelerator, progress, total)
    model.train()
    with lost_process(accelerator, folder.kept), Interrupt() as interrupt, bar:
        for step in range(progress.step + 1, total + 1):
            clock = time.perf_counter()
            draws = f"{config.seed}/{(step - 1) // order.steps_per_epoch}"
            share = order.share(step - 1, accumulation, accelerator.process_index, processes)
            micro_batches = [task.batch(rows, draws).to(accelerator.device) for rows in share]
            counts = [task.count([batch]) for batch in micro_batches]
            stop = torch.tensor([interrupt.signal != 0], device=accelerator.device)
            labelled, tokens, slots, stop = accelerator.reduce(torch.cat([sum(counts), stop])).tolist()
            loss_sum = torch.zeros((), device=accelerator.device)
            for batch, (labels, *_) in zip(micro_batches, counts, strict=True):
                with accelerator.accumulate(model):
                    loss, extra = collect_losses(task.loss, model, batch)
                    # what modules contribute is a mean over the micro-batch
                    loss = loss + sum(extra) * labels
                    # Accelerate takes means over processes and micro-batches; wanted is that over the step's labels.
                    accelerator.backward(loss * processes * accumulation / max(labelled, 1))
                    loss_sum += loss.detach()
            step_loss = accelerator.reduce(loss_sum).item() / max(labelled, 1)
            norm = accelerator.clip_grad_norm_(model.parameters(), config.max_grad_norm or math.inf)
            # DeepSpeed clips by itself, and tells the norm from its second step on
            norm = math.nan if norm is None else float(norm)
            if not math.isfinite(step_loss) or math.isinf(norm) or (math.isnan(norm) and step > 1):
                raise UserError(f"stopped at step {step}: loss {step_loss}, gradient norm {norm}; {folder.kept()}")
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            progress.add(step_loss, norm, tokens, slots, time.perf_counter() - clock)
            bar.set_postfix(
                loss=f"{step_loss:.4f}", tokens_per_second=round(progress.tokens_per_second), refresh=False
            )
            bar.update()
            accelerator.log({"loss": step_loss, "grad_norm": norm, "learning_rate": schedule.get_last_lr()[0]}, step)
            best = False
            if step % (config.eval_every or order.steps_per_epoch) == 0 or step == total:
                scores = task.evaluate(model)
                model.train()
                progress.metrics.append({"step": step, "epoch": step / order.steps_per_epoch, **scores})
                accelerator.log(scores, step)
                best = config.checkpoint_every is not None and progress.best(task.best) == step
                accelerator.on_main_process(bar.write)(_line(step, scores))
            if best or stop or (config.checkpoint_every and step % config.checkpoint_every == 0):
                folder.save(accelerator, progress, config.keep_checkpoints, progress.best(task.best))
            if stop and step < total:
                raise Stopped(
                    interrupt.signal, f"stopped after step {step} of {total}; --resume goes on; {folder.kept()}"
                )
    if config.final_model == "best":
        accelerator.load_state(str(folder.checkpoint(progress.best(task.best))))
    return model, progress


def _line(step: int, scores: dict[str, float]) -> str:
    return f"step {step}: " + ", ".join(f"{name} {score:.4f}" for name, score in scores.items())
