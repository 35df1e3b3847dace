"""Growing a trained model: more layers, made of those that it has."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Literal, TypeVar, cast

import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map

from .models.base.registry import parse_option, unknown
from .models.core.addnorm_config import AddNormConfig
from .models.core.branch_norms import BranchNorms
from .models.core.layer import AddNormLayer
from .models.core.layer_add_norm import LayerAddNorm, SublayerAddNorm, SublayerCall, residual_of_block
from .models.core.pretrained import AddNormPreTrainedModel
from .models.core.recasting import get_part
from .models.norms.norm_base import has_gain
from .models.residuals.residuals import LearnedResidual, Residual
from .models.spec.spec import AddNormSpec, Override
from .models.streams.streams import Function, State
from .models.weights.initialization import zero_init
from .models.weights.weight_transforms import linear_size
from .sites import LayerStack


How = Literal["stack", "identity"]
ModelT = TypeVar("ModelT", bound=AddNormPreTrainedModel)


def grow(model: ModelT, layers: int | Mapping[str, int] | None = None, how: str = "stack") -> ModelT:
    """A deeper model, whose new layers are made of the old ones; the old model stays as it is.

        stack:     A B -> A B A B          all layers copied in blocks
        identity:  A B -> A B A' B'        A', B' copies that at first add nothing to the stream

    With "stack" the new model computes another function, from which training goes on. With "identity" it computes the
    old one exactly (in evaluation): in every new layer the last learned factor of each branch is 0, which is the
    residual's factor where there is one, else gain and bias of the norm in `out`, else weight and bias of the branch's
    last Linear layer. A factor on the stream itself begins anew. All else in it is copied, so that the first step
    moves what is at 0, and the next ones the rest.

    The layers' exceptions in the spec (`add_norm.layers`), and other entries that a config has for each layer, go
    with the layers that are copied. Constants that depend on the depth are those of the new depth. An average over
    the layers so far (DenseFormer) that has other terms at its new depth begins anew. Where layers are shared
    (ALBERT), the groups are copied: a model with one group becomes one with two. Everything outside the layers, heads
    too, is kept.

    Source: "stack": Gong et al., "Efficient Training of BERT by Progressively Stacking", 2019, ICML. "identity": Chen,
    Goodfellow & Shlens, "Net2Net", 2015, arXiv 1511.05641 (the idea); zeroed branches: LLaMA Pro, Wu et al., 2024,
    arXiv 2401.02415.

    Args:
        model: an AddNorm model, with or without a head.
        layers (`int` or `dict`, *optional*): the new number of layers, by default twice the old one; for "stack", and
            where layers are shared, a multiple of it. In a model with an encoder and a decoder a number is for both;
            `{"encoder": 12}` leaves the decoder as it is.
        how (`str`, *optional*, defaults to `"stack"`): "stack" or "identity".
    Returns:
        A new model of the same class, with a new config.
    Raises:
        ValueError: a model without an add & norm spec of its own, a number of layers that is not allowed, or
            "identity" for a scheme in which it is not exact. That is tried, not looked up: a new layer must give back
            what it is given when its branches are 0 (a norm on the stream itself does not), and an old layer must do
            what it did (a constant that depends on the number of layers does not).
    """
    parse_option(How, how, "how")
    if not isinstance(model, AddNormPreTrainedModel):
        raise ValueError(f"grow takes a model with config.add_norm, got a {type(model).__name__}; allowed is one.")
    config = _grown_config(model, layers, how)
    with torch.device(model.device):
        grown = type(model)(config)
    stacks = [(LayerStack(model, name), LayerStack(grown, name)) for name in model.stack_configs]
    state = _grown_state(model, grown, stacks)
    for old, new in stacks:
        state |= _grown_between(old, new, how)
    grown.load_state_dict(state, assign=True)
    grown.tie_weights()
    grown.train(model.training)
    if how == "identity":
        for old, new in stacks:
            for layer, connections in new.layers()[len(old.paths) :]:
                _start_as_identity(layer, connections, new.config.add_norm_sublayers())
            _refuse_inexact(old, new)
    if getattr(model, "generation_config", None) is not None:
        grown.generation_config = copy.deepcopy(model.generation_config)
    return grown


def _grown_config(model: AddNormPreTrainedModel, layers: int | Mapping[str, int] | None, how: str) -> AddNormConfig:
    config: AddNormConfig = model.config
    grown, facts, stacks = copy.deepcopy(config), config.facts, model.stack_configs
    given = layers if isinstance(layers, Mapping) else dict.fromkeys(stacks, layers)
    for name, number in given.items():
        if name not in stacks:
            raise ValueError(f"layers: {unknown('stack of layers', name, stacks)}")
        old = stacks[name].num_hidden_layers
        new = 2 * old if number is None else number
        # where layers are shared, what counts those with weights of their own grows by the same factor
        _refuse_number(old, new, how == "stack" or len(facts.layer_counts) > 1, name)
        for key in facts.layer_counts:
            entry = facts.stacks[name][key] if name else key
            setattr(grown, entry, getattr(config, entry) * new // old)
        for key in facts.per_layer:
            values = getattr(config, key)
            setattr(grown, key, [values[source] for source in _copied(len(values), new)])
    for key, derive in facts.of_depth.items():
        setattr(grown, key, derive(grown))
    _grow_specs(stacks, config, grown)
    return grown


def _refuse_number(old: int, new: object, whole: bool, name: str) -> None:
    """Refuse a new number of layers that is not above the old one, or, where it has to be, no multiple of it."""
    if type(new) is not int or new <= old or (whole and new % old):
        allowed = f"a multiple of {old}, above it" if whole else f"a whole number above {old}"
        raise ValueError(f"layers is {new!r}, and the {name or 'model'} has {old}; allowed is {allowed}.")


def _grow_specs(stacks: Mapping[str, AddNormConfig], config: AddNormConfig, grown: AddNormConfig) -> None:
    """Let the layers' exceptions, which may be those of several stacks, be about the grown layers."""
    specs: dict[str, AddNormSpec] = {}
    depths = {name: stack.add_norm_depth() for name, stack in grown.add_norm_stacks().items()}
    for name, stack in stacks.items():
        entry = stack.add_norm_entry
        spec = _grown_spec(getattr(config, entry), stack.add_norm_depth(), depths[name])
        if specs.setdefault(entry, spec) != spec:
            # the same exceptions have become others at another depth
            specs[config.add_norm_entries[-1]] = spec
    for entry, spec in specs.items():
        setattr(grown, entry, spec)


