"""An encoder-decoder of two AddNorm models."""

from typing import cast

import torch
from torch import nn
from transformers import EncoderDecoderModel, PreTrainedModel
from transformers.modeling_outputs import Seq2SeqLMOutput

from ..base.protocols import JsonValue, StockValue
from ..base.registry import one_of
from ..core.pretrained import AddNormPreTrainedModel
from ..core.several_stacks import with_decoder_layers
from ..core.transformers_internals import can_return_tuple, fixed_cross_entropy
from .composite import CompositeModel, share_config
from .composite_config import family_of
from .configuration_addnorm_encoder_decoder import AddNormEncoderDecoderConfig
from .part_families import DECODER_CONFIGS, DECODERS, ENCODER_CONFIGS, ENCODERS


class AddNormEncoderDecoderModel(CompositeModel, EncoderDecoderModel):
    """`EncoderDecoderModel` of two AddNorm models; same arguments, same outputs, same keys of the weights.

        source -> encoder -> (enc_to_dec_proj, where the widths differ) -+
                                                                         v
        target, shifted right -> decoder: attention, cross-attention, feed-forward -> logits of the next word

    What differs from the stock class: its folder loads without this package installed; the encoder's pooler, which
    nothing reads, is there and frozen (with a parameter without a gradient DDP stops); with `num_items_in_batch` the
    loss is the sum over the tokens divided by it, so that Trainer's accumulation is exact; `resize_token_embeddings`
    resizes both parts where they have the same words.

    Each part counts its own real tokens: the encoder those of `attention_mask`, the decoder's norms none (it refuses
    norms over tokens).

    Args:
        config (`AddNormEncoderDecoderConfig`, *optional*): by default that of the two models.
        encoder, decoder (`PreTrainedModel`, *optional*): AddNorm models to use, in place of new ones.
    """

    config: AddNormEncoderDecoderConfig
    config_class = AddNormEncoderDecoderConfig

    def __init__(
        self,
        config: AddNormEncoderDecoderConfig | None = None,
        encoder: PreTrainedModel | None = None,
        decoder: PreTrainedModel | None = None,
    ):
        _refuse_models(encoder, decoder)
        if config is None:
            if encoder is None or decoder is None:
                raise ValueError("either a config or an encoder and a decoder must be given.")
            config = self.config_class(encoder=encoder.config.to_dict(), decoder=decoder.config.to_dict())
        _refuse_width(config)
        # not the stock class's own, which knows the parts' models by the Auto classes alone
        super(EncoderDecoderModel, self).__init__(config)
        self.encoder = ENCODERS[config.encoder.model_type](config.encoder) if encoder is None else encoder
        self.decoder = DECODERS[config.decoder.model_type](config.decoder) if decoder is None else decoder
        for part, part_config in ((self.encoder, config.encoder), (self.decoder, config.decoder)):
            share_config(part, part_config)
        if _is_projected(config):
            self.enc_to_dec_proj = nn.Linear(config.encoder.hidden_size, config.decoder.hidden_size)
        pooler: nn.Module | None = getattr(self.encoder, "pooler", None)
        if pooler is not None:
            pooler.requires_grad_(False)
        # CODEPATH: an option of ours; no stock checkpoint takes this path
        if config.share_embeddings:
            of_encoder, of_decoder = (_table_name(part) for part in self.parts)
            self._tied_weights_keys = {f"decoder.{of_decoder}": f"encoder.{of_encoder}"}
        self.post_init()

    @property
    def parts(self) -> list[AddNormPreTrainedModel]:
        return [cast(AddNormPreTrainedModel, part) for part in (self.encoder, self.decoder)]

    def get_expanded_tied_weights_keys(self, all_submodels: bool = False) -> dict[str, str]:
        """As in Transformers, and the decoder's table to the encoder's where they share it."""
        # the stock ones look at tie_word_embeddings, which is each part's own
        return (self._tied_weights_keys or {}) | super().get_expanded_tied_weights_keys(all_submodels)

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, *args: StockValue, **kwargs: StockValue
    ) -> nn.Embedding:
        """As in Transformers, of both parts.

        Returns:
            The encoder's table.
        Raises:
            ValueError: if the parts have other words than each other.
        """
        sizes = [part.config.vocab_size for part in self.parts]
        if sizes[0] != sizes[1]:
            raise ValueError(
                f"the encoder has {sizes[0]} words and the decoder {sizes[1]}: resize model.encoder or model.decoder."
            )
        table, _ = [part.resize_token_embeddings(new_num_tokens, *args, **kwargs) for part in self.parts]
        self.tie_weights()
        return table

    @classmethod
    def from_encoder_decoder_pretrained(
        cls,
        encoder_pretrained_model_name_or_path: StockValue = None,
        decoder_pretrained_model_name_or_path: StockValue = None,
        *model_args: StockValue,
        encoder_add_norm: JsonValue = None,
        decoder_add_norm: JsonValue = None,
        **kwargs: StockValue,
    ) -> StockValue:
        """An encoder-decoder of two checkpoints, stock ones or ours.

        Weights that have a place are the checkpoints'; the cross-attention, and what a new scheme brings, has its
        start values.

        Args:
            encoder_pretrained_model_name_or_path, decoder_pretrained_model_name_or_path (`str`): folders or Hub names.
            model_args: go to the encoder's `__init__`.
            encoder_add_norm, decoder_add_norm (`str`, `dict` or `AddNormSpec`, *optional*): the schemes to load into;
                by default the checkpoints' own.
            kwargs: with the prefix `encoder_` or `decoder_`, for the part's `from_pretrained` (`encoder_dtype=...`);
                `encoder_model`, `decoder_model` give an AddNorm model instead of a checkpoint. Others (and
                `decoder_start_token_id`) are entries of [`AddNormEncoderDecoderConfig`].
        Returns:
            The model, in evaluation mode.
        Raises:
            ValueError: a family that is not in the list, or as [`AddNormEncoderDecoderConfig`].
        """
        own = {key: kwargs.pop(key) for key in list(kwargs) if key in _OWN_KEYS or not key.startswith(_PREFIXES)}
        for_encoder, for_decoder = (
            {key.removeprefix(prefix): value for key, value in kwargs.items() if key.startswith(prefix)}
            for prefix in _PREFIXES
        )
        encoder, decoder = for_encoder.pop("model", None), for_decoder.pop("model", None)
        if decoder is None:
            config_class = family_of(decoder_pretrained_model_name_or_path, DECODER_CONFIGS, "a decoder is one of")
            config, for_decoder = config_class.from_pretrained(
                decoder_pretrained_model_name_or_path,
                add_norm=decoder_add_norm,
                return_unused_kwargs=True,
                **for_decoder,
            )
            config.is_decoder = config.add_cross_attention = True
            decoder = DECODERS[config.model_type].from_pretrained(
                decoder_pretrained_model_name_or_path, config=config, **for_decoder
            )
        if encoder is None:
            config_class = family_of(encoder_pretrained_model_name_or_path, ENCODER_CONFIGS, "an encoder is one of")
            # a decoder's checkpoint is none here
            flags = ("is_decoder", "add_cross_attention")
            encoding: dict[str, StockValue] = {flag: False for flag in flags if hasattr(config_class, flag)}
            config, for_encoder = config_class.from_pretrained(
                encoder_pretrained_model_name_or_path,
                add_norm=encoder_add_norm,
                **encoding,
                return_unused_kwargs=True,
                **for_encoder,
            )
            if encoder_add_norm is not None:
                config.add_norm = with_decoder_layers(config.add_norm, decoder.config.add_norm_depth())
            encoder = ENCODERS[config.model_type].from_pretrained(
                encoder_pretrained_model_name_or_path, *model_args, config=config, **for_encoder
            )
        _refuse_models(encoder, decoder)
        config = cls.config_class(encoder=encoder.config.to_dict(), decoder=decoder.config.to_dict(), **own)
        return cls(config, encoder, decoder).eval()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        encoder_outputs: StockValue = None,
        past_key_values: StockValue = None,
        inputs_embeds: torch.Tensor | None = None,
        decoder_inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        num_items_in_batch: StockValue = None,
        **kwargs: StockValue,
    ) -> StockValue:
        """As in the stock class.

        Args:
            input_ids, attention_mask, inputs_embeds (`torch.Tensor`, *optional*): the source, [batch, source] (or with
                width), 1 in the mask for a real token.
            decoder_input_ids, decoder_attention_mask, decoder_inputs_embeds (`torch.Tensor`, *optional*): the target,
                [batch, target]; by default the labels, shifted right.
            labels (`torch.Tensor`, *optional*): [batch, target], -100 where none.
            encoder_outputs, past_key_values, use_cache (*optional*): for generation.
            num_items_in_batch (`int`, *optional*): what the summed loss is divided by, instead of the labels' number.
            kwargs: for the encoder, and with the prefix `decoder_` for the decoder.
        Returns:
            `Seq2SeqLMOutput` with `logits` [batch, target, vocab].
        """
        if labels is not None and decoder_input_ids is None and decoder_inputs_embeds is None:
            decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
            if decoder_attention_mask is None:
                pad: StockValue = self.config.pad_token_id
                decoder_attention_mask = decoder_input_ids.ne(pad).to(decoder_input_ids.dtype)
        if past_key_values is not None:
            # from Transformers 5.24 on the cache comes as `cache`, in kwargs
            kwargs["past_key_values"] = past_key_values
        outputs = super().forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            decoder_input_ids=decoder_input_ids,
            decoder_attention_mask=decoder_attention_mask,
            encoder_outputs=encoder_outputs,
            inputs_embeds=inputs_embeds,
            decoder_inputs_embeds=decoder_inputs_embeds,
            use_cache=use_cache,
            return_dict=True,
            **kwargs,
        )
        if labels is not None:
            # the stock class's own is a mean in any case, and it warns about a change in version 4.12
            loss = fixed_cross_entropy(outputs.logits.flatten(0, -2), labels.flatten(), num_items_in_batch)
            # the loss comes first in a tuple
            outputs = Seq2SeqLMOutput(loss=loss, **outputs)
        return outputs


