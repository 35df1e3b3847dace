"""A walk over a model's add & norm: every norm in the order in which it runs, and the Linear layers beside it.

It is derived from the family's layout (`FamilyLayout`, `SublayerLayout`) and the model's blocks, so that it works for
every family and every scheme. What no layout says, which Linear layers of a head read the last hidden state, is seen
in a forward.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

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
from .models.streams.wirings import Parallel


# a role whose Linear layer reads what a sublayer is given; of a cross-attention, k and v read the encoder
_READS = {"attention": ("q", "k", "v"), "cross_attention": ("q",), "feed_forward": ("w1",)}
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
    """

    name: str
    depth: int
    layer: str
    block: str
    norms: dict[str, str]
    readers: tuple[str, ...]
    writer: str
    residual: str | None

    @property
    def title(self) -> str:
        """What it is called in a report."""
        return f"layer {self.depth} {self.name}"


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
    walked = _walk(model)
    # a map between narrow embeddings and the stream is named by no layout
    if inputs is not None:
        ends = [index for index, site in enumerate(walked) if site.place == "embed" or index == len(walked) - 1]
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


def base_prefix(model: AddNormPreTrainedModel) -> str:
    """What the paths of the base model begin with."""
    return "" if model.base_model is model else f"{model.base_model_prefix}."


def layer_paths(model: AddNormPreTrainedModel) -> list[str]:
    """The path of every layer, from the model, in the order in which they run."""
    return [base_prefix(model) + path for path in model.layout_of(model.config).layers(model.config)]


def block_paths(model: AddNormPreTrainedModel) -> list[str]:
    """The path of every depth's add & norm blocks."""
    path_of_encoder = model.layout_of(model.config).encoder
    paths = layer_paths(model)
    encoder = get_part(model.base_model, path_of_encoder) if path_of_encoder else model.base_model
    if isinstance(encoder, AddNormEncoder) and encoder.holds_connections:
        return [f"{base_prefix(model)}{path_of_encoder}.connections.{depth}" for depth in range(len(paths))]
    return [f"{path}.connections" for path in paths]


def sublayers(model: AddNormPreTrainedModel) -> list[Sublayer]:
    """Every sublayer of a model, in the order in which they run."""
    found = []
    for depth, (layer_path, blocks_path) in enumerate(zip(layer_paths(model), block_paths(model), strict=True)):
        layer: AddNormLayer = get_part(model, layer_path)
        blocks: LayerAddNorm = get_part(model, blocks_path)
        for name in model.config.add_norm_sublayers():
            found.append(_sublayer(layer, blocks, name, depth, (layer_path, blocks_path)))
    return found


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
    )


@dataclass
class _Walker:
    """Collects the sites; norms that are the identity are none."""

    model: AddNormPreTrainedModel
    sites: list[Site] = field(default_factory=list)

    def add(self, site: Site) -> None:
        if not isinstance(get_part(self.model, site.norm), nn.Identity):
            self.sites.append(site)


def embed_path(model: AddNormPreTrainedModel) -> str | None:
    """The path of the norm after the embeddings, or None."""
    layout, prefix = model.layout_of(model.config), base_prefix(model)
    if layout.embed_norm is not None:
        return prefix + layout.embed_norm
    path = layout.embed_dropout
    found = path is not None and isinstance(get_part(model.base_model, path), EmbedDropout)
    return f"{prefix}{path}.embed_norm" if found else None


def final_path(model: AddNormPreTrainedModel) -> str:
    """The path of the norm after the last layer, or of what stands for none."""
    layout = model.layout_of(model.config)
    return base_prefix(model) + (layout.final_norm or f"{layout.encoder}.final_norm")


def embeds_narrower(model: AddNormPreTrainedModel) -> bool:
    """Whether a map stands between the embeddings and the stream."""
    return model.config.place_width("embed") != model.config.hidden_size


def _walk(model: AddNormPreTrainedModel) -> list[Site]:
    walker, subs = _Walker(model), sublayers(model)
    is_parallel = isinstance(model.config.add_norm.build_wiring(), Parallel)

    def read_from(index: int) -> tuple[str, ...]:
        """The Linear layers that read the stream as it is before this sublayer."""
        if index == len(subs) or "pre" in subs[index].norms:
            return ()
        return subs[index].readers

    if (path := embed_path(model)) is not None:
        through = embeds_narrower(model)
        walker.add(Site("embed", path, () if through else read_from(0), skip_reads=not through))
    for path in model.layout_of(model.config).other_norms:
        if has_part(model.base_model, path):
            walker.add(Site("other", base_prefix(model) + path))
    for index, sub in enumerate(subs):
        before = subs[index - 1].writer if index else None
        of_layer = [other for other in subs if other.depth == sub.depth]
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
    walker.add(Site("final", final_path(model), writer=subs[-1].writer))
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
