"""The entry and the exit of a base model whose tokens are packed: real tokens alone run through it.

    [batch, seq] -> pack -> embeddings, layers: [1, total, hidden] -> unpack -> [batch, seq, hidden]

The stock forward runs as it is. It is given the packed inputs, the position of each token, and the argument `packed`,
which it hands on to its attention (`packed_attention.py`); a mask of four axes, which Transformers takes as made,
stands for "no mask is needed".
"""

import inspect
from functools import wraps
from typing import Protocol, cast

import torch
from torch import nn
from transformers import PreTrainedConfig

from ..base.packed_tokens import FirstTokens, PackedTokens
from ..base.protocols import StockValue
from ..base.token_mask import TokenMask, current, running_with
from .family_layout import FamilyLayout
from .packed_attention import PACKED
from .token_hooks import Forward
from .transformers_internals import attention_of


Given = dict[str, StockValue]

# arguments with which a model reads something else than the batch alone: then it runs with padding
_BESIDE = ("past_key_values", "cache", "encoder_hidden_states", "use_cache")
# of Transformers, where its collator has put sequences one behind the other; all follow from the first one
_BOUNDS = ("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k")


# the argument in which a head says which tokens of [batch * seq] it reads: the base model gives these alone
READ_TOKENS = "read_tokens"
# the argument in which a head says that it reads the first token of each row alone
FIRST_ONLY = "first_only"


class Packs(Protocol):
    """A base model that may run with packed tokens."""

    config: PreTrainedConfig

    def layout_of(self, config: StockValue) -> FamilyLayout:
        """Where its parts are."""
        ...

    def modules(self) -> StockValue:
        """All of its modules."""
        ...


def require_packable(model: str, layout: FamilyLayout, config: StockValue) -> None:
    """Refuse a model whose tokens cannot be packed.

    Raises:
        ValueError: with the reason.
    """
    reason = layout.cannot_pack
    if not reason and getattr(config, "chunk_size_feed_forward", None):
        reason = "config.chunk_size_feed_forward must be 0: packed tokens cannot be cut into equal chunks"
    if reason:
        raise ValueError(f"tokens of {model} cannot be packed: {reason}.")


class Arguments:
    """From the arguments of a call of a model's forward to all of them by name, without the model.

    Args:
        signature (`inspect.Signature`): of the forward.
    """

    def __init__(self, signature: inspect.Signature):
        self.signature = signature
        kinds = ((name, parameter.kind) for name, parameter in signature.parameters.items())
        self.others = next((name for name, kind in kinds if kind == inspect.Parameter.VAR_KEYWORD), "")

    def __call__(self, *args: StockValue, **kwargs: StockValue) -> Given:
        given = self.signature.bind(*args, **kwargs).arguments
        _, *named = given.items()
        made: Given = {name: value for name, value in named if name != self.others}
        return made | cast(Given, given.get(self.others, {}))


def with_packed_tokens(forward: Forward) -> Forward:
    """A base model's forward that packs its tokens, if its implementation of attention is "packed".

    It also takes the arguments `READ_TOKENS` and `FIRST_ONLY` of a head (see `read_tokens.py`).
    """
    arguments_of = Arguments(inspect.signature(forward))

    @wraps(forward)
    def with_packed_tokens(self: Packs, *args: StockValue, **kwargs: StockValue) -> StockValue:
        if READ_TOKENS in kwargs:
            places = kwargs.pop(READ_TOKENS)
            outputs = with_packed_tokens(self, *args, **kwargs | {"return_dict": True})
            outputs.last_hidden_state = outputs.last_hidden_state.flatten(0, 1).index_select(0, places).unsqueeze(0)
            return outputs
        first_only = kwargs.pop(FIRST_ONLY, False)
        if not is_packed(self.config):
            return forward(self, *args, **kwargs, **({"packed": FirstTokens()} if first_only else {}))
        given = arguments_of(self, *args, **kwargs)
        _refuse_attentions(self.config, given)
        packed = _packed(given, first_only)
        if packed is None:
            return forward(self, **given)
        as_tuple = given.pop("return_dict", getattr(self.config, "return_dict", True)) is False
        given = _pack_arguments(self, arguments_of.signature, given, packed)
        outputs = running_with(TokenMask(None, packed=packed), forward, self, **given, return_dict=True)
        _unpack_outputs(self, outputs, packed)
        return outputs.to_tuple() if as_tuple else outputs

    return with_packed_tokens


def is_packed(config: StockValue) -> bool:
    """Whether a model of this config packs its tokens now."""
    return attention_of(config) == PACKED and not is_traced()


