"""The families under test: one row each, from which every suite is generated."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers

import hf_addnorm
from hf_addnorm import AddNormBertConfig, presets


@dataclass(frozen=True)
class Family:
    """A family's config, the tiny size it is tested at, and inputs with labels for each of its models."""

    config_class: type[Any]
    tiny: dict[str, Any]
    inputs: Callable[[str], dict[str, torch.Tensor]]

    @property
    def models(self) -> list[str]:
        """Names of the AddNorm models."""
        return sorted(set(self.config_class.auto_classes.values()))

    @property
    def stock_config_class(self) -> type[Any]:
        return transformers.models.auto.configuration_auto.CONFIG_MAPPING[self.config_class.stock_model_type]

    def config(self, model: str, add_norm: Any = None, **kwargs: Any) -> Any:
        return self.config_class(**{**self.tiny, **_for_model(model), **kwargs}, add_norm=add_norm)

    def stock_config(self, model: str, **kwargs: Any) -> Any:
        return self.stock_config_class(**{**self.tiny, **_for_model(model), **kwargs})

    def model_class(self, model: str) -> type[Any]:
        return getattr(hf_addnorm, model)

    def stock_class(self, model: str) -> type[Any]:
        return getattr(transformers, model.removeprefix("AddNorm"))


def _for_model(model: str) -> dict[str, Any]:
    return {"is_decoder": True} if "LMHead" in model else {}


def text_inputs(model: str) -> dict[str, torch.Tensor]:
    """Three sequences of 10 tokens, the second one padded, with labels for the model's task."""
    generator = torch.Generator().manual_seed(7)

    def draw(high: int, *shape: int) -> torch.Tensor:
        return torch.randint(0, high, shape, generator=generator)

    choices = (3, 2) if "MultipleChoice" in model else (3,)
    inputs = {"input_ids": draw(99, *choices, 10), "token_type_ids": draw(2, *choices, 10)}
    inputs["attention_mask"] = torch.ones(*choices, 10, dtype=torch.long)
    inputs["attention_mask"][1, ..., 7:] = 0
    labels = {
        "ForPreTraining": {"labels": draw(99, 3, 10), "next_sentence_label": draw(2, 3)},
        "LMHead": {"labels": draw(99, 3, 10)},
        "ForMaskedLM": {"labels": draw(99, 3, 10)},
        "ForNextSentencePrediction": {"labels": draw(2, 3)},
        "ForSequenceClassification": {"labels": draw(2, 3)},
        "ForMultipleChoice": {"labels": draw(2, 3)},
        "ForTokenClassification": {"labels": draw(2, 3, 10)},
        "ForQuestionAnswering": {"start_positions": draw(7, 3), "end_positions": draw(7, 3)},
    }
    return inputs | next((value for key, value in labels.items() if key in model), {})


FAMILIES = {
    "bert": Family(
        AddNormBertConfig,
        {
            "vocab_size": 99,
            "hidden_size": 32,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "intermediate_size": 37,
            "max_position_embeddings": 64,
        },
        text_inputs,
    ),
}

MODELS = [(family, model) for family in FAMILIES for model in FAMILIES[family].models]
PRESET_NAMES = list(presets())

# specs beyond the presets, so that every axis of the spec is in the generated suites
OTHER_SPECS: dict[str, Any] = {
    "post_rms": {"preset": "post_ln", "norm": "rms_norm"},
    "post_dyt_everywhere": {"norm": "dyt", "head": True, "final": True},
    "zero_centered": {"preset": "pre_ln", "norm": {"kind": "rms_norm", "zero_centered": True}},
    "std_form": {"norm": {"kind": "layer_norm", "eps_place": "outside", "variance": "unbiased", "eps": 1e-6}},
    "no_norms": {"attention": [], "feed_forward": [], "embed": False, "head": False},
    "all_slots": {
        "attention": {"pre": True, "mid": "rms_norm", "out": "dyt", "post": {"kind": "layer_norm", "bias": False}},
        "feed_forward": ["pre", "mid", "out", "post"],
        "dropout": "after_out",
        "final": "affine",
    },
    "skip_init": {"preset": "pre_ln", "residual": {"kind": "scalar", "share": "sublayer"}},
    "scaled_branch": {
        "preset": "pre_ln",
        "residual": {"kind": "constant", "branch_scale": {"kind": "power", "of": "layers", "exponent": -0.5}},
        "init": ["scaled_output"],
    },
    "learned_skip": {"residual": {"kind": "vector", "side": "skip", "start": 1.0, "share": "layer"}},
    "by_layer": {
        "preset": "pre_ln",
        "layers": [
            {"index": 0, "attention": [], "residual": {"kind": "constant", "skip_scale": 0.5}},
            {"last": 2, "norm": "rms_norm", "feed_forward": ["pre", "out"]},
        ],
    },
}
SPECS: dict[str, Any] = {name: name for name in PRESET_NAMES} | OTHER_SPECS


def fill_with_pattern(model: torch.nn.Module) -> None:
    """Distinct, bounded values in every parameter, so that a weight in the wrong place shows."""
    with torch.no_grad():
        for index, (_, parameter) in enumerate(sorted(model.named_parameters())):
            flat = torch.arange(parameter.numel(), dtype=torch.float64)
            values = 0.1 * torch.sin(0.7 * flat + index) + (1.0 if parameter.dim() == 1 else 0.0)
            parameter.copy_(values.view_as(parameter))
