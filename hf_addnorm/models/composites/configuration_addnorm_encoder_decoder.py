"""Config of an encoder-decoder of two AddNorm models."""

from collections.abc import Mapping
from typing import ClassVar

from huggingface_hub.dataclasses import strict
from transformers import EncoderDecoderConfig, PreTrainedConfig

from ..base.protocols import JsonValue, OptionValue, StockValue
from ..core.addnorm_config import AddNormConfig, CodeCarryingConfig, refuse_near_miss
from ..core.several_stacks import with_decoder_layers
from .composite_config import as_dict, parse_part, refuse_decoder
from .part_families import DECODER_CONFIGS, ENCODER_CONFIGS


_KEYS = ["encoder", "decoder", "share_embeddings"]


@strict
class AddNormEncoderDecoderConfig(CodeCarryingConfig, EncoderDecoderConfig):
    r"""
    `EncoderDecoderConfig` of two AddNorm models, each with an add & norm of its own.

        source -> encoder -> (projection) -+
                                           v
        target so far -> decoder: attention, cross-attention, feed-forward -> next word

    The decoder is made one: `is_decoder` and `add_cross_attention` are set in it.

    Some schemes have constants that come from the depths of both (DeepNorm, sub-LN): where the encoder's `add_norm`
    leaves the option `decoder_layers` open, it is set to the decoder's depth. An `add_norm` in its stored form (with
    `format_version`: that of a checkpoint) stays as it is: weights were trained with it.

    Args:
        encoder (*optional*, defaults to `"bert"`): a config of one of the encoders in `part_families.py` (ours or
            stock), its dict (with `model_type`, and `add_norm` if wanted), the name of a family (with its default
            sizes), or a checkpoint's folder or Hub name, of which the config alone is taken.
        decoder (*optional*, defaults to `"bert"`): likewise, of one of the decoders there.
        share_embeddings (`bool`, *optional*, defaults to `False`): encoder and decoder have one table of word
            embeddings. (The decoder's own `tie_word_embeddings` ties its head to its table.)
        pad_token_id, decoder_start_token_id (`int`, *optional*): as in the stock config; needed for labels.

    Raises:
        ValueError: in one sentence, for a family that is not in the list, a decoder as encoder, tables that cannot be
            shared, and whatever the parts' configs refuse; the sentence names the entry.

    Examples:

    ```python
    >>> from hf_addnorm import AddNormEncoderDecoderConfig

    >>> config = AddNormEncoderDecoderConfig(encoder={"model_type": "bert", "add_norm": "deepnorm"}, decoder="gpt2")
    >>> config.encoder.add_norm.residual.options["skip_scale"].options
    {'decoder_layers': 12}
    ```"""

    model_type = "addnorm_encoder_decoder"
    stock_model_type: ClassVar[str] = "encoder-decoder"
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "AddNormEncoderDecoderModel",
        "AutoModelForSeq2SeqLM": "AddNormEncoderDecoderModel",
    }
    # the stock ones are of any model type that is registered
    sub_configs_defaults: ClassVar[dict[str, JsonValue]] = {}

    # parsed on assignment, whatever they are set with
    encoder: OptionValue = None
    decoder: OptionValue = None
    share_embeddings: bool = False

    def __post_init__(self, **kwargs: StockValue) -> None:
        # its depth rules wait for the decoder
        self.encoder = self.encoder
        super().__post_init__(**kwargs)
        self.refuse()

    def __setattr__(self, key: str, value: StockValue) -> None:
        if key == "decoder":
            fixed = {"is_decoder": True, "add_cross_attention": True}
            value = parse_part(value or "bert", key, DECODER_CONFIGS, **fixed)
        elif key == "encoder" and "decoder" in vars(self):
            value = _parse_encoder(value or "bert", self.decoder.add_norm_depth())
        elif not hasattr(type(self), key):
            refuse_near_miss(key, _KEYS)
        super().__setattr__(key, value)

    @property
    def sub_configs(self) -> dict[str, type[PreTrainedConfig]]:
        """The parts' config classes: attention and dtype are set through these."""
        return {key: type(getattr(self, key)) for key in ("encoder", "decoder")}

    @classmethod
    def from_dict(cls, config_dict: dict[str, JsonValue], **kwargs: StockValue) -> StockValue:
        """As in Transformers; overrides are checked like the config's own keys, a dict changes a part's entries."""
        for key in kwargs:
            refuse_near_miss(key, _KEYS)
        parts = {key: kwargs.pop(key) for key in ("encoder", "decoder") if isinstance(kwargs.get(key), Mapping)}
        config_dict = config_dict | {key: {**config_dict.get(key, {}), **value} for key, value in parts.items()}
        result = super().from_dict(config_dict, **kwargs)
        (result[0] if isinstance(result, tuple) else result).refuse()
        return result

    @classmethod
    def from_encoder_decoder_configs(
        cls, encoder_config: PreTrainedConfig, decoder_config: PreTrainedConfig, **kwargs: StockValue
    ) -> "AddNormEncoderDecoderConfig":
        """The config of two; as in Transformers, but the two stay as they are."""
        return cls(encoder=encoder_config, decoder=decoder_config, **kwargs)

    def parts(self) -> dict[str, PreTrainedConfig]:
        return {"encoder": self.encoder, "decoder": self.decoder}

    def refuse(self) -> None:
        """Refuse what does not fit together.

        Raises:
            ValueError: in one sentence.
        """
        if not self.share_embeddings:
            return
        tables = [(part.vocab_size, _table_width(part)) for part in (self.encoder, self.decoder)]
        if tables[0] != tables[1]:
            raise ValueError(
                f"share_embeddings is true, and the tables are {tables[0]} in the encoder and {tables[1]} in the "
                "decoder (words, width); allowed is false, or the same sizes."
            )


def _table_width(config: AddNormConfig) -> int:
    width: int = getattr(config, "embedding_size", None) or config.hidden_size
    return width


def _parse_encoder(value: StockValue, decoder_layers: int) -> AddNormConfig:
    is_stored = _is_stored(value)
    config = parse_part(value, "encoder", ENCODER_CONFIGS)
    refuse_decoder(config, "encoder", "a decoder reads what an encoder gives")
    if not is_stored:
        config.add_norm = with_decoder_layers(config.add_norm, decoder_layers)
    return config


def _is_stored(value: StockValue) -> bool:
    """Whether an entry is what a checkpoint says: a config or a spec as an object is of a model to be made."""
    if isinstance(value, PreTrainedConfig):
        return False
    add_norm = as_dict(value, "encoder", ENCODER_CONFIGS).get("add_norm")
    return isinstance(add_norm, Mapping) and "format_version" in add_norm


__all__ = ["AddNormEncoderDecoderConfig"]
