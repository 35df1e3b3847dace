"""The two ends of a text model: tables of the embeddings with transformed weights, the layer that gives the logits."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init

from ..base.protocols import StockValue
from ..base.registries import WEIGHTS
from ..base.registry import ComponentSpec
from ..norms.norm_base import Norm
from ..weights.weight_transforms import NoTransform, TransformedLinear, WeightTransform, transforms
from .addnorm_config import AddNormConfig
from .recasting import recast, recast_at


# makes a norm of so many logits
NewLogitsNorm = Callable[[int], nn.Module]


class TransformedEmbedding(nn.Embedding):
    """`torch.nn.Embedding` whose rows are transformed, each by itself.

    ids [...] -> rows [..., width] -> weight_norm -> [..., width]

    What a stock subclass does beside looking up rows stays around that where it comes first among the bases.
    """

    weight_norm: WeightTransform

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        rows: torch.Tensor = self.weight_norm(super().forward(input))
        return rows


class EmbedDropout(nn.Dropout):
    """The dropout after the embeddings with the norm of the place `embed` before it, where the stock model has none.

    x -> embed -> drop -> x
    """

    embed_norm: nn.Module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(self.embed_norm(x))


class OutputLayer(TransformedLinear):
    """A language model's output layer with a norm of its logits, and perhaps a transformed weight.

    x [..., hidden] -> linear -> logits_norm -> logits [..., vocabulary]
    """

    logits_norm: nn.Module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.logits_norm(super().forward(x))
        return logits


def transform_tables(
    model: PreTrainedModel,
    paths: tuple[str, ...],
    weights: ComponentSpec,
    table_classes: Sequence[type[TransformedEmbedding]] = (),
) -> None:
    """Let the tables of the embeddings, which are at or under `paths`, be recast if their rows are transformed.

    Args:
        model, paths: the model, and where its tables are.
        weights (`ComponentSpec`): the transform.
        table_classes (`tuple[type, ...]`): what recasts a table that is more than `torch.nn.Embedding`, by its stock
            class, which comes first among its bases.
    """
    recasts = {cls.__bases__[0]: cls for cls in table_classes}
    only = model.get_input_embeddings() if WEIGHTS[weights.kind].words_only else None
    for path in paths:
        for name, table in list(model.get_submodule(path).named_modules(prefix=path)):
            if isinstance(table, nn.Embedding) and only in (None, table):
                found = transforms(weights, ("embed",), table.num_embeddings, table.embedding_dim)
                if found is not None:
                    recast_at(model, name, recasts.get(type(table), TransformedEmbedding)).weight_norm = found[0]


class HasOutputLayer:
    """Mixin for a model whose output layer, if it has one, is as a spec says."""

    # whether the output layer has something of the spec's
    changes_output = False

    def output_config(self) -> AddNormConfig:
        """The config whose `add_norm` says what the output layer has."""
        config: AddNormConfig = self.config  # type: ignore[attr-defined]
        return config

    def install_output_layer(self) -> None:
        """Let the output layer be recast if its weight is transformed or its logits have a norm."""
        model: PreTrainedModel = self  # type: ignore[assignment]
        stock, build_norm = model.get_output_embeddings(), self._new_norm()
        if not isinstance(stock, nn.Linear):
            return
        weights = self.output_config().add_norm.weights
        found = transforms(weights, ("output",), stock.out_features, stock.in_features)
        if found is None and build_norm is None:
            return
        (path,) = (name for name, module in model.named_modules() if module is stock)
        layer = recast_at(model, path, OutputLayer)
        layer.weight_norm = nn.ModuleList(found or [NoTransform(stock.out_features, stock.in_features, "output")])
        layer.logits_norm = nn.Identity() if build_norm is None else build_norm(stock.out_features)
        self.changes_output = True

    def require_output_layer(self) -> None:
        """Refuse an output layer that has been replaced, by a quantiser say, and has lost what the spec says.

        Raises:
            RuntimeError: in one sentence.
        """
        layer = self.get_output_embeddings()  # type: ignore[attr-defined]
        # an adapter is around the layer, or beside a copy of it
        inside = getattr(layer, "base_layer", None) or getattr(layer, "original_module", layer)
        if not isinstance(inside, OutputLayer):
            raise RuntimeError(
                f"the output layer has been replaced by a {type(layer).__name__}, which has neither the weight "
                "transform nor the norm of the logits that add_norm says: leave it out of the quantisation."
            )

    def _new_norm(self) -> NewLogitsNorm | None:
        """What makes a norm of so many logits, or None if they have none."""
        config = self.output_config()
        norm = config.add_norm.place_norm(config.add_norm.logits)
        return None if norm is None else partial(config.build_norm, norm)

    def _get_resized_lm_head(self, old_lm_head: nn.Linear, *args: StockValue, **kwargs: StockValue) -> nn.Linear:
        new: nn.Linear = super()._get_resized_lm_head(old_lm_head, *args, **kwargs)  # type: ignore[misc]
        return (
            resized_output_layer(old_lm_head, new, self._new_norm()) if isinstance(old_lm_head, OutputLayer) else new
        )


@torch.no_grad()
def resized_output_layer(old: OutputLayer, new: nn.Linear, build_norm: NewLogitsNorm | None) -> OutputLayer:
    """`new`, which is `old` for another number of tokens or a plain layer made of it, with all that `old` has.

    Tokens that are new have the start values of the logits' norm.
    """
    held = old.logits_norm
    layer = new if isinstance(new, OutputLayer) else recast(OutputLayer, new)
    layer.weight_norm, layer.logits_norm = old.weight_norm, held
    if build_norm is None:
        return layer
    norm = layer.logits_norm = build_norm(new.out_features).to(new.weight.device)
    if isinstance(norm, Norm):
        norm.reset_parameters()
    for name, parameter in held.named_parameters():
        target = norm.get_parameter(name)
        # one number for each token, or something of all of them
        start = target if len(target) == new.out_features else parameter
        kept = min(len(parameter), len(start))
        init.copy_(target, torch.cat([parameter[:kept], start[kept:].to(parameter.dtype)]))
    return layer
