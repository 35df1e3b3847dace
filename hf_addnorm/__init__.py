"""hf_addnorm: transformer encoders with another add & norm.

Importing it registers every family with AutoConfig, the AutoModel classes, AutoTokenizer and the Auto processors. Only
the configs are imported then; a model's file, the Hub tools and the rest are imported when they are asked for.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any, cast

from .auto import load_pretrained, new_model, register_family, register_models
from .catalogue import Part, catalogue, inits, norms, positions, residuals, streams, weights, wirings
from .models.composites.configuration_addnorm_encoder_decoder import AddNormEncoderDecoderConfig
from .models.composites.configuration_addnorm_stack import AddNormStackConfig
from .models.composites.configuration_addnorm_upernet import AddNormUperNetConfig
from .models.core.addnorm_config import AddNormConfig, CodeCarryingConfig, family_configs
from .models.core.hub_files import HubFiles
from .models.families.configuration_addnorm_albert import *
from .models.families.configuration_addnorm_bart import *
from .models.families.configuration_addnorm_beit import *
from .models.families.configuration_addnorm_bert import *
from .models.families.configuration_addnorm_camembert import *
from .models.families.configuration_addnorm_data2vec_audio import *
from .models.families.configuration_addnorm_data2vec_text import *
from .models.families.configuration_addnorm_deberta_v2 import *
from .models.families.configuration_addnorm_deit import *
from .models.families.configuration_addnorm_dinov2 import *
from .models.families.configuration_addnorm_dinov2_with_registers import *
from .models.families.configuration_addnorm_distilbert import *
from .models.families.configuration_addnorm_electra import *
from .models.families.configuration_addnorm_ernie import *
from .models.families.configuration_addnorm_gpt2 import *
from .models.families.configuration_addnorm_gpt_neox import *
from .models.families.configuration_addnorm_hubert import *
from .models.families.configuration_addnorm_layoutlm import *
from .models.families.configuration_addnorm_marian import *
from .models.families.configuration_addnorm_mbart import *
from .models.families.configuration_addnorm_megatron_bert import *
from .models.families.configuration_addnorm_modernbert import *
from .models.families.configuration_addnorm_mpnet import *
from .models.families.configuration_addnorm_mt5 import *
from .models.families.configuration_addnorm_opt import *
from .models.families.configuration_addnorm_roberta import *
from .models.families.configuration_addnorm_roberta_prelayernorm import *
from .models.families.configuration_addnorm_roc_bert import *
from .models.families.configuration_addnorm_speecht5 import *
from .models.families.configuration_addnorm_t5 import *
from .models.families.configuration_addnorm_umt5 import *
from .models.families.configuration_addnorm_unispeech import *
from .models.families.configuration_addnorm_vit import *
from .models.families.configuration_addnorm_wav2vec2 import *
from .models.families.configuration_addnorm_wavlm import *
from .models.families.configuration_addnorm_whisper import *
from .models.families.configuration_addnorm_xlm_roberta import *
from .models.families.configuration_addnorm_yolos import *
from .models.spec.presets import PRESETS, Preset
from .models.spec.spec import AddNormSpec
from .scheme import Scheme


if TYPE_CHECKING:
    from . import components, hub
    from .conversion import ConversionReport, convert
    from .diagnosis import diagnose
    from .exporting import ExportError, ExportReport, export
    from .growth import grow
    from .models.base.auxiliary_loss import collect_losses
    from .models.composites.modeling_addnorm_encoder_decoder import *
    from .models.composites.modeling_addnorm_stack import *
    from .models.composites.modeling_addnorm_upernet import *
    from .models.families.modeling_addnorm_albert import *
    from .models.families.modeling_addnorm_bart import *
    from .models.families.modeling_addnorm_beit import *
    from .models.families.modeling_addnorm_bert import *
    from .models.families.modeling_addnorm_camembert import *
    from .models.families.modeling_addnorm_data2vec_audio import *
    from .models.families.modeling_addnorm_data2vec_text import *
    from .models.families.modeling_addnorm_deberta_v2 import *
    from .models.families.modeling_addnorm_deit import *
    from .models.families.modeling_addnorm_dinov2 import *
    from .models.families.modeling_addnorm_dinov2_with_registers import *
    from .models.families.modeling_addnorm_distilbert import *
    from .models.families.modeling_addnorm_electra import *
    from .models.families.modeling_addnorm_ernie import *
    from .models.families.modeling_addnorm_gpt2 import *
    from .models.families.modeling_addnorm_gpt_neox import *
    from .models.families.modeling_addnorm_hubert import *
    from .models.families.modeling_addnorm_layoutlm import *
    from .models.families.modeling_addnorm_marian import *
    from .models.families.modeling_addnorm_mbart import *
    from .models.families.modeling_addnorm_megatron_bert import *
    from .models.families.modeling_addnorm_modernbert import *
    from .models.families.modeling_addnorm_mpnet import *
    from .models.families.modeling_addnorm_mt5 import *
    from .models.families.modeling_addnorm_opt import *
    from .models.families.modeling_addnorm_roberta import *
    from .models.families.modeling_addnorm_roberta_prelayernorm import *
    from .models.families.modeling_addnorm_roc_bert import *
    from .models.families.modeling_addnorm_speecht5 import *
    from .models.families.modeling_addnorm_t5 import *
    from .models.families.modeling_addnorm_umt5 import *
    from .models.families.modeling_addnorm_unispeech import *
    from .models.families.modeling_addnorm_vit import *
    from .models.families.modeling_addnorm_wav2vec2 import *
    from .models.families.modeling_addnorm_wavlm import *
    from .models.families.modeling_addnorm_whisper import *
    from .models.families.modeling_addnorm_xlm_roberta import *
    from .models.families.modeling_addnorm_yolos import *
    from .parameters import add_norm_parameters, ln_tuning_names, norms_with_statistics
    from .sites import add_norm_sites


__version__ = "0.3.0.dev0"

# what is imported when it is asked for: the module of each name
_LATER = {
    "ConversionReport": ".conversion",
    "ExportError": ".exporting",
    "ExportReport": ".exporting",
    "add_norm_parameters": ".parameters",
    "add_norm_sites": ".sites",
    "collect_losses": ".models.base.auxiliary_loss",
    "components": ".components",
    "convert": ".conversion",
    "diagnose": ".diagnosis",
    "export": ".exporting",
    "grow": ".growth",
    "hub": ".hub",
    "ln_tuning_names": ".parameters",
    "norms_with_statistics": ".parameters",
}
# those whose configs are imported above
_FAMILIES = cast(list[type[AddNormConfig]], family_configs(AddNormConfig))
_COMPOSITES: tuple[type[CodeCarryingConfig], ...] = (
    AddNormEncoderDecoderConfig,
    AddNormStackConfig,
    AddNormUperNetConfig,
)


def presets() -> dict[str, Preset]:
    """Every preset by name: formula, flow drawing, source, axes."""
    return dict(PRESETS)


def _model_files() -> dict[str, str]:
    """The module of each config's models, by what the models' names begin with."""
    return {
        config_class.__name__.removesuffix("Config"): config_class.__module__.replace("configuration_", "modeling_")
        for config_class in (*_FAMILIES, *_COMPOSITES)
    }


def __getattr__(name: str) -> Any:
    if name in _LATER:
        module = importlib.import_module(_LATER[name], __name__)
        value = module if _LATER[name] == f".{name}" else getattr(module, name)
    else:
        # a model: the longest of these beginnings, as one family's may begin another's
        files = _model_files()
        beginnings = [beginning for beginning in files if name.startswith(beginning)]
        if not beginnings:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        models = _models_of(files[max(beginnings, key=len)])
        if name not in models:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = models[name]
    globals()[name] = value
    return value


def _models_of(file: str) -> dict[str, type]:
    """The models that a module defines, by name."""
    from transformers import PreTrainedModel

    defined = ((name, value) for name, value in vars(importlib.import_module(file)).items() if isinstance(value, type))
    return {name: cls for name, cls in defined if issubclass(cls, PreTrainedModel) and cls.__module__ == file}


def _model_names() -> list[str]:
    return [name for file in _model_files().values() for name in _models_of(file)]


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER, *_model_names()})


def _write_card(folder: str | os.PathLike[str], repo: str) -> None:
    hub = importlib.import_module(".hub", __name__)
    hub.replace_placeholder(folder, repo)


def _code_files(config: CodeCarryingConfig) -> dict[str, str]:
    files: dict[str, str] = importlib.import_module(".checkpoint_code", __name__).code_files(config)
    return files


def _repr_html(value: AddNormSpec | AddNormConfig) -> str:
    said: str = importlib.import_module(".notebook", __name__).to_html(value)
    return said


for _config_class in _FAMILIES:
    register_family(_config_class)
for _composite_class in _COMPOSITES:
    register_models(_composite_class)
# a model that is pushed gets a card; one that came as remote code knows no package, and gets Transformers' own
HubFiles.write_card = staticmethod(_write_card)
# the package's code lies in rooms, and is flat in a checkpoint
CodeCarryingConfig.code_files = staticmethod(_code_files)
# what a notebook asks for; the words for it do not travel with a checkpoint
for _shown in (AddNormSpec, AddNormConfig):
    setattr(_shown, "_repr_html_", _repr_html)  # noqa: B010  # no class says that it may have one

__all__ = [
    "AddNormConfig",
    "AddNormEncoderDecoderConfig",
    "AddNormSpec",
    "AddNormStackConfig",
    "AddNormUperNetConfig",
    "ConversionReport",
    "ExportError",
    "ExportReport",
    "Part",
    "Preset",
    "Scheme",
    "add_norm_parameters",
    "add_norm_sites",
    "catalogue",
    "collect_losses",
    "components",
    "convert",
    "diagnose",
    "export",
    "grow",
    "hub",
    "inits",
    "ln_tuning_names",
    "load_pretrained",
    "new_model",
    "norms",
    "norms_with_statistics",
    "positions",
    "presets",
    "register_family",
    "residuals",
    "streams",
    "weights",
    "wirings",
]
__all__ += sorted(config_class.__name__ for config_class in _FAMILIES)
