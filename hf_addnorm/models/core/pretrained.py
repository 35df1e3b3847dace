"""How an AddNorm model is made of a stock one: recasting, initialisation.

The stock class builds itself; then its parts are recast, under their own names, by classes that know the spec.

As remote code, a config and its models are loaded from two copies of these files, whose classes are not the same. So
norms are built by the function that is here, `AddNormConfig.build_norm(config, ...)`, not by the config's own method:
the rules for start weights, and the token mask, know the classes of this copy.
"""

import inspect
import sys
from collections.abc import Collection, Mapping
from functools import partial, wraps
from typing import Any, ClassVar, cast

import torch
import torch.distributed as dist
from torch import nn
from transformers import PreTrainedModel

from ..base.auxiliary_loss import with_losses
from ..base.depth import Position, StackPositions, at_depth
from ..base.registries import INITS, POSITIONS, RESIDUALS, STREAMS, WIRINGS
from ..base.registry import ComponentSpec, one_of, to_json
from ..base.token_mask import TokenMask, current, running_with
from ..norms.norm_base import Norm, mixes_tokens
from ..residuals.residuals import Residual
from ..spec.refusals import check
from ..spec.spec import AddNormSpec
from ..streams.positions import put_positions
from ..streams.streams import LayerState
from ..weights.initialization import Linear
from ..weights.weight_transforms import Transformed, linear_size, transformed_class, transforms
from .addnorm_config import AddNormConfig
from .branch_norms import ModuleView
from .embeddings_and_output import HasOutputLayer, transform_tables
from .family_layout import FamilyLayout, SublayerLayout
from .hub_files import HubFiles
from .layer_add_norm import Branch, LayerAddNorm, StreamModules, SublayerAddNorm, SublayerCall
from .loading import register_key_layout, reraise_damaged_weights
from .recasting import document, get_part, has_part, recast, recast_at
from .single_commit_push import SingleCommitPush


def _pass_token_mask(layer: nn.Module, args: Any, kwargs: Any) -> Any:
    # before a checkpoint begins, so that its recomputation is told the same
    return args, kwargs | {"tokens": current()}


def _takes_token_mask(forward: Any) -> Any:
    @wraps(forward)
    def with_tokens(self: Any, *args: Any, tokens: TokenMask | None = None, **kwargs: Any) -> Any:
        if tokens is None:
            return forward(self, *args, **kwargs)
        return running_with(tokens, forward, self, *args, **kwargs)

    return with_tokens


