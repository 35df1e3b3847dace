"""Calibration: norms fitted and writers refitted, sublayer by sublayer, on the stream as it is in the converted model.

Site k is the norm whose output the sublayer number k reads (the last one's is read by the head); in post-norm it
stands behind the sum before it, in pre-norm in front of the sublayer. Both models have the same sites, so that a norm
is carried to the place that sees the same tensor: site k of the target is to give what site k of the source gives, and
what the sublayer before it writes is to bring the stream where that site reads it best.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn

from ..models.core.pretrained import AddNormPreTrainedModel
from ..models.core.recasting import get_part
from ..sites import LayerStack, Sublayer, sublayers
from .batches import Batch
from .fitting import PairsOfTokens, Ridge, fit_norm, relative_error
from .forms import NormForm, read_norm, read_residual, write_norm
from .importance import Importance
from .linears import LinearEdit
from .pairs import Pair, Workpiece, takes_mean_alone
from .stepping import States, Step, Stepper, given_to, tokens


# damping of the ridge regression, in parts of the mean variance of a feature
RHO = 0.1
# with fewer tokens for each feature of the stream, all tokens count alike
TOKENS_PER_FEATURE = 8
# what tells progress: a title, done, of how many
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class SiteError:
    """How well a site of the target gives what the source's gives: squared distances in parts of the variance.

    Args:
        title (`str`): of the target's norm.
        before (`float`): with the norm as it was carried over, on the converted stream.
        after (`float`): with its parameters fitted.
    """

    title: str
    before: float
    after: float


def read_site(model: AddNormPreTrainedModel, subs: Sequence[Sublayer], index: int) -> tuple[str, bool] | None:
    """The path of the norm at a site, and whether the skip takes its output too; None where there is no norm."""
    path, skip_reads, stack = None, False, LayerStack(model)
    final = stack.final_path()
    if index < len(subs) and "pre" in subs[index].norms:
        path = subs[index].norms["pre"]
    elif index == len(subs) and final is not None and not isinstance(get_part(model, final), nn.Identity):
        path = final
    elif index > 0:
        path, skip_reads = subs[index - 1].norms.get("post"), True
    elif not stack.embeds_narrower():
        path, skip_reads = stack.embed_path(), True
    if path is None or isinstance(get_part(model, path), nn.Identity):
        return None
    return path, skip_reads


@torch.no_grad()
def carry_norms(work: Workpiece) -> None:
    """Let a norm that stands elsewhere in the target begin with the parameters of the one that saw the same tensor."""
    pair_of = {pair.norm: pair for pair in work.pairs}
    for index in range(len(work.new) + 1):
        old_site, new_site = (
            read_site(model, subs, index) for model, subs in ((work.source, work.old), (work.target, work.new))
        )
        norm = nn.Identity() if new_site is None else get_part(work.target, new_site[0])
        pair = pair_of.get(norm)
        if old_site is None or pair is None or pair.has_exact_core or pair.source.gain is not None:
            continue
        form = read_norm(get_part(work.source, old_site[0]))
        if form.gain is not None:
            write_norm(norm, form.gain, form.bias)


class _Side:
    """One of the two models during a calibration: its sites, and the sums that they read, batch by batch."""

    def __init__(self, model: AddNormPreTrainedModel, folder: Path, name: str):
        self.model, self.subs, self.stepper = model, sublayers(model), Stepper(model)
        self.sums = States(folder, name)
        self.sites = [read_site(model, self.subs, index) for index in range(len(self.subs) + 1)]

    def norm(self, index: int) -> nn.Module:
        """The norm of a site, or the identity."""
        site = self.sites[index]
        return nn.Identity() if site is None else get_part(self.model, site[0])

    def form(self, index: int) -> NormForm:
        """Its form."""
        return read_norm(self.norm(index))

    def is_post(self, index: int) -> bool:
        """Whether the stream of the sublayer of a site is the norm's output."""
        site = self.sites[index]
        return site is not None and site[1]

    def start(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor | None]:
        """What the first site reads, and the real tokens."""
        entered, real = self.stepper.enter(batch)
        site = self.sites[0]
        if site is not None and site[1]:
            return self.stepper.embedded(batch, site[0]), real
        return entered, real

    def run(self, index: int, z: torch.Tensor, step: Step) -> tuple[torch.Tensor, torch.Tensor]:
        """The stream before the residual of a sublayer, and what the sublayer's branch gives, from a site's sum."""
        call = step.call
        x = self.norm(index)(z) if self.is_post(index) else z
        u = call.enter(x)
        return x, call.branch(u, call.branch_norms)


