"""The cost of an add & norm compared with the stock one: parameters and matrix products, counted, not measured."""

import copy
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModel, PreTrainedConfig

from .description import facts_of, input_kind, models_of


_TOKENS = 128
_SIZES = ("num_hidden_layers", "hidden_size", "num_attention_heads")


@dataclass(frozen=True)
class Cost:
    """What a scheme costs, beside the stock scheme in the same model.

    Args:
        parameters, stock_parameters (`int`): of the base model.
        multiply_adds, stock_multiply_adds (`int`, *optional*): in the matrix products of one forward; None where
            they cannot be counted without running the model.
        input (`str`): what that forward reads.
        sizes (`dict`): of the model that was counted.
    """

    parameters: int
    stock_parameters: int
    multiply_adds: int | None
    stock_multiply_adds: int | None
    input: str
    sizes: dict[str, int]

    def rows(self) -> list[tuple[str, str, str, str]]:
        """(what, here, stock, difference)."""
        rows = [("parameters", self.parameters, self.stock_parameters)]
        if self.multiply_adds is not None and self.stock_multiply_adds is not None:
            rows.append(
                (f"multiply-adds in matrix products, {self.input}", self.multiply_adds, self.stock_multiply_adds)
            )
        return [
            (
                what,
                f"{here:,}",
                f"{stock:,}",
                "none" if here == stock else f"{here - stock:+,} ({here / stock - 1:+.2%})",
            )
            for what, here, stock in rows
        ]


def cost(config: PreTrainedConfig) -> Cost:
    """Parameters and matrix products of a base model of this config, counted without memory or arithmetic."""
    (parameters, products, said), (stock_parameters, stock_products, _) = _count(config), _count(_stock(config))
    # of several stacks, the sizes of each; an encoder-decoder of two models has two of each, and says none
    of_stacks = [entry for entries in facts_of(config).stacks.values() for entry in entries.values()]
    names = dict.fromkeys(["hidden_size", *of_stacks] if of_stacks else _SIZES)
    sizes = {key: getattr(config, key) for key in names if hasattr(config, key)}
    return Cost(parameters, stock_parameters, products, stock_products, said, sizes)


def _stock(config: PreTrainedConfig) -> PreTrainedConfig:
    """The same model with the stock scheme."""
    stock = copy.deepcopy(config)
    for part in models_of(stock).values():
        for entry in getattr(part, "add_norm_entries", ("add_norm",)):
            setattr(part, entry, None)
    return stock


def _count(config: PreTrainedConfig) -> tuple[int, int | None, str]:
    with torch.device("meta"):
        model = AutoModel.from_config(copy.deepcopy(config), attn_implementation="eager").eval()
    parts = models_of(model.config).values()
    for part in parts:
        # or a forward looks for it among the numbers, to warn; a model may need it while it is built
        part.pad_token_id = None
    parameters = sum(parameter.numel() for parameter in model.parameters())
    kind = input_kind(config)
    # one that all parts can read
    shape = min(kind.shape(part, _TOKENS) for part in parts)
    inputs = {kind.argument: torch.zeros(shape, dtype=getattr(torch, kind.dtype), device="meta")}
    if config.is_encoder_decoder:
        # as many tokens as a source has, or as can be written about what is no text
        most = (
            shape
            if kind.argument == "input_ids"
            else (1, min(_TOKENS, getattr(config, "max_target_positions", _TOKENS)))
        )
        ids = torch.zeros(most, dtype=torch.int64, device="meta")
        inputs[kind.targets] = ids if kind.targets == "decoder_input_ids" else inputs[kind.argument]
    try:
        with FlopCounterMode(display=False) as counter:
            model(**inputs)
    except RuntimeError:
        # a model that looks at numbers, which are not there
        return parameters, None, kind.said(shape)
    return parameters, counter.get_total_flops() // 2, kind.said(shape)