class AddNormLayer(nn.Module):
    """Mixin for a family's layer: runs its sublayers through their add & norm blocks.

        x -> attention's block -> (cross-attention's block) -> feed-forward's block -> x

    The class that mixes it in sets `sublayers` and says what the branches are.
    """

    sublayers: ClassVar[dict[str, SublayerLayout]]
    connections: Any
    # whether a norm in it takes statistics over tokens
    mixes_tokens = False
    # whether it is told what its model knows during a forward
    has_token_hook = False

    def __init_subclass__(cls, **kwargs: Any):
        if "forward" in vars(cls):
            cls.forward = _takes_token_mask(cls.forward)
        super().__init_subclass__(**kwargs)
        document(cls, "`{stock}` whose sublayers run through add & norm blocks.")

    @property
    def added_last(self) -> nn.Module | None:
        """What the stock layer adds to the stream behind its sublayers, if it has anything of the kind."""
        return None

    def recast_parts(self, spec: AddNormSpec, config: Any) -> None:
        """Let the parts that run with norms inside, or with transformed weights, be recast; once per layer."""
        # what the stock layer's paths hold by now: a norm that several depths may share, or nothing
        self.stock_choices: dict[str, ComponentSpec | None] = {}
        # by path: a Linear may be replaced later, by an adapter or a quantiser
        self.add_norm_linears: dict[str, tuple[tuple[str, ...], Position]] = {}
        self.transformed: list[str] = []
        for name in config.add_norm_sublayers():
            for path, cls in self.sublayers[name].parts.items():
                recast_at(self, path, cls)
            for path, roles in self.sublayers[name].roles().items():
                stock = self.get_submodule(path)
                if (found := transforms(spec.weights, roles, *linear_size(stock))) is not None:
                    self.transformed.append(path)
                    recast_at(self, path, transformed_class(stock)).weight_norm = nn.ModuleList(found)

    def install_add_norm(self, spec: AddNormSpec, config: Any, depth: int, layers: int) -> LayerAddNorm:
        """The blocks of this layer at `depth`; norms that the stock layer has too go to its paths."""
        layer_spec = spec.layer(depth, layers)
        stream, wiring = STREAMS.build(spec.stream), WIRINGS.build(spec.wiring)
        names = config.add_norm_sublayers()
        shared = None
        blocks = {}
        places = StackPositions(layers, names, wiring).of_layer(depth)
        for name, position in places.items():
            order = names.index(name)
            choices = {
                slot: choice
                for slot, choice in layer_spec.slot_norms(name).items()
                if wiring.uses(slot, order, len(names))
            }
            norms = self._place_norms(self.sublayers[name], choices, name, layer_spec.qkv_width, config)
            for path, roles in self.sublayers[name].roles().items():
                self.add_norm_linears.setdefault(path, (roles, position))
            residual = None
            if wiring.writes(order, len(names)):
                new_norm = partial(AddNormConfig.build_norm, config, layer_spec.norm)
                choice = layer_spec.residual_of(name)
                residual = stream.build_residual(choice, config.hidden_size, position, new_norm)
                if choice.options.get("share") == "layer":
                    shared, residual = shared or residual, None
            head_size = config.add_norm_head_size() if layer_spec.qkv_width == "head" else None
            blocks[name] = SublayerAddNorm(layer_spec, position, set(choices), norms, residual, head_size)
        self.mixes_tokens = self.mixes_tokens or bool(spec.token_norms(layers))
        if spec.asks_model(layers) and not self.has_token_hook:
            self.has_token_hook = True
            self.register_forward_pre_hook(_pass_token_mask, with_kwargs=True)
        new_norm = partial(AddNormConfig.build_norm, config, stream.own_norm(spec.norm))
        entry_modules = stream.build_entry_modules(config.hidden_size) if depth == 0 else {}
        exit_modules = stream.build_exit_modules(config.hidden_size, new_norm) if depth == layers - 1 else None
        part = stream.build_layer_part(config.hidden_size, places[names[0]])
        own = StreamModules(entry_modules, exit_modules, part)
        return LayerAddNorm(blocks, shared, stream, wiring, depth, own)

    def _place_norms(
        self, parts: SublayerLayout, choices: dict[str, ComponentSpec], name: str, qkv_width: str, config: Any
    ) -> dict[str, nn.Module]:
        """Put norms at the stock layer's paths; those that have no place there are returned, by slot."""
        norms = {
            slot: AddNormConfig.build_norm(config, choice, config.slot_width(name, slot, qkv_width))
            for slot, choice in choices.items()
        }
        for slot, norm in norms.items():
            norm.add_norm_role = f"{slot}_norm"
        for slot, path in parts.norms.items():
            choice, held = choices.get(slot), self.stock_choices.get(path)
            if held is None:
                self.set_submodule(path, norms.get(slot, nn.Identity()), strict=True)
                self.stock_choices[path] = choice
                norms.pop(slot, None)
            # at another depth of a shared layer, the same norm is shared as in the stock model; not its statistics
            elif choice == held and not mixes_tokens(held):
                del norms[slot]
        return norms

    def run(
        self,
        hidden_states: LayerState,
        branches: Mapping[str, Branch],
        connections: LayerAddNorm | None = None,
        chunk: tuple[int, int] | None = None,
        then: Any = None,
        skipped: Collection[int] = (),
    ) -> Any:
        """The hidden states after the layer.

        Args:
            hidden_states: those before it.
            branches (`dict[str, Branch]`): the sublayers that run, in order.
            connections (`LayerAddNorm`, *optional*): the blocks, where they are not the layer's own.
            chunk (`tuple[int, int]`, *optional*): size and axis of the chunks that the feed-forward runs in.
            then (`torch.nn.Module`, *optional*): something that the stock layer adds to the stream at its end.
            skipped (`Collection[int]`): the depths at which a layer is left out of this forward.
        """
        for path in self.transformed:
            linear = get_part(self, path)
            if not isinstance(getattr(linear, "base_layer", linear), Transformed):
                raise RuntimeError(
                    f"{path} has been replaced by a {type(linear).__name__}, which does not transform its weight as "
                    "add_norm.weights says: a model with weight transforms cannot be quantised so."
                )
        blocks: Any = self.connections if connections is None else connections
        if blocks.depth in skipped:
            return blocks(hidden_states, [])
        calls = []
        for name, branch in branches.items():
            parts, stock_norms = self.sublayers[name], {}
            for slot in blocks._modules[name].stock_slots:
                stock_norms[slot] = get_part(self, parts.norms[slot])
            dropout = None if parts.dropout is None else get_part(self, parts.dropout)
            in_chunks = chunk if name == "feed_forward" and not self.mixes_tokens else None
            calls.append(SublayerCall(blocks, name, branch, dropout, stock_norms, in_chunks))
        return blocks(hidden_states, calls, then)

    def require_cross_attention(self) -> None:
        """Refuse an encoder's hidden states where there is nothing to read them."""
        if not self.connections.has("cross_attention"):
            raise ValueError(
                "encoder_hidden_states were passed, but the model has no cross-attention: build it with "
                "config.add_cross_attention=True."
            )


