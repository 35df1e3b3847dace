"""What a training forward keeps for its backward, per layer, with `attention_residuals` and without, by depth.

    python benchmarks/attention_residuals_memory.py [--layers 6 24 96] [--json FILE]

A pre-norm BERT, 64 wide, [4, 16] tokens, without dropout; the unit is one tensor [batch, seq, hidden] of the dtype
that is computed in. Each storage counts once, parameters do not. This is counted, not timed: every machine gives the
same figures.
"""

import argparse
import json
import sys
from pathlib import Path

import torch

from hf_addnorm import AddNormBertConfig, AddNormBertModel


BATCH, LENGTH, WIDTH = 4, 16, 64
SPECS = {"pre_ln": "pre_ln", "attention_residuals": {"preset": "pre_ln", "stream": "attention_residuals"}}


def kept_units(add_norm: object, layers: int, dtype: torch.dtype) -> float:
    """Tensors of the size of the stream that are kept for each layer."""
    config = AddNormBertConfig(
        hidden_size=WIDTH, num_hidden_layers=layers, num_attention_heads=4, intermediate_size=4 * WIDTH,
        vocab_size=100, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, add_norm=add_norm,
    )  # fmt: skip
    model = AddNormBertModel(config).to(dtype).train()
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, tuple[int, torch.Tensor]] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            # held, so that no address is used again
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(input_ids=torch.arange(BATCH * LENGTH).view(BATCH, LENGTH) % 100)
    unit = BATCH * LENGTH * WIDTH * torch.empty(0, dtype=dtype).element_size()
    return sum(size for size, _ in kept.values()) / unit / layers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, nargs="+", default=[6, 24, 96])
    parser.add_argument("--json", type=Path, help="write the figures here too")
    args = parser.parse_args()
    figures = {
        str(dtype).removeprefix("torch."): {
            name: {layers: round(kept_units(spec, layers, dtype), 1) for layers in args.layers}
            for name, spec in SPECS.items()
        }
        for dtype in (torch.float32, torch.bfloat16)
    }
    text = json.dumps({"units_per_layer": figures, "torch": torch.__version__}, indent=1)
    sys.stdout.write(text + "\n")
    if args.json:
        args.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