def _copied(old: int, new: int) -> list[int]:
    """For every layer of the new stack, the index of the old one that it is copied from.

    The old layers come first, then blocks of copies; the last block ends as the old stack ends.
    """
    return [*range(old), *((index - new) % old for index in range(old, new))]


def _grown_spec(spec: AddNormSpec, old: int, new: int) -> AddNormSpec:
    copied = _copied(old, new)
    overrides = []
    for override in spec.layers:
        selected = override.layers(old)
        indices = [index for index, source in enumerate(copied) if source in selected]
        # one that selects no layer (the first quarter of two) stays idle
        overrides += [Override("index", indices, override.axes)] if indices else []
    return replace(spec, layers=overrides)


def _sources(old: LayerStack, new: LayerStack) -> dict[str, str]:
    """The old path for the path of every new layer and of its blocks."""
    sources: dict[str, str] = {}
    for olds, news in ((old.paths, new.paths), (old.blocks, new.blocks)):
        for path, source in zip(news, _copied(len(olds), len(news)), strict=True):
            if sources.setdefault(path, olds[source]) != olds[source]:
                raise ValueError(
                    f"layers is {new.config.num_hidden_layers}, at which the shared layer {path} would be a copy of "
                    "two; allowed is a multiple at which the groups are as long as they were."
                )
    return sources


def _grown_state(
    model: AddNormPreTrainedModel, grown: AddNormPreTrainedModel, stacks: Sequence[tuple[LayerStack, LayerStack]]
) -> dict[str, torch.Tensor]:
    state, anew = model.state_dict(), grown.state_dict()
    sources = {path: source for old, new in stacks for path, source in _sources(old, new).items()}
    # the longest first: blocks may lie within a layer
    paths = sorted(sources, key=len, reverse=True)
    names_of_parts = {f".{blocks.layer_part_name}." for _, new in stacks for _, blocks in new.layers()}
    found = {}
    for key, start in anew.items():
        path = next((path for path in paths if key.startswith(f"{path}.")), "")
        source = sources[path] + key.removeprefix(path) if path else key
        # an average is as long as its depth; a first sublayer may lack what a copy of it has
        of_layer = any(name in key for name in names_of_parts)
        of_depth = source not in state or (of_layer and state[source].shape != start.shape)
        found[key] = (start if of_depth else state[source]).clone()
    return found


def _grown_between(old: LayerStack, new: LayerStack, how: str) -> dict[str, torch.Tensor]:
    """What is added between the layers: where two follow each other as they did; elsewhere it begins anew.

    With "identity" nothing is added between those that are new.
    """
    path = old.layout.between_layers
    if path is None or path not in dict(old.base.named_parameters()):
        return {}
    before = get_part(old.base, path).detach()
    grown = get_part(new.base, path).detach().to(before, copy=True)
    sources = _copied(len(old.paths), len(new.paths))[: len(old.paths) if how == "identity" else None]
    for place, (first, second) in enumerate(pairwise(sources)):
        if second == first + 1:
            grown[place] = before[first]
    return {new.prefix + path: grown}