_PREFIXES = ("encoder_", "decoder_")
# an entry of the whole, though it begins as one for the decoder
_OWN_KEYS = ("decoder_start_token_id",)


def _refuse_models(encoder: PreTrainedModel | None, decoder: PreTrainedModel | None) -> None:
    """Refuse models of other families, and stock ones: their configs would be saved as ours."""
    for name, model, models in (("encoder", encoder, ENCODERS), ("decoder", decoder, DECODERS)):
        if model is not None and type(model).__name__ not in [known.__name__ for known in models.values()]:
            raise ValueError(
                f"the {name} is a {type(model).__name__}; allowed is {one_of(m.__name__ for m in models.values())}; "
                "from_encoder_decoder_pretrained loads stock checkpoints."
            )


def _refuse_width(config: AddNormEncoderDecoderConfig) -> None:
    width = getattr(config.decoder, "cross_attention_hidden_size", None)
    if width not in (None, config.encoder.hidden_size):
        raise ValueError(
            f"decoder.cross_attention_hidden_size is {width}; allowed is null or the encoder's hidden_size, "
            f"{config.encoder.hidden_size}."
        )


def _is_projected(config: AddNormEncoderDecoderConfig) -> bool:
    same_width = config.encoder.hidden_size == config.decoder.hidden_size
    return not same_width and getattr(config.decoder, "cross_attention_hidden_size", None) is None


def _table_name(model: PreTrainedModel) -> str:
    table = model.get_input_embeddings()
    return next(f"{name}.weight" for name, module in model.named_modules() if module is table)


__all__ = ["AddNormEncoderDecoderModel"]
