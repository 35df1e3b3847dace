"""Loads saved cases of a release and compares their outputs with those that the release gave.

Usage: python replay.py FOLDER: every case in it is loaded as remote code, where hf_addnorm cannot be imported.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from hidden import hide

    hide()

import torch
import transformers
from safetensors import safe_open


REPLAY = "replay.safetensors"
# The outputs are computed in float64 and stored in float32, so the order in which a processor or a release sums does
# not show. 1e-6 is above the rounding of the stored numbers, and of what is float32 in a model of any dtype.
TOLERANCE = {"rtol": 1e-6, "atol": 1e-6}


@dataclass(frozen=True)
class Case:
    """A saved model, the Auto class that loads it, its inputs and its outputs."""

    folder: Path
    auto: str
    inputs: dict[str, torch.Tensor]
    expected: dict[str, torch.Tensor]

    @classmethod
    def read(cls, folder: Path) -> "Case":
        """The case that a folder has."""
        parts: dict[str, dict[str, torch.Tensor]] = {"inputs": {}, "outputs": {}}
        with safe_open(folder / REPLAY, "pt") as file:
            for key in file.keys():  # noqa: SIM118  (it is no dict)
                kind, _, name = key.partition(".")
                parts[kind][name] = file.get_tensor(key)
            auto = file.metadata()["auto"]
        return cls(folder, auto, parts["inputs"], parts["outputs"])

    def load(self, **kwargs: Any) -> Any:
        """The model in float64; an error where a weight is missing or unexpected."""
        loader = getattr(transformers, self.auto)
        model, info = loader.from_pretrained(self.folder, dtype=torch.float64, output_loading_info=True, **kwargs)
        wrong = {key: sorted(map(str, value)) for key, value in info.items() if value}
        assert not wrong, (self.folder.name, wrong)
        return model

    def check(self, model: Any, padded: bool = True) -> None:
        """That the model gives the stored outputs; without `padded`, those of padded tokens may be others."""
        found = outputs(model, self.inputs)
        assert found.keys() == self.expected.keys(), (self.folder.name, sorted(found))
        real = self.inputs["attention_mask"].bool() if not padded else ...
        for key, value in self.expected.items():
            if value.dim() == 3:
                found[key], value = found[key][real], value[real]
            torch.testing.assert_close(
                found[key], value.double(), **TOLERANCE, msg=lambda text, key=key: f"{self.folder.name}, {key}: {text}"
            )


@torch.no_grad()
def outputs(model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Every tensor that a model of float64 gives in evaluation."""
    doubles = {key: value.double() if value.is_floating_point() else value for key, value in inputs.items()}
    found = model.eval()(**doubles)
    return {key: value for key, value in found.items() if isinstance(value, torch.Tensor)}


def cases_in(folder: Path) -> list[Case]:
    """The cases of an unpacked release."""
    return [Case.read(path.parent) for path in sorted(folder.glob(f"*/{REPLAY}"))]


def main() -> None:
    """Load each as remote code."""
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    cases = cases_in(Path(sys.argv[1]))
    for case in cases:
        model = case.load(trust_remote_code=True)
        assert type(model).__module__.startswith("transformers_modules."), type(model)
        case.check(model)
    sys.stdout.write(f"replayed {len(cases)}\n")


if __name__ == "__main__":
    main()
