"""The rules that take the mean out of the stream, so that a norm that does not subtract it sees what it needs.

A piece of the stream begins behind a norm after the sum, or at the embeddings, and ends in the next such norm or after
the last layer. It has no mean if what it begins with has none and no sublayer writes one.
"""

from dataclasses import dataclass

import torch
from torch import nn

from ..models.core.recasting import get_part
from ..models.norms.layer_norms import FixedSigmaNorm, ZeroMeanLayerNorm
from ..models.residuals.matrix_residuals import LowRankResidual
from ..sites import LayerStack
from .embeddings import EmbeddingTables, takes_mean_out
from .forms import read_residual
from .linears import LinearEdit
from .pairs import Pair, Workpiece, takes_mean_alone
from .rules import Rule, rule


STREAM_RULES: list[Rule] = []


@dataclass
class Segment:
    """A piece of the stream.

    Args:
        first, last (`int`): its sublayers are those from first up to last, which is not among them.
        pairs (`list[Pair]`): the norms that read it.
    """

    first: int
    last: int
    pairs: list[Pair]

    @property
    def title(self) -> str:
        """What it is called in a report."""
        return self.pairs[0].title if self.pairs else f"sublayers {self.first} to {self.last}"


def segments(work: Workpiece) -> list[Segment]:
    """The pieces of the target's stream, in order, that have to lose their mean."""
    found, begin = [], 0
    ends = [index for index, sub in enumerate(work.new) if "post" in sub.norms]
    for end in [*ends, None]:
        stop = len(work.new) if end is None else end + 1
        inside = [
            pair
            for pair in work.pairs
            if (pair.place == "pre" and begin <= pair.index < stop)
            or (pair.place == "post" and pair.index == end)
            or (pair.place == "final" and end is None)
        ]
        found.append(Segment(begin, stop, inside))
        begin = stop
    embed = [pair for pair in work.pairs if pair.place == "embed"]
    whole = [Segment(0, 0, embed)] if embed else []
    return [part for part in [*whole, *found] if any(pair.loses_mean for pair in part.pairs)]


def obstacle(work: Workpiece, part: Segment) -> str | None:
    """Why a piece of the stream cannot lose its mean, whatever it begins with, or None."""
    if not all(pair.source.centred for pair in part.pairs):
        return "a norm that reads the same stream sees its mean"
    is_last = part.last == len(work.new) and not any(pair.place in ("post", "final") for pair in part.pairs)
    if is_last and part.last > part.first:
        return "the last hidden state, which no norm follows, has a mean"
    for sub in work.new[part.first : part.last]:
        residual = sub.residual_of(work.target)
        form = None if residual is None else read_residual(residual)
        low_rank = isinstance(residual, LowRankResidual)
        if not low_rank and (form is None or form.skip.numel() > 1 or form.branch.numel() > 1):
            return "its residual has a factor for each feature, behind which there is a mean again"
        if "out" in sub.norms:
            return "the norm in out writes a mean to the stream"
        if get_part(work.target, sub.layer).added_last is not None:
            return "an adapter writes a mean to the stream"
    layout, parameters = work.target.layout_of(work.target.config), dict(work.target.base_model.named_parameters())
    if layout.between_layers in parameters and part.last > 2:
        return "positions that are added between the layers have a mean"
    if layout.other_norms and part.last > 2:
        return "a convolution between the layers writes a mean to the stream"
    return None


def centre_writers(work: Workpiece, part: Segment) -> None:
    """Take the mean out of all that the sublayers of a piece write."""
    for sub in work.new[part.first : part.last]:
        work.edit(sub.writer, "centre", torch.ones(1), LinearEdit.centre_outputs)


@rule(
    STREAM_RULES,
    "post-norm LayerNorm to RMSNorm, with `laurel_lr` as the residual",
    "x + f without its mean is (1 - 1 1^T / d) x + f without its mean: a map of rank 1 beside the skip, and the mean "
    "out of the writer",
)
def mean_off_skip(work: Workpiece, part: Segment) -> bool:
    residual = work.residual(part.first) if part.last > part.first else None
    if not isinstance(residual, LowRankResidual):
        return False
    down, up = residual.down.weight.detach(), residual.up.weight.detach()
    if up.any():
        return False
    down[0], up[:, 0] = 1.0 / down.shape[1], -1.0
    return True


@rule(
    STREAM_RULES,
    "pre-norm LayerNorm to RMSNorm (fixed_sigma to affine) in a model without an embedding norm, whose spec subtracts "
    'the mean in `embed`: {"kind": "fixed_sigma", "gain": false, "bias": false}',
    "every norm on the stream subtracts the mean in the source, so that none sees that it is gone",
)
def mean_off_embeddings_by_a_norm(work: Workpiece, part: Segment) -> bool:
    path = LayerStack(work.target).embed_path()
    norm = None if path is None or LayerStack(work.target).embeds_narrower() else get_part(work.target, path)
    starts = part.first == 0 and part.last > 0 and LayerStack(work.source).embed_path() is None
    if not (starts and isinstance(norm, FixedSigmaNorm) and takes_mean_alone(norm)):
        return False
    _settle_embed(work)
    return True


