"""`convert`: another add & norm in a trained model, without losing what it knows."""

import copy
import logging
import resource
import sys
import time
from collections.abc import Mapping
from typing import Literal

import torch
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from ..models.base.protocols import JsonValue, StockValue
from ..models.base.registry import parse_option
from ..models.core.pretrained import AddNormPreTrainedModel
from ..models.spec.refusals import check
from ..models.spec.spec import AddNormSpec
from .batches import Calibration, read_calibration
from .calibrating import RHO, Calibrator, Progress, SiteError, carry_norms, read_site
from .candidates import Asked, Candidate
from .forms import read_residual
from .measuring import as_dtype, first_not_finite, largest_difference, measure
from .pairs import Workpiece
from .report import ConversionReport, RuleUse
from .rewriting import ALL_RULES, Rewriting, copy_common, rewrite
from .source import fresh, load_source, load_tokenizer, moved, refuse_axes, refuse_scheme, with_padding


Method = Literal["auto", "exact", "calibrated", "norms", "mapped"]

# the largest difference, in parts of the largest output, at which two models in float64 are the same function
EXACT = 1e-10

logger = transformers_logging.get_logger(__name__)


def convert(
    model_or_folder: StockValue,
    *,
    add_norm: str | Mapping[str, JsonValue] | AddNormSpec,
    calibration: StockValue,
    method: str = "auto",
    tokenizer: PreTrainedTokenizerBase | None = None,
    threshold: float = 0.9,
    holdout: float = 0.25,
    batch_size: int = 32,
    max_length: int = 128,
    progress: Progress | None = None,
) -> tuple[AddNormPreTrainedModel, ConversionReport]:
    """A trained model with another add & norm, that does what it did as far as it can; the old one stays as it is.

    First the weights are rewritten by algebra. Where that is exact, the result is the same function: proven on the
    calibration data, in float64. Where it is not, every norm is fitted and what each sublayer writes is refitted by
    ridge regression, one after the other on the converted stream, so that errors do not add up. No label is needed.

    Options that `add_norm` leaves out are chosen so that the least changes: eps and biases as in the source, a mean
    subtraction in `embed` where RMSNorm needs one. `report.chosen` says which.

    Args:
        model_or_folder: a stock or AddNorm model of one family, a folder, or a name on the Hub.
        add_norm: the scheme to convert to: a preset's name, a dict of axes, or a spec.
        calibration: a few hundred texts (with `tokenizer`), a `datasets.Dataset`, or batches of inputs as dicts of
            tensors, of the kind that the model is for. Labels are not used.
        method (`str`, *optional*, defaults to `"auto"`): "exact" refuses what algebra alone does not reach; "auto"
            calibrates that; "calibrated" does in any case; "norms" fits the norms' own parameters alone; "mapped" fits
            nothing, and carries every norm to the place that sees the same tensor.
        tokenizer (*optional*): by default that of the folder.
        threshold (`float`, *optional*, defaults to 0.9): an agreement on held-out rows below this is warned about.
        holdout (`float`, *optional*, defaults to 0.25): the share of the rows that nothing is fitted on.
        batch_size, max_length (`int`): of texts: rows of a batch, tokens after which a text is cut.
        progress (`Callable`, *optional*): is called with what is being fitted, its number, and of how many.
    Returns:
        The model, in evaluation, with the dtype and device of the source, and a `ConversionReport`.
    Raises:
        ValueError: in one sentence, before anything is computed: a spec, model or calibration that is not allowed.
            Later: numbers that are not finite, with their place; "exact", and it is not.
    """
    began, cpu = time.perf_counter(), time.process_time()
    parse_option(Method, method, "method")
    source = with_padding(load_source(model_or_folder))
    asked = Asked(add_norm, source)
    candidates = list(asked.candidates())
    for candidate in candidates:
        _refuse(source, candidate.spec)
    data = read_calibration(calibration, tokenizer or load_tokenizer(model_or_folder), batch_size, max_length, holdout)
    with _quiet():
        conversion = _Conversion(source, asked, data, method, progress)
        model, report = conversion.run(candidates)
    report.seconds, report.cpu_seconds = time.perf_counter() - began, time.process_time() - cpu
    _warn(report, threshold)
    return model, report


def _refuse(source: AddNormPreTrainedModel, spec: AddNormSpec) -> None:
    before = source.config.add_norm
    refuse_scheme(before, "source")
    refuse_scheme(spec, "target")
    refuse_axes(before, spec, source.config.add_norm_depth())
    check(spec, source.config)


