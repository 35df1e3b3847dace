"""What a model costs before its first forward: a config and a model of many layers, a large model, a saved one."""

import gc
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from interleaved import ratios, seconds_of
from transformers import BertConfig, BertModel

from hf_addnorm import AddNormBertConfig, AddNormBertModel


TINY = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 37, "vocab_size": 99}
LARGE = {
    "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096,
    "vocab_size": 1000,
}  # fmt: skip
EXCEPTIONS = {
    "preset": "pre_ln",
    "layers": [{"index": index, "attention": ["pre", "out"]} for index in range(0, 1000, 4)],
}


def _stock(sizes: dict[str, Any], **more: Any) -> BertModel:
    return BertModel(BertConfig(**sizes, **more))


def _ours(sizes: dict[str, Any], add_norm: Any = "post_ln", **more: Any) -> AddNormBertModel:
    return AddNormBertModel(AddNormBertConfig(**sizes, **more, add_norm=add_norm))


def _rounds(candidates: dict[str, Callable[[], object]], rounds: int) -> Any:
    """The ratios, the first round to warm up; what is built is freed outside of the times."""
    times = []
    for _ in range(1 + rounds):
        times.append(seconds_of(candidates))
        gc.collect()
    return ratios(times[1:], "stock")


def measure_building(rounds: int | None, extended: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """Ours beside stock: over depth by scheme, at 24 layers of 1,024, and loaded."""
    figures: dict[str, Any] = {}
    for depth in (24, 100, 400, 1000):
        sizes = TINY | {"num_hidden_layers": depth}
        figures[f"{depth} layers of 32"] = _rounds(
            {
                "stock": partial(_stock, sizes),
                "ours": partial(_ours, sizes),
                "ours, hyper-connections": partial(_ours, sizes, "hyper_connections"),
                "ours, an exception in every fourth layer": partial(
                    _ours, sizes, EXCEPTIONS | {"layers": EXCEPTIONS["layers"][: depth // 4]}
                ),
            },
            rounds or (2 if depth == 1000 else 4),
        )
    figures["24 layers of 1,024"] = _rounds(
        {"stock": partial(_stock, LARGE), "ours": partial(_ours, LARGE)}, rounds or 4
    )
    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder) / "saved"
        _stock(LARGE).save_pretrained(saved)
        loaders = {"stock": partial(BertModel.from_pretrained, saved)}
        figures["24 layers of 1,024, from_pretrained"] = _rounds(
            loaders | {"ours": partial(AddNormBertModel.from_pretrained, saved)}, rounds or 8
        )
    return figures, {}