class AddNormEncoder(nn.Module):
    """Mixin for a family's encoder: the stock loop over the layers, then the norm of the place `final`.

    x -> layer 1 -> ... -> layer L -> final -> last_hidden_state
    """

    final_norm: nn.Module
    config: Any
    layers: Any
    # where the mask that the encoder is given, and no other, counts tokens: sound
    reads_tokens = False
    # whether the blocks of all depths are its `connections`, where layers may be shared
    holds_connections = False
    # the rate of the layer drop, where the stock loop may not skip layers by itself
    layer_drop = 0.0
    stock_forward: ClassVar[Any]

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        stock: Any = cls.__mro__[cls.__mro__.index(AddNormEncoder) + 1]
        cls.stock_forward = staticmethod(stock.forward)
        document(cls, "`{stock}` with the norm of the place `final` after its layers.")

    def run_layers(self, *args: Any, **kwargs: Any) -> Any:
        """The loop over the layers; the stock one unless a family's layers need to be told their depth."""
        if self.layer_drop == 0.0:
            return self.stock_forward(self, *args, **kwargs)
        # a layer that is skipped still has to begin or end the state, and all processes must skip the same ones
        if self.training:
            kwargs["skipped"] = draw_skipped(self.layer_drop, len(self.layers), args[0].device)
        config = ModuleView(self.config, {"layerdrop": 0.0})
        return self.stock_forward(ModuleView(self, {"config": config}), *args, **kwargs)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        as_tuple = kwargs.get("return_dict") is False
        kwargs |= {"return_dict": True} if as_tuple else {}
        if self.reads_tokens:
            tokens = TokenMask.of(kwargs.get("attention_mask"))
            outputs = running_with(tokens, self.run_layers, *args, **kwargs)
        else:
            outputs = self.run_layers(*args, **kwargs)
        outputs.last_hidden_state = self.final_norm(outputs.last_hidden_state)
        if outputs.get("hidden_states"):
            # a loop that collects them itself: the readable part of each, and the last one normed
            states = [state[0] if isinstance(state, tuple) else state for state in outputs.hidden_states[:-1]]
            outputs.hidden_states = (*states, outputs.last_hidden_state)
        return outputs.to_tuple() if as_tuple else outputs


def draw_skipped(rate: float, layers: int, device: torch.device) -> set[int]:
    """The layers that one forward skips, each with probability `rate`: the same on all processes.

    Source: LayerDrop, Fan et al., 2019, arXiv 1909.11556.
    """
    draws = torch.rand(layers)
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        draws = draws.to(device)
        dist.broadcast(draws, src=0)
    return {depth for depth, draw in enumerate(draws.tolist()) if draw < rate}


class EmbedDropout(nn.Dropout):
    """The dropout after the embeddings with the norm of the place `embed` before it, where the stock model has none.

    x -> embed -> drop -> x
    """

    embed_norm: nn.Module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(self.embed_norm(x))


