"""Checkpoints that are loaded: damaged weights, and the add & norm that they were trained with."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import nn

from ..base.protocols import StockValue
from ..weights.weight_transforms import Transformed
from .addnorm_config import AddNormConfig
from .layer_add_norm import SublayerAddNorm


try:
    from safetensors import SafetensorError
except ImportError:  # never with a Transformers that loads safetensors

    class SafetensorError(Exception):  # type: ignore[no-redef]
        """Stands for the error that cannot be raised then."""


@contextmanager
def reraise_damaged_weights(checkpoint: object) -> Iterator[None]:
    """Weights that cannot be read while `checkpoint` is loaded become an `OSError` that names it."""
    try:
        yield
    except SafetensorError as error:
        raise OSError(
            f"the weights of {checkpoint} are truncated or damaged ({error}): copy or download them again."
        ) from error


# where a checkpoint is, beside its name
_PLACE = ("revision", "token", "cache_dir", "subfolder", "local_files_only")


def config_of_checkpoint(
    config_class: type[AddNormConfig], config: object, checkpoint: StockValue, kwargs: Mapping[str, StockValue]
) -> AddNormConfig | None:
    """The config of a checkpoint, that of a stock one as ours; None where the weights have no config.

    Args:
        config_class: of the model that was loaded.
        config: of that model.
        checkpoint: a folder or a Hub name; None where the weights were given as they are.
        kwargs: of `from_pretrained`.
    """
    if checkpoint is None:
        return None
    place = {key: kwargs[key] for key in _PLACE if key in kwargs}
    try:
        # what was just loaded is in the cache, and is looked up by its commit
        entries, _ = config_class.get_config_dict(
            checkpoint, **place, _commit_hash=getattr(config, "_commit_hash", None)
        )
        found: AddNormConfig = config_class.from_dict(entries)
    except (OSError, ValueError):
        # none is needed where the model's is given as `config`
        return None
    return found


def refuse_split_features(model: nn.Module) -> None:
    """Refuse tensor parallelism where a process would see a part of the features that it needs all of.

    Raises:
        ValueError: in one sentence, if the model is split over several processes and has a norm within a branch, or a
            weight transform.
    """
    if (getattr(model, "tp_size", None) or 1) == 1:
        return
    for module in model.modules():
        slots = module.inner_slots if isinstance(module, SublayerAddNorm) else ()
        if slots or isinstance(module, Transformed):
            what = f"a norm in the slot {slots[0]!r}" if slots else "a weight transform"
            raise ValueError(
                "tensor parallelism gives each process a part of the features within attention and feed-forward, and "
                f"this add & norm has {what}, which needs all of them; allowed are schemes without norms in q, k, v, "
                "qk, up and mid and without weight transforms, or FSDP."
            )
