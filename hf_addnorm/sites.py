"""A walk over a model's add & norm: every norm in the order in which it runs, and the Linear layers beside it.

It is derived from the family's layout (`FamilyLayout`, `SublayerLayout`) and the model's blocks, so that it works for
every family and every scheme. What no layout says, which Linear layers of a head read the last hidden state, is seen
in a forward.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import cast

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from .models.base.protocols import StockValue
from .models.core.addnorm_config import AddNormConfig
from .models.core.branch_norms import INNER_SLOTS
from .models.core.embeddings_and_output import EmbedDropout
from .models.core.encoder import AddNormEncoder
from .models.core.layer import AddNormLayer
from .models.core.layer_add_norm import LayerAddNorm, SublayerAddNorm
from .models.core.pretrained import AddNormPreTrainedModel
from .models.core.recasting import get_part, has_part
from .models.norms.norm_base import GAINS
from .models.residuals.residuals import BorrowedVector
from .models.streams.wirings import Parallel


# a role whose Linear layer reads what a sublayer is given; of a cross-attention, k and v read the encoder
_READS = {"attention": ("q", "k", "v"), "cross_attention": ("q",), "feed_forward": ("w1",)}
_READS_ACROSS = {"cross_attention": ("k", "v")}
_WRITES = ("o", "w2")


@dataclass(frozen=True)
class Sublayer:
    """Where one sublayer's parts are; paths are dotted, from the model.

    Args:
        name (`str`), depth (`int`): attention, cross_attention or feed_forward; the layer's index from 0.
        layer, block (`str`): the layer; its add & norm block.
        norms (`dict[str, str]`): by slot; empty slots are left out.
        readers (`tuple[str, ...]`): the Linear layers that read what the sublayer is given: those of q, k, v, or w1.
        writer (`str`): the Linear layer that gives the branch's output: that of o, or w2.
        residual (`str`, *optional*): what adds it to the stream; None where another sublayer does.
        across (`tuple[str, ...]`): the Linear layers of a cross-attention that read the encoder's output: k and v.
        stack (`str`): the name of the stack of layers, where a model has several.
    """

    name: str
    depth: int
    layer: str
    block: str
    norms: dict[str, str]
    readers: tuple[str, ...]
    writer: str
    residual: str | None
    across: tuple[str, ...] = ()
    stack: str = ""

    @property
    def title(self) -> str:
        """What it is called in a report."""
        return f"{self.stack} layer {self.depth} {self.name}".lstrip()

    def residual_of(self, model: nn.Module) -> nn.Module | None:
        """Its residual in a model, with the factor that it may borrow of the stock layer; None where it has none."""
        if self.residual is None:
            return None
        found: nn.Module = get_part(model, self.residual)
        if isinstance(found, BorrowedVector):
            layer: AddNormLayer = get_part(model, self.layer)
            return found.with_factor(cast(nn.Parameter, layer.borrowed_factor(self.name)))
        return found


@dataclass(frozen=True)
class Site:
    """One norm of a model's add & norm, and what is beside it; paths are dotted, from the model.

    Args:
        place (`str`): its slot in a sublayer, or "embed", "final", "other" (on the stream, in no slot).
        norm (`str`): the norm.
        readers (`tuple[str, ...]`): the Linear layers that read its output. Of the last norm these are a head's, which
            are known where inputs were given.
        writer (`str`, *optional*): the Linear layer whose output was added last to what the norm is given; in `out`
            and the slots inside a branch, the one that it stands behind.
        skip_reads (`bool`): whether its output is also the stream that the next sublayer adds to.
        sublayer (`Sublayer`, *optional*): whose slot it is.
    """

    place: str
    norm: str
    readers: tuple[str, ...] = ()
    writer: str | None = None
    skip_reads: bool = False
    sublayer: Sublayer | None = None

    @property
    def title(self) -> str:
        """What it is called in a report."""
        return self.place if self.sublayer is None else f"{self.sublayer.title} {self.place}"


@dataclass(frozen=True)
class NormParts:
    """What a norm's module says about itself.

    Args:
        eps (`float`, *optional*): None where it has none.
        gain, bias (`torch.nn.Parameter`, *optional*): as stored; a zero-centred gain is its distance from one.
    """

    eps: float | None
    gain: nn.Parameter | None
    bias: nn.Parameter | None


def norm_parts(norm: nn.Module) -> NormParts:
    """The eps, gain and bias of a norm, ours or torch's."""
    own = dict(norm.named_parameters(recurse=False))
    gain = next((own[name] for name in GAINS if name in own), None)
    return NormParts(getattr(norm, "eps", None), gain, own.get("bias"))


