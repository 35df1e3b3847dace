"""The models whose way to the Hub and back is tested, and what prepares their inputs: one row each."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import transformers
from families import FAMILIES, fill_with_pattern

import hf_addnorm


WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "post", "pre", "norm"]


@dataclass(frozen=True)
class Prepares:
    """What makes a model's inputs: the Auto class that finds it, one that is made here, and what it is tried with."""

    auto: str
    make: Callable[[], Any]
    sample: str | torch.Tensor


def _tokenizer() -> Any:
    return transformers.BertTokenizer(vocab={word: index for index, word in enumerate(WORDS)})


def _image_processor() -> Any:
    return transformers.ViTImageProcessor(size={"height": 16, "width": 16}, image_mean=[0.5] * 3, image_std=[0.25] * 3)


def _sound_processor() -> Any:
    letters = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "|": 4, "A": 5}
    with TemporaryDirectory() as folder:
        Path(folder, "vocab.json").write_text(json.dumps(letters))
        tokenizer = transformers.Wav2Vec2CTCTokenizer(f"{folder}/vocab.json")
    extractor = transformers.Wav2Vec2FeatureExtractor(sampling_rate=8000, return_attention_mask=True)
    return transformers.Wav2Vec2Processor(extractor, tokenizer)


TEXT = Prepares("AutoTokenizer", _tokenizer, "post norm after")
IMAGE = Prepares("AutoImageProcessor", _image_processor, torch.arange(20 * 20 * 3, dtype=torch.uint8).view(20, 20, 3))
SOUND = Prepares("AutoProcessor", _sound_processor, torch.arange(800.0).sin())


@dataclass(frozen=True)
class Case:
    """A model with a head: its Auto class, its config for a spec, the inputs of its family."""

    model: str
    auto: str
    config: Callable[[Any], Any]
    family: str
    prepares: Prepares
    # what a decoder reads beside
    has_target: bool = False

    def build(self, spec: Any) -> Any:
        """A model of patterned weights, whose running statistics have moved."""
        net = getattr(hf_addnorm, self.model)(self.config(spec))
        fill_with_pattern(net)
        net.train()(**self.inputs())
        return net.eval()

    def batch(self) -> dict[str, torch.Tensor]:
        """Inputs and labels."""
        batch = FAMILIES[self.family].inputs(self.model)
        return batch | {"decoder_input_ids": batch["input_ids"].flip(1)} if self.has_target else batch

    def inputs(self) -> dict[str, torch.Tensor]:
        return {name: value for name, value in self.batch().items() if "label" not in name}


def _of(family: str, model: str, auto: str, prepares: Prepares) -> Case:
    return Case(model, auto, lambda spec: FAMILIES[family].config(model, spec), family, prepares)


def _stack(spec: Any) -> Any:
    names = ("bert", "deberta_v2")
    encoders = [FAMILIES[name].config("", spec, num_hidden_layers=2) for name in names]
    return hf_addnorm.AddNormStackConfig(encoders=encoders, norm="rms_norm")


def _encoder_decoder(spec: Any) -> Any:
    # norms over tokens have no meaning in a decoder
    entries = {
        "encoder": FAMILIES["bert"].config("", spec),
        "decoder": FAMILIES["bert"].config("", "pre_ln", is_decoder=True, add_cross_attention=True),
    }
    return hf_addnorm.AddNormEncoderDecoderConfig(**entries, pad_token_id=0, decoder_start_token_id=2)


CASES = {
    "bert": _of("bert", "AddNormBertForSequenceClassification", "AutoModelForSequenceClassification", TEXT),
    "vit": _of("vit", "AddNormViTForImageClassification", "AutoModelForImageClassification", IMAGE),
    "wav2vec2": _of("wav2vec2", "AddNormWav2Vec2ForCTC", "AutoModelForCTC", SOUND),
    "stack": Case("AddNormStackForSequenceClassification", "AutoModelForSequenceClassification", _stack, "bert", TEXT),
    "encoder_decoder": Case(
        "AddNormEncoderDecoderModel", "AutoModelForSeq2SeqLM", _encoder_decoder, "bert", TEXT, has_target=True
    ),
}

SPECS: dict[str, Any] = {
    "default": None,
    "pre_rms_norm": "pre_rms_norm",
    # running statistics
    "batch_norm": {"preset": "post_ln", "norm": "batch_norm"},
    # several streams
    "hyper_connections": "hyper_connections",
}
