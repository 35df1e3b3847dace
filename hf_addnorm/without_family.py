"""Model types of Transformers that have no AddNorm family, and why: one row each."""

from collections.abc import Iterable
from dataclasses import dataclass

from .models.base.registry import one_of


@dataclass(frozen=True)
class WithoutFamily:
    """A stock family that has no AddNorm version.

    Args:
        name (`str`): what it is called.
        reason (`str`): what in it does not fit an add & norm; follows a colon.
    """

    name: str
    reason: str


_STAGES = "its layers are in stages, between which the width changes and nothing is added, so there is no stream from"
_STAGES += " the first layer to the last that a scheme's constants, streams and last norm are about"

# by the stock model type
WITHOUT_FAMILY: dict[str, WithoutFamily] = {
    "wavlm": WithoutFamily(
        "WavLM",
        "its attention gives the weights of its projections to a function of PyTorch and never calls the projections, "
        "so norms behind q, k and v, and transformed weights, have no place in it",
    ),
    "esm": WithoutFamily(
        "ESM",
        "its base model holds a head for contacts as wide as the number of layers times that of heads, which no loss "
        "reaches, so a grown model would have a head of another width; and ESM-2 has nothing after its embeddings at "
        "which a norm could stand",
    ),
    "nomic_bert": WithoutFamily(
        "NomicBERT",
        "its base model runs the layers itself and has no final norm, so a pre-norm scheme would have none",
    ),
    "eurobert": WithoutFamily(
        "EuroBERT",
        "its keys and values may have fewer heads than its queries, which one norm for q and k cannot fit; and its "
        "embeddings have neither norm nor dropout at which one could stand",
    ),
    "swin": WithoutFamily(
        "Swin",
        f"{_STAGES} (a stage begins with x <- W N(four tokens as one), of another width); and its attention sees "
        "windows alone, which are shifted and padded within a layer, where a norm over tokens would count padding",
    ),
    "swinv2": WithoutFamily(
        "Swin v2",
        f"{_STAGES} (a stage begins with x <- N(W four tokens as one), of another width); and its scores are "
        "cosines of q and k already, so norms of q and k would do nothing",
    ),
    "segformer": WithoutFamily(
        "SegFormer",
        f"{_STAGES} (a stage begins with x <- N(convolution of x)); its keys and values are made of a shorter "
        "sequence, N(convolution of u), so one norm for q and k has two lengths; and a convolution over tokens stands "
        "between w1 and the activation",
    ),
}


def no_family(model_type: str, families: Iterable[str]) -> str:
    """The end of a sentence about a model type: that it has no family, why if that is known, and which there are."""
    row = WITHOUT_FAMILY.get(model_type)
    why = f": {row.reason}" if row else ""
    return f"which has no AddNorm family{why}; families are {one_of(families)}."