class _Branch:
    """The end of one sublayer's branch: its last Linear layer, its norm and its residual.

    Args:
        layer, connections: a layer and its blocks.
        names (`list[str]`): the layer's sublayers.
        name (`str`): this one.
    """

    def __init__(self, layer: AddNormLayer, connections: LayerAddNorm, names: list[str], name: str):
        self.block: SublayerAddNorm = get_part(connections, name)
        last: SublayerAddNorm = get_part(connections, names[-1])
        # a residual is the layer's or the sublayer's; in parallel, that of the last one, which writes for all
        parts: tuple[nn.Module, ...] = (connections, self.block, last)
        self.residual = next(residual for part in parts if (residual := residual_of_block(part)) is not None)
        sublayer = layer.sublayers[name]
        self.stock_parts: dict[str, Function] = {slot: get_part(layer, path) for slot, path in sublayer.norms.items()}
        # of the sublayer whose residual that is
        writing = name if residual_of_block(self.block) is not None else names[-1]
        self.factor = layer.borrowed_factor(writing)
        if self.factor is not None:
            self.stock_parts["factor"] = partial(torch.mul, self.factor)
        self.output: nn.Module = next(
            get_part(layer, path) for path, roles in sublayer.roles().items() if roles[0] in ("o", "w2")
        )

    @torch.no_grad()
    def zero_init(self) -> None:
        """Write 0 into the last learned factor, and into what is added behind it."""
        if self.residual.needs_output:
            raise ValueError(
                f"how is 'identity', and {type(self.residual).__name__} gives a branch no gradient where it is 0: it "
                "would never learn; allowed is 'stack'."
            )
        factor = self.output
        norm = self.block._modules.get("out_norm") or cast(nn.Module | None, self.stock_parts.get("out"))
        if self.factor is not None:
            self.factor.zero_()
            return
        if isinstance(self.residual, LearnedResidual) and self.residual.side == "branch":
            factor = self.residual
        else:
            # what it does to the stream itself is nothing yet, if it starts so
            for part in self.residual.modules():
                if isinstance(part, Residual):
                    part.reset_parameters()
            if "out" in self.block.filled and norm is not None and has_gain(norm):
                zero_init(norm)
                return
        for parameter in factor.parameters():
            parameter.zero_()

    def run(self, u: torch.Tensor, _: BranchNorms) -> torch.Tensor:
        """A stand-in for the branch: its last Linear layer, applied to numbers that depend on `u`."""
        width = linear_size(self.output)[1]
        inside = torch.linspace(-1, 1, width, dtype=u.dtype) * (1 + u.mean(-1, keepdim=True).tanh())
        output: torch.Tensor = self.output(inside)
        return output


def _start_as_identity(layer: AddNormLayer, connections: LayerAddNorm, names: list[str]) -> None:
    """Let a layer's branches add nothing to the stream at first."""
    for name in names:
        _Branch(layer, connections, names, name).zero_init()
    if connections.layer_part is not None:
        connections.layer_part.reset_parameters()


@torch.no_grad()
def _after(layer: AddNormLayer, connections: LayerAddNorm, config: AddNormConfig, state: State) -> State:
    """The state of the stream after a layer, whose branches give something in the place of what they do."""
    layer = copy.deepcopy(layer).cpu().double().eval()
    connections = copy.deepcopy(connections).cpu().double().eval()
    names = config.add_norm_sublayers()
    branches = {name: _Branch(layer, connections, names, name) for name in names}
    calls = [
        SublayerCall(connections, name, branch.run, None, branch.stock_parts) for name, branch in branches.items()
    ]
    return connections.step(state, calls)


def _refuse_inexact(stack: LayerStack, grown: LayerStack) -> None:
    """Refuse a scheme in which a grown stack is not the old one, as its blocks themselves show."""
    old, new = stack.layers(), grown.layers()
    draw = torch.Generator().manual_seed(0)

    def drawn(like: torch.Tensor) -> torch.Tensor:
        return torch.randn(like.shape, generator=draw, dtype=torch.float64)

    _, first = new[0]
    state = copy.deepcopy(first).cpu().double().enter(drawn(torch.empty(2, 3, grown.config.hidden_size)))
    for depth, part in enumerate(new):
        state = tree_map(drawn, state)
        expected, after = state, _after(*part, grown.config, state)
        what = (
            "changes the stream even where its branches add nothing: there is more on it than their sum (a norm "
            "behind it, a factor, a second sum, an adapter)"
        )
        if depth < len(old):
            expected = _after(*old[depth], stack.config, state)
            what = (
                "would not do what it did: a constant of its add & norm depends on the number of layers, "
                f"{len(old)} and {len(new)}"
            )
        # a stream that keeps the layers' outputs has one more afterwards, at the end
        same = all(map(torch.equal, tree_leaves(expected), tree_leaves(after)))
        # what a layer adds at its end is no branch
        if not same or (depth >= len(old) and part[0].added_last is not None):
            raise ValueError(f"how is 'identity', and layer {depth + 1} {what}; allowed is 'stack'.")
        state = after