def add_norm_sites(model: AddNormPreTrainedModel, inputs: Mapping[str, StockValue] | None = None) -> list[Site]:
    """Every norm of a model's add & norm, in the order in which they run, and the Linear layers beside each.

        embed -> layer 0: pre -> readers -> (q, k, v, up) -> mid -> writer -> out -> + -> post -> ... -> final -> head

    A head's own norms are not among them. Where layers are shared (ALBERT), a norm stands there once for each depth.

    Args:
        model: an AddNorm model, with or without a head.
        inputs (`dict`, *optional*): of a forward, in which the readers that no layout names are found: those of the
            last norm in the head, and of a norm of embeddings that are narrower than the stream.
    Raises:
        ValueError: if the model has no add & norm spec of its own.
    """
    refuse_other_models(model)
    walked: list[Site] = []
    ends: list[int] = []
    for name in model.stack_configs:
        sites = _walk(LayerStack(model, name))
        # a map between narrow embeddings and the stream, a head, a decoder that reads: no layout names these
        ends += [len(walked) + at for at, site in enumerate(sites) if site.place == "embed" or at == len(sites) - 1]
        walked += sites
    if inputs is not None:
        read = traced_readers(model, inputs, [walked[index].norm for index in ends])
        for index in ends:
            if not walked[index].readers:
                walked[index] = replace(walked[index], readers=read[walked[index].norm])
    return walked


def refuse_other_models(model: object) -> None:
    """Refuse what has no blocks of ours.

    Raises:
        ValueError: in one sentence.
    """
    if not isinstance(model, AddNormPreTrainedModel) or not isinstance(model.config, AddNormConfig):
        raise ValueError(
            f"a {type(model).__name__} has no add & norm spec; allowed is an AddNorm model of one family."
        )


class LayerStack:
    """A stack of layers of a model: the only one, or its encoder or decoder; paths are dotted, from the model.

    Args:
        model (`AddNormPreTrainedModel`): the whole model.
        name (`str`, *optional*): of the stack; empty where it is the only one.
    """

    def __init__(self, model: AddNormPreTrainedModel, name: str = ""):
        self.model, self.name, self.config = model, name, model.stack_configs[name]
        home, self.base = next(
            (path, part)
            for path, part in model.named_modules()
            if isinstance(part, AddNormPreTrainedModel) and part.runs_layers() and part.stack_name == name
        )
        self.prefix, self.layout = f"{home}." if home else "", model.layout_of(self.config)
        # of every layer, and of every depth's blocks, in the order in which they run
        self.paths = [self.prefix + path for path in self.layout.layers(self.config)]
        self.blocks = [f"{path}.connections" for path in self.paths]
        self.encoder = self.prefix + (f"{self.layout.encoder}." if self.layout.encoder else "")
        encoder = get_part(self.base, self.layout.encoder) if self.layout.encoder else self.base
        if isinstance(encoder, AddNormEncoder) and encoder.holds_connections:
            self.blocks = [f"{self.encoder}connections.{depth}" for depth in range(len(self.paths))]

    def layers(self) -> list[tuple[AddNormLayer, LayerAddNorm]]:
        """Every depth's layer and its add & norm blocks."""
        pairs = zip(self.paths, self.blocks, strict=True)
        return [(get_part(self.model, path), get_part(self.model, blocks)) for path, blocks in pairs]

    def sublayers(self) -> list[Sublayer]:
        """Every sublayer, in the order in which they run."""
        return [
            replace(_sublayer(*parts, name, depth, paths), stack=self.name)
            for depth, (parts, paths) in enumerate(
                zip(self.layers(), zip(self.paths, self.blocks, strict=True), strict=True)
            )
            for name in self.config.add_norm_sublayers()
        ]

    def embed_path(self) -> str | None:
        """The path of the norm after the embeddings, or None."""
        in_layer = f"{self.blocks[0]}.embed_norm"
        if self.layout.embed_norm is not None:
            return self.prefix + self.layout.embed_norm
        if self.layout.embed_in_layer:
            return in_layer if has_part(self.model, in_layer) else None
        path = self.layout.embed_dropout
        found = path is not None and isinstance(get_part(self.base, path), EmbedDropout)
        return f"{self.prefix}{path}.embed_norm" if found else None

    def final_path(self) -> str | None:
        """The path of the norm after the last layer, or of what stands for none; None where there is no place."""
        path = f"{self.prefix}{self.layout.final_norm}" if self.layout.final_norm else f"{self.encoder}final_norm"
        return path if has_part(self.model, path) else None

    def embeds_narrower(self) -> bool:
        """Whether a map stands between the embeddings and the stream."""
        return self.config.place_width("embed") != self.config.hidden_size


def sublayers(model: AddNormPreTrainedModel) -> list[Sublayer]:
    """Every sublayer of a model, stack by stack, in the order in which they run."""
    return [sub for name in model.stack_configs for sub in LayerStack(model, name).sublayers()]


