"""hf_addnorm: transformer encoders with another add & norm.

Importing it registers every family with AutoConfig, the AutoModel classes and AutoTokenizer.
"""

from .auto import load_pretrained, register_family
from .models.configuration_addnorm_bert import AddNormBertConfig
from .models.modeling_addnorm_bert import (
    AddNormBertForMaskedLM,
    AddNormBertForMultipleChoice,
    AddNormBertForNextSentencePrediction,
    AddNormBertForPreTraining,
    AddNormBertForQuestionAnswering,
    AddNormBertForSequenceClassification,
    AddNormBertForTokenClassification,
    AddNormBertLMHeadModel,
    AddNormBertModel,
)
from .models.presets import PRESETS, Preset
from .models.spec import AddNormSpec


__version__ = "0.1.0"

register_family(AddNormBertConfig)


def presets() -> dict[str, Preset]:
    """Every preset by name: formula, flow drawing, source, axes."""
    return dict(PRESETS)


__all__ = [
    "AddNormBertConfig",
    "AddNormBertForMaskedLM",
    "AddNormBertForMultipleChoice",
    "AddNormBertForNextSentencePrediction",
    "AddNormBertForPreTraining",
    "AddNormBertForQuestionAnswering",
    "AddNormBertForSequenceClassification",
    "AddNormBertForTokenClassification",
    "AddNormBertLMHeadModel",
    "AddNormBertModel",
    "AddNormSpec",
    "Preset",
    "load_pretrained",
    "presets",
    "register_family",
]
