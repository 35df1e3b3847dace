"""Running a model on batches, and what is taken from it: the figures of `measures.py`, by place."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel

from ..hub.description import families
from ..models.base.protocols import StockValue
from ..models.base.registry import one_of
from ..models.core.pretrained import AddNormPreTrainedModel
from ..models.core.recasting import get_part
from ..sites import Site, add_norm_sites, layer_paths, norm_parts, refuse_other_models
from .measures import gain_figures
from .sums import Observation, Place, cosine, norm_hooks, real_tokens
from .watching import watching


Batch = Mapping[str, StockValue]
# from a model and a batch to the loss, None where there is none
ComputeLoss = Callable[[PreTrainedModel, Batch], torch.Tensor | None]


def as_add_norm(model: nn.Module) -> AddNormPreTrainedModel:
    """The model itself, or a stock model of a family as the AddNorm model that has the same weights.

    Raises:
        ValueError: for a model of no family, or of several.
    """
    if isinstance(model, PreTrainedModel) and not isinstance(model, AddNormPreTrainedModel):
        family = families().get(model.config.model_type)
        names = [] if family is None else [*family.auto_classes.values()]
        if family is not None and f"AddNorm{type(model).__name__}" in names:
            import hf_addnorm

            recast: type[AddNormPreTrainedModel] = getattr(hf_addnorm, f"AddNorm{type(model).__name__}")
            config = family.from_dict(model.config.to_dict())
            config._attn_implementation = model.config._attn_implementation
            # what it draws for weights that are replaced at once is not to be missed by a training
            with torch.random.fork_rng(devices=[]):
                ours = recast(config)
            ours.load_state_dict(model.state_dict(), assign=True)
            # buffers that no state dict has
            nn.Module.to(ours, model.device)
            ours.train(model.training)
            return ours
    if not isinstance(model, AddNormPreTrainedModel):
        raise ValueError(
            f"a {type(model).__name__} cannot be diagnosed; allowed is an AddNorm model of one family, or a stock "
            f"model of one: {one_of(families())}."
        )
    refuse_other_models(model)
    return model


def place_of(site: Site) -> Place:
    """Where a norm's figures are kept."""
    sub = site.sublayer
    return Place(None, site.place) if sub is None else Place(sub.depth, f"{sub.name} {site.place}")


def norm_places(model: AddNormPreTrainedModel) -> dict[str, list[Place]]:
    """The places of every norm by its path; a norm of shared layers has several."""
    found: dict[str, list[Place]] = {}
    for site in add_norm_sites(model):
        found.setdefault(site.norm, []).append(place_of(site))
    return found