def _sublayer(layer: AddNormLayer, blocks: LayerAddNorm, name: str, depth: int, paths: tuple[str, str]) -> Sublayer:
    layer_path, blocks_path = paths
    block: SublayerAddNorm = get_part(blocks, name)
    layout, block_path = layer.sublayers[name], f"{blocks_path}.{name}"
    norms = {slot: f"{layer_path}.{layout.norms[slot]}" for slot in block.stock_slots}
    norms |= {slot: f"{block_path}.{part}" for slot, part in block.own_slots.items()}
    roles = layout.roles()
    residual = f"{block_path}.{block.residual_name}" if block.residual_name else None
    if residual is None and blocks.residual_name:
        residual = f"{blocks_path}.{blocks.residual_name}"
    return Sublayer(
        name,
        depth,
        layer_path,
        block_path,
        norms,
        tuple(f"{layer_path}.{path}" for path, found in roles.items() if found[0] in _READS[name]),
        next(f"{layer_path}.{path}" for path, found in roles.items() if found[0] in _WRITES),
        residual,
        tuple(f"{layer_path}.{path}" for path, found in roles.items() if found[0] in _READS_ACROSS.get(name, ())),
    )


@dataclass
class _Walker:
    """Collects the sites; norms that are the identity are none."""

    model: AddNormPreTrainedModel
    sites: list[Site] = field(default_factory=list)

    def add(self, site: Site) -> None:
        if not isinstance(get_part(self.model, site.norm), nn.Identity):
            self.sites.append(site)


def _walk(stack: LayerStack) -> list[Site]:
    walker, subs = _Walker(stack.model), stack.sublayers()
    is_parallel = isinstance(stack.config.add_norm.build_wiring(), Parallel)

    def read_from(index: int) -> tuple[str, ...]:
        """The Linear layers that read the stream as it is before this sublayer."""
        if index == len(subs):
            return ()
        # branches in parallel read the same
        here = [sub for sub in subs if sub.depth == subs[index].depth] if is_parallel else [subs[index]]
        return () if "pre" in here[0].norms else sum((sub.readers for sub in here if "pre" not in sub.norms), ())

    if (path := stack.embed_path()) is not None:
        through = stack.embeds_narrower()
        walker.add(Site("embed", path, () if through else read_from(0), skip_reads=not through))
    for path in stack.layout.other_norms:
        if has_part(stack.base, path):
            walker.add(Site("other", stack.prefix + path))
    for index, sub in enumerate(subs):
        of_layer = [other for other in subs if other.depth == sub.depth]
        begin = subs.index(of_layer[0]) if is_parallel else index
        before = subs[begin - 1].writer if begin else None
        shares = is_parallel and not any("pre" in other.norms for other in of_layer[1:])
        for slot in ("pre", *INNER_SLOTS, "out", "post"):
            if slot not in sub.norms:
                continue
            at = partial(Site, slot, sub.norms[slot], sublayer=sub)
            if slot == "pre":
                readers = sum((other.readers for other in of_layer), ()) if shares else sub.readers
                walker.add(at(readers=readers, writer=before))
            elif slot == "post":
                walker.add(at(readers=read_from(index + 1), writer=sub.writer, skip_reads=True))
            elif slot == "mid":
                walker.add(at(readers=(sub.writer,)))
            else:
                walker.add(at(writer=sub.writer if slot == "out" else None))
    if (path := stack.final_path()) is not None:
        walker.add(Site("final", path, writer=subs[-1].writer))
    return walker.sites


class _Trace:
    """Which Linear layers are given what a module returned, in one forward: they share its memory."""

    def __init__(self, model: PreTrainedModel, paths: Sequence[str]):
        self.model, self.paths = model, paths
        # outputs are kept, so that no memory is used twice
        self.kept: dict[str, list[torch.Tensor]] = {path: [] for path in paths}
        self.read: dict[str, list[str]] = {path: [] for path in paths}

    def hooks(self) -> Iterator[torch.utils.hooks.RemovableHandle]:
        for path in self.paths:
            yield get_part(self.model, path).register_forward_hook(partial(self._keep, path))
        for name, module in self.model.named_modules():
            if isinstance(module, (nn.Linear, Conv1D)):
                yield module.register_forward_pre_hook(partial(self._look, name))

    def _keep(self, path: str, _: nn.Module, args: StockValue, output: torch.Tensor) -> None:
        self.kept[path].append(output)

    def _look(self, name: str, _: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        memory = args[0].untyped_storage().data_ptr()
        for path, outputs in self.kept.items():
            if (
                any(output.untyped_storage().data_ptr() == memory for output in outputs)
                and name not in self.read[path]
            ):
                self.read[path].append(name)


@torch.no_grad()
def traced_readers(
    model: PreTrainedModel, inputs: Mapping[str, StockValue], paths: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    """The Linear layers that are given the output of the module at each path, or a part of it, in one forward.

    Args:
        model: runs in evaluation, and is left in the mode that it was in.
        inputs (`dict`): of the forward.
        paths: dotted, from the model.
    """
    trace, training = _Trace(model, paths), model.training
    handles = list(trace.hooks())
    try:
        model.eval()(**inputs)
    finally:
        for handle in handles:
            handle.remove()
        model.train(training)
    return {path: tuple(names) for path, names in trace.read.items()}
