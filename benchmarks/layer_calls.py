"""How many Python functions one layer's forward calls, in evaluation: a BERT layer, stock and ours, by scheme.

    python benchmarks/layer_calls.py [--list SCHEME]

Counted are functions of Transformers and of this package; beside them, in all, those of torch and of Python's library.
`--list` prints the counted ones of one scheme, in the order of their calls.
"""

import argparse
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch
from transformers import BertConfig, BertModel

from hf_addnorm import AddNormBertConfig, AddNormBertModel


TINY = {
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "intermediate_size": 37,
    "vocab_size": 99,
}
SCHEMES = (
    "post_ln",
    "pre_ln",
    "pre_rms_norm",
    "sandwich_ln",
    "sub_ln",
    "deepnorm",
    "layer_scale",
    "hyper_connections",
)


COUNTED = ("transformers", "hf_addnorm")


def functions_called(function: Callable[[], Any]) -> list[str]:
    """The Python functions that run within `function()`, in the order of their calls, by package and name."""
    called: list[str] = []

    def profile(frame: FrameType, event: str, _: Any) -> None:
        if event == "call":
            called.append(f"{frame.f_globals.get('__name__', '')}: {frame.f_code.co_qualname}")

    sys.setprofile(profile)
    try:
        function()
    finally:
        sys.setprofile(None)
    # the first one is `function`
    return called[1:]


def calls_of_a_layer(model: Any) -> list[str]:
    """The functions that the first layer of a BERT model calls in a forward, the layer's own among them."""
    layer = model.eval().encoder.layer[0]
    given: list[Any] = []
    handle = layer.register_forward_pre_hook(lambda _, args, kwargs: given.append((args, kwargs)), with_kwargs=True)
    with torch.no_grad():
        # a first forward makes what is made once
        model(input_ids=torch.arange(8).view(1, 8))
        handle.remove()
        args, kwargs = given[0]
        return functions_called(lambda: layer.forward(*args, **kwargs))


def models() -> dict[str, Any]:
    stock = {"stock": BertModel(BertConfig(**TINY))}
    return stock | {scheme: AddNormBertModel(AddNormBertConfig(**TINY, add_norm=scheme)) for scheme in SCHEMES}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", choices=["stock", *SCHEMES])
    args = parser.parse_args()
    for name, model in models().items():
        called = calls_of_a_layer(model)
        counted = [function for function in called if function.startswith(COUNTED)]
        ours = sum(function.startswith("hf_addnorm") for function in counted)
        sys.stdout.write(f"{name:20} {len(counted)}, of this package {ours}; in all {len(called)}\n")
        if name == args.list:
            sys.stdout.writelines(f"    {function}\n" for function in counted)


if __name__ == "__main__":
    main()
