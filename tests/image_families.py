"""The rows of the families of images under test whose layers are not ViT's."""

from typing import Any

from family_inputs import TINY, detection_inputs, image_inputs, masked_image_inputs
from family_row import NO_SPHERE, NO_TABLES, Family

from hf_addnorm import (
    AddNormBeitConfig,
    AddNormDinov2Config,
    AddNormDinov2WithRegistersConfig,
    AddNormYolosConfig,
)


IMAGE_FAMILIES: dict[str, Family] = {}

# stochastic depth, and start values of the factors that show; no width inside is given, it is a multiple
TINY_DINOV2 = {
    **{key: value for key, value in TINY.items() if key != "intermediate_size"},
    "image_size": 16,
    "patch_size": 4,
    "mlp_ratio": 2,
    "layerscale_value": 0.5,
    "drop_path_rate": 0.2,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
}


def dinov2_shaped(config_class: type[Any], tiny: Any = (), **row: Any) -> Family:
    """The row of a DINOv2."""
    maps = {"Backbone": {"out_features": ["stage1", "stage4"]}}
    return Family(config_class, {**TINY_DINOV2, **dict(tiny)}, image_inputs, without=NO_TABLES, of_model=maps, **row)


IMAGE_FAMILIES["dinov2"] = dinov2_shaped(AddNormDinov2Config)
IMAGE_FAMILIES["dinov2_gated"] = dinov2_shaped(AddNormDinov2Config, {"use_swiglu_ffn": True}, shape="dinov2")
IMAGE_FAMILIES["dinov2_with_registers"] = dinov2_shaped(AddNormDinov2WithRegistersConfig, shape="dinov2")
TINY_BEIT = {
    **TINY,
    "image_size": 16,
    "patch_size": 4,
    "vocab_size": 20,
    "use_mask_token": True,
    "drop_path_rate": 0.2,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "pool_scales": [1, 2],
    "auxiliary_channels": 8,
}


def beit_shaped(tiny: Any, **row: Any) -> Family:
    """The row of a BEiT."""
    of_model = {end: {"out_indices": [1, 2, 3, 4]} for end in ("Backbone", "ForSemanticSegmentation")}
    # without, Transformers 5.23 loads each of the two norms behind the layers into the place of the other one
    of_model["ForMaskedImageModeling"] = {"use_mean_pooling": True}
    more = ("AddNormBeitForMaskedImageModeling",)
    config, size = AddNormBeitConfig, {**TINY_BEIT, **tiny}
    return Family(config, size, masked_image_inputs, more_models=more, without=NO_TABLES, of_model=of_model, **row)


IMAGE_FAMILIES["beit"] = beit_shaped({"use_relative_position_bias": True})
IMAGE_FAMILIES["beit_plain"] = beit_shaped(
    {
        "use_absolute_position_embeddings": True,
        "use_shared_relative_position_bias": True,
        "use_mean_pooling": False,
        "layer_scale_init_value": 0.0,
    },
    shape="beit",
)
# the image is no square
TINY_YOLOS = {**TINY, "image_size": (16, 24), "patch_size": 4, "num_detection_tokens": 5, "num_labels": 3}
IMAGE_FAMILIES["yolos"] = Family(
    AddNormYolosConfig,
    {**TINY_YOLOS, "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1},
    detection_inputs,
    without=NO_TABLES + NO_SPHERE,
)