class Calibrator:
    """Fits a target to a source, site by site.

    Args:
        work (`Workpiece`): whose target has been rewritten.
        source, target: the models to run, in the precision of the fit; the target's modules are those of `work`.
        batches: of inputs.
        rho (`float`, *optional*): of the ridge regression of what each sublayer writes; None fits the norms alone.
        progress (`Callable`, *optional*): is told what is being done.
    Raises:
        ValueError: numbers that are not finite, with the site; layers that are shared by several depths; a residual
            whose branch has no factor of its own.
    """

    def __init__(
        self,
        work: Workpiece,
        source: AddNormPreTrainedModel,
        target: AddNormPreTrainedModel,
        batches: Sequence[Batch],
        rho: float | None = RHO,
        progress: Progress | None = None,
    ):
        self.work, self.batches, self.rho = work, batches, rho
        self.progress = progress or (lambda *_: None)
        self.models = (source, target)
        self.errors: list[SiteError] = []
        self.pair_of: dict[nn.Module, Pair] = {pair.norm: pair for pair in work.pairs}

    @torch.no_grad()
    def run(self) -> list[SiteError]:
        """Fit everything; the error of each site."""
        with tempfile.TemporaryDirectory() as folder:
            self._prepare(Path(folder))
            count = len(self.new.subs)
            for index in range(count + 1):
                self.progress(self._title(index), index, count + 1)
                self._fit_site(index)
                self._refit_readers(index)
                if index < count:
                    self._run_sublayer(index)
        return self.errors

    def _prepare(self, folder: Path) -> None:
        self.folder = folder
        self.old, self.new = _Side(self.models[0], folder, "old"), _Side(self.models[1], folder, "new")
        self.real: list[torch.Tensor | None] = []
        self.given, self.skips = States(folder, "given"), States(folder, "skip")
        self.shifts: dict[int, torch.Tensor] = {}
        self.importance: Importance | None = None
        carry_norms(self.work)
        for index, batch in enumerate(self.batches):
            self.old.sums[index], real = self.old.start(batch)
            self.real.append(real)
        self._weigh_tokens()
        self._fit_embed()
        for index, batch in enumerate(self.batches):
            self.new.sums[index], _ = self.new.start(batch)

    def _weigh_tokens(self) -> None:
        """Let tokens count by what the outputs make of them, where there are enough to rest a fit on fewer."""
        first = self.old.sums[0]
        count = sum(int(first[..., 0].numel() if real is None else real.sum()) for real in self.real)
        if self.rho is None or count < TOKENS_PER_FEATURE * first.shape[-1]:
            return
        norms = [self.old.norm(index) for index in range(len(self.old.sites))]
        self.importance = Importance(States(self.folder, "importance"), norms)
        for index, (batch, real) in enumerate(zip(self.batches, self.real, strict=True)):
            self.importance.add(index, self.old.model, batch, real)

    def _weights(self, index: int, at: int, like: torch.Tensor) -> torch.Tensor:
        """How much each token of a batch counts at a site, [tokens, 1]."""
        alike = torch.ones_like(like[:, :1])
        return alike if self.importance is None else alike * self.importance.of(index, at)

    def _fit_embed(self) -> None:
        """The norm after the embeddings, where it is not the first site itself."""
        path, old_path = LayerStack(self.new.model).embed_path(), LayerStack(self.old.model).embed_path()
        site = self.new.sites[0]
        norm = None if path is None else get_part(self.new.model, path)
        is_site = site is not None and site[0] == path
        if path is None or norm is None or isinstance(norm, nn.Identity) or takes_mean_alone(norm) or is_site:
            return
        old = nn.Identity() if old_path is None else get_part(self.old.model, old_path)

        def pairs() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
            for batch, real in zip(self.batches, self.real, strict=True):
                z = self.new.stepper.embedded(batch, path)
                wanted = z if old_path is None else old(self.old.stepper.embedded(batch, old_path))
                yield tokens(z, real), tokens(wanted, real)

        self._fit("embed", norm, pairs)

    def _fit(self, title: str, norm: nn.Module, pairs: PairsOfTokens) -> None:
        before = relative_error(norm, pairs)
        fit_norm(norm, pairs)
        self.errors.append(SiteError(title, before, relative_error(norm, pairs)))

    def _title(self, index: int) -> str:
        pair = self.pair_of.get(self.new.norm(index))
        if pair is not None:
            return pair.title
        return self.new.subs[index].title if index < len(self.new.subs) else "the last hidden state"

    # --- sites ---

    def _site_tokens(self, index: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """What the target's site is given, and what it should give."""
        old, pair = self.old.norm(index), self.pair_of.get(self.new.norm(index))
        shift = self.shifts.get(index)
        for at, real in enumerate(self.real):
            y = tokens(old(self.old.sums[at]), real)
            if pair is not None and pair.folded is not None:
                gain, bias = (part.to(y.dtype) for part in pair.folded)
                y = (y - bias) / gain
            yield tokens(self.new.sums[at], real), y if shift is None else y - shift

    def _fit_site(self, index: int) -> None:
        norm = self.new.norm(index)
        if isinstance(norm, nn.Identity):
            error = relative_error(norm, partial(self._site_tokens, index))
            self.errors.append(SiteError(self._title(index), error, error))
            return
        self._shift_mean(index)
        self._fit(self._title(index), norm, partial(self._site_tokens, index))

    def _shift_mean(self, index: int) -> None:
        """The constant part of a mean that a norm after the sum would see: off the stream, back to its readers."""
        pair = self.pair_of.get(self.new.norm(index))
        if pair is None or not pair.loses_mean or not self.new.is_post(index) or pair.skip is None:
            return
        readers = [self.work.linear(path) for path in pair.readers]
        free = all(self.work.is_foldable(path) for path in pair.readers)
        if not readers or not free or any(reader.bias is None for reader in readers):
            return
        total, count = 0.0, 0
        for _, y in self._site_tokens(index):
            total, count = total + y.double().sum().item(), count + y.numel()
        shift = torch.tensor(total / max(1, count))
        self.shifts[index] = shift
        for reader in readers:
            reader.plus_bias(shift.to(reader.weight.dtype) * reader.weight.sum(1))

    def _refit_readers(self, index: int) -> None:
        """Let the Linear layers that read a site give what the source's give, of what they are given here.

        Not where the norm is moved: there the stream differs from the source's, and the next writer has to make up for
        more than a fit of a few tokens would show.
        """
        paths = self.new.subs[index].readers if index < len(self.new.subs) else self.work.head_readers
        paths = tuple(path for path in paths if self.work.is_foldable(path))
        moved = self.new.is_post(index) != self.old.is_post(index)
        if self.rho is None or not paths or moved:
            return
        olds = [get_part(self.old.model, path) for path in paths]
        edits = [LinearEdit(path, get_part(self.new.model, path)) for path in paths]
        sizes = [len(edit.weight) for edit in edits]
        ridge = Ridge(edits[0].weight.shape[1], sum(sizes))
        norm, old = self.new.norm(index), self.old.norm(index)
        for at, real in enumerate(self.real):
            u, y = tokens(norm(self.new.sums[at]), real), tokens(old(self.old.sums[at]), real)
            rest = torch.cat([was(y) - edit.module(u) for was, edit in zip(olds, edits, strict=True)], -1)
            ridge.add(u, rest, self._weights(index, at, u))
        for edit, delta, shift in zip(edits, *(part.split(sizes) for part in ridge.solve(self.rho)), strict=True):
            edit.add(delta, shift)

    # --- sublayers ---

    def _run_sublayer(self, index: int) -> None:
        title = self.new.subs[index].title
        moved = self.new.is_post(index) != self.old.is_post(index)
        if moved and self.rho is not None:
            self._scale_writer(index)
        sigma = self._advance_source(index, title)
        self._branch_inputs(index)
        passes = 0 if self.rho is None else 2 if moved else 1
        ridge = Ridge(*self.work.linear(self.new.subs[index].writer).weight.T.shape)
        for _ in range(passes):
            alpha = self._median_size(index) if moved else None
            self._ridge(index, sigma, alpha, ridge)
        self._fit_out(index, sigma, self._median_size(index) if moved else None)
        for at in range(len(self.batches)):
            x = self.skips[at]
            z = self._sum(index, x, self._branch(index, self.given[at]))
            if not tokens(z, self.real[at]).isfinite().all():
                raise ValueError(f"{title}: the converted model gives numbers that are not finite on the calibration.")
            self.new.sums[at] = z

    def _advance_source(self, index: int, title: str) -> float:
        """The source's sums at the next site; the mean of what its norm divides by there."""
        form, total, count = self.old.form(index + 1), 0.0, 0
        for at, batch in enumerate(self.batches):

            def act(step: Step, z: torch.Tensor = self.old.sums[at]) -> torch.Tensor:
                x, f = self.old.run(index, z, step)
                f = step.call.norms["out"](f) if "out" in step.call.norms else f
                return _added(step, x, f)

            z = self.old.stepper.run(batch, index, act)
            real = tokens(z, self.real[at])
            if not real.isfinite().all():
                raise ValueError(f"{title}: the source gives numbers that are not finite on the calibration.")
            size = _direction(form, real)[1]
            total, count = total + size.sum().item(), count + len(size)
            self.old.sums[at] = z
        return total / max(1, count)

    def _branch_inputs(self, index: int) -> None:
        """What the target's writer is given, and the stream that it is added to, on the converted stream."""
        writer = get_part(self.new.model, self.new.subs[index].writer)
        for at, batch in enumerate(self.batches):

            def act(step: Step, z: torch.Tensor = self.new.sums[at]) -> torch.Tensor:
                x, _ = self.new.run(index, z, step)
                return x

            with given_to(writer) as seen:
                self.skips[at] = self.new.stepper.run(batch, index, act)
            self.given[at] = seen[-1].view(*self.skips[at].shape[:-1], -1)

    def _branch(self, index: int, c: torch.Tensor) -> torch.Tensor:
        sub = self.new.subs[index]
        f: torch.Tensor = get_part(self.new.model, sub.writer)(c)
        if "out" in sub.norms:
            f = get_part(self.new.model, sub.norms["out"])(f)
        return f

    def _sum(self, index: int, x: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
        residual: Callable[..., torch.Tensor] = self.new.subs[index].residual_of(self.new.model) or torch.add
        return residual(x, f)

    def _scale_writer(self, index: int) -> None:
        """A branch that is moved begins as large beside the stream as it was, with the bias that the stream had."""
        ratios = []
        for at, real in enumerate(self.real):
            z, old = tokens(self.new.sums[at], real), tokens(self.old.norm(index)(self.old.sums[at]), real)
            x = self.new.norm(index)(z) if self.new.is_post(index) else z
            ratios.append((_size(x) / _size(old).clamp(min=1e-12))[:4096])
        factor = torch.cat(ratios).median()
        linear = self.work.linear(self.new.subs[index].writer)
        bias = self.old.form(index).bias
        if bias is not None and self.old.is_post(index) and linear.bias is not None:
            linear.plus_bias(bias.to(linear.weight.dtype))
        linear.times_outputs(factor.to(linear.weight.dtype))

    def _median_size(self, index: int) -> float:
        """How far the converted sums reach along the source's direction; the median, so that no token rules."""
        form, found = self.old.form(index + 1), []
        for at, real in enumerate(self.real):
            z = self._sum(index, self.skips[at], self._branch(index, self.given[at]))
            n, _ = _direction(form, tokens(self.old.sums[at], real))
            found.append((tokens(z, real) * n).mean(-1)[:4096])
        return max(torch.cat(found).median().item(), 1e-6)

    def _wanted(self, index: int, at: int, sigma: float, alpha: float | None) -> tuple[torch.Tensor, torch.Tensor]:
        """The sums of a batch that the next site would read best, and how much each token counts."""
        z = tokens(self.old.sums[at], self.real[at])
        form, new = self.old.form(index + 1), self.new.form(index + 1)
        n, size = _direction(form, z)
        ones = torch.ones_like(size)
        if isinstance(self.new.norm(index + 1), nn.Identity):
            return self.old.norm(index + 1)(z), ones
        if form.core != "deviation":
            return z, ones
        if alpha is not None:
            return alpha * n, ones
        if new.is_scale_free:
            scale = self.work.scales.get(index, 1.0)
            return n * size * scale, 1 / size.clamp(min=1e-12) ** 2
        return n * sigma, ones

    def _lacking(self, index: int, at: int, wanted: torch.Tensor) -> torch.Tensor:
        """What the writer of the target should give for a batch."""
        residual = self.new.subs[index].residual_of(self.new.model)
        form, x = read_residual(residual), self.skips[at]
        branch = torch.ones(1) if form is None else form.branch
        base = tokens(self._sum(index, x, torch.zeros_like(x)), self.real[at])
        return (wanted - base) / branch.to(base.dtype)

    def _ridge(self, index: int, sigma: float, alpha: float | None, ridge: Ridge) -> None:
        linear = LinearEdit("", get_part(self.new.model, self.new.subs[index].writer))
        ridge.forget_rest()
        for at, real in enumerate(self.real):
            c = tokens(self.given[at], real)
            wanted, weight = self._wanted(index, at, sigma, alpha)
            rest = self._lacking(index, at, wanted) - linear.module(c)
            ridge.add(c, rest, weight * self._weights(index + 1, at, c))
        linear.add(*ridge.solve(self.rho or 0.0))

    def _fit_out(self, index: int, sigma: float, alpha: float | None) -> None:
        sub = self.new.subs[index]
        if "out" not in sub.norms or "out" in self.old.subs[index].norms:
            return
        writer, norm = get_part(self.new.model, sub.writer), get_part(self.new.model, sub.norms["out"])

        def pairs() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
            for at, real in enumerate(self.real):
                f = tokens(writer(self.given[at]), real)
                wanted, _ = self._wanted(index, at, sigma, alpha)
                yield f, f if self.rho is None else self._lacking(index, at, wanted)

        self._fit(f"{sub.title} out", norm, pairs)


def _added(step: Step, x: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
    return x + f if step.call.residual is None else step.call.residual(x, f)  # type: ignore[return-value]


def _size(x: torch.Tensor) -> torch.Tensor:
    """The deviation of each token."""
    return (x - x.mean(-1, keepdim=True)).square().mean(-1).sqrt()


def _direction(form: NormForm, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What a norm makes of tokens before its gain, and what it divides by, [tokens, 1]."""
    if form.core != "deviation":
        return z, torch.ones_like(z[..., :1])
    x = z - z.mean(-1, keepdim=True) if form.centred else z
    size = (x.square().mean(-1, keepdim=True) + form.eps).sqrt()
    return x / size, size
