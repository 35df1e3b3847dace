"""The norms of two models side by side, by place, and what reads each: what the rewriting rules work on."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from ..models.base.protocols import StockValue
from ..models.core.pretrained import AddNormPreTrainedModel
from ..models.core.recasting import get_part, has_part
from ..models.norms.layer_norms import FixedSigmaNorm, ZeroMeanLayerNorm
from ..sites import LayerStack, Sublayer, add_norm_sites, sublayers
from .forms import NormForm, read_norm, unit_form
from .linears import LinearEdit


# the slots of a sublayer in which a conversion may change the norm
STREAM_SLOTS = ("pre", "out", "post")


@dataclass
class Pair:
    """The norm of one place in the source and in the target; where one has none, the identity stands for it.

    Args:
        title, place (`str`): as those of a `Site`.
        index (`int`): of the sublayer whose slot it is; -1 for embed, the number of sublayers for final.
        source, target (`NormForm`): the source's; the target's with its own gain at 1 and bias at 0.
        norm (`torch.nn.Module`): the target's.
        readers (`tuple[str, ...]`): the Linear layers that read its output.
        skip (`int`, *optional*): the sublayer whose residual takes its output as the stream.
    """

    title: str
    place: str
    index: int
    source: NormForm
    target: NormForm
    norm: nn.Module
    readers: tuple[str, ...] = ()
    skip: int | None = None
    # what of the source's norm nothing of the target has yet
    gain: torch.Tensor | None = None
    bias: torch.Tensor | None = None
    loses_mean: bool = False
    # what of it its readers have taken in: they are given (y - bias) / gain of what they were given before
    folded: tuple[torch.Tensor, torch.Tensor] | None = None
    # whether it subtracts a mean that a rule of the stream has to account for
    awaits_stream: bool = False

    @property
    def has_exact_core(self) -> bool:
        """Whether both are one function, but for gain, bias and a mean that is to be taken out elsewhere."""
        return self.source.core == self.target.core and self.source.centred >= self.target.centred

    @property
    def width(self) -> int:
        """The number of features; 1 where no part says it."""
        parts = (self.source.gain, self.source.bias, self.target.gain)
        return max(len(part) for part in (*(part for part in parts if part is not None), torch.ones(1)))


@dataclass
class Used:
    """A rule that a conversion has used.

    Args:
        rule (`str`): its name.
        places (`list[str]`): where.
    """

    rule: str
    places: list[str] = field(default_factory=list)


class Workpiece:
    """Source and target of a conversion by algebra; the target has the source's weights wherever it has their place.

    Args:
        source, target: models of one class in float64, in evaluation.
        inputs (`dict`): of a forward, in which the readers of the ends are seen.
    """

    def __init__(
        self, source: AddNormPreTrainedModel, target: AddNormPreTrainedModel, inputs: Mapping[str, StockValue]
    ):
        self.source, self.target, self.inputs = source, target, inputs
        self.old, self.new = sublayers(source), sublayers(target)
        self.used: dict[str, Used] = {}
        self.obstacles: list[str] = []
        # how many of the obstacles are about what the stream begins with at the embeddings
        self.at_embeddings = 0
        # by place, the eps at which a norm would be the same, where it has another one
        self.eps: dict[str, float] = {}
        # what the norm before a sublayer leaves to its residual: a factor and a shift of the stream
        self.skips: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        # what a sum is multiplied by, where the next norm does not see it
        self.scales: dict[int, float] = {}
        self._edited: dict[tuple[str, str], torch.Tensor] = {}
        sites = add_norm_sites(source, inputs)
        ends = {site.place: site.readers for site in (sites[:1] + sites[-1:] if sites else [])}
        self.embed_readers = ends.get("embed", ())
        self.head_readers = sites[-1].readers if sites and sites[-1].place in ("final", "post") else ()
        self.calls = _calls(source, inputs, {path for sub in self.old for path in sub.readers})
        self.depth_shared = len({sub.writer for sub in self.old}) < len(self.old)
        self.pairs = self._pairs()

    def use(self, rule: str, place: str) -> None:
        """Note that a rule was used at a place."""
        self.used.setdefault(rule, Used(rule)).places.append(place)

    def stop(self, place: str, reason: str) -> None:
        """Note what has no exact form."""
        self.obstacles.append(f"{place}: {reason}")

    def linear(self, path: str) -> LinearEdit:
        """A Linear layer of the target."""
        return LinearEdit(path, get_part(self.target, path))

    def edit(self, path: str, what: str, value: torch.Tensor, change: Callable[[LinearEdit], None]) -> None:
        """Change a Linear layer of the target once: where layers are shared, every depth asks for it.

        Raises:
            ValueError: if another depth asks for something else.
        """
        done = self._edited.get((path, what))
        if done is None:
            self._edited[path, what] = value.clone()
            change(self.linear(path))
        elif done.shape != value.shape or not torch.allclose(done, value, rtol=1e-12, atol=1e-12):
            raise ValueError(f"{path} is shared by several depths, which would need it to be different")

    def is_foldable(self, path: str) -> bool:
        """Whether a Linear layer may be changed for what it reads here: nothing else uses its weight."""
        weight = get_part(self.target, path).weight
        uses = sum(weight is other for _, other in self.target.named_parameters(remove_duplicate=False))
        return uses == 1 and (self.depth_shared or self.calls.get(path, 1) == 1)

    def residual(self, index: int) -> nn.Module | None:
        """The target's residual of a sublayer."""
        return self.new[index].residual_of(self.target)

    def _module(self, model: AddNormPreTrainedModel, path: str | None) -> nn.Module:
        return nn.Identity() if path is None else get_part(model, path)

    def _pair(self, title: str, place: str, index: int, paths: tuple[str | None, str | None]) -> Pair | None:
        old, new = self._module(self.source, paths[0]), self._module(self.target, paths[1])
        if isinstance(old, nn.Identity) and isinstance(new, nn.Identity):
            return None
        pair = Pair(title, place, index, read_norm(old), unit_form(new), new)
        pair.awaits_stream = place == "embed" and type(old) is not type(new) and takes_mean_alone(new)
        return pair

    def _pairs(self) -> list[Pair]:
        found: list[Pair] = []
        last, stacks = len(self.old), (LayerStack(self.source), LayerStack(self.target))
        old_embed, new_embed, old_final, new_final = (
            path for find in (LayerStack.embed_path, LayerStack.final_path) for path in map(find, stacks)
        )
        if (pair := self._pair("embed", "embed", -1, (old_embed, new_embed))) is not None:
            pair.readers, pair.skip = self._read_from(0)
            if stacks[0].embeds_narrower():
                pair.readers, pair.skip = self.embed_readers, None
            found.append(pair)
        for index, (old, new) in enumerate(zip(self.old, self.new, strict=True)):
            for slot in (*STREAM_SLOTS[:1], "q", "k", "v", "qk", "up", "mid", *STREAM_SLOTS[1:]):
                pair = self._pair(f"{old.title} {slot}", slot, index, (old.norms.get(slot), new.norms.get(slot)))
                if pair is not None:
                    self._connect(pair, new)
                    found.append(pair)
        if (pair := self._pair("final", "final", last, (old_final, new_final))) is not None:
            pair.readers = self.head_readers
            found.append(pair)
        for path in self.source.layout_of(self.source.config).other_norms:
            if has_part(self.source.base_model, path):
                path = LayerStack(self.source).prefix + path
                if (pair := self._pair(path, "other", last, (path, path))) is not None:
                    found.append(pair)
        return found

    def _connect(self, pair: Pair, sub: Sublayer) -> None:
        if pair.place == "pre":
            pair.readers = sub.readers
        elif pair.place == "mid":
            pair.readers = (sub.writer,)
        elif pair.place == "post":
            pair.readers, pair.skip = self._read_from(pair.index + 1)

    def _read_from(self, index: int) -> tuple[tuple[str, ...], int | None]:
        """What reads the stream before a sublayer: Linear layers, and the sublayer whose residual does."""
        if index == len(self.new):
            final = LayerStack(self.target).final_path()
            has_final = final is not None and not isinstance(get_part(self.target, final), nn.Identity)
            return (() if has_final else self.head_readers), None
        return (() if "pre" in self.new[index].norms else self.new[index].readers), index


def takes_mean_alone(norm: nn.Module) -> bool:
    """Whether a norm in `embed` subtracts a mean for the sake of the stream, beside what the source has there."""
    is_plain = isinstance(norm, FixedSigmaNorm) and norm.sigma == 1 and norm.weight is None and norm.bias is None
    return is_plain or isinstance(norm, ZeroMeanLayerNorm)


@torch.no_grad()
def _calls(model: AddNormPreTrainedModel, inputs: Mapping[str, StockValue], paths: set[str]) -> dict[str, int]:
    """How often each Linear layer runs in one forward: one that runs twice reads something else too."""
    counts = dict.fromkeys(paths, 0)

    def count(path: str) -> Callable[..., None]:
        def hook(*_: StockValue) -> None:
            counts[path] += 1

        return hook

    handles = [get_part(model, path).register_forward_pre_hook(count(path)) for path in paths]
    try:
        model(**inputs)
    finally:
        for handle in handles:
            handle.remove()
    return counts
