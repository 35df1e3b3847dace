"""Models with an encoder and a decoder of their own: each stack of layers has an add & norm."""

import copy
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from torch import nn

from ..base.protocols import JsonValue, StockValue
from ..base.registry import to_json
from ..spec.spec import AddNormSpec
from .addnorm_config import AddNormConfig


def with_decoder_layers(spec: AddNormSpec, decoder_layers: int) -> AddNormSpec:
    """The spec of an encoder with the decoder's depth in every option `decoder_layers` that is open."""

    def told(value: JsonValue) -> JsonValue:
        if isinstance(value, Mapping):
            return {
                key: decoder_layers if key == "decoder_layers" and item is None else told(item)
                for key, item in value.items()
            }
        return [told(item) for item in value] if isinstance(value, list) else value

    return spec.once(("decoder_layers", decoder_layers), lambda: AddNormSpec.parse(told(to_json(spec))))


class EncoderDecoderFamilyConfig(AddNormConfig):
    """Mixin for the config of a family whose models have an encoder, a decoder, or both.

    `add_norm` is the scheme of both stacks of layers, or of the encoder alone where `add_norm_decoder` says another
    one for the decoder. Where a scheme's constants come from the depths of both (DeepNorm, sub-LN), an encoder that
    has a decoder behind it has those.

    The entry for the decoder does not begin with `decoder_`: Transformers takes such a beginning away where it wants
    to know about the decoder alone.

    Raises:
        ValueError: as `AddNormConfig`; the sentence names the entry, and the stack where one entry is for both.
    """

    add_norm_entries: ClassVar[tuple[str, ...]] = ("add_norm", "add_norm_decoder")
    add_norm_docstring: ClassVar[str] = """
    add_norm_decoder (`str`, `dict` or `AddNormSpec`, *optional*):
        That of the decoder's layers, by default the same."""
    if TYPE_CHECKING:
        is_encoder_decoder: StockValue
        is_decoder: StockValue

        @property
        def add_norm_decoder(self) -> AddNormSpec | None: ...

        @add_norm_decoder.setter
        def add_norm_decoder(self, value: AddNormSpec | str | Mapping[str, JsonValue] | None) -> None: ...

    def __setattr__(self, key: str, value: StockValue) -> None:
        if key == "add_norm_decoder" and value is not None:
            try:
                value = AddNormSpec.parse(value, self.stock_add_norm())
            except ValueError as error:
                raise ValueError(_named(key, str(error))) from error.__cause__
        super().__setattr__(key, value)

    def add_norm_stacks(self) -> dict[str, AddNormConfig]:
        if self.stack_name:
            return {self.stack_name: self}
        if self.is_encoder_decoder:
            return {name: self.add_norm_stack(name) for name in self.facts.stacks}
        # not every stock config has the entry
        name = "decoder" if getattr(self, "is_decoder", False) else "encoder"
        return {name: self.add_norm_stack(name)}

    def add_norm_stack(self, name: str) -> AddNormConfig:
        """The config of one stack: a copy of this one that says of that stack what a config says of the only one."""
        stack = copy.copy(self)
        spec = self.add_norm
        if name == "decoder":
            spec = self.add_norm_decoder or spec
        elif self.is_encoder_decoder:
            spec = with_decoder_layers(spec, getattr(self, self.facts.stacks["decoder"]["num_hidden_layers"]))
        values = {entry: getattr(self, own) for entry, own in self.facts.stacks[name].items()}
        for entry, value in {"stack_name": name, "add_norm": spec, **values}.items():
            setattr(stack, entry, value)
        return stack

    @property
    def add_norm_entry(self) -> str:
        has_own = self.stack_name == "decoder" and self.add_norm_decoder is not None
        return "add_norm_decoder" if has_own else "add_norm"

    def add_norm_sentence(self, sentence: str) -> str:
        sentence = _named(self.add_norm_entry, sentence)
        if self.stack_name != "decoder" or self.add_norm_entry != "add_norm":
            return sentence
        return f"{sentence} This is about the decoder, for which add_norm_decoder can say another scheme."

    def add_norm_sublayers(self) -> list[str]:
        reads_encoder = self.is_encoder_decoder or getattr(self, "add_cross_attention", False)
        cross = ["cross_attention"] if self.stack_name == "decoder" and reads_encoder else []
        return ["attention", *cross, "feed_forward"]

    def add_norm_is_causal(self) -> bool:
        return self.stack_name == "decoder"

    def add_norm_has_stock_norms(self) -> bool:
        if self.stack_name:
            return super().add_norm_has_stock_norms()
        return all(stack.add_norm_has_stock_norms() for stack in self.add_norm_stacks().values())

    def to_dict(self) -> dict[str, JsonValue]:
        """As in Transformers; both specs in their JSON form."""
        spec = self.add_norm_decoder
        return super().to_dict() | {"add_norm_decoder": None if spec is None else spec.to_dict()}


def _named(entry: str, sentence: str) -> str:
    """A sentence about `add_norm`, about another entry."""
    return re.sub(r"\badd_norm\b", entry, sentence)


class HasEncoderAlone(nn.Module):
    """Mixin for a model that has no decoder, where the stock model does not say so in its config."""

    def __init__(self, config: StockValue):
        config = copy.deepcopy(config)
        config.is_encoder_decoder = config.is_decoder = False
        super().__init__(config)
