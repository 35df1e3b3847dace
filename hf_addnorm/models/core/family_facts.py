"""What a family says about itself without its models: what it reads, what in its config counts layers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from ..base.protocols import StockValue


# the keys of INPUT_KINDS in hf_addnorm/hub/input_kinds.py
InputName = Literal["text", "image", "sound", "spectrogram", "states"]


@dataclass(frozen=True)
class FamilyFacts:
    """What is known of a family by its config alone; the defaults are those of a text encoder.

    Args:
        inputs (`str`): what the base model reads: "text" (numbers of tokens, whose embeddings are tables), "image",
            "sound", "spectrogram", or "states": hidden states, which its heads make of text or of sound.
        norm_eps (`str`): the config's entry for the eps of the stock norms.
        position_table (`bool`): whether the stock model adds a table's row to the embeddings for a token's position.
        no_positions (`str`): why that cannot be replaced where there is no such row.
        no_tables (`str`): why a scheme for the tables of the embeddings has none where the inputs are no text.
        layer_counts (`tuple[str, ...]`): the config's entries that count layers and grow together: those that run,
            and, where layers are shared, those that have weights of their own.
        per_layer (`tuple[str, ...]`): the config's entries that have a value for each layer.
        of_depth (`dict[str, Callable]`): the config's entries that follow from the number of layers, and what gives
            each from the config.
        behind_patches (`str`): the config's entry that counts the tokens behind an image's patches; empty where these
            are the last ones.
        stacks (`dict[str, dict[str, str]]`): of a model with several stacks of layers, by their names, the config's
            entries that say of each what `num_hidden_layers`, `num_attention_heads` and `intermediate_size` say of a
            model with one.
        tasks (`dict[str, str]`): the Hub's name for what a head does, by the end of the name of its class, where that
            end means something else in other families.
    """

    inputs: InputName = "text"
    norm_eps: str = "layer_norm_eps"
    position_table: bool = False
    no_positions: str = (
        "nothing is added to this model's embeddings for a position that it could replace: the attention (rotary, "
        "relative), a convolution or the patches' own places tell where a token is"
    )
    no_tables: str = "images and sound are embedded without one"
    layer_counts: tuple[str, ...] = ("num_hidden_layers",)
    per_layer: tuple[str, ...] = ()
    of_depth: Mapping[str, Callable[[StockValue], StockValue]] = field(default_factory=dict)
    behind_patches: str = ""
    stacks: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    tasks: Mapping[str, str] = field(default_factory=dict)


def stage_names(config: StockValue) -> list[str]:
    """What a backbone calls its maps of features: before the layers, and after each."""
    return ["stem", *(f"stage{depth}" for depth in range(1, config.num_hidden_layers + 1))]
