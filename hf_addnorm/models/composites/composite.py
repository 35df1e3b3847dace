"""What models that are made of other models share: what is left to the parts."""

from transformers import PreTrainedConfig, PreTrainedModel

from ..base.auxiliary_loss import SharesAuxiliaryLosses, adds_loss
from ..base.protocols import StockValue
from ..core.embeddings_and_output import HasOutputLayer
from ..core.fused_add_norm import FusesAddNorm
from ..core.hub_files import HubFiles
from ..core.pretrained import AddNormPreTrainedModel
from ..core.single_commit_push import SingleCommitPush
from ..core.token_hooks import with_token_mask
from ..core.transformers_internals import attention_of, use_attention


class CompositeModel(HasOutputLayer, FusesAddNorm, HubFiles, SingleCommitPush, SharesAuxiliaryLosses, PreTrainedModel):
    """Mixin for a model of several AddNorm models.

    What a part is allowed to do (attention implementations, checkpointing) it says itself; what the parts' norms add
    to the loss, the whole adds.
    """

    # whether a norm of the whole's own takes statistics over tokens; the parts tell theirs
    mixes_tokens = False
    asks_model = False
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init_subclass__(cls, **kwargs: object):
        super().__init_subclass__(**kwargs)
        if "forward" in vars(cls):
            cls.forward = with_token_mask(cls.forward)

    def post_init(self) -> None:
        """As in Transformers, knowing whether something adds to the loss."""
        self.adds_loss = adds_loss(self)
        super().post_init()

    @property
    def parts(self) -> list[AddNormPreTrainedModel]:
        """The models that it is made of, in order."""
        raise NotImplementedError

    def _set_gradient_checkpointing(self, *args: StockValue, **kwargs: StockValue) -> None:
        # each part may refuse what its state does not survive
        for part in self.parts:
            part._set_gradient_checkpointing(*args, **kwargs)


def share_config(part: PreTrainedModel, config: PreTrainedConfig) -> None:
    """Let a part that exists, and all that is in it, look at the config that the whole has of it.

    Args:
        part: a model.
        config: an equal config, which gets the part's implementation of attention.
    """
    own = part.config
    use_attention(config, attention_of(own))
    for module in part.modules():
        if vars(module).get("config") is own:
            module.config = config  # type: ignore[assignment]
