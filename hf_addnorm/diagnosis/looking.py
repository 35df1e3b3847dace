"""Running a model on batches, and what is taken from it: the figures of `measures.py`, by place."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial

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
            ours = recast(config)
            ours.load_state_dict(model.state_dict(), assign=True)
            ours.train(model.training)
            return ours
    if not isinstance(model, AddNormPreTrainedModel):
        raise ValueError(
            f"a {type(model).__name__} cannot be diagnosed; allowed is an AddNorm model of one family, or a stock model "
            f"of one: {one_of(families())}."
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

    def run(self, batch: Batch) -> None:
        """One forward, and a backward to the branches if the model gives a loss; in evaluation, without dropout.

        Raises:
            ValueError: if the batch is not what the model reads.
        """
        name = self.model.main_input_name
        if not isinstance(batch, Mapping) or name not in batch:
            given = one_of(batch) if isinstance(batch, Mapping) else f"a {type(batch).__name__}"
            raise ValueError(f"a {type(self.model).__name__} reads {name!r}, and a batch has {given}.")
        inputs = {key: x.to(self.model.device) if isinstance(x, torch.Tensor) else x for key, x in batch.items()}
        observed, wants_loss = self.observation, inputs.get("labels") is not None
        observed.begin()
        observed.keeps_branches = wants_loss
        last: list[torch.Tensor] = []
        extra = {"output_attentions": True} if self.gives_attentions else {}
        with self._ready(last), torch.set_grad_enabled(wants_loss):
            outputs = self.model(**inputs, **extra)
        self.tokens += int(observed.real.sum()) if observed.real is not None else _count(observed)
        attentions = outputs.get("attentions") or outputs.get("encoder_attentions") or ()
        observed.end(last[-1] if last else None, _by_layer(attentions, self.depth))
        if wants_loss and outputs.get("loss") is not None:
            branches = {place: f for place, f in observed.branches.items() if f.requires_grad}
            found = torch.autograd.grad(outputs.loss, [*branches.values()], allow_unused=True)
            observed.add_gradients(dict(zip(branches, found, strict=True)))
        observed.branches.clear()

    @contextmanager
    def _ready(self, last: list[torch.Tensor]) -> Iterator[None]:
        """Watch the model in evaluation, with hooks on its last layer and on the norms that saturate."""
        modes = {module: module.training for module in self.model.modules()}
        norms = {get_part(self.model, path): places for path, places in self.norms.items()}
        hooks = [*norm_hooks(norms, self.observation)]
        last_layer = get_part(self.model, layer_paths(self.model)[-1])
        hooks.append(last_layer.register_forward_hook(partial(_keep_readable, last)))
        try:
            self.model.eval()
            with watching(self.model, self.observation):
                yield
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


def _keep_readable(last: list[torch.Tensor], _: nn.Module, args: StockValue, output: StockValue) -> None:
    with torch.no_grad():
        last[:] = [real_tokens(output[0] if isinstance(output, tuple) else output)]


def _by_layer(attentions: tuple[StockValue, ...], depth: int) -> dict[int, torch.Tensor]:
    """Self-attention's weights by layer, where each layer gave one square matrix a head."""
    given = [x for x in attentions if isinstance(x, torch.Tensor) and x.dim() == 4 and x.shape[-1] == x.shape[-2]]
    return dict(enumerate(given)) if len(given) == len(attentions) == depth else {}
