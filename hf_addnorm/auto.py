"""The Auto classes: registering families, and loading any checkpoint with another add & norm."""

import os
from collections.abc import Mapping

import transformers
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.feature_extraction_auto import FEATURE_EXTRACTOR_MAPPING
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING
from transformers.utils import logging

from .auto_mappings import ClassByName, register_by_name
from .models.base.protocols import JsonValue, StockValue
from .models.base.registry import one_of
from .models.core.addnorm_config import AddNormConfig, CodeCarryingConfig
from .models.spec.spec import AddNormSpec
from .without_family import no_family


# what prepares a model's inputs: where the stock family's class is found, and how ours is registered with it
_PROCESSORS: tuple[tuple[Mapping[type[PreTrainedConfig], StockValue], str, str], ...] = (
    (TOKENIZER_MAPPING, "AutoTokenizer", "fast_tokenizer_class"),
    (FEATURE_EXTRACTOR_MAPPING, "AutoFeatureExtractor", "feature_extractor_class"),
    (PROCESSOR_MAPPING, "AutoProcessor", "processor_class"),
    (IMAGE_PROCESSOR_MAPPING, "AutoImageProcessor", "image_processor_classes"),
)

# one of Transformers' AutoModel classes, which have no class in common
AutoClass = StockValue

# a preset's name, axes over one, or a spec
AddNorm = str | Mapping[str, JsonValue] | AddNormSpec

# the families by their stock model type
_FAMILIES: dict[str, type[AddNormConfig]] = {}


def register_models(config_class: type[CodeCarryingConfig]) -> None:
    """Make AutoConfig and every AutoModel class find the models of a config; their file is imported at its first use.

    Args:
        config_class: with `auto_classes`; its models are in the module of the same name with `modeling_`.
    """
    modeling = config_class.__module__.replace("configuration_", "modeling_")
    AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
    for auto_name, name in config_class.auto_classes.items():
        # an Auto class that this Transformers does not have yet needs no entry
        if (auto_class := getattr(transformers, auto_name, None)) is not None:
            register_by_name(auto_class, config_class, ClassByName(modeling, name))


def register_family(config_class: type[AddNormConfig]) -> None:
    """Make AutoConfig, every AutoModel class and AutoTokenizer find a family.

    Args:
        config_class: the family's config; its models are in the module of the same name with `modeling_`.
    """
    register_models(config_class)
    stock = CONFIG_MAPPING[config_class.stock_model_type]
    verbosity = logging.get_verbosity()
    # which of its packages an image processor falls back to is no news to someone who imports this
    logging.set_verbosity_error()
    for mapping, auto_name, argument in _PROCESSORS:
        found = mapping.get(stock, None)
        # an Auto class whose packages are missing (Pillow, for images) is an empty shell
        if found is not None and "_backends" not in vars(getattr(transformers, auto_name)):
            getattr(transformers, auto_name).register(config_class, **{argument: found}, exist_ok=True)
    logging.set_verbosity(verbosity)
    _FAMILIES[config_class.stock_model_type] = config_class


def _auto_class(auto_class: AutoClass | str) -> AutoClass:
    if not isinstance(auto_class, str):
        return auto_class
    if not hasattr(transformers, auto_class):
        raise ValueError(f"auto_class is {auto_class!r}; allowed is the name of one of Transformers' Auto classes.")
    return getattr(transformers, auto_class)


def new_model(
    auto_class: AutoClass | str, model_type: str, add_norm: AddNorm | None = None, **entries: StockValue
) -> PreTrainedModel:
    """A model with new weights, through an Auto class.

    Args:
        auto_class: an AutoModel class, or its name (`"AutoModelForSequenceClassification"`).
        model_type (`str`): a stock model type (`"bert"`), or that of an AddNorm family.
        add_norm (`str`, `dict` or `AddNormSpec`, *optional*): the scheme. Without one a stock type is the stock model.
        entries: of the config.
    Raises:
        ValueError: unknown Auto class or model type, a type that has no AddNorm model, or a spec that is not valid.
    """
    auto_class = _auto_class(auto_class)
    if add_norm is not None:
        config_class = _FAMILIES.get(model_type)
        if config_class is None and model_type not in [config.model_type for config in _FAMILIES.values()]:
            raise ValueError(f"model_type is {model_type!r}, {no_family(model_type, _FAMILIES)}")
        model_type = model_type if config_class is None else config_class.model_type
        entries["add_norm"] = add_norm
    model: PreTrainedModel = auto_class.from_config(AutoConfig.for_model(model_type, **entries))
    return model


def load_pretrained(
    auto_class: AutoClass | str,
    checkpoint: str | os.PathLike[str],
    add_norm: AddNorm | None = None,
    **kwargs: StockValue,
) -> PreTrainedModel:
    """Load a stock or an AddNorm checkpoint through an Auto class, with another add & norm if one is given.

    Args:
        auto_class: an AutoModel class, or its name (`"AutoModelForSequenceClassification"`).
        checkpoint (`str`): a folder or a Hub name.
        add_norm (`str`, `dict` or `AddNormSpec`, *optional*): the scheme to load into. By default the checkpoint's
            own: a stock checkpoint then gives the stock model.
        kwargs: go to `from_pretrained`.
    Returns:
        The model. Weights that have a place in the scheme are the checkpoint's, all others have their start values.
    Raises:
        ValueError: unknown Auto class, a family that has no AddNorm model or none with this head, or a spec that is
            not valid.
        OSError: a file that is missing, truncated or damaged.
    """
    auto_class = _auto_class(auto_class)
    if add_norm is None:
        # a stock class, perhaps, which leaves the sentence to the reader of the file
        from .models.core.loading import reraise_damaged_weights

        with reraise_damaged_weights(checkpoint):
            stock: PreTrainedModel = auto_class.from_pretrained(checkpoint, **kwargs)
            return stock
    hub_kwargs = {key: kwargs[key] for key in ("revision", "token", "cache_dir", "subfolder") if key in kwargs}
    model_type = AutoConfig.from_pretrained(checkpoint, **hub_kwargs).model_type
    found = [config for stock, config in _FAMILIES.items() if model_type in (stock, config.model_type)]
    if not found:
        raise ValueError(f"{checkpoint} is a {model_type!r} model, {no_family(model_type, _FAMILIES)}")
    model: PreTrainedModel = _model_of(auto_class, found[0]).from_pretrained(checkpoint, add_norm=add_norm, **kwargs)
    return model


def _model_of(auto_class: AutoClass, config_class: type[AddNormConfig]) -> type[PreTrainedModel]:
    """The model that an Auto class finds for a family.

    Raises:
        ValueError: if the family has none.
    """
    if config_class not in auto_class._model_mapping:
        raise ValueError(
            f"{auto_class.__name__} finds no model of the family {config_class.stock_model_type!r}; allowed are "
            f"{one_of(config_class.auto_classes)}."
        )
    model_class: type[PreTrainedModel] = auto_class._model_mapping[config_class]
    return model_class
