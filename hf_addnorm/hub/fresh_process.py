"""A script that loads a saved folder where hf_addnorm cannot be imported, with Transformers alone.

Usage: python fresh_process.py FOLDER REPORT. REPORT is where the JSON goes: what loaded, and what did not and why.

It is run as a file, not as a module of the package: it may import nothing of it. It runs `input_kinds.py` as a file.
"""

import importlib.abc
import json
import runpy
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, TypeVar


if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel
    from transformers.modeling_outputs import ModelOutput
    from transformers.models.auto.auto_factory import _BaseAutoModelClass

    from .input_kinds import InputKind


Loaded = TypeVar("Loaded")


class _Hide(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> None:
        if name.split(".")[0] == "hf_addnorm":
            raise ModuleNotFoundError("hf_addnorm is hidden from this process")


INPUT_KINDS = runpy.run_path(str(Path(__file__).with_name("input_kinds.py")))["INPUT_KINDS"]
TOKENS = 4


def _kind(model: "PreTrainedModel | None") -> "InputKind | None":
    """What a model reads: as its family says, or by the name of its main argument."""
    facts = getattr(getattr(model, "config", None), "facts", None)
    if facts is not None and facts.inputs in INPUT_KINDS:
        kind: InputKind = INPUT_KINDS[facts.inputs]
        return kind
    by_argument = {kind.argument: kind for kind in INPUT_KINDS.values()}
    return by_argument.get(getattr(model, "main_input_name", None))


def _inputs(model: "PreTrainedModel") -> "dict[str, torch.Tensor]":
    """One small input of the base model's kind."""
    import torch

    config, kind = model.config, _kind(model)
    if kind is None:
        raise ValueError(f"nothing is known of {model.main_input_name}, which {type(model).__name__} reads.")
    inputs = {kind.argument: torch.ones(kind.shape(config, TOKENS), dtype=getattr(torch, kind.dtype))}
    if config.is_encoder_decoder:
        ids = torch.ones(1, TOKENS, dtype=torch.long)
        inputs[kind.targets] = ids if kind.targets == "decoder_input_ids" else inputs[kind.argument]
    return inputs


class Visit:
    """An attempt to load everything in a folder: what loaded, and what failed.

    Args:
        folder (`str`): the saved model.
    """

    def __init__(self, folder: str):
        self.folder = folder
        self.loaded: dict[str, str] = {}
        self.failed: dict[str, str] = {}

    def attempt(self, name: str, load: Callable[[], Loaded]) -> Loaded | None:
        """Run `load` and note how it ended; None where it fails."""
        try:
            found = load()
        except Exception as error:
            self.failed[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
            return None
        self.loaded[name] = type(found).__name__
        return found

    def models(self, config: "PreTrainedConfig") -> "list[tuple[str, type[_BaseAutoModelClass], bool]]":
        """(name, loader, whether it is what was saved): every Auto class of the auto_map, or the saved class."""
        import transformers

        saved = (config.architectures or [""])[0]
        auto_map = getattr(config, "auto_map", None) or {}
        autos = {key: value for key, value in auto_map.items() if key != "AutoConfig"}
        found = [
            (name, getattr(transformers, name), reference.split(".")[-1] == saved)
            for name, reference in autos.items()
            # one that this Transformers does not have yet loads nothing here
            if name.startswith("AutoModel") and hasattr(transformers, name)
        ]
        if not autos and hasattr(transformers, saved):
            found.append((saved, getattr(transformers, saved), True))
        return found

    def load(self) -> None:
        """Load the config, every Auto class of the folder and its processor, and run one forward."""
        import torch
        import transformers

        torch.set_num_threads(1)
        transformers.utils.logging.set_verbosity_error()
        trust = {"trust_remote_code": True}
        config = self.attempt("AutoConfig", lambda: transformers.AutoConfig.from_pretrained(self.folder, **trust))
        if config is None:
            return
        kind = None
        for name, loader, is_saved in self.models(config):
            model = self.attempt(name, partial(self.model, loader, is_saved))
            kind = kind or _kind(model)
            if name == "AutoModel" and model is not None:
                self.attempt("one forward of AutoModel", partial(self.forward, model))
        if kind is not None:
            auto = kind.processor
            # a class of Transformers; without the argument, some Auto classes ask whether to run the model's code
            load = partial(getattr(transformers, auto).from_pretrained, self.folder, trust_remote_code=False)
            self.attempt(auto, load)

    def model(self, loader: "type[_BaseAutoModelClass]", is_saved: bool) -> "PreTrainedModel":
        """A loaded model, whose weights are all there if it is the one that was saved."""
        import torch

        model: PreTrainedModel
        model, info = loader.from_pretrained(
            self.folder,
            trust_remote_code=True,
            use_safetensors=True,
            output_loading_info=True,
            # heads of other tasks may have a part of the same name and another size
            ignore_mismatched_sizes=not is_saved,
        )
        if is_saved:
            wrong = {key: sorted(map(str, value))[:3] for key, value in info.items() if value}
            if wrong:
                raise ValueError("; ".join(f"{key}: {', '.join(names)}" for key, names in wrong.items()))
        numbers = (tensor for tensor in model.state_dict().values() if tensor.is_floating_point())
        if is_saved and not all(bool(torch.isfinite(tensor).all()) for tensor in numbers):
            raise ValueError("some weights are not finite")
        return model

    def forward(self, model: "PreTrainedModel") -> "ModelOutput":
        """One forward of the base model."""
        import torch

        with torch.no_grad():
            outputs: ModelOutput = model.eval()(**_inputs(model))
        return outputs


def main() -> None:
    """Load the folder, write the report."""
    sys.meta_path.insert(0, _Hide())
    warnings.simplefilter("ignore")
    visit = Visit(sys.argv[1])
    visit.load()
    Path(sys.argv[2]).write_text(json.dumps({"loaded": visit.loaded, "failed": visit.failed}))


if __name__ == "__main__":
    main()
