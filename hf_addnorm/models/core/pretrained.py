"""How an AddNorm model is made of a stock one: recasting, initialisation.

The stock class builds itself; then its parts are recast, under their own names, by classes that know the spec.

As remote code, a config and its models are loaded from two copies of these files, whose classes are not the same. So
norms are built by the function that is here, `AddNormConfig.build_norm(config, ...)`, not by the config's own method:
the rules for start weights, and the token mask, know the classes of this copy.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from ..base.auxiliary_loss import SharesAuxiliaryLosses, adds_loss
from ..base.depth import Position, at_depth
from ..base.protocols import StockValue
from ..base.registries import INITS, POSITIONS, STREAMS
from ..base.registry import ComponentSpec
from ..norms.norm_base import Norm
from ..residuals.residuals import Residual
from ..spec.refusals import check
from ..spec.spec import AddNormSpec, SlotNorm
from ..streams.positions import Positions, put_positions
from ..streams.wirings import Sequential
from ..weights.initialization import InitRule, Linear
from .addnorm_config import AddNormConfig
from .block_building import BlockBuilder
from .calibration import calibrate_residuals
from .embeddings_and_output import EmbedDropout, HasOutputLayer, TransformedEmbedding, transform_tables
from .encoder import AddNormEncoderModel
from .family_layout import FamilyLayout
from .fused_add_norm import FusesAddNorm
from .hub_files import HubFiles
from .layer import AddNormLayer
from .loading import config_of_checkpoint, refuse_split_features, reraise_damaged_weights
from .packed_attention import PACKED
from .packing import require_packable, unpack_output, with_packed_tokens
from .read_tokens import require_head_of_single_tokens, with_first_tokens, with_labelled_tokens
from .recasting import document, get_part, has_part, recast, recast_at
from .scheme_function import warn_of_another_function
from .single_commit_push import SingleCommitPush
from .token_hooks import with_token_mask
from .transformers_internals import (
    attention_of,
    keep_in_float32,
    keep_whole,
    mark_not_started,
    register_key_layout,
)


_BASE_DOCSTRING = "Base of a family's models: `{stock}`, whose parts are recast as `config.add_norm` says."
# what is around a model's forward, by the Auto class that finds the model
_AROUND = {"AutoModel": with_packed_tokens, "AutoModelForMaskedLM": with_labelled_tokens} | dict.fromkeys(
    (
        "AutoModelForSequenceClassification",
        "AutoModelForMultipleChoice",
        "AutoModelForNextSentencePrediction",
    ),
    with_first_tokens,
)
_MODEL_DOCSTRING = "`{stock}` with the add & norm of `config.add_norm`; same arguments, same outputs."


class AddNormPreTrainedModel(
    HasOutputLayer, FusesAddNorm, HubFiles, SingleCommitPush, SharesAuxiliaryLosses, PreTrainedModel
):
    """Mixin for a family's models: recasts the stock parts before `post_init`, starts and saves what is ours.

    The base model swaps its layers and encoder; a model with a head swaps the stock base model that its head built
    for an AddNorm one, and its head's norms where the spec says so. In a family with several stacks of layers, an
    encoder and a decoder, each stack is such a base model, and all that holds one swaps it.
    """

    layout: ClassVar[FamilyLayout]
    # of a family with several stacks of layers, by their names
    layouts: ClassVar[Mapping[str, FamilyLayout]] = {}
    # of a model that is one of them: its name
    stack_name: str = ""
    # every layer of ours can be checkpointed, also where the stock one cannot
    supports_gradient_checkpointing = True
    if TYPE_CHECKING:
        # no annotation at run time, from which Transformers would take the class of the config
        config: AddNormConfig
    # whether a norm in it takes statistics over tokens
    mixes_tokens = False
    # whether something in it asks what the model knows during a forward: a norm over tokens, a weight transform
    asks_model = False
    # whether the last layer may run its feed-forward for a part of the tokens
    last_layer_can_be_cut = False
    # whether its forward takes the argument `FIRST_ONLY`
    takes_first_only = False
    # the spec's rules for start weights, of a model that runs the layers
    add_norm_inits: Sequence[InitRule] = ()
    # whether the head of a masked language model reads labelled tokens alone
    labelled_only = False

    def __init_subclass__(cls, **kwargs: object):
        super().__init_subclass__(**kwargs)
        document(cls, _BASE_DOCSTRING if _has_layout(cls) else _MODEL_DOCSTRING)
        if cls.forward is not nn.Module.forward:
            for auto, around in _AROUND.items():
                if cls.__name__ == getattr(cls.config_class, "auto_classes", {}).get(auto):
                    cls.forward = around(cls.forward)
                    cls.takes_first_only = around is with_first_tokens
            cls.forward = with_token_mask(cls.forward)
        register_key_layout(cls)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: StockValue, *args: StockValue, **kwargs: StockValue
    ) -> StockValue:
        """As in Transformers; weights that are cut short or damaged are named in a sentence.

        A warning says so where the model computes another function than the checkpoint's: its add & norm is another.
        """
        register_key_layout(cls)
        with reraise_damaged_weights(pretrained_model_name_or_path):
            result = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        model = result[0] if isinstance(result, tuple) else result
        refuse_split_features(model)
        before = config_of_checkpoint(
            cast(type[AddNormConfig], cls.config_class), model.config, pretrained_model_name_or_path, kwargs
        )
        if before is not None:
            warn_of_another_function(model, pretrained_model_name_or_path, before)
        return result

    def save_pretrained(self, *args: StockValue, **kwargs: StockValue) -> None:
        """As in Transformers, in the layout of keys that the stock family has on disk."""
        register_key_layout(type(self))
        super().save_pretrained(*args, **kwargs)

    @classmethod
    def add_norm_base(cls) -> "type[AddNormPreTrainedModel]":
        """The family's base model: the one that `AutoModel` finds, in the file that has the family's layout."""
        family = cls._family()
        config_class = cast(type[AddNormConfig], family.config_class)
        base: type[AddNormPreTrainedModel] = getattr(
            sys.modules[family.__module__], config_class.auto_classes["AutoModel"]
        )
        return base

    @classmethod
    def _family(cls) -> "type[AddNormPreTrainedModel]":
        """The class of which all models of the family are."""
        return next(base for base in cls.__mro__ if _has_layout(base))

    @classmethod
    def layout_of(cls, config: StockValue) -> FamilyLayout:
        """The layout of a stack of layers of this config; one for all unless a family says otherwise."""
        return cls.layouts[config.stack_name] if cls.layouts else cls.layout

    @property
    def stack_configs(self) -> dict[str, AddNormConfig]:
        """The configs of the stacks of layers in this model, by name; of the only one, which has none, its config."""
        if self.stack_name:
            # also where the config is that of a model which lacks it
            return {self.stack_name: self.config.add_norm_stack(self.stack_name)}
        stacks: dict[str, AddNormConfig] = self.config.add_norm_stacks()
        return stacks

    @property
    def _own_config(self) -> AddNormConfig:
        """The config of the stack of layers that this model, which is no model of several, has."""
        return next(iter(self.stack_configs.values()))

    def output_config(self) -> AddNormConfig:
        # what writes is the last stack
        return list(self.stack_configs.values())[-1]

    def post_init(self) -> None:
        """Install the spec's blocks, then what `PreTrainedModel` does last."""
        if not hasattr(self.config, "add_norm"):
            raise ValueError(
                f"{type(self).__name__} needs a config with add_norm, got a {type(self.config).__name__}: make it "
                "with the family's AddNorm config."
            )
        if attention_of(self.config) == PACKED:
            self._require_packable()
        for config in self.stack_configs.values():
            check(AddNormSpec.parse(config.add_norm), config)
        builder = BlockBuilder(AddNormSpec.parse(self.output_config().add_norm), self.output_config())
        # a model of several stacks leaves its tokens to them
        self.mixes_tokens = builder.mixes_tokens and self._has_one_stack()
        self.asks_model = builder.asks_model
        in_turn = type(builder.wiring) is Sequential and not builder.stream.is_tuple
        self.last_layer_can_be_cut = in_turn and not builder.mixes_tokens
        # a user's subclass may call this again, on a model that has its blocks and its weights
        if not self._has_blocks():
            self._install(builder)
        self.adds_loss = adds_loss(self)
        keep_whole(self, {type(module).__name__ for module in self.modules() if isinstance(module, AddNormLayer)})
        keep_in_float32(self)
        super().post_init()

    def _has_one_stack(self) -> bool:
        return bool(self.stack_name) or not self.layouts

    def runs_layers(self) -> bool:
        """Whether the layers are this model's own, not those of a model that it holds."""
        if self.layouts:
            return bool(self.stack_name)
        # a backbone has them too, beside the base model
        return isinstance(self, self.add_norm_base()) or not hasattr(self, self.base_model_prefix)

    def _has_blocks(self) -> bool:
        """Whether the spec's blocks are installed."""
        if not self.runs_layers():
            return not self._models_to_recast()
        layout = self.layout_of(self._own_config)
        return all(isinstance(self.get_submodule(path), layout.layer) for path in set(layout.layers(self._own_config)))

    def _models_to_recast(self) -> "dict[str, type[AddNormPreTrainedModel]]":
        """The stock models in this one, by the name of the attribute, and the class that recasts each."""
        if not self.layouts:
            base, prefix = self.add_norm_base(), self.base_model_prefix
            return {} if isinstance(getattr(self, prefix), base) else {prefix: base}
        family = self._family()
        models = [cls for cls in vars(sys.modules[family.__module__]).values() if isinstance(cls, type)]
        ours = {cls.__bases__[-1]: cls for cls in models if issubclass(cls, family) and cls is not family}
        return {name: ours[type(child)] for name, child in self.named_children() if type(child) in ours}

    def _install(self, builder: BlockBuilder) -> None:
        if self.runs_layers():
            self._install_in_base(builder)
            return
        for name, model_class in self._models_to_recast().items():
            stock = cast(PreTrainedModel, getattr(self, name))
            model = recast(model_class, stock, stock.config)
            if model._start_rules("embed"):
                # its tables have the stock start, and are drawn with what is the model's own
                mark_not_started(model)
            model.post_init()
            setattr(self, name, model)
        spec = builder.spec
        if spec.head != "stock":
            self._place_at(self.layout_of(builder.config).head_norms, spec, spec.head, "head")
        self.install_output_layer()

    def _place_norm(self, spec: AddNormSpec, place: str | SlotNorm, name: str) -> nn.Module:
        norm, config = spec.place_norm(place), self.config
        return nn.Identity() if norm is None else AddNormConfig.build_norm(config, norm, config.place_width(name))

    def _place_at(self, paths: tuple[str, ...], spec: AddNormSpec, place: str | SlotNorm, name: str) -> None:
        for path in paths:
            if has_part(self, path):
                self.set_submodule(path, self._place_norm(spec, place, name), strict=True)

    def _install_in_base(self, builder: BlockBuilder) -> None:
        spec, layout = builder.spec, self.layout_of(builder.config)
        self.add_norm_inits = [INITS.build(rule) for rule in spec.init]
        self._install_embed(layout, spec)
        transform_tables(self, layout.embeddings, spec.weights, layout.table_classes)
        self._place_at(layout.other_norms, spec, True, "embed")
        for path, cls in layout.other_parts.items():
            if has_part(self, path):
                recast_at(self, path, cls).stream = builder.stream  # type: ignore[assignment]
        encoder: StockValue = recast_at(self, layout.encoder, layout.encoder_class) if layout.encoder_class else self
        if isinstance(encoder, AddNormEncoderModel):
            encoder.belong_to(self)
        if layout.final_norm is not None:
            # where the stock model may have none, or None
            home, _, name = layout.final_norm.rpartition(".")
            setattr(self.get_submodule(home), name, self._place_norm(spec, spec.final, "final"))
            if layout.encoder_class is not None and not layout.final_norm.startswith(f"{layout.encoder}."):
                encoder.unpacks = False
                self.get_submodule(layout.final_norm).register_forward_hook(unpack_output)
        if layout.encoder_class is not None or layout.is_stack:
            here = layout.final_norm is None
            encoder.final_norm = self._place_norm(spec, spec.final, "final") if here else nn.Identity()
            if builder.mixes_tokens or builder.stream.is_tuple:
                encoder.take_layer_drop(self.config)
        self._install_in_layers(layout, builder, encoder)

    def _install_embed(self, layout: FamilyLayout, spec: AddNormSpec) -> None:
        table = layout.position_table
        if table is not None and spec.positions.kind not in ("stock", "learned"):
            width = self.get_submodule(table).embedding_dim
            positions = cast(Positions, POSITIONS.build(spec.positions, width))
            put_positions(self, table, positions, layout.positions_class)
        if layout.embed_norm is not None:
            self._place_at((layout.embed_norm,), spec, spec.embed, "embed")
        elif spec.embed not in ("auto", False) and layout.embed_dropout is not None:
            recast_at(self, layout.embed_dropout, EmbedDropout).embed_norm = self._place_norm(
                spec, spec.embed, "embed"
            )

    def _install_in_layers(self, layout: FamilyLayout, builder: BlockBuilder, encoder: StockValue) -> None:
        paths = layout.layers(builder.config)
        layers: dict[str, AddNormLayer] = {}
        for path in dict.fromkeys(paths):
            layers[path] = recast_at(self, path, layout.layer)
            layers[path].recast_parts(builder.spec, builder.names)
            # the stock class has started its weights by the stock rules alone
            mark_not_started(layers[path])
        blocks = [layers[path].install_add_norm(builder, depth) for depth, path in enumerate(paths)]
        spec = builder.spec
        if layout.embed_in_layer and spec.embed not in ("auto", False):
            blocks[0].put_embed_norm(self._place_norm(spec, spec.embed, "embed"))
            encoder.path_of_embed_norm = f"{paths[0].removeprefix(f'{layout.encoder}.')}.connections.embed_norm"
        # a stock layer cannot be left out by what we tell it
        may_skip = getattr(encoder, "layer_drop", 0.0) > 0.0
        as_stock = [
            not may_skip and layers[path].is_as_stock(connections)
            for path, connections in zip(paths, blocks, strict=True)
        ]
        if layout.encoder_class is not None and layout.encoder_class.holds_connections:
            encoder.connections = nn.ModuleList(blocks)
            encoder.runs_as_stock = all(as_stock)
            as_stock = len(as_stock) * [encoder.runs_as_stock]
        else:
            for path, connections in zip(paths, blocks, strict=True):
                layers[path].connections = connections
        for path, layer_is in zip(paths, as_stock, strict=True):
            layers[path].runs_as_stock = layer_is

    def set_packed(self, packed: bool = True, labelled_only: bool = False) -> None:
        """Let the real tokens of each batch run through the model alone, without padding, or not (any more).

        Outputs have the shapes of always, hidden states 0 where there is padding. It is the same as
        `set_attn_implementation("packed")`, and as `attn_implementation="packed"` when a model is built or loaded.
        What is saved of the model says nothing of it.

        Args:
            packed (`bool`, *optional*, defaults to `True`): False sets the attention to "sdpa".
            labelled_only (`bool`, *optional*, defaults to `False`): where labels are given, the head of a masked
                language model reads the labelled tokens alone: the same loss, logits [1, labelled, vocabulary].
        Raises:
            ValueError: if the model's tokens cannot be packed, or its head needs all tokens.
        """
        if labelled_only:
            require_head_of_single_tokens(self)
        self.labelled_only = labelled_only
        self.set_attn_implementation(PACKED if packed else "sdpa")

    @property
    def can_read_first_only(self) -> bool:
        """Whether its head can be given the first token of each row alone, also with padding: the same logits."""
        return self.takes_first_only and not self.layout_of(self.output_config()).cannot_pack

    def _require_packable(self) -> None:
        config = self.output_config()
        require_packable(type(self).__name__, self.layout_of(config), config)

    def set_attn_implementation(
        self, attn_implementation: StockValue, *args: StockValue, **kwargs: StockValue
    ) -> None:
        """As in Transformers; "packed" is refused where tokens cannot be packed."""
        if attn_implementation == PACKED:
            self._require_packable()
        super().set_attn_implementation(attn_implementation, *args, **kwargs)

    def calibrate(self, batch: Mapping[str, StockValue]) -> None:
        """Set the start values that come from data, of residuals like `admin`, by one forward on a batch.

        To be called once, before training and before the model is wrapped or sharded. The forward runs as in
        evaluation, without dropout; statistics are over the real tokens of the attention mask alone.

        Args:
            batch (`dict`): the model's inputs; labels may be among them.
        Raises:
            ValueError: if no residual of the model can be calibrated.
        """
        readers = [module for module in self.modules() if isinstance(module, (AddNormLayer, AddNormPreTrainedModel))]
        calibrate_residuals(self, readers, batch)

    def _set_gradient_checkpointing(self, enable: bool = True, *args: StockValue, **kwargs: StockValue) -> None:
        function = kwargs.get("gradient_checkpointing_func", args[0] if args else None)
        if enable and getattr(function, "keywords", {}).get("use_reentrant", True):
            allowed = 'allowed is gradient_checkpointing_kwargs={"use_reentrant": False}.'
            for config in self.stack_configs.values():
                if reason := self.layout_of(config).cannot_reenter:
                    raise ValueError(f"use_reentrant is true, and {reason}; {allowed}")
                stream = config.add_norm.stream
                if STREAMS.build(stream).is_tuple:
                    sentence = (
                        f"use_reentrant is true, and add_norm.stream is {stream.kind!r}: reentrant checkpointing "
                        f"loses the gradients of a state of several tensors; {allowed}"
                    )
                    raise ValueError(config.add_norm_sentence(sentence))
            if self.adds_loss:
                raise ValueError(
                    "use_reentrant is true, and a norm of add_norm adds to the loss (regularized_bn): reentrant "
                    f"checkpointing loses the gradients of what a layer adds beside its output; {allowed}"
                )
        super()._set_gradient_checkpointing(enable, *args, **kwargs)

    def _initialize_weights(self, module: nn.Module, is_custom_code: bool = False) -> None:
        # Custom code may write weights in place, so Transformers passes over a module all of whose own weights were
        # loaded. A module without any is not passed over here: our rules for it start weights of its children.
        owns_weights = next(module.parameters(recurse=False), next(module.buffers(recurse=False), None)) is not None
        is_layer = isinstance(module, AddNormLayer)
        super()._initialize_weights(module, is_custom_code and owns_weights and not is_layer)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, (Norm, Residual)):
            module.reset_parameters()
        if isinstance(module, AddNormLayer):
            module.start_factors()
        for rule in self.add_norm_inits:
            if getattr(module, "add_norm_role", None) in rule.roles:
                rule.start_module(module, self._first_position(self._own_config))
            if isinstance(module, AddNormLayer):
                for path, (roles, position) in module.add_norm_linears.items():
                    if not set(roles).isdisjoint(rule.roles):
                        scale = at_depth(self.layout_of(self._own_config).output_scale, position)
                        linear = module.get_submodule(path)
                        rule.start_linear(Linear(linear, roles, position, scale, module.blocks_of(path)))
        if module is self:
            # last of all: some stock models draw the tables as a part of what they are in
            self._start_tables()
        # of the weights as the rules have left them
        for path in module.transformed if isinstance(module, AddNormLayer) else ():
            get_part(module, path).start_transforms()

    def _start_rules(self, role: str) -> list[tuple[InitRule, AddNormConfig]]:
        """The rules for the start of what has this role, each with the config of the stack whose rule it is."""
        rules = [(INITS.build(rule), config) for config in self.stack_configs.values() for rule in _inits(config)]
        return [(rule, config) for rule, config in rules if role in rule.roles]

    def _start_tables(self) -> None:
        """Start the tables of the embeddings in this model by the rules for them."""
        rules = self._start_rules("embed")
        # a table that several stacks share is drawn once, and the first stack's rule counts
        for rule, config in rules if self.runs_layers() else rules[:1]:
            for table in self._embedding_tables():
                rule.start_module(table, self._first_position(config))

    def _embedding_tables(self) -> list[nn.Module]:
        """Those of this model's own layers, or, of a model of several stacks, those that the stacks share."""
        if not self.runs_layers():
            return [child for child in self.children() if self.layouts and isinstance(child, nn.Embedding)]
        parts = (self.get_submodule(path).modules() for path in self.layout_of(self._own_config).embeddings)
        return [part for modules in parts for part in modules if isinstance(part, nn.Embedding)]

    def set_input_embeddings(self, value: nn.Module) -> None:
        """As in Transformers; the tables of several stacks, which share their rows, still transform them."""
        tables = {path: part for path, part in self.named_modules() if isinstance(part, TransformedEmbedding)}
        super().set_input_embeddings(value)
        for path, table in tables.items() if self.layouts and not self.runs_layers() else ():
            if self.get_submodule(path) is value is not table:
                shared = cast(nn.Embedding, value)
                table.weight, table.num_embeddings = shared.weight, shared.num_embeddings
                self.set_submodule(path, table, strict=True)

    @staticmethod
    def _first_position(config: AddNormConfig) -> Position:
        layers = config.add_norm_depth()
        return Position(0, layers, 0, layers * len(config.add_norm_sublayers()))


def _has_layout(cls: type) -> bool:
    return "layout" in vars(cls) or "layouts" in vars(cls)


def _inits(config: AddNormConfig) -> list[ComponentSpec]:
    return AddNormSpec.parse(config.add_norm).init
