"""A row of the families under test, and reasons that several rows have."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers


@dataclass(frozen=True)
class Family:
    """A family's config, the tiny size it is tested at, and inputs with labels for each of its models.

    A row may also be a variant of a family: the same classes, another layout.
    """

    config_class: type[Any]
    tiny: dict[str, Any]
    inputs: Callable[[str], dict[str, torch.Tensor]]
    attentions: tuple[str, ...] = ("eager", "sdpa")
    # models that no Auto class finds
    more_models: tuple[str, ...] = ()
    # presets that have no meaning in it
    without: tuple[str, ...] = ()
    # whether all its models are causal, or have a stack of layers that is, not just the one that writes text
    causal: bool = False
    # whether a table's row is added to the embeddings for a token's position
    position_table: bool = False
    # the family whose layers it shares: it runs a few specs, the other one all
    shape: str = ""
    # what the config of a model has beside `tiny`, by the end of the model's name
    of_model: Mapping[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def models(self) -> list[str]:
        """Names of the AddNorm models."""
        return sorted({*self.config_class.auto_classes.values(), *self.more_models})

    @property
    def stock_config_class(self) -> type[Any]:
        return transformers.models.auto.configuration_auto.CONFIG_MAPPING[self.config_class.stock_model_type]

    @property
    def writer(self) -> str | None:
        """The model that writes text from a source, of an encoder-decoder."""
        autos = self.config_class.auto_classes
        return autos.get("AutoModelForSeq2SeqLM", autos.get("AutoModelForSpeechSeq2Seq"))

    def source(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """What an encoder-decoder's encoder reads, of the inputs of a model."""
        names = ("input_ids", "input_features", "input_values", "attention_mask")
        return {name: inputs[name] for name in names if name in inputs}

    def config(self, model: str, add_norm: Any = None, **kwargs: Any) -> Any:
        return self.config_class(**{**self.tiny, **self._for_model(model), **kwargs}, add_norm=add_norm)

    def stock_config(self, model: str, **kwargs: Any) -> Any:
        return self.stock_config_class(**{**self.tiny, **self._for_model(model), **kwargs})

    def is_causal(self, model: str) -> bool:
        return self.causal or model == self.config_class.auto_classes.get("AutoModelForCausalLM")

    def _for_model(self, model: str) -> dict[str, Any]:
        more = next((entries for end, entries in self.of_model.items() if model.endswith(end)), {})
        return more | ({"is_decoder": True} if self.is_causal(model) and not self.causal else {})

    def model_class(self, model: str) -> type[Any]:
        return getattr(
            importlib.import_module(self.config_class.__module__.replace("configuration_", "modeling_")), model
        )

    def stock_class(self, model: str) -> type[Any]:
        return getattr(transformers, model.removeprefix("AddNorm"))


# t_fixup starts the tables of the embeddings
NO_TABLES = ("t_fixup",)
# in nGPT unit vectors and cosines reach the layers and the scores as they are
NO_SPHERE = ("ngpt",)
