"""The runtimes that a model is exported to: how a file is written, made int8, run, and looked at."""

import importlib
import importlib.util
import logging
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Protocol

import numpy
import torch
from torch import nn

from ..models.base.protocols import StockValue


Array = numpy.ndarray[tuple[int, ...], numpy.dtype[numpy.generic]]
Arrays = dict[str, Array]
Session = Callable[[Arrays], Sequence[Array]]


class _OnnxSession(Protocol):
    """A session of ONNX Runtime, as far as it is needed here."""

    def run(self, outputs: None, inputs: Arrays) -> Sequence[Array]: ...


class _Node(Protocol):
    """An operation of a compiled model."""

    def get_rt_info(self) -> Mapping[str, StockValue]: ...


class _Graph(Protocol):
    def get_ops(self) -> Sequence[_Node]: ...


class _CompiledModel(Protocol):
    """A model that OpenVINO has compiled, as far as it is needed here."""

    def __call__(self, inputs: Arrays) -> Mapping[object, Array]: ...

    def get_runtime_model(self) -> _Graph: ...


# an ONNX file holds at most 2 GiB; of larger models, weights lie in a file beside it
_LARGEST_FILE = 1_500_000_000


class Runtime:
    """Base: one runtime.

    Args of its methods: `path`, the model's file without the int8 of its name.
    """

    # what the user calls it, and what is written on cards
    name: str
    title: str
    # what must be installed, beside torch; what int8 needs more
    packages: tuple[str, ...]
    int8_packages: tuple[str, ...] = ()
    file: str
    # operations that are a whole norm, by the names that the runtime's own graph gives them
    norms: tuple[str, ...]
    # whether int8 is fitted to batches
    int8_needs_batches = False
    how_int8: str
    example: str

    def refuse_missing(self, int8: bool) -> None:
        """Refuse to begin where a package is missing.

        Raises:
            ImportError: in a sentence that says what to install.
        """
        for package in self.packages + (self.int8_packages if int8 else ()):
            if importlib.util.find_spec(package) is None:
                raise ImportError(
                    f"an export to {self.name} needs {package}, which is not installed: pip install "
                    "'hf_addnorm[export]'"
                )

    def write(self, program: "Program", path: Path) -> None:
        """Write the model in float32."""
        with TemporaryDirectory() as folder:
            exported = Path(folder) / "model.onnx"
            program.to_onnx(exported)
            self.from_onnx(exported, path)

    def from_onnx(self, exported: Path, path: Path) -> None:
        """Write what was exported to ONNX in the runtime's own format."""
        raise NotImplementedError

    def to_int8(self, path: Path, to: Path, batches: Sequence[Arrays]) -> None:
        """Write the int8 form of a written model."""
        raise NotImplementedError

    def open(self, path: Path) -> Session:
        """A function that runs a written model: arrays by input, to the outputs in order."""
        raise NotImplementedError

    def operations(self, path: Path) -> list[str]:
        """The names of the operations that the runtime makes of a model on this CPU."""
        raise NotImplementedError


class Program:
    """A model as it is exported: a module of tensors to tensors, with an example and the names of what is free.

    Args:
        module (`torch.nn.Module`): takes the inputs in order, gives a tuple of outputs.
        example (`dict[str, torch.Tensor]`): by name, in order.
        outputs (`list[str]`): names of the outputs.
        axes (`dict[str, dict[int, str]]`): of each input, its free axes with their names.
    """

    def __init__(
        self,
        module: nn.Module,
        example: Mapping[str, torch.Tensor],
        outputs: Sequence[str],
        axes: Mapping[str, Mapping[int, str]],
    ):
        self.module, self.example, self.outputs, self.axes = module, dict(example), list(outputs), axes

    def to_onnx(self, path: Path) -> None:
        """Write the ONNX file."""
        dims = {name: torch.export.Dim(name) for free in self.axes.values() for name in free.values()}
        shapes = tuple({axis: dims[name] for axis, name in self.axes[given].items()} for given in self.example)
        size = sum(parameter.numel() * parameter.element_size() for parameter in self.module.parameters())
        with _quiet():
            torch.onnx.export(
                self.module,
                tuple(self.example.values()),
                str(path),
                input_names=list(self.example),
                output_names=self.outputs,
                dynamic_shapes={"tensors": shapes},
                dynamo=True,
                verbose=False,
                external_data=size > _LARGEST_FILE,
            )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks on packages that are not there and on its own future."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