class Look:
    """One model that is run on batches, and the sums of what was seen.

    Args:
        model: an AddNorm model of one family.
        keeps_streams (`bool`): keep the streams of the last batch, for a comparison.
    """

    def __init__(self, model: AddNormPreTrainedModel, keeps_streams: bool = False):
        self.model, self.observation = model, Observation(keeps_streams)
        self.norms = norm_places(model)
        self.depth = len(layer_paths(model))
        # why some figures are missing, in sentences
        self.notes: list[str] = []
        self.tokens = 0
        self.gives_attentions = getattr(model.config, "_attn_implementation", None) == "eager"
        if not self.gives_attentions:
            self.notes.append(
                "There is no entropy of attention: only attn_implementation='eager' gives the attention's weights."
            )

    def run(self, batch: Batch, compute_loss: ComputeLoss | None = None) -> None:
        """One forward, and a backward to the branches if there is a loss; in evaluation, without dropout.

        Args:
            batch (`dict`): what the model reads, on any device.
            compute_loss (`Callable`, *optional*): runs the model and gives the loss; by default it is the model's own,
                of a batch that has labels.
        Raises:
            ValueError: if the batch is not what the model reads.
        """
        name = self.model.main_input_name
        if not isinstance(batch, Mapping) or name not in batch:
            given = one_of(batch) if isinstance(batch, Mapping) else f"a {type(batch).__name__}"
            raise ValueError(f"a {type(self.model).__name__} reads {name!r}, and a batch has {given}.")
        inputs = {key: x.to(self.model.device) if isinstance(x, torch.Tensor) else x for key, x in batch.items()}
        observed = self.observation
        observed.begin()
        observed.keeps_branches = compute_loss is not None or inputs.get("labels") is not None
        compute_loss = compute_loss or _own_loss
        with self._ready() as kept, torch.set_grad_enabled(observed.keeps_branches):
            loss = compute_loss(self.model, inputs)
        observed.end(kept.last_layer, _by_layer(kept.attentions, self.depth))
        self.tokens += int(observed.real.sum()) if observed.real is not None else _count(observed)
        if loss is not None and observed.keeps_branches:
            branches = {place: f for place, f in observed.branches.items() if f.requires_grad}
            # of the branches alone: no parameter's gradient is touched
            found = torch.autograd.grad(loss, [*branches.values()], allow_unused=True) if branches else ()
            observed.add_gradients(dict(zip(branches, found, strict=True)))
        observed.branches.clear()

    @contextmanager
    def _ready(self) -> Iterator["_Kept"]:
        """Watch the model in evaluation, with hooks on its last layer, its output and the norms that saturate."""
        modes = {module: module.training for module in self.model.modules()}
        norms = {get_part(self.model, path): places for path, places in self.norms.items()}
        last_layer, kept = get_part(self.model, layer_paths(self.model)[-1]), _Kept()
        hooks = [
            *norm_hooks(norms, self.observation),
            last_layer.register_forward_hook(kept.keep_last_layer),
            self.model.register_forward_hook(kept.keep_attentions),
        ]
        if self.gives_attentions:
            hooks.append(self.model.register_forward_pre_hook(_ask_for_attentions, with_kwargs=True))
        try:
            self.model.eval()
            with watching(self.model, self.observation):
                yield kept
        finally:
            for hook in hooks:
                hook.remove()
            for module, mode in modes.items():
                module.training = mode

    def take_weights(self) -> None:
        """Take the figures of the norms' gains and biases, which need no forward."""
        for path, places in self.norms.items():
            norm = get_part(self.model, path)
            parts, figures = norm_parts(norm), dict[str, torch.Tensor]()
            if parts.gain is not None:
                is_distance = getattr(norm, "zero_centered_weight", None) is parts.gain
                figures |= gain_figures(parts.gain, 1.0 if is_distance else 0.0)
            if parts.bias is not None:
                figures["bias"] = parts.bias.detach().float().square().mean().sqrt().view(1)
            for place in places:
                if figures:
                    self.observation.places[place].add(figures)


def compare_streams(first: Observation, second: Observation, pair: Observation) -> bool:
    """Add the cosines of two models' streams in their last forwards; false where they have no tokens in common."""
    if not first.streams or first.streams.keys() != second.streams.keys():
        return False
    for layer, x in first.streams.items():
        if x.shape != (y := second.streams[layer]).shape:
            return False
        pair.places[Place(layer)].add({"similarity": cosine(x.to(y), y)})
    return True


def _count(observed: Observation) -> int:
    return 0 if observed.last is None else len(observed.last)


@dataclass
class _Kept:
    """What hooks keep of one forward: the readable stream behind the last layer, and the attentions."""

    last_layer: torch.Tensor | None = None
    attentions: tuple[StockValue, ...] = ()

    @torch.no_grad()
    def keep_last_layer(self, _: nn.Module, args: StockValue, output: StockValue) -> None:
        # of a shared layer the last call stays
        self.last_layer = real_tokens(output[0] if isinstance(output, tuple) else output)

    def keep_attentions(self, _: nn.Module, args: StockValue, output: StockValue) -> None:
        if isinstance(output, Mapping):
            self.attentions = output.get("attentions") or ()


def _ask_for_attentions(
    _: nn.Module, args: StockValue, kwargs: dict[str, StockValue]
) -> tuple[StockValue, dict[str, StockValue]]:
    return args, kwargs | {"output_attentions": True}


def _own_loss(model: PreTrainedModel, inputs: Batch) -> torch.Tensor | None:
    loss: torch.Tensor | None = model(**inputs).get("loss")
    return loss


def _by_layer(attentions: tuple[StockValue, ...], depth: int) -> dict[int, torch.Tensor]:
    """Self-attention's weights by layer, where each layer gave one square matrix a head."""
    given = [x for x in attentions if isinstance(x, torch.Tensor) and x.dim() == 4 and x.shape[-1] == x.shape[-2]]
    return dict(enumerate(given)) if len(given) == len(attentions) == depth else {}
