"""How an AddNorm model is made of a stock one: anatomy, adoption, initialisation.

The stock class builds itself; then its parts are adopted, under their own names, by classes that know the spec.
"""

import copy
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from .connection import AddNorm, Branch, Connections
from .depth import at_depth, positions
from .initialization import INITS, Role
from .norms import Norm
from .refusals import refuse
from .residuals import RESIDUALS, LearnedResidual
from .spec import AddNormSpec


try:
    from safetensors import SafetensorError
except ImportError:  # never with a Transformers that loads safetensors

    class SafetensorError(Exception):  # type: ignore[no-redef]
        """Stands for the error that cannot be raised then."""


ModuleT = TypeVar("ModuleT", bound=nn.Module)


@dataclass(frozen=True)
class Sublayer:
    """Where one sublayer's parts are; paths are dotted, from the layer.

    Args:
        dropout (`str`): the dropout on the branch's output.
        linears (`dict[str, str]`): the Linear layers by role: q, k, v, o or w1, w2.
        norms (`dict[str, str]`): the stock layer's own norms, by the slot that each one fills.
    """

    dropout: str
    linears: dict[str, str]
    norms: dict[str, str]


@dataclass(frozen=True)
class Anatomy:
    """What a family says about its stock model; paths are dotted, from the base model unless said.

    Args:
        encoder (`str`): the module that runs the layers.
        layers (`str`): its list of layers.
        sublayers (`dict[str, Sublayer]`): in the order in which they run; a layer may lack some.
        embed_norm (`str`): the norm after the sum of the embeddings.
        head_norms (`tuple[str, ...]`): the heads' norms, from the model with the head.
    """

    encoder: str
    layers: str
    sublayers: dict[str, Sublayer]
    embed_norm: str
    head_norms: tuple[str, ...] = ()


def get_part(module: nn.Module, path: str) -> nn.Module:
    """The submodule at a dotted path (`get_submodule` without its checks: this runs in every forward)."""
    for name in path.split("."):
        module = getattr(module, name)
    return module


def has_part(module: nn.Module, path: str) -> bool:
    """Whether there is a submodule at a dotted path."""
    return any(name == path for name, _ in module.named_modules())


def adopt(cls: type[ModuleT], stock: nn.Module, *init_args: Any) -> ModuleT:
    """A `cls` made of the parts of `stock`: the same submodules and attributes, no weight drawn again.

    Args:
        cls: a subclass of `type(stock)`.
        stock (`torch.nn.Module`): is not to be used any more afterwards.
        init_args: for `PreTrainedModel.__init__` where `cls` is a model, which keeps state by class.
    """
    module = cls.__new__(cls)
    base: Any = PreTrainedModel if issubclass(cls, PreTrainedModel) else nn.Module
    base.__init__(module, *init_args)
    by_class = set(vars(PreTrainedModel)) | set(module.__dict__) if base is PreTrainedModel else set()
    for key, value in stock.__dict__.items():
        if key not in by_class or key in ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"):
            module.__dict__[key] = copy.copy(value) if isinstance(value, (dict, set)) else value
    return module


class AddNormLayer(nn.Module):
    """Mixin for a family's layer: runs its sublayers through their add & norm blocks.

        x -> attention's block -> (cross-attention's block) -> feed-forward's block -> x

    The class that mixes it in sets `sublayers` and says what the branches are.
    """

    sublayers: ClassVar[dict[str, Sublayer]]

    def install_add_norm(self, spec: AddNormSpec, config: Any, index: int) -> None:
        """Build the blocks of layer `index`, put norms at the stock layer's paths, mark each part with its role."""
        depth = config.num_hidden_layers
        layer_spec = spec.layer(index, depth)
        shared = None
        blocks = {}
        for position, name in positions(depth, config.add_norm_sublayers()):
            if position.layer != index:
                continue
            parts = self.sublayers[name]
            norms = {
                slot: config.build_norm(choice, config.slot_width(name, slot))
                for slot, choice in layer_spec.slot_norms(name).items()
            }
            for slot, norm in norms.items():
                norm.add_norm_role = Role(f"{slot}_norm", position)
            for slot, path in parts.norms.items():
                self.set_submodule(path, norms.pop(slot, nn.Identity()), strict=True)
            for role, path in parts.linears.items():
                linear: Any = self.get_submodule(path)
                linear.add_norm_role = Role(role, position)
            residual = RESIDUALS.build(layer_spec.residual, config.hidden_size, position)
            if layer_spec.residual.options.get("share") == "layer":
                shared, residual = shared or residual, None
            blocks[name] = AddNorm(layer_spec, name, norms, residual, at_depth(layer_spec.pre_scale, position))
        self.connections = Connections(blocks, shared)

    def connect(self, name: str, x: torch.Tensor, branch: Branch) -> torch.Tensor:
        """The stream after the sublayer `name`, whose computation is `branch`."""
        parts = self.sublayers[name]
        stock_norms = {slot: get_part(self, path) for slot, path in parts.norms.items()}
        return self.connections(name, x, branch, get_part(self, parts.dropout), stock_norms)


