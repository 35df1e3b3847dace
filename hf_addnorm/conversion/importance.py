"""How much each token counts in a fit: by what the outputs of the source do when it changes."""

from collections.abc import Callable, Sequence

import torch
from torch import nn

from ..models.base.protocols import StockValue
from ..models.core.pretrained import AddNormPreTrainedModel
from .batches import Batch
from .forms import read_norm
from .measuring import main_output
from .stepping import States, tokens


class Importance:
    """The weight of every token at every norm of the source: half alike, half as the outputs depend on it.

    The second half is the squared gradient of a random projection of the outputs by the norm's input, in units of what
    the norm divides that by. A head that reads one token ([CLS]) makes that token count alone behind the last
    attention, and not at all alike with those around it.

    Args:
        states (`States`): where the weights are kept, a tensor [norms, tokens, 1] for each batch.
        norms: of the source, in the order of the sites; an identity's tokens count alike.
    """

    # the part of a weight that is the same for all tokens, so that no fit rests on a few of them
    ALIKE = 0.5

    def __init__(self, states: States, norms: Sequence[nn.Module]):
        self.states, self.norms = states, norms

    def of(self, site: int, batch: int) -> torch.Tensor:
        """The weights [tokens, 1] of the tokens of a batch at a site."""
        weights: torch.Tensor = self.states[batch][site]
        return weights

    def add(self, index: int, model: AddNormPreTrainedModel, batch: Batch, real: torch.Tensor | None) -> None:
        """Take the weights of a batch, in one forward and backward of the source."""
        seen: dict[int, torch.Tensor] = {}
        handles = [
            norm.register_forward_pre_hook(_keep(seen, site))
            for site, norm in enumerate(self.norms)
            if not isinstance(norm, nn.Identity)
        ]
        try:
            with torch.enable_grad():
                outputs, are_scores = main_output(model(**batch))
                draw = torch.Generator().manual_seed(index)
                wanted = torch.randn(outputs.shape, generator=draw).to(outputs)
                if are_scores:
                    # what all of them have in common decides nothing
                    wanted = wanted - wanted.mean(-1, keepdim=True)
                found = torch.autograd.grad((outputs * wanted).sum(), [*seen.values()], allow_unused=True)
        finally:
            for handle in handles:
                handle.remove()
        gradients = dict(zip(seen, found, strict=True))
        weights = [self._weight(site, seen.get(site), gradients.get(site), real) for site in range(len(self.norms))]
        like = next(weight for weight in weights if weight is not None)
        self.states[index] = torch.stack([torch.ones_like(like) if weight is None else weight for weight in weights])

    def _weight(
        self, site: int, x: torch.Tensor | None, gradient: torch.Tensor | None, real: torch.Tensor | None
    ) -> torch.Tensor | None:
        if x is None or gradient is None:
            return None
        z, slope = tokens(x.detach(), real), tokens(gradient, real)
        form = read_norm(self.norms[site])
        z = z - z.mean(-1, keepdim=True) if form.centred else z
        size = z.square().mean(-1, keepdim=True) if form.core == "deviation" else 1.0
        share = slope.square().sum(-1, keepdim=True) * size
        return self.ALIKE + (1 - self.ALIKE) * share / share.mean().clamp(min=1e-30)


def _keep(seen: dict[int, torch.Tensor], site: int) -> Callable[..., None]:
    def hook(module: nn.Module, args: tuple[StockValue, ...]) -> None:
        seen[site] = args[0] if args[0].requires_grad else args[0].requires_grad_(True)

    return hook
