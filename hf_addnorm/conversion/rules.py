"""The rewriting rules: how one add & norm becomes another with exactly the same function, each with its reason.

A rule works on one thing of a `Workpiece`, a norm or a residual, and takes what it can of what is left to do there.
The rules of a list run in its order. What is left at the end has no exact form. Those of the stream are in
`stream_rules.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..models.core.recasting import get_part
from ..models.residuals.matrix_residuals import LowRankResidual
from .forms import NormForm, ResidualForm, free_factor, gain_size, own_gain, read_residual, write_norm
from .linears import LinearEdit
from .pairs import Pair, Workpiece


@dataclass(frozen=True)
class Rule:
    """One way to rewrite.

    Args:
        name (`str`): as in a report.
        serves (`str`): from what to what.
        why (`str`): why it is exact.
        run (`Callable`): from the workpiece and the thing; returns whether it did something.
    """

    name: str
    serves: str
    why: str
    run: Callable[..., bool]


def rule(rules: list[Rule], serves: str, why: str) -> Callable[[Callable[..., bool]], Callable[..., bool]]:
    """Decorator that adds a function to a list of rules, under its name."""

    def add(run: Callable[..., bool]) -> Callable[..., bool]:
        rules.append(Rule(run.__name__, serves, why, run))
        return run

    return add


# what each works on: a `Pair`; a `Sum`
NORM_RULES: list[Rule] = []
RESIDUAL_RULES: list[Rule] = []


def is_one(value: torch.Tensor | None) -> bool:
    """Whether it is nothing as a factor."""
    return value is None or bool((value == 1).all())


def is_zero(value: torch.Tensor | None) -> bool:
    """Whether it is nothing as a summand."""
    return value is None or not bool(value.any())


# --- norms ---


def begin_norm(work: Workpiece, pair: Pair) -> None:
    """What of a norm is to be carried over; a norm that is another function starts as near as it can."""
    ones = torch.ones(pair.width, dtype=torch.float64)
    old, new = (ones if form.gain is None else form.gain for form in (pair.source, pair.target))
    if pair.awaits_stream:
        return
    if not pair.has_exact_core:
        work.stop(pair.title, f"{_said(pair.source)} and {_said(pair.target)} are different functions")
        write_norm(pair.norm, old / new, pair.source.bias)
        return
    pair.gain, pair.bias = old / new, pair.source.bias
    pair.loses_mean = pair.source.centred and not pair.target.centred


def _said(form: NormForm) -> str:
    kinds = {"deviation": "a division by the size", "linear": "a linear map"}
    return kinds.get(form.core, form.core) + (" of what has no mean" if form.centred else "")


def end_norm(work: Workpiece, pair: Pair) -> None:
    """What of a norm has found no place."""
    if pair.has_exact_core and not is_one(pair.gain):
        work.stop(pair.title, "there is no place for its gain")
    if pair.has_exact_core and not is_zero(pair.bias):
        work.stop(pair.title, "there is no place for its bias")
    if pair.awaits_stream:
        work.obstacles.insert(0, f"{pair.title}: it takes a mean out that something behind it sees")
    wanted = pair.source.eps * work.scales.get(pair.index, 1.0) ** (2 if pair.place == "post" else 0)
    if pair.has_exact_core and abs(pair.target.eps - wanted) > 1e-6 * wanted:
        # in the norm's own terms, which may count it with n - 1
        work.eps[pair.title] = float(getattr(pair.norm, "eps", wanted)) * wanted / (pair.target.eps or wanted)


def _foldable(work: Workpiece, pair: Pair) -> bool:
    """Whether all that reads a norm's output can take something of the norm in: Linear layers, and a sum."""
    return bool(pair.readers) and all(work.is_foldable(path) for path in pair.readers)


def _can_take_bias(work: Workpiece, pair: Pair) -> bool:
    return is_zero(pair.bias) or all(work.linear(path).bias is not None for path in pair.readers)


