"""Config of ALBERT with another add & norm."""

from typing import ClassVar

from huggingface_hub.dataclasses import strict
from transformers import AlbertConfig

from ..core.addnorm_config import AddNormConfig, AddNormEntry
from ..core.family_facts import FamilyFacts


@strict
class AddNormAlbertConfig(AddNormConfig, AlbertConfig):
    """ALBERT's layers are shared across the depth.

    What the stock layer has is shared as there; what `add_norm` adds, and every constant that depends on the depth, is
    there once per depth.
    """

    model_type = "addnorm_albert"
    facts = FamilyFacts(position_table=True, layer_counts=("num_hidden_layers", "num_hidden_groups"))
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "AddNormAlbertModel",
        "AutoModelForTextEncoding": "AddNormAlbertModel",
        "AutoModelForPreTraining": "AddNormAlbertForPreTraining",
        "AutoModelForMaskedLM": "AddNormAlbertForMaskedLM",
        "AutoModelForSequenceClassification": "AddNormAlbertForSequenceClassification",
        "AutoModelForMultipleChoice": "AddNormAlbertForMultipleChoice",
        "AutoModelForTokenClassification": "AddNormAlbertForTokenClassification",
        "AutoModelForQuestionAnswering": "AddNormAlbertForQuestionAnswering",
    }

    add_norm: AddNormEntry = None

    def add_norm_depth(self) -> int:
        return self.num_hidden_layers * self.inner_group_num

    def add_norm_stays_on_sphere(self) -> bool:
        # the embeddings are projected behind their norm
        return False

    def place_width(self, place: str) -> int:
        # the embeddings and the heads' norms are before, and after, the factorised projection
        return self.embedding_size if place in ("embed", "head") else super().place_width(place)


__all__ = ["AddNormAlbertConfig"]