def _settle_embed(work: Workpiece) -> None:
    """What the norm in `embed` does to the mean is accounted for."""
    for pair in work.pairs:
        if pair.place == "embed":
            pair.gain, pair.bias, pair.awaits_stream = None, None, False


@rule(
    STREAM_RULES,
    "the same in a model with an embedding norm (ModernBERT): `embed` is zero_mean_layer_norm",
    "it gives LayerNorm's output less its mean; a first sublayer that reads it without a norm gets the mean back, "
    "which with the gain g and the bias b is w . b - w . u for w = (1 / g) / sum(1 / g)",
)
def mean_off_embedding_norm(work: Workpiece, part: Segment) -> bool:
    path, old_path = LayerStack(work.target).embed_path(), LayerStack(work.source).embed_path()
    if (
        part.first > 0
        or part.last == 0
        or path is None
        or old_path is None
        or LayerStack(work.target).embeds_narrower()
    ):
        return False
    new, old = get_part(work.target, path), get_part(work.source, old_path)
    if not isinstance(new, ZeroMeanLayerNorm) or not isinstance(old, nn.LayerNorm) or new.eps != old.eps:
        return False
    given_back = _give_back_mean(work, old)
    if given_back:
        _settle_embed(work)
    return given_back


def _give_back_mean(work: Workpiece, norm: nn.LayerNorm) -> bool:
    """Let the first sublayer, if it reads the embeddings without a norm, know their mean."""
    if "pre" in work.new[0].norms:
        return True
    gain, bias = norm.weight.detach(), torch.zeros_like(norm.weight) if norm.bias is None else norm.bias.detach()
    if bool((gain == 0).any()):
        return False
    along = (1 / gain) / (1 / gain).sum()

    def fold(linear: LinearEdit) -> None:
        sums = linear.weight.sum(1)
        linear.plus_bias((along @ bias) * sums)
        linear.weight.sub_(torch.outer(sums, along))

    for path in work.new[0].readers:
        work.edit(path, "mean back", along, fold)
    return True


@rule(
    STREAM_RULES,
    "the same with `embed` false, in a model whose embeddings are one table and a norm (ModernBERT)",
    "a norm of a table's row is a row: the table takes the norm in, less the mean of each row",
)
def embedding_norm_into_table(work: Workpiece, part: Segment) -> bool:
    path, old_path = LayerStack(work.target).embed_path(), LayerStack(work.source).embed_path()
    gone = path is None or isinstance(get_part(work.target, path), nn.Identity)
    old = None if old_path is None else get_part(work.source, old_path)
    tables = EmbeddingTables(work.target)
    if part.first > 0 or part.last == 0 or not gone or not isinstance(old, nn.LayerNorm):
        return False
    if len(tables.tables) != 1 or tables.tied or LayerStack(work.target).embeds_narrower():
        return False
    (table,) = tables.tables
    rows = nn.functional.layer_norm(table.weight.detach(), old.normalized_shape, old.weight, old.bias, old.eps)
    if not _give_back_mean(work, old):
        return False
    table.weight.data.copy_(rows - rows.mean(-1, keepdim=True))
    _settle_embed(work)
    work.obstacles = [said for said in work.obstacles if not said.startswith("embed: ")]
    return True


@rule(
    STREAM_RULES,
    "what enters the stream or its first norm is a sum of tables, a map or patches, without a norm before it",
    "the mean of a sum is the sum of the means: each summand loses its own",
)
def mean_off_embeddings(work: Workpiece, part: Segment) -> bool:
    at_embed = part.last == 0
    path = LayerStack(work.target).embed_path()
    has_norm = path is not None and not isinstance(get_part(work.target, path), nn.Identity)
    if part.first > 0 or (not at_embed and has_norm and not LayerStack(work.target).embeds_narrower()):
        return False
    if not at_embed and LayerStack(work.target).embeds_narrower():
        for reader in work.embed_readers:
            work.edit(reader, "centre", torch.ones(1), LinearEdit.centre_outputs)
        return bool(work.embed_readers) or takes_mean_out(work, None)
    return takes_mean_out(work, path if at_embed else None)


def take_mean_out(work: Workpiece, part: Segment) -> str | None:
    """Take the mean out of a piece of the stream by the first rule that can; the rule's name, or None."""
    reason = obstacle(work, part)
    if reason is None:
        for one in STREAM_RULES:
            if one.run(work, part):
                centre_writers(work, part)
                return one.name
        reason = "there is nothing that takes the mean out of what the stream begins with here"
        # the nearest start: what the source does not see is not written
        centre_writers(work, part)
    for pair in part.pairs:
        if pair.loses_mean:
            work.stop(pair.title, reason)
            work.at_embeddings += part.first == 0
    return None
