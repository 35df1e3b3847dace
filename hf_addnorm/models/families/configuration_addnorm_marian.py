"""Config of Marian with another add & norm."""

from typing import ClassVar

from huggingface_hub.dataclasses import strict
from transformers import MarianConfig

from ..core.addnorm_config import AddNormEntry
from ..core.family_facts import FamilyFacts
from .bart_shape import BART_STACKS, BartShapeConfig


@strict
class AddNormMarianConfig(BartShapeConfig, MarianConfig):
    model_type = "addnorm_marian"
    facts = FamilyFacts(
        stacks=BART_STACKS,
        no_positions="the table of sines and cosines that this model adds for a position is fixed: it has no weights, "
        "and a checkpoint does not contain it",
    )
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "AddNormMarianModel",
        "AutoModelForSeq2SeqLM": "AddNormMarianMTModel",
        "AutoModelForCausalLM": "AddNormMarianForCausalLM",
    }

    add_norm: AddNormEntry = None
    add_norm_decoder: AddNormEntry = None


__all__ = ["AddNormMarianConfig"]
