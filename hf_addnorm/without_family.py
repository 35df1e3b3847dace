"""Model types of Transformers that have no AddNorm family, each with the reason."""

from collections.abc import Iterable

from .models.base.registry import one_of


_STAGES = (
    "from stage to stage the stream has fewer tokens and more features, so no residual, no norm and no rule by depth "
    "is that of all layers"
)
_MACARON = (
    "a layer of a Conformer is four sublayers, two of them feed-forwards whose output counts half, and one a "
    "convolution; the formulas of the schemes are of one attention and one feed-forward"
)
_MIXER = "a layer is one mixer of tokens, and has neither an attention with q, k, v nor a feed-forward"

# by the stock model type, as the end of a sentence
WITHOUT_FAMILY: dict[str, str] = {
    **dict.fromkeys(("swin", "swinv2", "donut-swin", "maskformer-swin", "segformer", "pvt", "pvt_v2"), _STAGES),
    **dict.fromkeys(("convnext", "convnextv2", "resnet"), f"{_STAGES}; and it has no attention"),
    **dict.fromkeys(
        (
            "fastspeech2_conformer",
            "fastspeech2_conformer_with_hifigan",
            "parakeet_encoder",
            "seamless_m4t",
            "seamless_m4t_v2",
            "wav2vec2-bert",
            "wav2vec2-conformer",
        ),
        _MACARON,
    ),
    **dict.fromkeys(("mamba", "mamba2"), _MIXER),
    "funnel": (
        "its tokens are pooled between layers, so that what a sublayer adds has another length than the stream that "
        "it read"
    ),
    "mobilebert": (
        "a layer leaves the stream for a narrower one and has four feed-forwards there, each with a norm and a sum; "
        "the formulas of the schemes are of one"
    ),
    "reformer": (
        "its layers are reversible: the backward finds a layer's input from y1 = x1 + A(x2), y2 = x2 + M(y1), which "
        "no other residual and no norm behind a sum allows"
    ),
    "esm": (
        "its base model holds a head for contacts as wide as the number of layers times that of heads, which no loss "
        "reaches, so a grown model would have a head of another width; and ESM-2 has nothing after its embeddings at "
        "which a norm could stand"
    ),
    "eurobert": (
        "its keys and values may have fewer heads than its queries, which one norm for q and k cannot fit; and its "
        "embeddings have neither norm nor dropout at which one could stand"
    ),
    "nomic_bert": "its base model runs the layers itself and has no final norm, so a pre-norm scheme would have none",
    "vits": (
        "Transformers cannot train it (its forward refuses labels), so weights in another scheme could not be learned"
    ),
}


def no_family(model_type: str, families: Iterable[str]) -> str:
    """The end of a sentence about a model type: that it has no family, why if that is known, and which there are."""
    reason = WITHOUT_FAMILY.get(model_type)
    return f"which has no AddNorm family{f': {reason}' if reason else ''}; families are {one_of(families)}."