@rule(
    NORM_RULES,
    "a linear norm that takes the mean out (fixed_sigma, a LayerNorm with an eps of 1e12), to one that does not "
    "(affine, none), where Linear layers alone read it",
    "W (g (x - mean(x)) + b) is linear in x: the mean goes out of the rows of W diag(g), W b into the bias",
)
def mean_into_readers(work: Workpiece, pair: Pair) -> bool:
    ready = pair.loses_mean and pair.source.core == "linear" and pair.skip is None
    if not (ready and _foldable(work, pair) and _can_take_bias(work, pair)):
        return False
    gain, bias = _taken(pair)

    def fold(linear: LinearEdit) -> None:
        linear.plus_input(bias)
        linear.times_inputs(gain)
        linear.centre_inputs()

    for path in pair.readers:
        work.edit(path, "input", torch.cat([gain, bias]), fold)
    pair.gain, pair.bias, pair.loses_mean = None, None, False
    write_norm(pair.norm, torch.ones_like(gain), None)
    return True


def _taken(pair: Pair) -> tuple[torch.Tensor, torch.Tensor]:
    """What is left of its gain and bias, as tensors."""
    gain = torch.ones(pair.width, dtype=torch.float64) if pair.gain is None else pair.gain
    return gain, torch.zeros_like(gain) if pair.bias is None else pair.bias


