"""What a converted model takes in inference beside its source, eager and in ONNX Runtime.

    python benchmarks/conversion_speed.py [--rounds 20] [--json FILE]

A BERT of the size of MiniLM (6 layers, 384 wide), 8 rows of 32 tokens in float32, one thread, all in one run: in each
round the source and what it was converted to run once, in an order that is drawn anew. The figure is the source's time
over the converted model's: above 1 is faster. Weights are drawn, since the time does not depend on them. All
conversions are exact but that to `affine` in post-norm.
"""

import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import interleaved
import onnxruntime
import torch
from torch import nn

from hf_addnorm import AddNormBertConfig, AddNormBertModel, convert


SIZE = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
SHAPE = (8, 32)
PRE_BATCH_NORM = {"preset": "pre_ln", "norm": "batch_norm"}
# of each source: what it is converted to, and how
CASES = {
    "pre-norm LayerNorm": ("pre_ln", {"rms_norm": ({"preset": "pre_ln", "norm": "rms_norm"}, "exact")}),
    "post-norm LayerNorm": (
        "post_ln",
        {
            "rms_norm": ({"norm": "rms_norm", "residual": {"kind": "laurel_lr", "rank": 1}}, "exact"),
            "affine": ({"norm": "affine"}, "mapped"),
        },
    ),
    "pre-norm BatchNorm": (
        PRE_BATCH_NORM,
        {
            "affine": ({"preset": "pre_ln", "norm": "affine"}, "exact"),
            "folded": ({"preset": "pre_ln", "norm": "affine", "attention": [], "feed_forward": []}, "exact"),
        },
    ),
}


class Tokens(nn.Module):
    """A base model as a function of ids and mask to its last hidden state."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.net(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state


def models() -> dict[str, dict[str, Tokens]]:
    """Of each case the source and the converted models."""
    ids = [torch.randint(5, 30000, (8, 16)) for _ in range(6)]
    batches = [{"input_ids": part, "attention_mask": torch.ones_like(part)} for part in ids]
    made = {}
    for case, (add_norm, targets) in CASES.items():
        source = AddNormBertModel(AddNormBertConfig(add_norm=add_norm, **SIZE), add_pooling_layer=False).eval()
        found = {"source": source}
        for name, (target, method) in targets.items():
            found[name], _ = convert(source, add_norm=target, calibration=batches, method=method)
        made[case] = {name: Tokens(net).eval() for name, net in found.items()}
    return made


def in_onnx_runtime(model: Tokens, inputs: dict[str, torch.Tensor], folder: Path) -> Callable[[], Any]:
    """A call of the exported model, on one thread."""
    file = str(folder / f"{id(model)}.onnx")
    torch.onnx.export(model, tuple(inputs.values()), file, input_names=list(inputs), dynamo=True, verbose=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return partial(session.run, None, {name: value.numpy() for name, value in inputs.items()})


@torch.no_grad()
def measure(rounds: int) -> dict[str, Any]:
    """The ratios of each case and backend."""
    ids = torch.randint(5, 30000, SHAPE)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        for case, found in models().items():
            backends = {
                "eager": {name: partial(model, **inputs) for name, model in found.items()},
                "ONNX Runtime": {name: in_onnx_runtime(model, inputs, Path(folder)) for name, model in found.items()},
            }
            for backend, calls in backends.items():
                # the first round warms up
                seconds = [interleaved.seconds_of(calls) for _ in range(rounds + 1)][1:]
                figures[f"{case}, {backend}"] = interleaved.ratios(seconds, "source")
    return figures


if __name__ == "__main__":
    sys.exit(interleaved.run("conversion_speed", measure, __doc__, rounds=20))
