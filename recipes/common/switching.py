"""Norms of a source that are switched, while a model is trained, to those of what the source is converted to."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from hf_addnorm import add_norm_sites

from .errors import UserError


# the share of the steps after which every norm is the target's; the rest trains what is kept
STEPS = 0.6


def _one_after_another(site: int, sites: int, done: float) -> float:
    return min(1.0, max(0.0, done * sites - site))


def _together(site: int, sites: int, done: float) -> float:
    return min(1.0, done)


# of a norm's number, how many there are and how much of the way is done, both from 0: the share of the target's norm
WAYS: dict[str, Callable[[int, int, float], float]] = {"in_order": _one_after_another, "interpolate": _together}


class Switching:
    """Lets every norm of a model in training give a mixture of its own output and of that of the source's norm.

        share * norm(x) + (1 - share) * source_norm(x)

    The shares rise from 0 to 1 in the first 60 % of the steps: one norm after another from the embeddings on
    (``in_order``), or all together (``interpolate``).

    Args:
        source: the trained model.
        model: what it is converted to, with the same Linear layers at the start.
        way: a key of ``WAYS``.
    Raises:
        UserError: a norm that stands where the source has none.
    """

    def __init__(self, source: PreTrainedModel, model: PreTrainedModel, way: str):
        self.source, self.share_of, self.done = source, WAYS[way], 1.0
        known = {site.norm for site in add_norm_sites(source)}
        sites = {site.norm: site for site in add_norm_sites(model)}
        moved = [site.title for path, site in sites.items() if path not in known]
        if moved:
            raise UserError(
                f"switch is {way}, and the source has no norm at {moved[0]} to begin with; allowed is at_once where "
                "norms are moved"
            )
        self.paths = list(sites)

    def at_step(self, step: int, total: int) -> None:
        """Take the number of the step that comes, from 1, and of how many."""
        self.done = min(1.0, step / max(1.0, STEPS * total))

    def shares(self) -> list[float]:
        """The share of each norm of the target, in the order in which they run."""
        return [self.share_of(index, len(self.paths), self.done) for index in range(len(self.paths))]

    @contextmanager
    def mixed(self, model: PreTrainedModel) -> Iterator[None]:
        """The model's norms give mixtures while the context holds."""
        with ExitStack() as stack:
            for path, share in zip(self.paths, self.shares(), strict=True):
                if share < 1:
                    hook = partial(_mix, self.source.get_submodule(path), share)
                    handle = model.get_submodule(path).register_forward_hook(hook)
                    stack.callback(handle.remove)
            yield


def _mix(old: nn.Module, share: float, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
    before = old(args[0])
    return before + share * (output - before)
