"""What a run has done so far, and the bar that shows it."""

import math
import sys
from dataclasses import dataclass, field

from accelerate import Accelerator
from tqdm import tqdm


@dataclass
class Progress:
    """Saved in every checkpoint, reported at the end.

    Args:
        step: optimizer steps done. With the seed it also says which rows come next.
        seconds: time in training steps, without evaluation and checkpoints.
        tokens: tokens trained on, without padding, over all processes.
        slots: the same with padding.
        losses: mean loss of every step.
        grad_norms: norm of the gradients of every step, before clipping.
        metrics: one entry per evaluation.
        resumed_at: steps after which the run was taken up again.
    """

    step: int = 0
    seconds: float = 0.0
    tokens: int = 0
    slots: int = 0
    losses: list[float] = field(default_factory=list)
    grad_norms: list[float] = field(default_factory=list)
    metrics: list[dict[str, float]] = field(default_factory=list)
    resumed_at: list[int] = field(default_factory=list)

    def add(self, loss: float, grad_norm: float, tokens: int, slots: int, seconds: float) -> None:
        """Count one optimizer step."""
        self.step += 1
        self.losses.append(loss)
        self.grad_norms.append(grad_norm)
        self.tokens += tokens
        self.slots += slots
        self.seconds += seconds

    def best(self, name: str) -> int | None:
        """The step of the evaluation with the highest figure ``name`` (lowest for ``-name``); the first of equals."""
        figures = self._figures(name)
        return self.metrics[max(range(len(figures)), key=figures.__getitem__)]["step"] if figures else None

    def _figures(self, name: str) -> list[float]:
        # as far as higher is better; a figure that is not a number, null in a file, is the worst
        sign, found = (-1 if name.startswith("-") else 1), [entry[name.lstrip("-")] for entry in self.metrics]
        return [-math.inf if value is None or math.isnan(value) else sign * value for value in found]

    def standstill(self, name: str, patience: int | None, min_delta: float) -> str | None:
        """Why a training ends early: so many evaluations in a row without a better figure; None if it goes on.

        Args:
            name: of the figure, with a minus before it where less is better.
            patience: the number of evaluations; None never ends a training.
            min_delta: an evaluation is better if its figure is so by more than this than the last better one's.
        """
        figures, last = self._figures(name), 0
        for number, figure in enumerate(figures):
            if figure > figures[last] + min_delta:
                last = number
        if patience is None or len(figures) - 1 - last < patience:
            return None
        count = len(figures) - 1 - last
        entry, moved = self.metrics[last], "fallen" if name.startswith("-") else "risen"
        figure, delta = name.lstrip("-"), f" by more than {min_delta:g}" if min_delta else ""
        return (
            f"{figure} has not {moved}{delta} in {count} evaluation{'s' * (count > 1)} since step {entry['step']}"
            + (f" ({entry[figure]:.4f})" if entry[figure] is not None else "")
        )

    @property
    def tokens_per_second(self) -> float:
        """Mean over the run so far."""
        return self.tokens / self.seconds if self.seconds else 0.0


def progress_bar(accelerator: Accelerator, progress: Progress, total: int) -> tqdm:
    """A bar over optimizer steps on the main process; in a log file it writes a line every ten seconds only."""
    return tqdm(
        total=total,
        initial=progress.step,
        unit="step",
        mininterval=0.5 if sys.stderr.isatty() else 10,
        disable=not accelerator.is_main_process,
    )
