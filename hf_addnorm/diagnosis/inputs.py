"""What `hf-addnorm diagnose` reads: a model by its name, texts from a file, batches of both."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import AutoTokenizer, DataCollatorForLanguageModeling, PreTrainedConfig, PreTrainedTokenizerBase

import hf_addnorm

from ..hub.card import read_config
from ..hub.description import as_ours, facts_of, families, input_kind
from ..hub.failures import failing_as
from ..models.core.addnorm_config import AddNormConfig
from ..models.core.pretrained import AddNormPreTrainedModel
from ..models.spec.presets import PRESETS
from .looking import Batch


# of the tokens that are hidden for a masked language model's loss
_MASKED, _SEED = 0.15, 0
_MASKED_LM = "ForMaskedLM"


def read_texts(path: Path, most: int) -> list[str]:
    """The lines of a text file that are not empty, at most so many.

    Raises:
        ValueError: if there are none, or the file is no text.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder: --data takes a text file with one text a line.")
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: --data takes a text file with one text a line.")
    try:
        texts = []
        with path.open(encoding="utf-8") as file:
            for line in file:
                if line.strip():
                    texts.append(line.strip())
                if len(texts) == most:
                    break
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no text: --data takes a UTF-8 text file with one text a line.") from None
    if not texts:
        raise ValueError(f"{path} has no text: all of its lines are empty.")
    return texts


def refuse_unwritable(path: Path) -> None:
    """Refuse a file that cannot be written, before anything is computed.

    Raises:
        OSError: in a sentence.
    """
    folder = path.parent
    if not folder.is_dir():
        raise NotADirectoryError(f"{path} cannot be written: {folder} is no folder.")
    if path.is_dir():
        raise ValueError(f"{path} is a folder; --out takes the name of a file.")
    try:
        # asked by trying: rights say nothing of a disk that can only be read
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(f"{path} cannot be written: {error.strerror or error}.") from error


@dataclass(frozen=True)
class Loaded:
    """A model with what prepares its texts.

    Args:
        source (`str`): the folder or the repository.
        preset (`str`, *optional*): what it was loaded into, if not its own scheme.
        model: an AddNorm model.
        tokenizer: its tokenizer.
        max_length (`int`): longer texts are cut to this many tokens.
    """

    source: str
    preset: str | None
    model: AddNormPreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    max_length: int

    @property
    def name(self) -> str:
        """What it is called in the figures."""
        return self.preset or Path(self.source).resolve().name

    def batches(self, texts: Sequence[str], batch_size: int) -> Iterator[Batch]:
        """The texts as batches; those of a masked language model have masked tokens and labels, always the same."""
        tokenizer, collate = self.tokenizer, None
        if type(self.model).__name__.endswith(_MASKED_LM) and tokenizer.mask_token is not None:
            collate = DataCollatorForLanguageModeling(tokenizer, mlm_probability=_MASKED, seed=_SEED)
        for start in range(0, len(texts), batch_size):
            encoded = tokenizer(list(texts[start : start + batch_size]), truncation=True, max_length=self.max_length)
            if collate is None:
                yield tokenizer.pad(encoded, return_tensors="pt")
            else:
                yield collate(
                    [{key: encoded[key][row] for key in encoded} for row in range(len(encoded["input_ids"]))]
                )


def load(what: str, max_length: int, preset: str | None = None) -> Loaded:
    """A folder or a repository, stock or AddNorm, as an AddNorm model with its tokenizer.

    Args:
        what (`str`): the folder or the repository.
        max_length (`int`): of a text, in tokens.
        preset (`str`, *optional*): to load it into; by default its own scheme, or the stock one.
    Raises:
        OSError: if there is no model.
        ValueError: if it is of no family, or does not read text.
    """
    folder = Path(what)
    is_path = folder.is_absolute() or what.startswith((".", "~")) or what.count("/") > 1
    if is_path and not folder.exists():
        raise FileNotFoundError(f"{what} does not exist.")
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{what} holds no model: there is no config.json.")
    with failing_as(f"{what} cannot be read"):
        config = as_ours(read_config(what))
        model_class = _model_class(_of_text(what, config))
        kwargs = {"add_norm": preset} if preset is not None else {}
        attention = {"attn_implementation": "eager"}
        model: AddNormPreTrainedModel = model_class.from_pretrained(what, **kwargs, **attention)
        tokenizer = AutoTokenizer.from_pretrained(what, trust_remote_code=False)
    # in some families the first two positions are those of padding
    room = (getattr(config, "max_position_embeddings", None) or max_length + 2) - 2
    length = max(1, min(max_length, room, tokenizer.model_max_length))
    return Loaded(what, preset, _on_device(model), tokenizer, length)


def load_compared(what: str, source: str, first: Loaded) -> Loaded:
    """The second model: a folder or a repository, or a preset that the weights of `source` are loaded into.

    Raises:
        ValueError: if it does not read a text as the same numbers as the first.
    """
    is_preset = what in PRESETS and not os.path.exists(what)
    second = load(source if is_preset else what, first.max_length, what if is_preset else None)
    if first.tokenizer.get_vocab() != second.tokenizer.get_vocab():
        raise ValueError(
            f"the tokenizers of {first.source} and {second.source} differ: two models are compared on the same tokens."
        )
    return second


def names(first: Loaded, second: Loaded) -> tuple[str, str]:
    """What two models are called: by their schemes where both are of one source, else by their folders."""
    own = first.model.config.add_norm.preset if second.preset is not None else first.name
    if own != second.name:
        return own, second.name
    return (f"{own} as saved", second.name) if second.preset is not None else (first.source, second.source)


def _of_text(what: str, config: PreTrainedConfig) -> AddNormConfig:
    """The config of one encoder that reads text; others are refused."""
    if not isinstance(config, AddNormConfig):
        raise ValueError(
            f"{what} is a {config.model_type!r} model, which is made of several encoders; allowed is a model of one "
            "family."
        )
    if facts_of(config).inputs != "text":
        raise ValueError(
            f"{what} is a {config.model_type!r} model, which reads {input_kind(config).argument}, and --data is "
            "a file of texts; hf_addnorm.diagnose(model, batches) takes batches of any kind."
        )
    return config


def _model_class(config: AddNormConfig) -> type[AddNormPreTrainedModel]:
    """The class that the checkpoint was saved from, as ours; the base model where the family has no such class."""
    saved = (config.architectures or [""])[0]
    name = saved if saved.startswith("AddNorm") else f"AddNorm{saved}"
    known = families()[config.stock_model_type].auto_classes
    found: type[AddNormPreTrainedModel] = getattr(hf_addnorm, name if name in known.values() else known["AutoModel"])
    return found


def _on_device(model: AddNormPreTrainedModel) -> AddNormPreTrainedModel:
    """The model where it runs fast."""
    if torch.cuda.is_available():
        nn.Module.to(model, "cuda")
    return model