def is_traced() -> bool:
    """Whether the forward is compiled, exported or traced: how many tokens are real is not known then."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined]


def _refuse_attentions(config: StockValue, arguments: Given) -> None:
    wanted = arguments.get("output_attentions")
    if wanted or (wanted is None and getattr(config, "output_attentions", False)):
        raise ValueError(
            "output_attentions is true, and packed tokens have no weights of attention to return: call "
            'set_packed(False), or load with attn_implementation="eager".'
        )


def _packed(arguments: Given, first_only: bool) -> PackedTokens | None:
    """Where the real tokens of a batch are; None where it is to run as it is."""
    tokens = arguments.get("input_ids")
    tokens = arguments.get("inputs_embeds") if tokens is None else tokens
    mask = arguments.get("attention_mask")
    if tokens is None or any(_is_given(arguments.get(name)) for name in _BESIDE):
        return None
    if mask is not None and not (isinstance(mask, torch.Tensor) and mask.shape == tokens.shape[:2]):
        return None
    begins = None if mask is not None else _begins(arguments, tokens)
    real = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device) if mask is None else mask.bool()
    # a row without any real token gives nothing, but not a whole batch of them
    if not bool(real.any()) or (begins is None and not first_only and bool(real.all())):
        return None
    return PackedTokens(real, begins, first_only)


def _is_given(argument: StockValue) -> bool:
    return argument is not None and argument is not False


def _begins(arguments: Given, tokens: torch.Tensor) -> torch.Tensor | None:
    """Where sequences begin in rows that hold several, one behind the other; None where each row holds one."""
    shape, positions, bounds = tokens.shape[:2], arguments.get("position_ids"), arguments.get(_BOUNDS[0])
    if bounds is not None:
        begins = torch.zeros(shape[0] * shape[1] + 1, dtype=torch.bool, device=tokens.device)
        begins[bounds.long()] = True
        return begins[:-1].view(shape)
    if positions is None:
        return None
    begins = torch.ones(shape, dtype=torch.bool, device=tokens.device)
    begins[:, 1:] = positions.expand(shape).diff(dim=1) != 1
    return begins if bool(begins[:, 1:].any()) else None


def _pack_arguments(model: Packs, signature: inspect.Signature, arguments: Given, packed: PackedTokens) -> Given:
    """The arguments with packed tokens: whatever has an entry for each token of the batch is packed."""
    made = {name: value for name, value in arguments.items() if name not in _BOUNDS}
    if made.get("position_ids") is not None:
        made["position_ids"] = made["position_ids"].expand(packed.shape)
    elif "position_ids" in signature.parameters:
        made["position_ids"] = _positions(model, arguments, packed)
    made.pop("attention_mask", None)
    for name, value in made.items():
        if isinstance(value, torch.Tensor) and value.shape[:2] == packed.shape:
            made[name] = packed.pack(value)
    if "use_cache" in signature.parameters:
        made["use_cache"] = False
    # nothing in it: a mask that is made already
    made["attention_mask"] = torch.empty(1, 1, 1, 0, device=packed.places.device)
    return made | {"packed": packed}


def _positions(model: Packs, arguments: Given, packed: PackedTokens) -> torch.Tensor:
    """The positions [batch, seq] that the stock model would give to its tokens, where it is told none."""
    rows, columns = packed.shape
    ids, embeds = arguments.get("input_ids"), arguments.get("inputs_embeds")
    # RoBERTa and its like pass over padding, and begin behind its number
    own: StockValue = next(
        (part for part in model.modules() if hasattr(part, "create_position_ids_from_input_ids")), None
    )
    if arguments.get(_BOUNDS[0]) is not None:
        start = 0 if own is None else own.padding_idx + 1
        return packed.unpack(packed.columns.unsqueeze(0) + start)
    if own is None:
        return torch.arange(columns, device=packed.places.device).expand(rows, columns)
    if ids is None:
        return cast(torch.Tensor, own.create_position_ids_from_inputs_embeds(embeds, own.padding_idx))
    return cast(torch.Tensor, own.create_position_ids_from_input_ids(ids, own.padding_idx))


def _unpack_outputs(model: Packs, outputs: StockValue, packed: PackedTokens) -> None:
    """Give the outputs of a base model the shapes that they have with padding."""
    if model.layout_of(model.config).encoder_class is None:
        outputs.last_hidden_state = packed.unpack(outputs.last_hidden_state)
    if outputs.get("hidden_states"):
        # the last one is the last hidden state, as without packing
        states = [None if state is None else packed.unpack(state) for state in outputs.hidden_states[:-1]]
        outputs.hidden_states = (*states, outputs.last_hidden_state)


def unpack_output(module: nn.Module, args: tuple[StockValue, ...], output: torch.Tensor) -> torch.Tensor:
    """A hook behind the norm after the last layer, where it is not in the encoder, and a pooler may follow."""
    packed = current().packed
    return output if packed is None else packed.unpack(output)
