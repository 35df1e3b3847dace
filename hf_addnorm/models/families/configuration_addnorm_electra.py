"""Config of ELECTRA with another add & norm."""

from typing import ClassVar

from huggingface_hub.dataclasses import strict
from transformers import ElectraConfig

from ..core.addnorm_config import AddNormConfig, AddNormEntry
from ..core.family_facts import FamilyFacts


@strict
class AddNormElectraConfig(AddNormConfig, ElectraConfig):
    model_type = "addnorm_electra"
    facts = FamilyFacts(position_table=True)
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "AddNormElectraModel",
        "AutoModelForTextEncoding": "AddNormElectraModel",
        "AutoModelForPreTraining": "AddNormElectraForPreTraining",
        "AutoModelForCausalLM": "AddNormElectraForCausalLM",
        "AutoModelForMaskedLM": "AddNormElectraForMaskedLM",
        "AutoModelForSequenceClassification": "AddNormElectraForSequenceClassification",
        "AutoModelForMultipleChoice": "AddNormElectraForMultipleChoice",
        "AutoModelForTokenClassification": "AddNormElectraForTokenClassification",
        "AutoModelForQuestionAnswering": "AddNormElectraForQuestionAnswering",
    }

    add_norm: AddNormEntry = None

    def add_norm_stays_on_sphere(self) -> bool:
        # embeddings of another width are projected behind their norm
        return self.embedding_size == self.hidden_size

    def place_width(self, place: str) -> int:
        # the embeddings and the generator's norm are before, and after, the projection
        return self.embedding_size if place in ("embed", "head") else super().place_width(place)


__all__ = ["AddNormElectraConfig"]
