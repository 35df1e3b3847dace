"""What depth costs before the first forward: a config of many layers, and a model beside the stock one.

    python benchmarks/build_depth.py [--json FILE]

Config: milliseconds for 1,000 layers, the best of five, by spec. Model: seconds to build BERT (hidden size 32) at
several depths, stock and ours in turn, the order swapped from pair to pair; the figure is the pairs' median ratio.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import transformers
from accelerate import Accelerator
from transformers import BertConfig, BertModel

from hf_addnorm import AddNormBertConfig, AddNormBertModel


sys.path.insert(0, str(Path(__file__).parents[1] / "recipes"))

from common.report import machine, versions


TINY = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 37, "vocab_size": 99}
SPECS: dict[str, Any] = {
    "post_ln": "post_ln",
    "deepnorm": "deepnorm",
    "hyper_connections": "hyper_connections",
    "an exception in every fourth layer": {
        "preset": "pre_ln",
        "layers": [{"index": index, "attention": ["pre", "out"]} for index in range(0, 1000, 4)],
    },
}


def seconds(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def config_milliseconds(spec: Any) -> float:
    return 1000 * min(
        seconds(lambda: AddNormBertConfig(**TINY, num_hidden_layers=1000, add_norm=spec)) for _ in range(5)
    )


def building(layers: int, spec: Any, pairs: int) -> dict[str, float]:
    """Median seconds of both models, and the median of the pairs' ratios."""
    builds = {
        "stock": lambda: BertModel(BertConfig(**TINY, num_hidden_layers=layers)),
        "hf_addnorm": lambda: AddNormBertModel(AddNormBertConfig(**TINY, num_hidden_layers=layers, add_norm=spec)),
    }
    times: dict[str, list[float]] = {name: [] for name in builds}
    for pair in range(pairs):
        for name in list(builds) if pair % 2 else reversed(list(builds)):
            times[name].append(seconds(builds[name]))
    ratios = [ours / stock for ours, stock in zip(times["hf_addnorm"], times["stock"], strict=True)]
    return {name: statistics.median(found) for name, found in times.items()} | {"ratio": statistics.median(ratios)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, nargs="+", default=[24, 100, 400])
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    args = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    figures = {
        "config_of_1000_layers_ms": {name: config_milliseconds(spec) for name, spec in SPECS.items()},
        "model_seconds": {
            name: {str(layers): building(layers, spec, args.pairs) for layers in args.layers}
            for name, spec in SPECS.items()
            if isinstance(spec, str)
        },
        "machine": machine(Accelerator()),
        "versions": versions(),
    }
    text = json.dumps(figures, indent=1)
    sys.stdout.write(text + "\n")
    if args.json:
        args.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
