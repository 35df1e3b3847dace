"""Conversion by algebra: a model with another add & norm, of the source's weights alone, as exact as it can be."""

from dataclasses import dataclass, field

import torch

from ..models.core.pretrained import AddNormPreTrainedModel
from ..models.streams.streams import DualStream
from .linears import CannotFold
from .pairs import Workpiece
from .rules import NORM_RULES, RESIDUAL_RULES, Rule, begin_norm, begin_sum, end_norm
from .stream_rules import STREAM_RULES, segments, take_mean_out


ALL_RULES: list[Rule] = [*NORM_RULES, *RESIDUAL_RULES, *STREAM_RULES]


@dataclass
class Rewriting:
    """What a conversion by algebra did.

    Args:
        used (`dict[str, list[str]]`): the places of each rule that was used.
        obstacles (`list[str]`): what has no exact form, each with its place; empty where all has.
        eps (`dict[str, float]`): by place, the eps at which a norm would be the same, where it has another one.
    """

    used: dict[str, list[str]] = field(default_factory=dict)
    obstacles: list[str] = field(default_factory=list)
    eps: dict[str, float] = field(default_factory=dict)


@torch.no_grad()
def copy_common(source: AddNormPreTrainedModel, target: AddNormPreTrainedModel) -> None:
    """Give the target every weight of the source that has its name and shape there."""
    found, own = source.state_dict(), target.state_dict()
    same = {key: value for key, value in found.items() if key in own and own[key].shape == value.shape}
    target.load_state_dict(same, strict=False)
    target.tie_weights()


@torch.no_grad()
def rewrite(work: Workpiece) -> Rewriting:
    """Run all rules on a workpiece whose target has the common weights of the source."""
    try:
        _norms_and_sums(work)
        for part in segments(work):
            if (name := take_mean_out(work, part)) is not None:
                work.use(name, part.title)
    except (CannotFold, ValueError) as error:
        work.stop("the weights", str(error))
    _dual_stream(work)
    for pair in work.pairs:
        end_norm(work, pair)
    return Rewriting({used.rule: used.places for used in work.used.values()}, work.obstacles, work.eps)


def _norms_and_sums(work: Workpiece) -> None:
    for pair in work.pairs:
        begin_norm(work, pair)
        for one in NORM_RULES:
            if pair.has_exact_core and one.run(work, pair):
                work.use(one.name, pair.title)
    for index in range(len(work.new)):
        wanted = begin_sum(work, index)
        for one in RESIDUAL_RULES:
            if wanted is not None and one.run(work, wanted):
                work.use(one.name, wanted.title)


def _dual_stream(work: Workpiece) -> None:
    """ResiDual's second stream adds a norm of the sum of all branches: with its gain and bias at 0, nothing."""
    stream = work.target.config.add_norm.build_stream()
    if isinstance(stream, DualStream) and not isinstance(work.source.config.add_norm.build_stream(), DualStream):
        for name, parameter in work.target.named_parameters():
            if ".stream_norm." in name:
                parameter.zero_()
        work.use("second_stream_at_zero", "after the last layer")