@rule(
    NORM_RULES,
    "any norm to one with a gain or bias of its own: plain or zero-centred, of n or n - 1, with another constant "
    "factor, batch_norm and rep_bn in evaluation to affine",
    "both are gain * core(x) + bias; constant factors go into the gain, running statistics into gain and bias",
)
def own_parameters(work: Workpiece, pair: Pair) -> bool:
    gain, bias = _taken(pair)
    size, has_bias = gain_size(pair.norm), getattr(pair.norm, "bias", None) is not None
    own = gain.unflatten(-1, (size, -1)).mean(-1).repeat_interleave(len(gain) // size) if size else None
    rest = gain if own is None else torch.where(own == 0, 1.0, gain / own)
    # where something of the gain is folded behind the norm, its own bias stands before that
    if has_bias and (rest == 0).any():
        has_bias = False
    write_norm(pair.norm, torch.ones_like(gain) if own is None else own, bias / rest if has_bias else None)
    pair.gain, pair.bias = None if is_one(rest) else rest, None if has_bias or is_zero(bias) else bias
    return bool(size or has_bias)


@rule(
    NORM_RULES,
    "a norm with gain or bias to one without, where Linear layers read it, and after the sum also the next residual",
    "W (g n + b) = (W diag(g)) n + W b; the next sum reads g n + b too: b goes into its branch, g into a factor of "
    "its skip",
)
def parameters_into_readers(work: Workpiece, pair: Pair) -> bool:
    if (is_one(pair.gain) and is_zero(pair.bias)) or not _foldable(work, pair) or not _can_take_bias(work, pair):
        return False
    gain, bias = _taken(pair)

    def fold(linear: LinearEdit) -> None:
        linear.plus_input(bias)
        linear.times_inputs(gain)

    for path in pair.readers:
        work.edit(path, "input", torch.cat([gain, bias]), fold)
    if pair.skip is not None:
        work.skips[pair.skip] = (gain, bias)
    pair.gain, pair.bias, pair.folded = None, None, (gain, bias)
    return True


# --- residuals ---


@dataclass
class Sum:
    """One residual: `skip * x + branch * f + shift` in the source, and what of it the target's has to be given.

    Args:
        index (`int`): of the sublayer.
        title (`str`): of the sublayer.
        skip, branch, shift (`torch.Tensor`): what is wanted, up to one factor where the next norm does not see it.
        has (`ResidualForm`): the target's, with a factor of its own at 1.
    """

    index: int
    title: str
    skip: torch.Tensor
    branch: torch.Tensor
    shift: torch.Tensor
    has: ResidualForm


def begin_sum(work: Workpiece, index: int) -> Sum | None:
    """What a residual has to be; None where it is a function of its own, in both models or in one."""
    title = work.old[index].title
    old, new = work.old[index].residual_of(work.source), work.residual(index)
    if new is not None and (free := free_factor(new)) is not None:
        free[1].data.fill_(1.0)
    wanted, has = read_residual(old), read_residual(new)
    if isinstance(new, LowRankResidual) and not isinstance(old, LowRankResidual):
        # as it starts: the map beside the identity gives 0
        has = read_residual(None)
    if wanted is None or has is None:
        if type(old) is not type(new):
            work.stop(title, f"{type(old).__name__} and {type(new).__name__} are different sums")
        elif index in work.skips:
            work.stop(title, f"{type(new).__name__} has no place for what the norm before it leaves")
        return None
    factor, shift = work.skips.get(index, (torch.ones(1), torch.zeros(1)))
    return Sum(index, title, wanted.skip * factor, wanted.branch.clone(), wanted.shift + wanted.skip * shift, has)


@rule(
    RESIDUAL_RULES,
    "any factor on the skip to a learned one (vector, scalar, admin); a gain before the sum to a vector on the skip",
    "the learned factor is set to what the factor was, or to the product of both",
)
def skip_into_factor(work: Workpiece, one: Sum) -> bool:
    residual = work.residual(one.index)
    free = None if residual is None else free_factor(residual)
    if free is None or free[0] != "skip" or (free[1].numel() == 1 and not _is_constant(one.skip)):
        return False
    if work.new[one.index].residual in {sub.residual for at, sub in enumerate(work.new) if at != one.index}:
        # one for all sublayers of a layer stays at 1
        return False
    free[1].data.copy_(one.skip.expand(free[1].numel()) if _is_constant(one.skip) else one.skip)
    one.has = ResidualForm(free[1].detach().clone(), one.has.branch, one.has.shift)
    return not is_one(one.skip)


def _is_constant(value: torch.Tensor) -> bool:
    return bool((value == value[0]).all())


@rule(
    RESIDUAL_RULES,
    "a constant on the skip, such as DeepNorm's, before a norm after the sum; from and to other constants",
    "N of a multiple is N itself with its eps times the square of the factor: all of the sum may be multiplied",
)
def multiple_of_sum(work: Workpiece, one: Sum) -> bool:
    ratio = one.has.skip / one.skip
    spread = (ratio - ratio[0]).abs().max()
    post = next((pair for pair in work.pairs if (pair.place, pair.index) == ("post", one.index)), None)
    scale = ratio[0].item()
    if scale == 1.0 and spread == 0:
        return False
    is_free = post is not None and post.source.is_scale_free and post.target.is_scale_free
    if spread > 1e-12 * abs(scale) or not scale > 0 or not is_free:
        work.stop(one.title, "its residual has no place for the factor on the stream")
        return False
    work.scales[one.index] = scale
    one.skip, one.branch, one.shift = one.skip * scale, one.branch * scale, one.shift * scale
    return True


@rule(
    RESIDUAL_RULES,
    "any factor on the branch (LayerScale, ReZero's scalar, a constant) to another or to none, and a norm's bias "
    "before the sum",
    "the branch ends in a Linear layer, or a norm's gain and bias, which take a factor and a shift of what they give",
)
def branch_into_writer(work: Workpiece, one: Sum) -> bool:
    factor, shift = one.branch / one.has.branch, (one.shift - one.has.shift) / one.has.branch
    if is_one(factor) and is_zero(shift):
        return False
    sub = work.new[one.index]
    if "out" in sub.norms:
        norm = get_part(work.target, sub.norms["out"])
        if (not is_one(factor) and gain_size(norm) < len(factor)) or (not is_zero(shift) and norm.bias is None):
            work.stop(one.title, "the norm in out has no place for what the residual leaves")
            return False
        gain = own_gain(norm)
        if not is_one(factor) and gain is not None:
            write_norm(norm, gain * factor, None if norm.bias is None else norm.bias * factor)
        if not is_zero(shift):
            norm.bias.data.add_(shift)
        return True

    def fold(linear: LinearEdit) -> None:
        linear.times_outputs(factor.to(linear.weight.dtype))
        linear.plus_bias(shift.expand(linear.weight.shape[0]))

    work.edit(sub.writer, "output", torch.cat([factor, shift]), fold)
    return True
