"""The families of which a part of a composite model may be; a family is imported when a config names it.

Each family is a section of its own. A saved model carries only the families that it is made of: while saving, the
sections of the others are left out of this file.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import ClassVar, TypeVar

from ..core.addnorm_config import AddNormConfig
from ..core.pretrained import AddNormPreTrainedModel


class PartFamily:
    """One family: its model types, and what is imported of it.

    A family that cannot have one of the roles leaves that method out.
    """

    # the stock one and ours
    model_types: ClassVar[tuple[str, str]]

    @staticmethod
    def config() -> type[AddNormConfig]:
        """The config of a part."""
        raise NotImplementedError

    @staticmethod
    def encoder() -> type[AddNormPreTrainedModel]:
        """The model of a part that is an encoder."""
        raise NotImplementedError

    @staticmethod
    def decoder() -> type[AddNormPreTrainedModel]:
        """The model of a part that is a decoder and reads an encoder."""
        raise NotImplementedError

    @staticmethod
    def backbone() -> type[AddNormPreTrainedModel]:
        """The model of a part that gives maps of features of an image."""
        raise NotImplementedError


# by the name of the family's files
PART_FAMILIES: dict[str, type[PartFamily]] = {}
PartFamilyT = TypeVar("PartFamilyT", bound=PartFamily)


def part_family(name: str) -> Callable[[type[PartFamilyT]], type[PartFamilyT]]:
    """Decorator that adds a family under the name of its files."""

    def add(family: type[PartFamilyT]) -> type[PartFamilyT]:
        PART_FAMILIES[name] = family
        return family

    return add


class Families(Mapping[str, type[AddNormConfig]]):
    """The config classes of the families that may be in a role, by their stock model type and ours.

    Args:
        role (`str`): "encoder", "decoder" or "backbone".
    """

    def __init__(self, role: str):
        self.role = role

    def _able(self) -> Iterator[type[PartFamily]]:
        return (family for family in PART_FAMILIES.values() if self.role in vars(family))

    def __getitem__(self, model_type: str) -> type[AddNormConfig]:
        for family in self._able():
            if model_type in family.model_types:
                return family.config()
        raise KeyError(model_type)

    def __iter__(self) -> Iterator[str]:
        return (model_type for family in self._able() for model_type in family.model_types)

    def __len__(self) -> int:
        return len(list(iter(self)))


class PartModels(Mapping[str, type[AddNormPreTrainedModel]]):
    """The models of the families that may be in a role, by our model type.

    By name, since a config may come from another copy of these files.

    Args:
        role (`str`): "encoder", "decoder" or "backbone".
    """

    def __init__(self, role: str):
        self.role = role

    def _able(self) -> dict[str, Callable[[], type[AddNormPreTrainedModel]]]:
        able = (family for family in PART_FAMILIES.values() if self.role in vars(family))
        return {family.model_types[1]: getattr(family, self.role) for family in able}

    def __getitem__(self, model_type: str) -> type[AddNormPreTrainedModel]:
        return self._able()[model_type]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._able())

    def __len__(self) -> int:
        return len(self._able())


ENCODER_CONFIGS, DECODER_CONFIGS = Families("encoder"), Families("decoder")
ENCODERS, DECODERS = PartModels("encoder"), PartModels("decoder")
BACKBONE_CONFIGS, BACKBONES = Families("backbone"), PartModels("backbone")


@part_family("bert")
class BertPart(PartFamily):
    """BERT."""

    model_types = ("bert", "addnorm_bert")

    @staticmethod
    def config() -> type[AddNormConfig]:
        from ..families.configuration_addnorm_bert import AddNormBertConfig

        return AddNormBertConfig

    @staticmethod
    def encoder() -> type[AddNormPreTrainedModel]:
        from ..families.modeling_addnorm_bert import AddNormBertModel

        return AddNormBertModel

    @staticmethod
    def decoder() -> type[AddNormPreTrainedModel]:
        from ..families.modeling_addnorm_bert import AddNormBertLMHeadModel

        return AddNormBertLMHeadModel


@part_family("albert")
class AlbertPart(PartFamily):
    """ALBERT."""

    model_types = ("albert", "addnorm_albert")

    @staticmethod
    def config() -> type[AddNormConfig]:
        from ..families.configuration_addnorm_albert import AddNormAlbertConfig

        return AddNormAlbertConfig

    @staticmethod
    def encoder() -> type[AddNormPreTrainedModel]:
        from ..families.modeling_addnorm_albert import AddNormAlbertModel

        return AddNormAlbertModel


@part_family("modernbert")
class ModernBertPart(PartFamily):
    """ModernBERT."""

    model_types = ("modernbert", "addnorm_modernbert")

    @staticmethod
    def config() -> type[AddNormConfig]:
        from ..families.configuration_addnorm_modernbert import AddNormModernBertConfig

        return AddNormModernBertConfig

    @staticmethod
    def encoder() -> type[AddNormPreTrainedModel]:
        from ..families.modeling_addnorm_modernbert import AddNormModernBertModel

        return AddNormModernBertModel


@part_family("deberta_v2")
class DebertaV2Part(PartFamily):
    """DeBERTa-v2 and -v3."""

    model_types = ("deberta-v2", "addnorm_deberta_v2")

    @staticmethod
    def config() -> type[AddNormConfig]:
        from ..families.configuration_addnorm_deberta_v2 import AddNormDebertaV2Config

        return AddNormDebertaV2Config

    @staticmethod
    def encoder() -> type[AddNormPreTrainedModel]:
        from ..families.modeling_addnorm_deberta_v2 import AddNormDebertaV2Model

        return AddNormDebertaV2Model


@part_family("gpt2")
class GPT2Part(PartFamily):
    """GPT-2."""

    model_types = ("gpt2", "addnorm_gpt2")

    @staticmethod
    def config() -> type[AddNormConfig]:
        from ..families.configuration_addnorm_gpt2 import AddNormGPT2Config

        return AddNormGPT2Config

    @staticmethod
    def decoder() -> type[AddNormPreTrainedModel]:
        from ..families.modeling_addnorm_gpt2 import AddNormGPT2LMHeadModel

        return AddNormGPT2LMHeadModel


@part_family("camembert")
class CamembertPart(PartFamily):
    """CamemBERT."""

    model_types = ("camembert", "addnorm_camembert")

    @staticmethod
    def config() -> type[AddNormConfig]:
        from ..families.configuration_addnorm_camembert import AddNormCamembertConfig

        return AddNormCamembertConfig

    @staticmethod
    def encoder() -> type[AddNormPreTrainedModel]:
        from ..families.modeling_addnorm_camembert import AddNormCamembertModel

        return AddNormCamembertModel

    @staticmethod
    def decoder() -> type[AddNormPreTrainedModel]:
        from ..families.modeling_addnorm_camembert import AddNormCamembertForCausalLM

        return AddNormCamembertForCausalLM


@part_family("data2vec_text")
class Data2VecTextPart(PartFamily):
    """Data2VecText."""

    model_types = ("data2vec-text", "addnorm_data2vec_text")

    @staticmethod
    def config() -> type[AddNormConfig]:
        from ..families.configuration_addnorm_data2vec_text import AddNormData2VecTextConfig

        return AddNormData2VecTextConfig

    @staticmethod
    def encoder() -> type[AddNormPreTrainedModel]:
        from ..families.modeling_addnorm_data2vec_text import AddNormData2VecTextModel

        return AddNormData2VecTextModel

    @staticmethod
    def decoder() -> type[AddNormPreTrainedModel]:
        from ..families.modeling_addnorm_data2vec_text import AddNormData2VecTextForCausalLM

        return AddNormData2VecTextForCausalLM


@part_family("electra")
class ElectraPart(PartFamily):
    """ELECTRA."""

    model_types = ("electra", "addnorm_electra")

    @staticmethod
    def config() -> type[AddNormConfig]:
        from ..families.configuration_addnorm_electra import AddNormElectraConfig

        return AddNormElectraConfig

    @staticmethod
    def encoder() -> type[AddNormPreTrainedModel]:
        from ..families.modeling_addnorm_electra import AddNormElectraModel

        return AddNormElectraModel

    @staticmethod
    def decoder() -> type[AddNormPreTrainedModel]:
        from ..families.modeling_addnorm_electra import AddNormElectraForCausalLM

        return AddNormElectraForCausalLM


@part_family("ernie")
class ErniePart(PartFamily):
    """ERNIE."""

    model_types = ("ernie", "addnorm_ernie")

    @staticmethod
    def config() -> type[AddNormConfig]:
        from ..families.configuration_addnorm_ernie import AddNormErnieConfig

        return AddNormErnieConfig

    @staticmethod
    def encoder() -> type[AddNormPreTrainedModel]:
        from ..families.modeling_addnorm_ernie import AddNormErnieModel

        return AddNormErnieModel

    @staticmethod
    def decoder() -> type[AddNormPreTrainedModel]:
        from ..families.modeling_addnorm_ernie import AddNormErnieForCausalLM

        return AddNormErnieForCausalLM


@part_family("roberta")
class RobertaPart(PartFamily):
    """RoBERTa."""

    model_types = ("roberta", "addnorm_roberta")

    @staticmethod
    def config() -> type[AddNormConfig]:
        from ..families.configuration_addnorm_roberta import AddNormRobertaConfig

        return AddNormRobertaConfig

    @staticmethod
    def encoder() -> type[AddNormPreTrainedModel]:
        from ..families.modeling_addnorm_roberta import AddNormRobertaModel

        return AddNormRobertaModel

    @staticmethod
    def decoder() -> type[AddNormPreTrainedModel]:
        from ..families.modeling_addnorm_roberta import AddNormRobertaForCausalLM

        return AddNormRobertaForCausalLM


@part_family("xlm_roberta")
class XLMRobertaPart(PartFamily):
    """XLM-RoBERTa."""

    model_types = ("xlm-roberta", "addnorm_xlm_roberta")

    @staticmethod
    def config() -> type[AddNormConfig]:
        from ..families.configuration_addnorm_xlm_roberta import AddNormXLMRobertaConfig

        return AddNormXLMRobertaConfig

    @staticmethod
    def encoder() -> type[AddNormPreTrainedModel]:
        from ..families.modeling_addnorm_xlm_roberta import AddNormXLMRobertaModel

        return AddNormXLMRobertaModel

    @staticmethod
    def decoder() -> type[AddNormPreTrainedModel]:
        from ..families.modeling_addnorm_xlm_roberta import AddNormXLMRobertaForCausalLM

        return AddNormXLMRobertaForCausalLM


@part_family("beit")
class BeitPart(PartFamily):
    """BEiT."""

    model_types = ("beit", "addnorm_beit")

    @staticmethod
    def config() -> type[AddNormConfig]:
        from ..families.configuration_addnorm_beit import AddNormBeitConfig

        return AddNormBeitConfig

    @staticmethod
    def backbone() -> type[AddNormPreTrainedModel]:
        from ..families.modeling_addnorm_beit import AddNormBeitBackbone

        return AddNormBeitBackbone


@part_family("dinov2")
class Dinov2Part(PartFamily):
    """DINOv2."""

    model_types = ("dinov2", "addnorm_dinov2")

    @staticmethod
    def config() -> type[AddNormConfig]:
        from ..families.configuration_addnorm_dinov2 import AddNormDinov2Config

        return AddNormDinov2Config

    @staticmethod
    def backbone() -> type[AddNormPreTrainedModel]:
        from ..families.modeling_addnorm_dinov2 import AddNormDinov2Backbone

        return AddNormDinov2Backbone


@part_family("dinov2_with_registers")
class Dinov2WithRegistersPart(PartFamily):
    """DINOv2 with registers."""

    model_types = ("dinov2_with_registers", "addnorm_dinov2_with_registers")

    @staticmethod
    def config() -> type[AddNormConfig]:
        from ..families.configuration_addnorm_dinov2_with_registers import AddNormDinov2WithRegistersConfig

        return AddNormDinov2WithRegistersConfig

    @staticmethod
    def backbone() -> type[AddNormPreTrainedModel]:
        from ..families.modeling_addnorm_dinov2_with_registers import AddNormDinov2WithRegistersBackbone

        return AddNormDinov2WithRegistersBackbone
