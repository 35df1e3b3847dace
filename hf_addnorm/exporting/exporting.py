"""`export`: a model as a file that a runtime runs, tried at several shapes before it is kept."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import torch
import transformers
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..conversion.batches import read_calibration
from ..conversion.source import model_from_folder
from ..hub.input_kinds import INPUT_KINDS
from ..models.base.protocols import JsonValue, StockValue
from ..models.base.registry import one_of
from ..models.core.packing import FIRST_ONLY, is_traced
from ..models.norms.norm_base import Norm
from .card import write_export_card
from .inputs import Inputs, inputs_of, of_names
from .runtimes import RUNTIMES, Arrays, Program, Runtime, Session


# the largest error that is kept, relative to the size of an output
TOLERANCE, INT8_TOLERANCE = 1e-3, 0.25
# rows of a batch that int8 is fitted to
_ROWS = 8


class ExportError(ValueError):
    """A model that cannot be exported, or computes something else when it is; nothing is left on the disk."""


@dataclass(frozen=True)
class Parity:
    """How far an exported model is from the model itself, in one batch.

    Args:
        shape (`list[int]`): of the main input.
        errors (`dict[str, float]`): of each output, over what is no padding: the length of the difference, divided
            by the length of the output.
    """

    shape: list[int]
    errors: dict[str, float]


@dataclass(frozen=True)
class ExportReport:
    """What was exported, and how it was tried.

    Args:
        to (`str`): the runtime.
        model (`str`): the model's class.
        add_norm: its spec, or None.
        files (`list[str]`): what the folder holds.
        file (`str`): that of the model.
        int8 (`bool`): whether it is quantised.
        inputs (`dict[str, list[str]]`): of each input its axes: a name for a free one, else its size.
        outputs (`list[str]`): names of the outputs, in order.
        parity (`list[Parity]`): at several shapes.
        tolerance (`float`): the largest error that would have been kept.
        norms (`int`): how often a norm runs in one forward.
        fused_norms (`int`): operations of the runtime that are a whole norm.
    """

    to: str
    model: str
    add_norm: JsonValue
    files: list[str]
    file: str
    int8: bool
    inputs: dict[str, list[str]]
    outputs: list[str]
    parity: list[Parity]
    tolerance: float
    norms: int
    fused_norms: int

    @property
    def error(self) -> float:
        """The largest error of all outputs and shapes."""
        return max(error for parity in self.parity for error in parity.errors.values())

    def to_dict(self) -> dict[str, JsonValue]:
        """The report as JSON."""
        return cast(dict[str, JsonValue], json.loads(json.dumps(asdict(self)))) | {"error": self.error}


class AsFunction(nn.Module):
    """A model as a function of tensors in order to the tensors among its outputs.

    Args:
        model: the model, in evaluation.
        inputs (`Inputs`): what it is given.
    """

    def __init__(self, model: PreTrainedModel, inputs: Inputs):
        super().__init__()
        self.model, self.names = model, inputs.names
        self.given: dict[str, object] = {"return_dict": True}
        if hasattr(model.config, "use_cache"):
            self.given["use_cache"] = False
        found = self.run(list(inputs.draw(*inputs.shapes()[0]).values()))
        self.outputs = [name for name, value in found.items() if isinstance(value, torch.Tensor)]

    def run(self, tensors: Sequence[torch.Tensor]) -> Mapping[str, object]:
        """All outputs, by name."""
        # the file computes what its outputs need; what it is compared with is the model as it runs
        more = {FIRST_ONLY: True} if is_traced() and getattr(self.model, "can_read_first_only", False) else {}
        found: Mapping[str, object] = self.model(**dict(zip(self.names, tensors, strict=True)), **self.given, **more)
        return found

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = self.run(tensors)
        return tuple(cast(torch.Tensor, found[name]) for name in self.outputs)


def export(
    model_or_folder: PreTrainedModel | str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    to: str = "onnx",
    int8: bool = False,
    calibration: StockValue = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    tolerance: float | None = None,
) -> ExportReport:
    """Export a model to a runtime, with its tokenizer or processor, a card and a report, into a new folder.

    The sizes of batch and length stay free. The exported model is run at several shapes, with padding, beside the
    model itself; one that computes something else is not kept.

    Args:
        model_or_folder: a model, or where one was saved: a folder or a name on the Hub, stock or AddNorm.
        out (`str` or `Path`): a new or empty folder.
        to (`str`, *optional*, defaults to `"onnx"`): the runtime, "onnx" or "openvino".
        int8 (`bool`, *optional*, defaults to `False`): quantise the Linear layers to 8 bits.
        calibration (*optional*): texts, a `datasets.Dataset` or batches, as in `convert`, 8 rows at least. OpenVINO's
            int8 needs them, and is fitted to a part of them. The errors of an int8 model are those on the rest.
        tokenizer (*optional*): of the model; by default that of the folder.
        tolerance (`float`, *optional*): the largest relative error of an output that is kept; by default 1e-3, with
            int8 0.25.
    Returns:
        [`ExportReport`], which is also written as `export.json`.
    Raises:
        ValueError: bad arguments, in a sentence.
        ImportError: a package that the runtime needs is missing.
        ExportError: the model cannot be exported, or the exported one computes something else.
    """
    target, runtime = Path(out), _runtime(to)
    _refuse(target, runtime, int8, calibration, tolerance)
    runtime.refuse_missing(int8)
    model, source = _model(model_or_folder)
    processor = tokenizer or _processor(model, source)
    reads = tokenizer or (processor if isinstance(processor, PreTrainedTokenizerBase) else None)
    inputs = inputs_of(model, None if reads is None else reads.model_input_names)
    fitted, measured = _batches(inputs, calibration if int8 else None, reads)
    with _in_evaluation(model), TemporaryDirectory() as made:
        function = _function(model, inputs)
        file = _written(runtime, function, inputs, Path(made), fitted if int8 else None)
        bound = tolerance if tolerance is not None else INT8_TOLERANCE if int8 else TOLERANCE
        parity = tried(function, runtime.open(file), inputs, measured, bound)
        if processor is not None:
            processor.save_pretrained(made)
        model.config.to_json_file(Path(made) / "config.json")
        report = ExportReport(
            to=to,
            model=type(model).__name__,
            add_norm=_spec(model),
            files=sorted([*(path.name for path in Path(made).iterdir()), "README.md", "export.json"]),
            file=file.name,
            int8=int8,
            inputs=_axes(inputs),
            outputs=function.outputs,
            parity=parity,
            tolerance=bound,
            norms=norm_calls(function, inputs),
            fused_norms=sum(operation in runtime.norms for operation in runtime.operations(file)),
        )
        (Path(made) / "export.json").write_text(json.dumps(report.to_dict(), indent=1) + "\n")
        write_export_card(Path(made), report, runtime, source)
        shutil.copytree(made, target, dirs_exist_ok=True)
    return report


def _runtime(to: str) -> Runtime:
    if to not in RUNTIMES:
        raise ValueError(f"to is {to!r}; allowed is {one_of(RUNTIMES)}.")
    return RUNTIMES[to]


def _refuse(target: Path, runtime: Runtime, int8: bool, calibration: StockValue, tolerance: float | None) -> None:
    """Refuse arguments that contradict each other, before anything is loaded."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{target} is not empty: out is to be a new folder.")
    if tolerance is not None and not tolerance > 0:
        raise ValueError(f"tolerance is {tolerance!r}; allowed is a number above 0.")
    if calibration is not None and not int8:
        raise ValueError("calibration is given and int8 is not: without int8 there is nothing to fit.")
    if int8 and runtime.int8_needs_batches and calibration is None:
        raise ValueError(f"int8 for {runtime.name} is fitted to data: calibration is to be texts or batches.")


