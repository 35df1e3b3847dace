"""hf_addnorm: transformer encoders with another add & norm.

Importing it registers every family with AutoConfig, the AutoModel classes, AutoTokenizer and the Auto processors.
"""

from . import hub
from .auto import load_pretrained, new_model, register_family, register_models
from .catalogue import Part, catalogue, inits, norms, positions, residuals, streams, weights, wirings
from .checkpoint_code import code_files
from .growth import grow
from .models.base.auxiliary_loss import collect_losses
from .models.composites.configuration_addnorm_encoder_decoder import AddNormEncoderDecoderConfig
from .models.composites.configuration_addnorm_stack import AddNormStackConfig
from .models.composites.modeling_addnorm_encoder_decoder import *
from .models.composites.modeling_addnorm_stack import *
from .models.core.addnorm_config import AddNormConfig, CodeCarryingConfig
from .models.core.hub_files import HubFiles
from .models.families.configuration_addnorm_albert import *
from .models.families.configuration_addnorm_bert import *
from .models.families.configuration_addnorm_deberta_v2 import *
from .models.families.configuration_addnorm_gpt2 import *
from .models.families.configuration_addnorm_modernbert import *
from .models.families.configuration_addnorm_vit import *
from .models.families.configuration_addnorm_wav2vec2 import *
from .models.families.modeling_addnorm_albert import *
from .models.families.modeling_addnorm_bert import *
from .models.families.modeling_addnorm_deberta_v2 import *
from .models.families.modeling_addnorm_gpt2 import *
from .models.families.modeling_addnorm_modernbert import *
from .models.families.modeling_addnorm_vit import *
from .models.families.modeling_addnorm_wav2vec2 import *
from .models.spec.presets import PRESETS, Preset
from .models.spec.spec import AddNormSpec
from .parameters import add_norm_parameters
from .scheme import Scheme


__version__ = "0.2.0"

for _config_class in AddNormConfig.__subclasses__():
    register_family(_config_class)
register_models(AddNormStackConfig)
register_models(AddNormEncoderDecoderConfig)
# a model that is pushed gets a card; one that came as remote code knows no package, and gets Transformers' own
HubFiles.write_card = staticmethod(hub.replace_placeholder)
# its code lies in rooms here, and is flat in a checkpoint
CodeCarryingConfig.code_files = staticmethod(code_files)


def presets() -> dict[str, Preset]:
    """Every preset by name: formula, flow drawing, source, axes."""
    return dict(PRESETS)


__all__ = [
    "AddNormConfig",
    "AddNormSpec",
    "Part",
    "Preset",
    "Scheme",
    "add_norm_parameters",
    "catalogue",
    "collect_losses",
    "grow",
    "hub",
    "inits",
    "load_pretrained",
    "new_model",
    "norms",
    "positions",
    "presets",
    "register_family",
    "residuals",
    "streams",
    "weights",
    "wirings",
]
# and the families' classes
__all__ += [name for name in globals() if name.startswith("AddNorm") and name not in __all__]
