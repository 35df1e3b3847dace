"""Config of DeBERTa-v2 (and v3) with another add & norm."""

from typing import ClassVar

from huggingface_hub.dataclasses import strict
from transformers import DebertaV2Config

from ..core.addnorm_config import AddNormConfig, AddNormEntry


@strict
class AddNormDebertaV2Config(AddNormConfig, DebertaV2Config):
    """The optional convolution after the first layer keeps its own add & norm, and follows the spec's kind of norm.

    The norm of the relative position embeddings is left alone.
    """

    model_type = "addnorm_deberta_v2"
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "AddNormDebertaV2Model",
        "AutoModelForTextEncoding": "AddNormDebertaV2Model",
        "AutoModelForPreTraining": "AddNormDebertaV2ForMaskedLM",
        "AutoModelForMaskedLM": "AddNormDebertaV2ForMaskedLM",
        "AutoModelForSequenceClassification": "AddNormDebertaV2ForSequenceClassification",
        "AutoModelForMultipleChoice": "AddNormDebertaV2ForMultipleChoice",
        "AutoModelForTokenClassification": "AddNormDebertaV2ForTokenClassification",
        "AutoModelForQuestionAnswering": "AddNormDebertaV2ForQuestionAnswering",
    }

    add_norm: AddNormEntry = None

    def add_norm_has_position_table(self) -> bool:
        return bool(self.position_biased_input)

    def add_norm_stays_on_sphere(self) -> bool:
        # the scores have terms of relative positions, which pass no norm
        return False

    def place_width(self, place: str) -> int:
        # the older of the two heads is as wide as the word embeddings
        if place == "head" and self.legacy:
            return getattr(self, "embedding_size", self.hidden_size)
        return super().place_width(place)


__all__ = ["AddNormDebertaV2Config"]