def _model(model_or_folder: PreTrainedModel | str | os.PathLike[str]) -> tuple[PreTrainedModel, str | None]:
    """The model, and where it came from."""
    if isinstance(model_or_folder, PreTrainedModel):
        return model_or_folder, None
    if not isinstance(model_or_folder, (str, os.PathLike)):
        kind = type(model_or_folder).__name__
        raise ValueError(f"model_or_folder is a {kind}; allowed is a model, a folder or a name on the Hub.")
    source = str(model_or_folder)
    if Path(source).is_dir() and not (Path(source) / "config.json").is_file():
        raise FileNotFoundError(f"{source} holds no model: there is no config.json.")
    return model_from_folder(source), source


def _processor(model: PreTrainedModel, source: str | None) -> "PreTrainedTokenizerBase | None":
    """The tokenizer or processor that lies beside a saved model, or None."""
    kinds = [kind for kind in INPUT_KINDS.values() if kind.argument == model.main_input_name]
    if source is None or not kinds:
        return None
    try:
        found: PreTrainedTokenizerBase = getattr(transformers, kinds[0].processor).from_pretrained(source)
    except (OSError, ValueError):
        return None
    return found


def _batches(
    inputs: Inputs, calibration: StockValue, tokenizer: PreTrainedTokenizerBase | None
) -> tuple[list[Arrays], list[dict[str, torch.Tensor]]]:
    """What int8 is fitted to, and what the export is tried with."""
    drawn = [inputs.draw(*shape) for shape in inputs.shapes()]
    if calibration is None:
        return [], drawn
    read = read_calibration(calibration, tokenizer, batch_size=_ROWS)
    fitted, held_out = ([of_names(inputs.names, batch) for batch in part] for part in (read.fitted, read.held_out))
    return [_arrays(batch) for batch in fitted], held_out