class _quiet:
    """No advice about unusual specs from the trials; it comes with the model."""

    def __enter__(self) -> None:
        self.level = transformers_logging.get_verbosity()
        transformers_logging.set_verbosity(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        transformers_logging.set_verbosity(self.level)


def _warn(report: ConversionReport, threshold: float) -> None:
    agreement = report.held_out.agreement
    if agreement is not None and agreement < threshold:
        worst = report.worst_site
        where = f"; the worst site is {worst.title}, with an error of {worst.after:.3g}" if worst else ""
        logger.warning(
            f"the converted model agrees with its source on {agreement:.1%} of the held-out predictions, below "
            f"{threshold:.1%}{where}."
        )


class _Conversion:
    """One conversion; the candidates have been checked."""

    def __init__(
        self,
        source: AddNormPreTrainedModel,
        asked: Asked,
        data: Calibration,
        method: str,
        progress: Progress | None,
    ):
        self.source, self.asked, self.data, self.method, self.progress = source, asked, data, method, progress
        # what is looked at in float64
        self.proof = [as_dtype(batch, torch.float64) for batch in data.fitted[:1]]
        self.double = moved(copy.deepcopy(source), source.device, torch.float64).eval()

    def run(self, candidates: list[Candidate]) -> tuple[AddNormPreTrainedModel, ConversionReport]:
        if (place := first_not_finite(self.double, self.proof[0])) is not None:
            raise ValueError(f"{place}: the source gives numbers that are not finite on the calibration.")
        candidate, work, rewriting = self._best(candidates)
        difference, largest = largest_difference(self.double, work.target, self.proof)
        is_exact = difference <= EXACT * max(1.0, largest)
        if self.method == "exact" and not is_exact:
            raise ValueError(
                f"add_norm {candidate.spec.short()!r} is not reached exactly: "
                f"{(rewriting.obstacles or ['the weights give another function'])[0]} (largest difference "
                f"{difference:.1e}); allowed is method 'auto', which calibrates."
            )
        # what is off by an eps alone needs no fit
        by_algebra = is_exact or not rewriting.obstacles
        fits = self.method in ("calibrated", "norms") or (self.method == "auto" and not by_algebra)
        if self.method == "mapped":
            carry_norms(work)
        if fits:
            self._refuse_calibration(work)
        # half precision is too coarse to fit in
        wide = torch.promote_types(self.source.dtype, torch.float32)
        naive = self._naive(candidate)
        model, old = (moved(part, self.source.device, wide) for part in (work.target, copy.deepcopy(self.source)))
        errors = self._fit(work, old.eval(), model) if fits else []
        result = fresh(self.source, candidate.spec, wide)
        result.load_state_dict(model.state_dict())
        result.tie_weights()
        report = self._report(candidate, rewriting, (old, naive, result), errors)
        by_rules = "exact" if is_exact else "algebra"
        report.method = "calibrated" if fits else "mapped" if self.method == "mapped" and not is_exact else by_rules
        report.is_exact, report.largest_difference = is_exact and not fits, difference
        report.obstacles = [] if is_exact else rewriting.obstacles
        result.eval()
        return moved(result, self.source.device, self.source.dtype), report

    def _report(
        self,
        candidate: Candidate,
        rewriting: Rewriting,
        models: tuple[AddNormPreTrainedModel, AddNormPreTrainedModel, AddNormPreTrainedModel],
        errors: list[SiteError],
    ) -> ConversionReport:
        """The report of a result, which is the last of the models, after the source and what is only loaded."""
        old, naive, result = models
        batches = [as_dtype(batch, result.dtype) for batch in self.data.held_out]
        held_out, branches = measure(old, result, batches)
        return ConversionReport(
            source=self.source.config.add_norm.short(),
            target=candidate.spec.short(),
            family=self.source.config.model_type,
            chosen=candidate.chosen,
            rules=_rules(rewriting),
            sites=errors,
            branches=branches,
            held_out=held_out,
            as_loaded=measure(old, naive, batches)[0],
            rows=self.data.rows,
            parameters=_parameters(self.source, result),
            dropout_on_stream=_has_dropout(self.source),
            peak_memory_mb=_peak_memory(),
        )

    def _naive(self, candidate: Candidate) -> AddNormPreTrainedModel:
        """The target as a checkpoint is loaded into it today."""
        model = fresh(self.source, candidate.spec, torch.promote_types(self.source.dtype, torch.float32))
        copy_common(self.source, model)
        return model

    def _best(self, candidates: list[Candidate]) -> tuple[Candidate, Workpiece, Rewriting]:
        """The first candidate that algebra reaches; if it reaches none, the one with the fewest obstacles."""
        tried: list[tuple[Candidate, Workpiece, Rewriting]] = []
        for candidate in candidates:
            tried.append(self._rewritten(candidate))
            # no other norm after the embeddings helps where something else is in the way
            is_hopeless = tried[0][1].at_embeddings < len(tried[0][2].obstacles)
            if is_hopeless or not tried[-1][2].obstacles:
                break
        best = next((one for one in tried if not one[2].obstacles), tried[0])
        for _ in range(2):
            better = self.asked.with_eps(best[0], best[2].eps)
            if better is None:
                break
            best = self._rewritten(better)
        return best

    def _rewritten(self, candidate: Candidate) -> tuple[Candidate, Workpiece, Rewriting]:
        target = fresh(self.source, candidate.spec, torch.float64)
        copy_common(self.double, target)
        work = Workpiece(self.double, target, self.proof[0])
        return candidate, work, rewrite(work)

    def _refuse_calibration(self, work: Workpiece) -> None:
        if work.depth_shared:
            raise ValueError(
                "the layers are shared by several depths, so that no weight can be fitted to one; allowed "
                f"is a scheme that algebra reaches: {(work.obstacles or ['none is in the way'])[0]}."
            )
        if work.source.layout_of(work.source.config).other_norms and any(p.place == "other" for p in work.pairs):
            raise ValueError(
                "a convolution with a norm stands between the layers, which a calibration does not run; allowed is a "
                f"scheme that algebra reaches: {(work.obstacles or ['none is in the way'])[0]}."
            )
        if work.target.config.add_norm.stream.kind != "single":
            raise ValueError("add_norm.stream is 'dual', which algebra alone reaches, and not with these other axes.")
        for sub in work.new:
            residual = sub.residual_of(work.target)
            if residual is not None and read_residual(residual) is None and not hasattr(residual, "down"):
                raise ValueError(
                    f"{sub.title}: {type(residual).__name__} is no sum with factors, and nothing is fitted for it; "
                    "allowed are add, constant, scalar, vector, affine and laurel_lr."
                )
        for index, sub in enumerate(work.new):
            two = index + 1 < len(work.new) and "pre" in work.new[index + 1].norms and "post" in sub.norms
            if two or (index + 1 == len(work.new) and "post" in sub.norms and _ends_twice(work)):
                raise ValueError(
                    f"{sub.title}: a norm after the sum is followed by one before the next sublayer; a calibration "
                    "knows one of them; allowed are slots with one norm between two sublayers."
                )
        width = work.source.config.hidden_size
        tokens = sum(_tokens(batch) for batch in self.data.fitted)
        if tokens < width:
            raise ValueError(
                f"calibration has {tokens} tokens to fit on, fewer than the {width} features of the model: give more."
            )

    def _fit(self, work: Workpiece, old: AddNormPreTrainedModel, model: AddNormPreTrainedModel) -> list[SiteError]:
        batches = [as_dtype(batch, model.dtype) for batch in self.data.fitted]
        rho = None if self.method == "norms" else RHO
        return Calibrator(work, copy.deepcopy(old), model, batches, rho, self.progress).run()


def _ends_twice(work: Workpiece) -> bool:
    site = read_site(work.target, work.new, len(work.new))
    return site is not None and not site[1]


def _tokens(batch: Mapping[str, StockValue]) -> int:
    """The tokens of a batch, roughly: of images and sound, each row counts as many as a short text."""
    ids = batch.get("input_ids")
    if not isinstance(ids, torch.Tensor):
        return 16 * len(next(iter(batch.values())))
    mask = batch.get("attention_mask")
    return int(mask.sum()) if isinstance(mask, torch.Tensor) and mask.shape == ids.shape else ids.numel()


def _rules(rewriting: Rewriting) -> list[RuleUse]:
    why = {rule.name: rule.why for rule in ALL_RULES}
    why["second_stream_at_zero"] = "a norm whose gain and bias are 0 adds 0"
    return [RuleUse(name, why[name], places) for name, places in rewriting.used.items()]


def _parameters(source: AddNormPreTrainedModel, target: AddNormPreTrainedModel) -> dict[str, int]:
    """How many parameters are as they were, were changed, and are new."""
    old = dict(source.named_parameters())
    counts = {"reused": 0, "changed": 0, "new": 0}
    for name, parameter in target.named_parameters():
        was = old.get(name)
        if was is None or was.shape != parameter.shape:
            counts["new"] += parameter.numel()
        else:
            same = torch.equal(was.detach().to(parameter.dtype), parameter.detach())
            counts["reused" if same else "changed"] += parameter.numel()
    return counts


def _has_dropout(model: AddNormPreTrainedModel) -> bool:
    """Whether dropout stands on the stream, so that a rewriting is exact in evaluation alone."""
    return any(isinstance(module, torch.nn.Dropout) and module.p > 0 for module in model.base_model.modules())


def _peak_memory() -> float:
    """The most memory that this process has had so far, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
