"""Running a model on batches, and what is taken from it: the figures of `measures.py`, by place."""

from collections.abc import Callable, Iterator, Mapping, Sequence
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
from ..sites import LayerStack, Site, add_norm_sites, norm_parts, refuse_other_models
from .measures import gain_figures
from .sums import Observation, Place, cosine, norm_hooks
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


def place_of(site: Site, stacks: Sequence[LayerStack]) -> Place:
    """Where a norm's figures are kept."""
    sub = site.sublayer
    if sub is not None:
        return Place(sub.depth, f"{sub.stack} {sub.name} {site.place}".lstrip())
    stack = next((stack.name for stack in stacks if site.norm.startswith(stack.prefix)), "")
    return Place(None, f"{stack} {site.place}".lstrip())


def norm_places(model: AddNormPreTrainedModel) -> dict[str, list[Place]]:
    """The places of every norm by its path; a norm of shared layers has several."""
    found: dict[str, list[Place]] = {}
    stacks = [LayerStack(model, name) for name in model.stack_configs]
    for site in add_norm_sites(model):
        found.setdefault(site.norm, []).append(place_of(site, stacks))
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
        self.stacks = [LayerStack(model, name) for name in model.stack_configs]
        self.depth = sum(len(stack.paths) for stack in self.stacks)
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
        for stack in self.stacks:
            observed.add_attentions(_by_layer(kept.get(stack.name, ()), stack))
        self.tokens += sum(observed.tokens.values())
        if loss is not None and observed.keeps_branches:
            branches = {place: f for place, f in observed.branches.items() if f.requires_grad}
            # of the branches alone: no parameter's gradient is touched
            found = torch.autograd.grad(loss, [*branches.values()], allow_unused=True) if branches else ()
            observed.add_gradients(dict(zip(branches, found, strict=True)))
        observed.branches.clear()

    @contextmanager
    def _ready(self) -> Iterator[dict[str, tuple[StockValue, ...]]]:
        """Watch the model in evaluation, with hooks on its last layers, its output and the norms that saturate.

        What is given is filled by the forward: the attentions by stack.
        """
        modes = {module: module.training for module in self.model.modules()}
        norms = {get_part(self.model, path): places for path, places in self.norms.items()}
        kept: dict[str, tuple[StockValue, ...]] = {}
        hooks = [*norm_hooks(norms, self.observation)]
        for stack in self.stacks:
            layer, last = get_part(self.model, stack.paths[-1]), Place(len(stack.paths) - 1, stack.name)
            hooks.append(layer.register_forward_hook(partial(_tell, self.observation.leave, last)))
            if (final := stack.final_path()) is not None:
                tell = partial(_tell, self.observation.hand_out, last)
                hooks.append(get_part(self.model, final).register_forward_hook(tell))
        hooks.append(self.model.register_forward_hook(partial(_keep_attentions, kept)))
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
        pair.places[layer].add({"similarity": cosine(x.to(y), y)})
    return True


def _tell(
    take: Callable[[Place, torch.Tensor], None], last: Place, _: nn.Module, args: StockValue, output: StockValue
) -> None:
    take(last, output[0] if isinstance(output, tuple) else output)


def _keep_attentions(
    kept: dict[str, tuple[StockValue, ...]], _: nn.Module, args: StockValue, output: StockValue
) -> None:
    if isinstance(output, Mapping):
        names = {"": "attentions", "encoder": "encoder_attentions", "decoder": "decoder_attentions"}
        kept.update({stack: output.get(name) or () for stack, name in names.items()})


def _ask_for_attentions(
    _: nn.Module, args: StockValue, kwargs: dict[str, StockValue]
) -> tuple[StockValue, dict[str, StockValue]]:
    return args, kwargs | {"output_attentions": True}


def _own_loss(model: PreTrainedModel, inputs: Batch) -> torch.Tensor | None:
    loss: torch.Tensor | None = model(**inputs).get("loss")
    return loss


def _by_layer(attentions: tuple[StockValue, ...], stack: LayerStack) -> dict[Place, torch.Tensor]:
    """Self-attention's weights by layer, where each layer gave one square matrix a head."""
    given = [x for x in attentions if isinstance(x, torch.Tensor) and x.dim() == 4 and x.shape[-1] == x.shape[-2]]
    if len(given) != len(attentions) or len(given) != len(stack.paths):
        return {}
    return {Place(layer, stack.name): weights for layer, weights in enumerate(given)}