@contextmanager
def _in_evaluation(model: PreTrainedModel) -> Iterator[None]:
    """The model as it is exported: on the CPU, in float32, without gradients, not packed; then as it was."""
    training, device, dtype = model.training, model.device, model.dtype
    attention = model.config._attn_implementation
    nn.Module.to(model.eval(), device="cpu", dtype=torch.float32)
    if attention == "packed":
        model.set_attn_implementation("sdpa")
    try:
        with torch.no_grad():
            yield
    finally:
        if attention == "packed":
            model.set_attn_implementation(attention)
        nn.Module.to(model.train(training), device=device, dtype=dtype)


def _function(model: PreTrainedModel, inputs: Inputs) -> AsFunction:
    try:
        return AsFunction(model, inputs)
    except Exception as error:
        given = ", ".join(inputs.names)
        raise ExportError(
            f"{type(model).__name__} cannot be run on what an exported model is given ({given}): {_reason(error)}"
        ) from error


def _written(
    runtime: Runtime, function: AsFunction, inputs: Inputs, folder: Path, int8_batches: list[Arrays] | None
) -> Path:
    """The file of the exported model; with batches, even none, that of its int8 form."""
    example = inputs.draw(*inputs.shapes()[0])
    program = Program(function, example, function.outputs, inputs.axes)
    with TemporaryDirectory() as before:
        file = (folder if int8_batches is None else Path(before)) / runtime.file
        try:
            runtime.write(program, file)
        except Exception as error:
            # of many kinds, each with pages of advice
            reason = _reason(error)
            raise ExportError(
                f"{type(function.model).__name__} cannot be exported to {runtime.name}: {reason}"
            ) from error
        if int8_batches is None:
            return file
        smaller = folder / f"{file.stem}_int8{file.suffix}"
        runtime.to_int8(file, smaller, int8_batches)
        return smaller


def _reason(error: BaseException) -> str:
    """The first cause of an error, its first sentence."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200] if lines else 'no reason given'}".rstrip(".:") + "."


def tried(
    function: AsFunction,
    session: Session,
    inputs: Inputs,
    batches: Sequence[dict[str, torch.Tensor]],
    bound: float,
) -> list[Parity]:
    """The errors of the exported model.

    Raises:
        ExportError: one is too large, or the runtime fails at a shape.
    """
    found = []
    for batch in batches:
        shape = list(batch[inputs.names[0]].shape)
        expected = function(*batch.values())
        try:
            given = session(_arrays(batch))
        except Exception as error:
            raise ExportError(f"the exported model does not run on an input of {shape}: {_reason(error)}") from error
        mask = batch.get("attention_mask")
        errors = {
            name: _relative_error(torch.tensor(array), tensor, mask)
            for name, array, tensor in zip(function.outputs, given, expected, strict=True)
        }
        worst = max(errors, key=lambda name: errors[name])
        if not errors[worst] <= bound:
            raise ExportError(
                f"the exported model computes something else: at an input of {shape} the relative error of {worst} is "
                f"{errors[worst]:.2g}; allowed is {bound:.2g}."
            )
        found.append(Parity(shape, errors))
    return found


def _relative_error(found: torch.Tensor, expected: torch.Tensor, mask: torch.Tensor | None) -> float:
    """|found - expected| / |expected|; of an output with a value for each token, over the real tokens."""
    if found.shape != expected.shape:
        return float("inf")
    if mask is not None and expected.shape[: mask.dim()] == mask.shape:
        found, expected = found[mask.bool()], expected[mask.bool()]
    found, expected = found.double(), expected.double()
    # scores that are masked are -inf, or the lowest number
    lowest = torch.finfo(torch.float32).min / 2
    real = expected > lowest
    if bool((found[~real] > lowest).any()):
        return float("inf")
    return float((found - expected)[real].norm() / expected[real].norm().clamp(min=1e-12))


def _arrays(batch: Mapping[str, torch.Tensor]) -> Arrays:
    return {name: tensor.numpy() for name, tensor in batch.items()}


def _axes(inputs: Inputs) -> dict[str, list[str]]:
    example = inputs.draw(*inputs.shapes()[0])
    return {
        name: [inputs.axes[name].get(axis, str(size)) for axis, size in enumerate(tensor.shape)]
        for name, tensor in example.items()
    }


def norm_calls(function: AsFunction, inputs: Inputs) -> int:
    """How often a norm runs in one forward."""
    calls: list[nn.Module] = []
    norms = [module for module in function.modules() if isinstance(module, (Norm, nn.LayerNorm))]
    hooks = [norm.register_forward_hook(lambda module, args, output: calls.append(module)) for norm in norms]
    try:
        function(*inputs.draw(*inputs.shapes()[0]).values())
    finally:
        for hook in hooks:
            hook.remove()
    return len(calls)


def _spec(model: PreTrainedModel) -> JsonValue:
    written: JsonValue = model.config.to_dict().get("add_norm")
    return written