class OnnxRuntime(Runtime):
    """ONNX Runtime; int8 is its dynamic quantization of Linear layers, which needs no data."""

    name, title, file = "onnx", "ONNX Runtime", "model.onnx"
    packages = ("onnx", "onnxscript", "onnxruntime")
    norms = (
        "LayerNormalization",
        "SkipLayerNormalization",
        "EmbedLayerNormalization",
        "SimplifiedLayerNormalization",
        "SkipSimplifiedLayerNormalization",
        "RMSNormalization",
        "BatchNormalization",
    )
    how_int8 = "weights in 7 bits, with a scale for each output; activations quantised as they come"
    example = 'session = onnxruntime.InferenceSession("{file}")\noutputs = session.run(None, dict(inputs))'

    def write(self, program: Program, path: Path) -> None:
        program.to_onnx(path)

    def from_onnx(self, exported: Path, path: Path) -> None:
        shutil.copy(exported, path)

    def to_int8(self, path: Path, to: Path, batches: Sequence[Arrays]) -> None:
        quantization = importlib.import_module("onnxruntime.quantization")
        with _quiet(), _root_logger_quiet():
            quantization.quantize_dynamic(
                path,
                to,
                op_types_to_quantize=["MatMul", "Gemm"],
                per_channel=True,
                weight_type=quantization.QuantType.QInt8,
                # 8 bits overflow on CPUs without VNNI; unsigned weights do not, but are slower
                reduce_range=True,
            )

    def open(self, path: Path) -> Session:
        session = self._session(path)
        return lambda arrays: session.run(None, arrays)

    def _session(self, path: Path, optimized: Path | None = None) -> "_OnnxSession":
        runtime = importlib.import_module("onnxruntime")
        options = runtime.SessionOptions()
        # warnings of a graph that is fine
        options.log_severity_level = 3
        options.intra_op_num_threads = torch.get_num_threads()
        if optimized is not None:
            options.optimized_model_filepath = str(optimized)
        session: _OnnxSession = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return session

    def operations(self, path: Path) -> list[str]:
        with TemporaryDirectory() as folder:
            optimized = Path(folder) / "optimized.onnx"
            self._session(path, optimized)
            graph = importlib.import_module("onnx").load(str(optimized), load_external_data=False).graph
            return [node.op_type for node in graph.node]


@contextmanager
def _root_logger_quiet() -> Iterator[None]:
    """The quantizer advises by the root logger."""
    logger = logging.getLogger()
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


class OpenVino(Runtime):
    """OpenVINO, which reads what is exported to ONNX; int8 is NNCF's quantization, fitted to batches of data."""

    name, title, file = "openvino", "OpenVINO", "openvino_model.xml"
    packages = ("onnx", "onnxscript", "openvino")
    int8_packages = ("nncf",)
    norms = ("MVN", "RMS", "NormalizeL2", "RMSNorm")
    int8_needs_batches = True
    how_int8 = "weights and activations in 8 bits, with ranges fitted to texts"
    example = 'session = openvino.Core().compile_model("{file}", "CPU")\noutputs = session(dict(inputs))'

    def from_onnx(self, exported: Path, path: Path) -> None:
        openvino = importlib.import_module("openvino")
        openvino.save_model(openvino.convert_model(str(exported)), str(path), compress_to_fp16=False)

    def to_int8(self, path: Path, to: Path, batches: Sequence[Arrays]) -> None:
        openvino, nncf = (importlib.import_module(name) for name in ("openvino", "nncf"))
        importlib.import_module("nncf.common.logging.logger").set_log_level(logging.ERROR)
        dataset = nncf.Dataset(list(batches))
        quantized = nncf.quantize(
            openvino.Core().read_model(str(path)),
            dataset,
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(batches),
        )
        openvino.save_model(quantized, str(to), compress_to_fp16=False)

    def open(self, path: Path) -> Session:
        compiled = self._compiled(path)
        return lambda arrays: list(compiled(arrays).values())

    def _compiled(self, path: Path) -> "_CompiledModel":
        openvino: ModuleType = importlib.import_module("openvino")
        options = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
        compiled: _CompiledModel = openvino.Core().compile_model(str(path), "CPU", options)
        return compiled

    def operations(self, path: Path) -> list[str]:
        nodes = self._compiled(path).get_runtime_model().get_ops()
        return [node.get_rt_info()["layerType"].astype(str) for node in nodes]


# by the name that `--to` takes
RUNTIMES: dict[str, Runtime] = {runtime.name: runtime for runtime in (OnnxRuntime(), OpenVino())}
