"""What the configs of models that are made of other models share: how an entry becomes a part's config."""

import os
from collections.abc import Mapping

from transformers import PreTrainedConfig

from ..base.protocols import JsonValue, StockValue
from ..base.registry import one_of, unknown
from ..core.addnorm_config import AddNormConfig
from .part_families import Families


def parse_part(value: StockValue, where: str, families: Families, **fixed: StockValue) -> AddNormConfig:
    """The config of a part, an object of its own whatever it is made of: two entries are never one.

    Args:
        value: a config of one of the families (ours or stock), its dict (with `model_type`), the name of a family, or
            a checkpoint, of which the config alone is taken.
        where (`str`): the entry, for the error.
        families (`dict`): the config classes by model type.
        fixed: keys that the part has in any case.
    Raises:
        ValueError: for anything else, and whatever the family's config refuses; the sentence names the entry.
    """
    value = as_dict(value, where, families)
    # code that a checkpoint of the part alone carries is not that of the whole
    given = {key: item for key, item in value.items() if key not in ("model_type", "auto_map")}
    name = value["model_type"]
    if name not in families:
        raise ValueError(f"{where}: {unknown('family', name, families)}")
    try:
        config: AddNormConfig = families[name].from_dict(given | fixed)
        return config
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def as_dict(value: StockValue, where: str, families: Families) -> Mapping[str, JsonValue]:
    """The dict of an entry, see `parse_part`."""
    if isinstance(value, str) and value in families:
        return {"model_type": value}
    if isinstance(value, str):
        return _config_of_checkpoint(value, where, families)
    if isinstance(value, PreTrainedConfig):
        return value.to_dict()
    if not isinstance(value, Mapping) or "model_type" not in value:
        raise ValueError(f"{where} is {value!r}; allowed is a config, a dict with 'model_type', or a name.")
    return value


def _config_of_checkpoint(name: str, where: str, families: Families) -> dict[str, JsonValue]:
    try:
        return PreTrainedConfig.get_config_dict(name)[0]
    except OSError as error:
        raise ValueError(
            f"{where} is {name!r}, which is no family ({', '.join(families)}) and no checkpoint that can be read."
        ) from error


def refuse_decoder(config: AddNormConfig, where: str, whole: str) -> None:
    """Refuse a decoder where an encoder belongs; `whole` says what the model is made of."""
    if config.add_norm_is_causal() or getattr(config, "add_cross_attention", False):
        raise ValueError(f"{where} is a decoder, and {whole}; allowed is is_decoder = false.")


def family_of(
    checkpoint: str | os.PathLike[str], families: Families, whole: str, **hub: StockValue
) -> type[AddNormConfig]:
    """The config class of a checkpoint, stock or ours.

    Args:
        checkpoint (`str`): a folder or a Hub name.
        families (`dict`): the config classes by model type.
        whole (`str`): what the model is made of, for the error.
        hub: `revision`, `token`, ...
    Raises:
        ValueError: for another family.
    """
    name = str(PreTrainedConfig.get_config_dict(checkpoint, **hub)[0].get("model_type"))
    if name not in families:
        raise ValueError(f"{checkpoint} is a {name!r} model; {whole} {one_of(families)}.")
    return families[name]
