"""Which presets can be exported to which runtime, and whether its norms are one operation there.

    python benchmarks/exported_schemes.py            # tries the presets that have no result yet
    python benchmarks/exported_schemes.py --anew     # tries all presets
    python benchmarks/exported_schemes.py --page     # writes the table of docs/exporting.md from the results
    python benchmarks/exported_schemes.py --check    # says whether the table is that of the results

A BERT of one layer with every preset: whether the exported model computes the same at several shapes, how often a norm
runs in a forward, and how many operations of the runtime, on this CPU, are a whole norm.
"""

import argparse
import json
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from performance_page import write_or_check

from hf_addnorm import AddNormBertConfig, AddNormBertModel, presets
from hf_addnorm.exporting.exporting import TOLERANCE, AsFunction, norm_calls, tried
from hf_addnorm.exporting.inputs import inputs_of
from hf_addnorm.exporting.runtimes import RUNTIMES, Program
from hf_addnorm.models.base.whole_file import write_whole


HERE = Path(__file__).parent
RESULTS, PAGE = HERE / "results" / "exported_schemes.json", HERE.parent / "docs" / "exporting.md"
BEGIN, END = "<!-- exported schemes -->\n", "<!-- end -->"
SIZES = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 37,
    "max_position_embeddings": 64,
}


def preset_result(preset: str) -> dict[str, Any]:
    """What became of one preset, by runtime."""
    torch.manual_seed(0)
    model = AddNormBertModel(AddNormBertConfig(**SIZES, add_norm=preset)).eval()
    with torch.no_grad(), TemporaryDirectory() as folder:
        for parameter in model.parameters():
            # so that no gate, no bias and no scalar is 0
            parameter.add_(0.05 * torch.randn_like(parameter))
        inputs = inputs_of(model, None)
        function = AsFunction(model, inputs)
        batches = [inputs.draw(*shape) for shape in inputs.shapes()]
        exported = Path(folder) / "exported.onnx"
        Program(function, batches[0], function.outputs, inputs.axes).to_onnx(exported)
        found: dict[str, Any] = {"norms": norm_calls(function, inputs)}
        for name, runtime in RUNTIMES.items():
            file = Path(folder) / runtime.file
            try:
                runtime.from_onnx(exported, file)
                parity = tried(function, runtime.open(file), inputs, batches, TOLERANCE)
            except Exception as error:
                found[name] = {"failed": " ".join(str(error).split())[:200]}
                continue
            fused = sum(operation in runtime.norms for operation in runtime.operations(file))
            worst = max(error for each in parity for error in each.errors.values())
            found[name] = {"error": float(f"{worst:.1e}"), "fused": fused}
    return found


def measure(anew: bool) -> None:
    """Write the results, preset by preset."""
    written: dict[str, Any] = {"presets": {}}
    if RESULTS.exists() and not anew:
        written = json.loads(RESULTS.read_text())
    packages = ("torch", "onnx", "onnxruntime", "openvino")
    written |= {"machine": platform.machine(), "versions": {name: version(name) for name in packages}}
    for preset in presets():
        if preset not in written["presets"]:
            written["presets"][preset] = preset_result(preset)
            write_whole(RESULTS, json.dumps(written, indent=1) + "\n")


def _cell(found: dict[str, Any], runtime: str) -> str:
    if "failed" in found[runtime]:
        return "no"
    norms, fused = found["norms"], found[runtime]["fused"]
    if norms == 0:
        return "yes; it has no norm"
    said = "all" if fused >= norms else f"{fused} of {norms}" if fused else "none"
    return f"yes; {said}"


def table() -> str:
    """The table of the page."""
    written = json.loads(RESULTS.read_text())
    versions = ", ".join(f"{name} {number}" for name, number in written["versions"].items())
    rows = [["preset", *(runtime.title for runtime in RUNTIMES.values())], ["---"] * (len(RUNTIMES) + 1)]
    for preset in presets():
        found = written["presets"].get(preset)
        cells = ["not tried yet"] * len(RUNTIMES) if found is None else [_cell(found, name) for name in RUNTIMES]
        rows.append([f"`{preset}`", *cells])
    failed = [
        f"`{preset}` with {RUNTIMES[name].title}: {found[name]['failed']}"
        for preset, found in written["presets"].items()
        for name in RUNTIMES
        if "failed" in found[name]
    ]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([f"{written['machine']}, {versions}.", "", *lines, "", *failed]).rstrip() + "\n"


def made(page: str) -> str:
    """The page with the table of the results."""
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n{table()}\n{END}{rest.split(END, 1)[1]}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--anew", action="store_true")
    parser.add_argument("--page", action="store_true")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    if not args.page and not args.check:
        measure(args.anew)
    return write_or_check(PAGE, made)


if __name__ == "__main__":
    sys.exit(main())
