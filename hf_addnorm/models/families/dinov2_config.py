"""What the configs of DINOv2 without and with registers share."""

from ..base.protocols import JsonValue
from ..core.addnorm_config import AddNormConfig
from ..core.family_facts import FamilyFacts, stage_names


class Dinov2ShapeConfig(AddNormConfig):
    """Mixin for the config of a DINOv2: its stock scheme, and the width of its feed-forward.

    The stock scheme is pre-norm with a learned factor for each feature of a branch (LayerScale) that starts at
    `layerscale_value`, and stochastic depth at the rate `drop_path_rate`. Another `add_norm` says its own.
    """

    facts = FamilyFacts(inputs="image", of_depth={"stage_names": stage_names})

    def stock_add_norm(self) -> dict[str, JsonValue]:
        return {
            "preset": "pre_ln",
            "residual": {"kind": "vector", "start": self.layerscale_value},
            "drop_path": self.drop_path_rate,
        }

    def slot_width(self, sublayer: str, slot: str, qkv_width: str) -> int:
        if sublayer == "feed_forward" and slot in ("up", "mid"):
            width = int(self.hidden_size * self.mlp_ratio)
            # a gated one has two thirds of it, as a multiple of 8
            return (int(width * 2 / 3) + 7) // 8 * 8 if self.use_swiglu_ffn else width
        return super().slot_width(sublayer, slot, qkv_width)
