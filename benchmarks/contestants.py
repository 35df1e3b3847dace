"""Who takes part in `speed.py`: a row for each way to run one and the same BERT.

A contestant makes a program of the stock model. The program is run on a batch, forward or forward and backward, and
says what its outputs and gradients are, so that one that computes something else gets no figure.
"""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from batches import Batch
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification

from hf_addnorm import AddNormBertConfig, AddNormBertForMaskedLM, AddNormBertForSequenceClassification
from hf_addnorm.exporting.exporting import AsFunction
from hf_addnorm.exporting.inputs import inputs_of
from hf_addnorm.exporting.runtimes import RUNTIMES
from hf_addnorm.exporting.runtimes import Program as Exported


sys.path.insert(0, str(Path(__file__).parents[1] / "recipes"))

from common.machine import bf16_is_fast


SHAPES = {
    "MiniLM": {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536},
    "BERT-base": {},
}
HEADS = {
    "classifier": (BertForSequenceClassification, AddNormBertForSequenceClassification),
    "masked language model": (BertForMaskedLM, AddNormBertForMaskedLM),
}
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# largest relative errors of outputs and of gradients
ERRORS = {"float32": (1e-4, 1e-3), "bf16": (5e-2, 0.15), "int8": (0.1, 0.0)}


@dataclass
class Source:
    """The stock model that all contestants are made of.

    Args:
        sizes (`dict`): entries of its config.
        head (`str`): a name of `HEADS`.
        folder (`Path`): where exported files go.
        calibration (`list[Batch]`): what int8 is fitted to.
    """

    sizes: dict[str, Any]
    head: str
    folder: Path
    calibration: list[Batch] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.stock = HEADS[self.head][0](BertConfig(**self.sizes)).eval()

    def copy(self, ours: bool, **entries: Any) -> torch.nn.Module:
        """A stock or AddNorm model with the same weights, and these entries of the config."""
        config = (AddNormBertConfig if ours else BertConfig)(**self.sizes, **entries)
        model = HEADS[self.head][ours](config)
        # of another scheme as far as it has the same parameters
        model.load_state_dict(self.stock.state_dict(), strict="add_norm" not in entries)
        return model.to(DEVICE)

    def exported(self, ours: bool, to: str, int8: bool) -> Path:
        """The file of the exported model; what several runtimes read is exported once."""
        runtime, name = RUNTIMES[to], "ours" if ours else "stock"
        onnx, file = self.folder / f"{name}.onnx", self.folder / f"{name}_{to}_{runtime.file}"
        if not onnx.exists():
            model = self.copy(ours).eval()
            inputs = inputs_of(model, None)
            with torch.no_grad():
                function = AsFunction(model, inputs)
                Exported(function, inputs.draw(*inputs.shapes()[0]), function.outputs, inputs.axes).to_onnx(onnx)
        if not file.exists():
            runtime.from_onnx(onnx, file)
        smaller = file.with_stem(f"{file.stem}_int8")
        if int8 and not smaller.exists():
            runtime.to_int8(file, smaller, [arrays_of(batch) for batch in self.calibration])
        return smaller if int8 else file


def arrays_of(batch: Batch) -> dict[str, Any]:
    """What an exported model is given."""
    return {name: part.numpy() for name, part in batch.items() if name != "labels"}


class TorchProgram:
    """A model in torch.

    Args:
        model: the model.
        training (`bool`): whether a run is forward and backward, with dropout.
        autocast (`bool`): whether it runs in bf16 under autocast.
        precision (`str`): of products of float32 matrices, as torch's setting has it.
    """

    def __init__(self, model: Any, training: bool, autocast: bool = False, precision: str = "highest"):
        self.model, self.training, self.autocast, self.precision = model, training, autocast, precision

    def _output(self, batch: Batch) -> Any:
        torch.set_float32_matmul_precision(self.precision)
        given = {name: part.to(DEVICE) for name, part in batch.items()}
        if not self.training:
            given.pop("labels")
        with torch.autocast(DEVICE, torch.bfloat16, enabled=self.autocast):
            return self.model(**given)

    def run(self, batch: Batch) -> None:
        """What is timed."""
        with torch.set_grad_enabled(self.training):
            output = self._output(batch)
            if self.training:
                output.loss.backward()
                self.model.zero_grad()

    def found(self, batch: Batch) -> list[torch.Tensor]:
        """Logits; in training the loss and a gradient, without dropout."""
        self.model.eval()
        with torch.set_grad_enabled(self.training):
            output = self._output(batch)
            if not self.training:
                return [output.logits.float().cpu()]
            output.loss.backward()
        gradient = self.model.get_submodule("bert.encoder.layer.0.attention.self.query").weight.grad
        self.model.zero_grad()
        self.model.train()
        return [output.loss.detach().float().cpu(), gradient.float().cpu()]


class ExportedProgram:
    """A model in a runtime.

    Args:
        session (`Callable`): from arrays to the outputs in order.
    """

    def __init__(self, session: Callable[[dict[str, Any]], Any]):
        self.session = session

    def run(self, batch: Batch) -> Any:
        """What is timed."""
        return self.session(arrays_of(batch))

    def found(self, batch: Batch) -> list[torch.Tensor]:
        """Logits."""
        return [torch.from_numpy(self.run(batch)[0])]


Program = TorchProgram | ExportedProgram


