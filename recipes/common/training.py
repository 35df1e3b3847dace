"""The one training loop: what a script says about its task, and the steps, evaluations and checkpoints of a run."""

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate.utils import set_seed
from datasets import Dataset
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import PreTrainedModel, get_linear_schedule_with_warmup

from hf_addnorm import collect_losses

from .batches import BatchOrder, lengths
from .errors import Stopped, UserError, lost_process
from .evaluation import Columns, Evaluation, predict
from .freezing import with_rates
from .interrupt import Interrupt
from .model import decay_groups
from .progress import Progress, progress_bar
from .run import Run
from .watching import log_watched, training_watch


Batch = Any


def by_mask(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens, and slots (tokens with padding), of a batch that has an attention mask."""
    mask = batch["attention_mask"]
    return mask.sum(), torch.ones_like(mask).sum()


@dataclass(kw_only=True)
class Task:
    """What the loop needs to know of a task.

    Args:
        rows: the training rows; None of a saved model that is not trained.
        lengths: of training rows how long each is, in tokens; rows of similar length come into one batch.
        collate: makes a batch of a list of rows; its ``labels`` are the targets, -100 or nan where there is none.
        loss: of a model and a batch, summed over its labels (a scalar).
        evaluation: the validation split and its figures.
        auto_class: the AutoModel class by which the saved model is loaded.
        weights: of the classes in the loss, ``[classes]``; a step's loss is then divided by those of its labels.
        record: entries of the result that are known before the training.
        sizes: of a batch, how many tokens it has, and how many with padding.
        augment: changes a row before it is collated, with random numbers that are a function of seed, epoch and row.
        evaluates_start: evaluate before the first step too: what a training begins with may be the best.
        at_step: is told the number of each step before it, from 1, and of how many.
    """

    rows: Dataset | None
    collate: Callable[[list], Batch]
    loss: Callable[[Any, Batch], torch.Tensor]
    evaluation: Evaluation
    auto_class: Any
    lengths: Callable[[Dataset], Sequence[int]] = lengths
    weights: torch.Tensor | None = None
    record: dict[str, Any] = field(default_factory=dict)
    sizes: Callable[[Batch], tuple[torch.Tensor, torch.Tensor]] = by_mask
    augment: Callable[[dict, random.Random], dict] | None = None
    evaluates_start: bool = False
    at_step: Callable[[int, int], None] | None = None

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
        """Labels, or the weights of their classes (then in float64), tokens and slots of these batches: int64, 3."""
        total = 0
        for batch in batches:
            labels = batch["labels"]
            labelled = ~labels.isnan() if labels.is_floating_point() else labels != -100
            if self.weights is None:
                divisor = labelled.sum()
            else:
                divisor = self.weights.to(labels.device)[labels[labelled]].double().sum()
            total += torch.stack([divisor, *self.sizes(batch)])
        return total


@dataclass
class Trained:
    """What a training leaves.

    Args:
        model: as the accelerator has prepared it, at the step that ``config.final_model`` says.
        progress: of the whole run.
        predictions: what this very model predicts for the validation rows, if the last evaluation was of it.
        ended: when and why the training ended before its last step; None if it did not.
    """

    model: Any
    progress: Progress
    predictions: Columns | None
    ended: str | None


class Loop:
    """The steps of a training: model, optimizer, schedule and the order of the rows.

    Args:
        run: the run.
        task: what is trained.
        model: as it was loaded, the same on every process.
    """

    def __init__(self, run: Run, task: Task, model: PreTrainedModel):
        config, accelerator = run.config, run.accelerator
        self.run, self.task = run, task
        self.order = BatchOrder(task.lengths(task.rows), config.batch_size, config.seed, config.group_by_length)
        self.total = min(config.max_steps or math.inf, config.epochs * self.order.steps_per_epoch)
        # another dropout on each process, after the same new weights
        set_seed(config.seed, device_specific=True)
        groups = with_rates(model, decay_groups(model, config.weight_decay), config)
        betas = (0.9, config.adam_beta2)
        # not torch's default on a CPU, where a fused step takes a seventh of the time
        optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, betas=betas, fused=True)
        schedule = get_linear_schedule_with_warmup(optimizer, round(config.warmup * self.total), self.total)
        self.model, self.optimizer, self.schedule = accelerator.prepare(model, optimizer, schedule)

    def batches(self, step: int) -> list[Batch]:
        """This process's micro-batches of a step, counted from 1 over all epochs."""
        config, accelerator = self.run.config, self.run.accelerator
        draws = f"{config.seed}/{(step - 1) // self.order.steps_per_epoch}"
        share = self.order.share(
            step - 1, accelerator.gradient_accumulation_steps, accelerator.process_index, accelerator.num_processes
        )
        return [self.task.batch(rows, draws).to(accelerator.device) for rows in share]

    def step(self, step: int, progress: Progress, stop: bool = False) -> bool:
        """Train on the rows of a step, and count it; true where any process wishes to ``stop`` after it.

        Raises:
            UserError: a loss or gradient that is not finite; the weights are those of the step before.
        """
        clock, accelerator = time.perf_counter(), self.run.accelerator
        if self.task.at_step is not None:
            self.task.at_step(step, self.total)
        micro_batches = self.batches(step)
        counts = [self.task.count([batch]) for batch in micro_batches]
        wish = torch.tensor([stop], device=accelerator.device)
        labelled, tokens, slots, stopping = accelerator.reduce(torch.cat([sum(counts), wish])).tolist()
        loss = self._gradients(micro_batches, counts, labelled or 1)
        norm = accelerator.clip_grad_norm_(self.model.parameters(), self.run.config.max_grad_norm or math.inf)
        # DeepSpeed clips by itself, and tells the norm from its second step on
        norm = math.nan if norm is None else float(norm)
        if not math.isfinite(loss) or math.isinf(norm) or (math.isnan(norm) and step > 1):
            raise UserError(f"stopped at step {step}: loss {loss}, gradient norm {norm}; {self.run.folder.kept()}")
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        progress.add(loss, norm, int(tokens), int(slots), time.perf_counter() - clock)
        return bool(stopping)

    def standstill(self, progress: Progress) -> str | None:
        """Why there is nothing to be gained by more steps, as the config's ``patience`` has it."""
        config = self.run.config
        return progress.standstill(self.task.evaluation.best, config.patience, config.min_delta)

    def save(self, progress: Progress, evaluated: bool, stop: bool) -> None:
        """Write a checkpoint where one is due: every so many steps, of the best evaluation, before an early end."""
        config, every = self.run.config, self.run.config.checkpoint_every
        best_step = progress.best(self.task.evaluation.best)
        best = every is not None and evaluated and best_step == progress.step
        if best or stop or (every and progress.step % every == 0):
            self.run.folder.save(self.run.accelerator, progress, config.keep_checkpoints, best_step)

    def _gradients(self, micro_batches: list[Batch], counts: list[torch.Tensor], labelled: float) -> float:
        # the mean loss over the step's labels, of all processes
        accelerator, total = self.run.accelerator, torch.zeros((), device=self.run.accelerator.device)
        scale = accelerator.num_processes * accelerator.gradient_accumulation_steps / labelled
        for batch, (labels, *_) in zip(micro_batches, counts, strict=True):
            with accelerator.accumulate(self.model):
                loss, extra = collect_losses(self.task.loss, self.model, batch)
                # what modules contribute is a mean over the micro-batch
                loss = loss + sum(extra) * labels
                # Accelerate takes means over processes and micro-batches; wanted is that over the step's labels.
                accelerator.backward(loss * scale)
                total += loss.detach()
        return accelerator.reduce(total).item() / labelled


def train(run: Run, task: Task, model: PreTrainedModel, loader: DataLoader, sources: dict[str, Any]) -> Trained:
    """Train, from the beginning or from the newest checkpoint, to the last step.

    Args:
        run: the run; its folder is written from here on.
        task: what is trained.
        model: as it was loaded, the same on every process.
        loader: the validation rows, prepared.
        sources: rows and sha256 of each split, part of what the run is.
    Raises:
        UserError: a loss or gradient that is not finite, another process that has ended, a disk that is full.
        Stopped: Ctrl-C or SIGTERM; a checkpoint has been written.
    """
    config, accelerator, folder = run.config, run.accelerator, run.folder
    loop, predictions, ended = Loop(run, task, model), None, None
    folder.begin(accelerator, sources)
    progress = folder.restore(accelerator)
    bar = progress_bar(accelerator, progress, loop.total)
    loop.model.train()
    watch = training_watch(run, task, loop.model, progress.step)
    with lost_process(accelerator, folder.kept), Interrupt() as interrupt, bar:
        if task.evaluates_start and not progress.metrics:
            predictions = _evaluate(loop, progress, loader, bar)
            loop.save(progress, True, False)
        while progress.step < loop.total and not (ended := loop.standstill(progress)):
            # what is trained on needs the memory
            predictions = None
            stop = loop.step(progress.step + 1, progress, interrupt.signal != 0)
            show(loop, progress, bar)
            log_watched(run, watch, progress.step)
            if progress.step % (config.eval_every or loop.order.steps_per_epoch) == 0 or progress.step == loop.total:
                predictions = _evaluate(loop, progress, loader, bar)
            loop.save(progress, predictions is not None, stop)
            if stop and progress.step < loop.total:
                done = f"stopped after step {progress.step} of {loop.total}"
                raise Stopped(interrupt.signal, f"{done}; --resume goes on; {folder.kept()}")
    if ended:
        ended = f"stopped after step {progress.step} of {loop.total}: {ended}"
        accelerator.print(ended)
    if config.final_model == "best" and (best_step := progress.best(task.evaluation.best)) != progress.step:
        accelerator.load_state(str(folder.checkpoint(best_step)))
        predictions = None
    return Trained(loop.model, progress, predictions, ended)


def show(loop: Loop, progress: Progress, bar: tqdm) -> None:
    """Move the bar after a step, and log the step to the trackers."""
    loss, norm = progress.losses[-1], progress.grad_norms[-1]
    bar.set_postfix(loss=f"{loss:.4f}", tokens_per_second=round(progress.tokens_per_second), refresh=False)
    bar.update()
    rate = max(loop.schedule.get_last_lr())
    loop.run.accelerator.log({"loss": loss, "grad_norm": norm, "learning_rate": rate}, progress.step)


def _evaluate(loop: Loop, progress: Progress, loader: DataLoader, bar: tqdm) -> Columns:
    accelerator, evaluation, step = loop.run.accelerator, loop.task.evaluation, progress.step
    predictions = predict(accelerator, loop.model, loader, evaluation.outputs)
    loop.model.train()
    scores = evaluation.score(*predictions)
    progress.metrics.append({"step": step, "epoch": step / loop.order.steps_per_epoch, **scores})
    accelerator.log(scores, step)
    line = ", ".join(f"{name} {score:.4f}" for name, score in scores.items())
    accelerator.on_main_process(bar.write)(f"step {step}: {line}")
    return predictions
