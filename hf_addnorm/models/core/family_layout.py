"""What a family says about its stock model: where its parts are."""

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import nn

from ..base.depth import parse_depth_value
from ..base.protocols import StockValue
from ..base.registry import ComponentSpec
from .branch_norms import WithBranchNorms, as_tuple
from .embeddings_and_output import TransformedEmbedding
from .encoder import AddNormEncoder


# the start of o and w2 in GPT-2 and what followed it
ONE_OVER_ROOT_2L = parse_depth_value({"kind": "power", "of": "layers", "times": 2.0, "exponent": -0.5}, "output_scale")


@dataclass(frozen=True)
class SublayerLayout:
    """Where one sublayer's parts are; paths are dotted, from the layer.

    Args:
        norms (`dict[str, str]`): the stock layer's own norms, by the slot that each one fills.
        dropout (`str`, *optional*): the dropout on the branch's output.
        parts (`dict[str, type]`): stock modules that run with norms inside, and the class that recasts each.
        linears (`dict[str, str]`): the other Linear layers, by their role: q, k, v, o, w1 or w2.
        factor (`str`, *optional*): what the stock layer multiplies each feature of the branch's output by
            (LayerScale): a parameter, or a module that has no other. The residual `vector` uses it; for any other
            residual it is taken away.
        drop_path (`str`, *optional*): the stock layer's stochastic depth, whose rate is its `drop_prob`.
    """

    norms: dict[str, str]
    dropout: str | None = None
    parts: dict[str, type[WithBranchNorms]] = field(default_factory=dict)
    linears: dict[str, str] = field(default_factory=dict)
    factor: str | None = None
    drop_path: str | None = None

    def roles(self) -> dict[str, tuple[str, ...]]:
        """Every Linear layer's path, with its roles."""
        found: dict[str, tuple[str, ...]] = {path: (role,) for role, path in self.linears.items()}
        for path, cls in self.parts.items():
            found |= {f"{path}.{name}": as_tuple(roles) for name, roles in cls.linear_roles.items()}
        return found


@dataclass(frozen=True)
class FamilyLayout:
    """Where a family's parts are; paths are dotted, from the base model unless said.

    Args:
        layer (`type`): the class that recasts a layer.
        layers (`Callable`): from the config to the path of every layer, in the order in which they run; a path stands
            there several times where layers are shared.
        encoder (`str`): the module that runs the layers; empty where the base model does.
        encoder_class (`type`, *optional*): the class that recasts it, if the family's loop needs anything. One with
            `holds_connections` has the blocks of all depths as `connections`, where layers may be shared.
        embeddings (`tuple[str, ...]`): where the tables of the embeddings are; empty where it has none.
        table_classes (`tuple[type, ...]`): those that recast such of them as are more than a `torch.nn.Embedding`.
        position_table (`str`, *optional*): the one of them that is added for a token's position.
        embed_norm (`str`, *optional*): the stock norm after the sum of the embeddings.
        embed_dropout (`str`, *optional*): where there is none, the dropout before which it would stand.
        embed_in_layer (`bool`): where there is no such dropout either, as a module: it stands where the first layer
            begins.
        final_norm (`str`, *optional*): the stock norm after the last layer; without one, `encoder_class` runs it, or
            the model itself.
        is_stack (`bool`): whether the model is an `AddNormStack`, which does.
        positions_class (`type`, *optional*): what the model asks for positions, where it is not asked as a table; it
            is made of the `Positions` of a spec.
        other_norms (`tuple[str, ...]`): stock norms on the stream that are in no slot; they stay where they are and
            follow the spec's kind of norm.
        head_norms (`tuple[str, ...]`): the heads' norms, from the model with the head.
        other_parts (`dict[str, type]`): further stock modules, and the class that recasts each.
        cannot_pack (`str`): why its tokens cannot be packed, as the end of a sentence; empty where they can.
        cannot_reenter (`str`): why reentrant checkpointing fails, as the end of a sentence; empty where it does not.
        between_layers (`str`, *optional*): a parameter with an entry that is added between each two layers.
        output_scale (`float` or depth rule): what the stock model's draw of o and w2 is multiplied by already.
    Raises:
        ValueError: if a norm that a spec asks for after the embeddings or after the last layer would have no place.
    """

    layer: StockValue
    layers: Callable[[StockValue], list[str]]
    encoder: str = ""
    encoder_class: type[AddNormEncoder] | None = None
    embeddings: tuple[str, ...] = ()
    table_classes: tuple[type[TransformedEmbedding], ...] = ()
    position_table: str | None = None
    embed_norm: str | None = None
    embed_dropout: str | None = None
    embed_in_layer: bool = False
    final_norm: str | None = None
    is_stack: bool = False
    positions_class: type[nn.Module] | None = None
    other_norms: tuple[str, ...] = ()
    head_norms: tuple[str, ...] = ()
    other_parts: dict[str, type[nn.Module]] = field(default_factory=dict)
    cannot_pack: str = ""
    cannot_reenter: str = ""
    between_layers: str | None = None
    output_scale: float | ComponentSpec = 1.0

    def __post_init__(self) -> None:
        alternatives: dict[str, dict[str, object]] = {
            "embed": {"embed_norm": self.embed_norm, "embed_dropout": self.embed_dropout or self.embed_in_layer},
            "final": {"final_norm": self.final_norm, "encoder_class": self.encoder_class or self.is_stack},
        }
        for place, paths in alternatives.items():
            if not any(paths.values()):
                raise ValueError(
                    f"the layout of {self.layer.__name__} says neither {' nor '.join(paths)}: a norm that a spec "
                    f"asks for in {place!r} would be left out."
                )


def numbered(path: str) -> Callable[[StockValue], list[str]]:
    """The layers of a list at `path`, each once."""
    return lambda config: [f"{path}.{index}" for index in range(config.num_hidden_layers)]