class AddNormEncoder(nn.Module):
    """Mixin for a family's encoder: the stock loop over the layers, then the norm of the place `final`.

    x -> layer 1 -> ... -> layer L -> final -> last_hidden_state
    """

    final_norm: nn.Module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        outputs: Any = super().forward(*args, **kwargs)
        outputs.last_hidden_state = self.final_norm(outputs.last_hidden_state)
        return outputs


class AddNormPreTrainedModel(PreTrainedModel):
    """Mixin for a family's models: adopts the stock parts before `post_init`, starts and saves what is ours.

    The base model swaps its layers and encoder; a model with a head swaps the stock base model that its head built
    for an AddNorm one, and its head's norms where the spec says so.
    """

    anatomy: ClassVar[Anatomy]
    add_norm_layer: ClassVar[type[AddNormLayer]]
    add_norm_encoder: ClassVar[type[AddNormEncoder]]

    def __init__(self, config: PreTrainedConfig, *args: Any, **kwargs: Any):
        if not hasattr(config, "add_norm"):
            raise ValueError(
                f"{type(self).__name__} needs a config with add_norm, got a {type(config).__name__}: make it with the "
                f"family's AddNorm config."
            )
        super().__init__(config, *args, **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As in Transformers; weights that are cut short or damaged are named in a sentence."""
        try:
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        except SafetensorError as error:
            raise OSError(
                f"the weights of {pretrained_model_name_or_path} are truncated or damaged ({error}): copy or download "
                "them again."
            ) from error

    @classmethod
    def add_norm_base(cls) -> "type[AddNormPreTrainedModel]":
        """The family's base model."""
        raise NotImplementedError

    def post_init(self) -> None:
        """Install the spec's blocks, then what `PreTrainedModel` does last."""
        spec = AddNormSpec.parse(self.config.add_norm)
        base_class = self.add_norm_base()
        if isinstance(self, base_class):
            self._install_in_base(spec)
        else:
            stock = getattr(self, self.base_model_prefix)
            base = adopt(base_class, stock, self.config)
            base.post_init()
            setattr(self, self.base_model_prefix, base)
            if spec.head != "stock":
                for path in self.anatomy.head_norms:
                    if has_part(self, path):
                        self.set_submodule(path, self._place_norm(spec, spec.head), strict=True)
        super().post_init()

    def _place_norm(self, spec: AddNormSpec, place: Any) -> nn.Module:
        norm = spec.place_norm(place)
        return nn.Identity() if norm is None else self.config.build_norm(norm)

    def _install_in_base(self, spec: AddNormSpec) -> None:
        refuse(spec, self.config)
        self.add_norm_inits = [INITS.build(rule) for rule in spec.init]
        self.set_submodule(self.anatomy.embed_norm, self._place_norm(spec, spec.embed), strict=True)
        layers: Any = self.get_submodule(self.anatomy.layers)
        for index, stock in enumerate(layers):
            layers[index] = adopt(self.add_norm_layer, stock)
            layers[index].install_add_norm(spec, self.config, index)
        encoder = adopt(self.add_norm_encoder, self.get_submodule(self.anatomy.encoder))
        encoder.final_norm = self._place_norm(spec, spec.final)
        self.set_submodule(self.anatomy.encoder, encoder, strict=True)
        if self.add_norm_inits:
            # a base model adopted from a head was started by the stock rules already
            for module in self.modules():
                if hasattr(module, "add_norm_role"):
                    module._is_hf_initialized = False  # type: ignore[assignment]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, (Norm, LearnedResidual)):
            module.reset_parameters()
        if (role := getattr(module, "add_norm_role", None)) is not None:
            for rule in self.add_norm_inits:
                if role.name in rule.roles:
                    rule.apply(module, role)