@dataclass(frozen=True)
class Contestant:
    """One way to run the model.

    Args:
        make (`Callable`): from the source, and whether it is to train, to the program.
        precision (`str`): a name of `ERRORS`.
        modes (`tuple[str, ...]`): what it does.
        heads (`tuple[str, ...]`): the models that it is for.
        packages (`tuple[str, ...]`): what must be installed.
        extended (`bool`): whether it takes part in `make benchmark-full` alone.
        on_gpu (`bool`): whether it needs a GPU.
    """

    make: Callable[[Source, bool], Program]
    precision: str = "float32"
    modes: tuple[str, ...] = ("inference", "training")
    heads: tuple[str, ...] = ("classifier",)
    packages: tuple[str, ...] = ()
    extended: bool = False
    on_gpu: bool = False

    def lacks(self) -> str:
        """Why it cannot take part on this machine; empty if it can."""
        missing = [name for name in self.packages if importlib.util.find_spec(name) is None]
        if self.on_gpu and DEVICE == "cpu":
            return "no GPU"
        if missing:
            return f"{', '.join(missing)} not installed"
        return "no instructions for bf16" if self.precision == "bf16" and not bf16_is_fast() else ""


def in_torch(ours: bool, packed: bool = False, precision: str = "highest", **entries: Any) -> Any:
    """The maker of a model in float32."""

    def make(source: Source, training: bool) -> TorchProgram:
        model = source.copy(ours, **entries).train(training)
        if packed:
            model.set_packed()
        return TorchProgram(model, training, precision=precision)

    return make


def in_bf16(ours: bool, packed: bool = False, **entries: Any) -> Any:
    """The maker of a model in bf16: under autocast in training, by its weights in inference."""

    def make(source: Source, training: bool) -> TorchProgram:
        program: TorchProgram = in_torch(ours, packed, **entries)(source, training)
        program.autocast = training
        if not training:
            program.model.to(torch.bfloat16)
        return program

    return make


def compiled(make_eager: Any) -> Any:
    """The maker of the same, compiled for every size."""

    def make(source: Source, training: bool) -> TorchProgram:
        program: TorchProgram = make_eager(source, training)
        program.model.compile(dynamic=True)
        return program

    return make


def labelled_only(source: Source, training: bool) -> TorchProgram:
    """Packed, and the head of a masked language model reads labelled tokens alone."""
    model = source.copy(True).train(training)
    model.set_packed(labelled_only=True)
    return TorchProgram(model, training)


def in_runtime(to: str, int8: bool = False, ours: bool = False) -> Any:
    """The maker of an exported model."""

    def make(source: Source, training: bool) -> ExportedProgram:
        return ExportedProgram(RUNTIMES[to].open(source.exported(ours, to, int8)))

    return make


def in_openvino_bf16(source: Source, training: bool) -> ExportedProgram:
    """OpenVINO, told to compute in bf16."""
    options = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "bf16"}
    file = str(source.exported(False, "openvino", False))
    compiled_model = importlib.import_module("openvino").Core().compile_model(file, "CPU", options)
    return ExportedProgram(lambda arrays: list(compiled_model(arrays).values()))


def with_liger(source: Source, training: bool) -> TorchProgram:
    """The stock model with Liger's LayerNorm in the place of each of torch's, in bf16."""
    norm_class = importlib.import_module("liger_kernel.transformers").LigerLayerNorm
    program: TorchProgram = in_bf16(False)(source, training)
    for name, norm in list(program.model.named_modules()):
        if isinstance(norm, torch.nn.LayerNorm):
            made = norm_class(norm.normalized_shape[0], eps=norm.eps, bias=True).to(norm.weight)
            made.load_state_dict(norm.state_dict())
            program.model.set_submodule(name, made)
    return program


_EVERY = tuple(HEADS)
_OPENVINO = {"packages": ("openvino", "onnxscript"), "modes": ("inference",)}
_ONNX = {"packages": ("onnxruntime", "onnxscript"), "modes": ("inference",)}
BASE = "stock"

CONTESTANTS: dict[str, Contestant] = {
    BASE: Contestant(in_torch(False), heads=_EVERY),
    "stock, bf16": Contestant(in_bf16(False), "bf16"),
    "stock, bf16, eager": Contestant(in_bf16(False, attn_implementation="eager"), "bf16", ("training",)),
    "stock, compiled": Contestant(compiled(in_torch(False)), extended=True),
    "ours, padded": Contestant(in_torch(True), heads=_EVERY),
    "ours, packed": Contestant(in_torch(True, packed=True), heads=_EVERY),
    "ours, packed, labelled only": Contestant(labelled_only, modes=("training",), heads=("masked language model",)),
    "ours, packed, bf16": Contestant(in_bf16(True, packed=True), "bf16"),
    "ONNX Runtime": Contestant(in_runtime("onnx"), **_ONNX),
    "ONNX Runtime, int8": Contestant(in_runtime("onnx", int8=True), "int8", **_ONNX),
    "OpenVINO": Contestant(in_runtime("openvino"), **_OPENVINO),
    "OpenVINO, bf16": Contestant(in_openvino_bf16, "bf16", **_OPENVINO),
    "OpenVINO, int8": Contestant(in_runtime("openvino", int8=True), "int8", **_OPENVINO),
    "OpenVINO of ours, int8": Contestant(in_runtime("openvino", int8=True, ours=True), "int8", **_OPENVINO),
    # the rows of a GPU
    "stock, bf16, flash-attn": Contestant(
        in_bf16(False, attn_implementation="flash_attention_2"), "bf16", packages=("flash_attn",), on_gpu=True
    ),
    "stock, bf16, compiled": Contestant(compiled(in_bf16(False)), "bf16", on_gpu=True),
    "stock, bf16, Liger": Contestant(with_liger, "bf16", packages=("liger_kernel",), on_gpu=True),
}