def _reader(forward: Any, name: str) -> Any:
    """What gives an argument of a model's forward, by place or by name; None where it has none."""
    names = list(inspect.signature(forward).parameters)
    position = names.index(name) - 1 if name in names else None

    def read(args: tuple, kwargs: dict[str, Any]) -> Any:
        by_place = args[position : position + 1] if position is not None else ()
        return by_place[0] if by_place else kwargs.get(name)

    return read


def _patch_grid(config: Any, image: Any) -> tuple[int, int] | None:
    """Rows and columns of the patches of images [batch, channels, height, width]."""
    if image is None:
        return None
    sizes = config.patch_size if isinstance(config.patch_size, (list, tuple)) else 2 * (config.patch_size,)
    return image.shape[-2] // sizes[0], image.shape[-1] // sizes[1]


def with_token_mask(forward: Any) -> Any:
    """A model's forward that knows its tokens while it runs, and collects losses, where a norm asks for them."""
    mask, image = _reader(forward, "attention_mask"), _reader(forward, "pixel_values")

    @wraps(forward)
    def with_token_mask(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.changes_output:
            self.require_output_layer()
        run: Any = partial(with_losses, forward) if self.adds_loss else forward
        if not (self.asks_model or self.mixes_tokens):
            return run(self, *args, **kwargs)
        tokens = TokenMask.of(mask(args, kwargs), _patch_grid(self.config, image(args, kwargs)))
        return running_with(tokens, run, self, *args, **kwargs)

    # Accelerate, where it takes its autocast away again, goes down to what no decorator is on, and would take this too
    vars(with_token_mask)["__signature__"] = inspect.signature(forward)
    del vars(with_token_mask)["__wrapped__"]
    return with_token_mask


_BASE_DOCSTRING = "Base of a family's models: `{stock}`, whose parts are recast as `config.add_norm` says."
_MODEL_DOCSTRING = "`{stock}` with the add & norm of `config.add_norm`; same arguments, same outputs."


class AddNormPreTrainedModel(HasOutputLayer, HubFiles, SingleCommitPush, PreTrainedModel):
    """Mixin for a family's models: recasts the stock parts before `post_init`, starts and saves what is ours.

    The base model swaps its layers and encoder; a model with a head swaps the stock base model that its head built
    for an AddNorm one, and its head's norms where the spec says so.
    """

    layout: ClassVar[FamilyLayout]
    # whether a norm in it takes statistics over tokens
    mixes_tokens = False
    # whether something in it asks what the model knows during a forward: a norm over tokens, a weight transform
    asks_model = False
    # whether a module in it adds to the loss
    adds_loss = False

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        document(cls, _BASE_DOCSTRING if "layout" in vars(cls) else _MODEL_DOCSTRING)
        if cls.forward is not nn.Module.forward:
            cls.forward = with_token_mask(cls.forward)
        register_key_layout(cls)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As in Transformers; weights that are cut short or damaged are named in a sentence."""
        register_key_layout(cls)
        with reraise_damaged_weights(pretrained_model_name_or_path):
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """As in Transformers, in the layout of keys that the stock family has on disk."""
        register_key_layout(type(self))
        super().save_pretrained(*args, **kwargs)

    @classmethod
    def add_norm_base(cls) -> "type[AddNormPreTrainedModel]":
        """The family's base model: the one that `AutoModel` finds, in the file that has the family's layout."""
        family: Any = next(base for base in cls.__mro__ if "layout" in vars(base))
        return getattr(sys.modules[family.__module__], family.config_class.auto_classes["AutoModel"])

    @classmethod
    def layout_of(cls, config: Any) -> FamilyLayout:
        """The layout of a model of this config; one for all unless a family says otherwise."""
        return cls.layout

    def post_init(self) -> None:
        """Install the spec's blocks, then what `PreTrainedModel` does last."""
        if not hasattr(self.config, "add_norm"):
            raise ValueError(
                f"{type(self).__name__} needs a config with add_norm, got a {type(self.config).__name__}: make it "
                "with the family's AddNorm config."
            )
        spec = AddNormSpec.parse(self.config.add_norm)
        self.mixes_tokens = bool(spec.token_norms(self.config.add_norm_depth()))
        self.asks_model = spec.asks_model(self.config.add_norm_depth())
        # a user's subclass may call this again, on a model that has its blocks and its weights
        if not self._has_blocks():
            self._install(spec)
        self.adds_loss = any(getattr(module, "adds_loss", False) for module in self.modules())
        present = {type(module).__name__ for module in self.modules()}
        layer = self.layout_of(self.config).layer.__name__
        self._no_split_modules = {layer, *(self._no_split_modules or ())} & present
        in_float32 = {name for module in self.modules() for name in getattr(module, "keep_in_float32", ())}
        self._keep_in_fp32_modules_strict = {*(self._keep_in_fp32_modules_strict or ()), *in_float32}
        super().post_init()

    def _has_blocks(self) -> bool:
        """Whether the spec's blocks are installed."""
        base_class = self.add_norm_base()
        if not isinstance(self, base_class):
            return isinstance(getattr(self, self.base_model_prefix), base_class)
        layout = self.layout_of(self.config)
        return all(isinstance(self.get_submodule(path), layout.layer) for path in set(layout.layers(self.config)))

    def _install(self, spec: AddNormSpec) -> None:
        base_class = self.add_norm_base()
        if isinstance(self, base_class):
            self._install_in_base(spec)
            return
        base = recast(base_class, getattr(self, self.base_model_prefix), self.config)
        base.post_init()
        setattr(self, self.base_model_prefix, base)
        if spec.head != "stock":
            self._place_at(self.layout_of(self.config).head_norms, spec, spec.head, "head")
        self.install_output_layer()

    def _place_norm(self, spec: AddNormSpec, place: Any, name: str) -> nn.Module:
        norm, config = spec.place_norm(place), cast(AddNormConfig, self.config)
        return nn.Identity() if norm is None else AddNormConfig.build_norm(config, norm, config.place_width(name))

    def _place_at(self, paths: tuple[str, ...], spec: AddNormSpec, place: Any, name: str) -> None:
        for path in paths:
            if has_part(self, path):
                self.set_submodule(path, self._place_norm(spec, place, name), strict=True)

    def _install_in_base(self, spec: AddNormSpec) -> None:
        check(spec, self.config)
        layout = self.layout_of(self.config)
        self.add_norm_inits = [INITS.build(rule) for rule in spec.init]
        self._install_embed(layout, spec)
        transform_tables(self, layout.embeddings, spec.weights)
        self._place_at(layout.other_norms, spec, True, "embed")
        for path, cls in layout.other_parts.items():
            if has_part(self, path):
                recast_at(self, path, cls).stream = STREAMS.build(spec.stream)
        encoder: Any = recast_at(self, layout.encoder, layout.encoder_class) if layout.encoder_class else self
        if layout.final_norm is not None:
            self._place_at((layout.final_norm,), spec, spec.final, "final")
        if layout.encoder_class is not None:
            here = layout.final_norm is None
            encoder.final_norm = self._place_norm(spec, spec.final, "final") if here else nn.Identity()
            if self.mixes_tokens or STREAMS.build(spec.stream).is_tuple:
                encoder.layer_drop = getattr(self.config, "layerdrop", 0.0)
        self._install_in_layers(layout, spec, encoder)

    def _install_embed(self, layout: FamilyLayout, spec: AddNormSpec) -> None:
        table = layout.position_table
        if table is not None and spec.positions.kind not in ("stock", "learned"):
            width: Any = self.get_submodule(table).embedding_dim
            put_positions(self, table, POSITIONS.build(spec.positions, width))
        if layout.embed_norm is not None:
            self._place_at((layout.embed_norm,), spec, spec.embed, "embed")
        elif layout.embed_dropout is not None and spec.embed not in ("auto", False):
            recast_at(self, layout.embed_dropout, EmbedDropout).embed_norm = self._place_norm(
                spec, spec.embed, "embed"
            )

    def _install_in_layers(self, layout: FamilyLayout, spec: AddNormSpec, encoder: Any) -> None:
        paths = layout.layers(self.config)
        layers: dict[str, Any] = {}
        for path in dict.fromkeys(paths):
            layers[path] = recast_at(self, path, layout.layer)
            layers[path].recast_parts(spec, self.config)
            # the stock class has started its weights by the stock rules alone
            layers[path]._is_hf_initialized = False
        blocks = [
            layers[path].install_add_norm(spec, self.config, depth, len(paths)) for depth, path in enumerate(paths)
        ]
        if not (isinstance(encoder, AddNormEncoder) and encoder.holds_connections):
            for path, connections in zip(paths, blocks, strict=True):
                layers[path].connections = connections
        else:
            encoder.connections = nn.ModuleList(blocks)

    @torch.no_grad()
    def calibrate(self, batch: Mapping[str, Any]) -> None:
        """Set the start values that come from data, of residuals like `admin`, by one forward on a batch.

        To be called once, before training and before the model is wrapped or sharded. The forward runs as in
        evaluation, without dropout; statistics are over the real tokens of the attention mask alone.

        Args:
            batch (`dict`): the model's inputs; labels may be among them.
        Raises:
            ValueError: if no residual of the model can be calibrated.
        """
        residuals = [module for module in self.modules() if isinstance(module, Residual) and module.calibrates]
        if not residuals:
            able = [name for name, factory in RESIDUALS.items() if getattr(factory, "calibrates", False)]
            raise ValueError(
                f"add_norm.residual is {to_json(self.config.add_norm.residual)!r}: there is nothing to calibrate; "
                f"allowed is {one_of(able)}."
            )
        before: Any = None

        def calibrate(residual: Any, args: tuple[torch.Tensor, torch.Tensor]) -> None:
            nonlocal before
            real = current().on(args[0])
            before = residual.calibrate(*args, None if real is None else real.squeeze(-1), before)

        training = {module: module.training for module in self.modules()}
        hooks = [residual.register_forward_pre_hook(calibrate) for residual in residuals]
        # statistics over tokens: they have to be told, and nothing may run in chunks
        readers = [module for module in self.modules() if isinstance(module, (AddNormLayer, AddNormPreTrainedModel))]
        reading = [reader.mixes_tokens for reader in readers]
        try:
            for reader in readers:
                reader.mixes_tokens = True
            self.eval()(**batch)
        finally:
            for hook in hooks:
                hook.remove()
            for reader, was in zip(readers, reading, strict=True):
                reader.mixes_tokens = was
            for module, was in training.items():
                module.training = was

    def _set_gradient_checkpointing(self, enable: bool = True, *args: Any, **kwargs: Any) -> None:
        function = kwargs.get("gradient_checkpointing_func", args[0] if args else None)
        if enable and getattr(function, "keywords", {}).get("use_reentrant", True):
            allowed = 'allowed is gradient_checkpointing_kwargs={"use_reentrant": False}.'
            stream = self.config.add_norm.stream
            if STREAMS.build(stream).is_tuple:
                raise ValueError(
                    f"use_reentrant is true, and add_norm.stream is {stream.kind!r}: reentrant checkpointing loses "
                    f"the gradients of a state of several tensors; {allowed}"
                )
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
        super()._initialize_weights(module, is_custom_code and owns_weights)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, (Norm, Residual)):
            module.reset_parameters()
        for rule in getattr(self, "add_norm_inits", ()):
            if getattr(module, "add_norm_role", None) in rule.roles:
                rule.start_module(module, self._first_position())
            # last of all: some stock models draw the tables as a part of what they are in
            if module is self and "embed" in rule.roles:
                for table in self._embedding_tables():
                    rule.start_module(table, self._first_position())
            if isinstance(module, AddNormLayer):
                for path, (roles, position) in module.add_norm_linears.items():
                    if not set(roles).isdisjoint(rule.roles):
                        scale = at_depth(self.layout_of(self.config).output_scale, position)
                        rule.start_linear(Linear(module.get_submodule(path), roles, position, scale))
        # of the weights as the rules have left them
        for path in module.transformed if isinstance(module, AddNormLayer) else ():
            get_part(module, path).start_transforms()

    def _embedding_tables(self) -> list[nn.Module]:
        parts = (self.get_submodule(path).modules() for path in self.layout_of(self.config).embeddings)
        return [part for modules in parts for part in modules if isinstance(part, nn.Embedding)]

    def _first_position(self) -> Position:
        layers = self.config.add_norm_depth()
        return Position(0, layers, 0, layers * len(self.config.add_norm_sublayers()))
