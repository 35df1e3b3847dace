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

_MACARON = "a layer of a Conformer is four sublayers, two of them feed-forwards whose output counts half, and one a"
_MACARON += " convolution over tokens; the formulas of the schemes are of one attention and one feed-forward"

# by the stock model type
WITHOUT_FAMILY: dict[str, WithoutFamily] = {
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
    "wav2vec2-conformer": WithoutFamily("Wav2Vec2-Conformer", _MACARON),
    "wav2vec2-bert": WithoutFamily("Wav2Vec2-BERT", _MACARON),
    "parakeet_encoder": WithoutFamily("Parakeet", _MACARON),
    "seamless_m4t": WithoutFamily("SeamlessM4T", f"its encoder of speech has other layers: {_MACARON}"),
    "fastspeech2_conformer": WithoutFamily("FastSpeech2-Conformer", _MACARON),
    "vits": WithoutFamily(
        "VITS",
        "Transformers cannot train it (its forward refuses labels), so weights in another scheme could not be learned",
    ),
    "funnel": WithoutFamily(
        "Funnel",
        "its tokens are pooled between layers, so what a sublayer adds is not as long as the stream that it read",
    ),
    "reformer": WithoutFamily(
        "Reformer",
        "its layers are reversible: the backward finds a layer's input from y1 = x1 + A(x2), y2 = x2 + M(y1), which "
        "no other residual and no norm behind a sum allows",
    ),
    "mobilebert": WithoutFamily(
        "MobileBERT",
        "a layer leaves the stream for a narrower one and has four feed-forwards there, each with a norm and a sum; "
        "the formulas of the schemes are of one",
    ),
    "mamba": WithoutFamily(
        "Mamba", "a layer is one mixer of tokens, and has neither an attention with q, k, v nor a feed-forward"
    ),
}


def no_family(model_type: str, families: Iterable[str]) -> str:
    """The end of a sentence about a model type: that it has no family, why if that is known, and which there are."""
    row = WITHOUT_FAMILY.get(model_type)
    why = f": {row.reason}" if row else ""
    return f"which has no AddNorm family{why}; families are {one_of(families)}."
