"""Config of a stack: several encoders as one model."""

from typing import ClassVar, Literal

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import PreTrainedConfig

from ..base.protocols import JsonValue, OptionValue, StockValue
from ..base.registries import NORMS
from ..base.registry import parse_option
from ..core.addnorm_config import AddNormConfig, CodeCarryingConfig, refuse_near_miss
from .composite_config import parse_part, refuse_decoder
from .part_families import ENCODER_CONFIGS


Arrangement = Literal["sequence", "parallel"]
Mix = Literal["sum", "softmax", "free"]
Pooling = Literal["cls", "mean"]

# the options that are one word of a few
_WORDS = {"arrangement": Arrangement, "mix": Mix, "classifier_pooling": Pooling}
_KEYS = ["encoders", "norm", "groups", *_WORDS, "classifier_dropout", "head_act"]
# what the encoders say, and the stack repeats
_DERIVED = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
    "type_vocab_size",
    "pad_token_id",
    "initializer_range",
)


@strict
class AddNormStackConfig(CodeCarryingConfig, PreTrainedConfig):
    r"""
    Several encoders as one model, in sequence or in parallel.

        sequence:  words -> e1 -> N -> (projection) -> e2 -> N -> h
        parallel:  words -+-> e1 -> (projection) -> N -+-> + -> h
                          +-> e2 -> (projection) -> N -^

    Sizes are the encoders' own: `hidden_size` is that of the last encoder in a sequence, of the first one in
    parallel; `num_hidden_layers` is the sum, `max_position_embeddings` the least, `vocab_size` that of the first.

    Args:
        encoders (`list`): at least two, each a config of one of the text families in `part_families.py` (ours or
            stock), its dict (with `model_type`, and `add_norm` if wanted), the name of a family (`"bert"`, with its
            default sizes), or a checkpoint's folder or Hub name, of which the config alone is taken.
        arrangement (`str`, *optional*, defaults to `"sequence"`): in "sequence" each encoder's output is the next
            one's `inputs_embeds`; in "parallel" all read the words, and their outputs are added.
        mix (`str`, *optional*, defaults to `"sum"`): what multiplies the terms of a sum in parallel: nothing
            ("sum"), learned weights through a softmax ("softmax", which start equal), or learned weights ("free",
            which start at 1). Every sum of several terms, in a group and over the groups, has its own weights.
        norm (`str` or `dict`, *optional*): a norm, as in `add_norm`, after each group. By default none.
        groups (`list[int]`, *optional*): the sizes of the groups, in order; by default every encoder is one. In a
            sequence the norm stands after the last of a group; in parallel a group is summed and normed, and then
            the groups are summed: `[N]` is one norm of the whole sum.
        classifier_pooling (`str`, *optional*, defaults to `"cls"`): the sequence's vector is that of the first token,
            or the "mean" of the real tokens.
        classifier_dropout (`float`, *optional*, defaults to 0.1): before the classifiers.
        head_act (`str`, *optional*, defaults to `"gelu"`): activation in the masked-LM head.
        tie_word_embeddings (`bool`, *optional*, defaults to `True`): tie the masked-LM head to the first encoder's
            word embeddings.

    Raises:
        ValueError: in one sentence, for anything that is not known or does not fit together: fewer than two encoders,
            a family that is not in the list, a decoder, unequal vocabularies in parallel, groups that do not add up,
            an idle option, a norm that does not fit, sizes that belong to an encoder.

    Examples:

    ```python
    >>> from hf_addnorm import AddNormStackConfig

    >>> AddNormStackConfig(encoders=["bert", {"model_type": "bert", "add_norm": "pre_ln"}]).num_hidden_layers
    24
    ```"""

    model_type = "addnorm_stack"
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "AddNormStackModel",
        "AutoModelForTextEncoding": "AddNormStackModel",
        "AutoModelForMaskedLM": "AddNormStackForMaskedLM",
        "AutoModelForSequenceClassification": "AddNormStackForSequenceClassification",
        "AutoModelForTokenClassification": "AddNormStackForTokenClassification",
    }

    # all but the numbers are parsed on assignment, whatever they are set with
    encoders: OptionValue = None
    arrangement: OptionValue = "sequence"
    mix: OptionValue = "sum"
    norm: OptionValue = None
    groups: OptionValue = None
    classifier_pooling: OptionValue = "cls"
    classifier_dropout: float | int = 0.1
    head_act: str = "gelu"
    tie_word_embeddings: bool = True

    def __post_init__(self, **kwargs: StockValue) -> None:
        super().__post_init__(**kwargs)
        self.refuse()

    def __setattr__(self, key: str, value: StockValue) -> None:
        if key in _DERIVED:
            raise ValueError(f"{key} of a stack is that of its encoders: set it in the entry of `encoders`.")
        if key == "encoders":
            value = _parse_encoders(value)
        elif key == "norm":
            value = None if value is None else NORMS.parse(value, "norm")
        elif key in _WORDS:
            value = parse_option(_WORDS[key], value, key)
        elif not hasattr(type(self), key):
            refuse_near_miss(key, _KEYS)
        super().__setattr__(key, value)

    def __getattr__(self, key: str) -> AddNormConfig:
        # the encoders' configs under the names that Transformers asks for, those of the modules
        if key in (names := self.sub_configs):
            encoder: AddNormConfig = self.encoders[list(names).index(key)]
            return encoder
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {key!r}")

    @property
    def sub_configs(self) -> dict[str, type[PreTrainedConfig]]:
        """The encoders' config classes, by the encoder's name: attention and dtype are set through these."""
        return {f"encoder_{index}": type(config) for index, config in enumerate(vars(self).get("encoders", ()))}

    @classmethod
    def from_dict(cls, config_dict: dict[str, JsonValue], **kwargs: StockValue) -> StockValue:
        """As in Transformers; overrides are checked like the config's own keys."""
        for key in kwargs:
            refuse_near_miss(key, _KEYS)
        result = super().from_dict(config_dict, **kwargs)
        (result[0] if isinstance(result, tuple) else result).refuse()
        return result

    def to_dict(self) -> dict[str, JsonValue]:
        """As in Transformers; encoders and norm in their JSON form."""
        encoders = [config.to_dict() for config in self.encoders]
        norm = None if self.norm is None else self.norm.to_dict()
        return super().to_dict() | {"encoders": encoders, "norm": norm}

    def parts(self) -> dict[str, PreTrainedConfig]:
        return {f"encoder {index + 1}": config for index, config in enumerate(self.encoders)}

    def members(self) -> list[list[int]]:
        """The encoders of each group; without a norm all are one."""
        count = len(self.encoders)
        sizes = [count] if self.norm is None else [1] * count if self.groups is None else self.groups
        starts = [sum(sizes[:group]) for group in range(len(sizes))]
        return [list(range(start, start + size)) for start, size in zip(starts, sizes, strict=True)]

    def build_norm(self, members: list[int]) -> nn.Module:
        """The norm after a group, or the identity; what its options leave open is that of the last encoder."""
        if self.norm is None:
            return nn.Identity()
        config = self.encoders[members[-1]]
        return AddNormConfig.build_norm(config, self.norm, self.output_width(members[-1]))

    def output_width(self, index: int) -> int:
        """The number of features after an encoder and, in parallel, its projection."""
        width: int = self.hidden_size if self.arrangement == "parallel" else self.encoders[index].hidden_size
        return width

    @property
    def hidden_size(self) -> int:
        """The width of what the stack gives."""
        value: int = self.encoders[0 if self.arrangement == "parallel" else -1].hidden_size
        return value

    @property
    def vocab_size(self) -> int:
        """The first encoder's."""
        value: int = self.encoders[0].vocab_size
        return value

    @vocab_size.setter
    def vocab_size(self, size: int) -> None:
        for config in self.encoders:
            config.vocab_size = size

    @property
    def num_hidden_layers(self) -> int:
        """The number of layers of all encoders."""
        return sum(config.add_norm_depth() for config in self.encoders)

    @property
    def num_attention_heads(self) -> int:
        """The last encoder's."""
        value: int = self.encoders[-1].num_attention_heads
        return value

    @property
    def max_position_embeddings(self) -> int:
        """The longest sequence that all of them read."""
        value: int = min(config.max_position_embeddings for config in self.encoders)
        return value

    @property
    def type_vocab_size(self) -> int:
        """The number of token types that any of them knows."""
        return max(getattr(config, "type_vocab_size", 0) for config in self.encoders)

    @property
    def pad_token_id(self) -> int | None:
        """The first encoder's."""
        value: int | None = self.encoders[0].pad_token_id
        return value

    @property
    def initializer_range(self) -> float:
        """The first encoder's: projections and heads are drawn with it."""
        value: float = self.encoders[0].initializer_range
        return value

    def refuse(self) -> None:
        """Refuse what does not fit together.

        Raises:
            ValueError: in one sentence.
        """
        if self.arrangement == "sequence" and self.mix != "sum":
            raise ValueError(
                f"mix is {self.mix!r}, and the encoders of a sequence are not summed; allowed is 'sum', or "
                "arrangement = 'parallel'."
            )
        sizes = [config.vocab_size for config in self.encoders]
        if self.arrangement == "parallel" and len(set(sizes)) > 1:
            raise ValueError(
                f"the encoders' vocab_size are {sizes}, and in parallel one tokenizer feeds all of them; allowed is "
                "one size."
            )
        self._refuse_groups()
        with torch.device("meta"):
            for members in self.members():
                try:
                    self.build_norm(members)
                except ValueError as error:
                    raise ValueError(f"norm: {error}") from None

    def _refuse_groups(self) -> None:
        if self.groups is None:
            return
        if self.norm is None:
            raise ValueError(
                f"groups is {self.groups!r}: it says after which encoders the norm stands, and norm is null."
            )
        whole = isinstance(self.groups, (list, tuple)) and all(type(size) is int and size > 0 for size in self.groups)
        if not whole or sum(self.groups) != len(self.encoders):
            raise ValueError(
                f"groups is {self.groups!r}; allowed is a list of whole numbers, at least 1, that add up to the "
                f"{len(self.encoders)} encoders."
            )


def _parse_encoders(value: StockValue) -> list[AddNormConfig]:
    if not isinstance(value, (list, tuple)) or len(value) < 2:
        raise ValueError(
            f"encoders is {value!r}; allowed is a list of at least two configs, dicts with 'model_type', names of "
            f"families ({', '.join(ENCODER_CONFIGS)}) or checkpoints."
        )
    return [_parse_encoder(entry, f"encoders[{index}]") for index, entry in enumerate(value)]


def _parse_encoder(value: StockValue, where: str) -> AddNormConfig:
    config = parse_part(value, where, ENCODER_CONFIGS)
    refuse_decoder(config, where, "a stack is made of encoders")
    return config


__all__ = ["AddNormStackConfig"]
