"""The mappings behind Transformers' Auto classes, for models whose files are imported when they are asked for.

`AutoModel.register` takes a class, whose file must have been imported. Here the mapping is given the class's name, and
imports it at its first use. This relies on one private attribute of Transformers' mappings, `_extra_content`, the dict
of what was registered; if that moves, `register_by_name` has to follow.
"""

import importlib
from collections.abc import Iterator
from dataclasses import dataclass

from transformers import PreTrainedConfig

from .models.base.protocols import StockValue


@dataclass(frozen=True)
class ClassByName:
    """A class that is imported when it is asked for.

    Args:
        module (`str`), name (`str`): where it is.
    """

    module: str
    name: str

    def load(self) -> type:
        """The class."""
        found: type = getattr(importlib.import_module(self.module), self.name)
        return found


class ImportedWhenAsked(dict[type[PreTrainedConfig], StockValue]):
    """Classes by config, of which some are `ClassByName`: whoever reads one gets the class."""

    def __getitem__(self, key: type[PreTrainedConfig]) -> StockValue:
        value = super().__getitem__(key)
        if isinstance(value, ClassByName):
            value = self[key] = value.load()
        return value

    def __iter__(self) -> Iterator[type[PreTrainedConfig]]:
        # a dict that does not say this is copied without asking for the values
        return super().__iter__()

    def get(self, key: StockValue, default: StockValue = None) -> StockValue:
        try:
            return self[key]
        except KeyError:
            return default

    def values(self) -> StockValue:
        return [self[key] for key in self]

    def items(self) -> StockValue:
        return [(key, self[key]) for key in self]


def register_by_name(auto_class: StockValue, config_class: type[PreTrainedConfig], model: ClassByName) -> None:
    """Make an AutoModel class find the model of a config, without importing it.

    Args:
        auto_class: an AutoModel class.
        config_class: the config.
        model (`ClassByName`): the model's class, whose `config_class` is that config.
    """
    mapping = auto_class._model_mapping
    if not isinstance(mapping._extra_content, ImportedWhenAsked):
        mapping._extra_content = ImportedWhenAsked(mapping._extra_content)
    mapping._extra_content[config_class] = model
