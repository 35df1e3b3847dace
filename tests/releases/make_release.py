"""Saves models of this version, with their inputs and outputs, as tests/releases/VERSION.tar.xz.

Usage: python tests/releases/make_release.py, once, before a version is released; an archive that is there stays.

The archive has one folder for each case, as `save_pretrained` writes it (code and weights), with `replay.safetensors`
beside it: the inputs and the outputs. Later versions must give the same outputs (test_releases.py). Only public names
of the package are used here, so that the script runs with any version.
"""

import io
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from replay import REPLAY, Case, outputs
from safetensors.torch import save_file

import hf_addnorm


FOLDER = Path(__file__).parent
# multiples of this are exact in every floating-point type of 32 bits or more, and compress well
GRID = 2.0**-11
# a fixed date, so that the same models give the same archive
DATE = 1577836800

_SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 20}
_TEXT = {**_SIZES, "vocab_size": 50, "max_position_embeddings": 16}
_DEBERTA = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 4, "legacy": False}
_SOUND = {
    "conv_dim": (16, 16),
    "conv_stride": (4, 4),
    "conv_kernel": (8, 8),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "mask_time_prob": 0.0,
}
_GPT2 = {"vocab_size": 50, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_inner": 20, "n_positions": 16}
_IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_DISTILBERT = {
    "vocab_size": 50,
    "dim": 16,
    "n_layers": 2,
    "n_heads": 2,
    "hidden_dim": 20,
    "max_position_embeddings": 16,
}
_BART = {"vocab_size": 50, "d_model": 16, "max_position_embeddings": 16, "add_norm_decoder": "sandwich_ln"} | {
    f"{part}_{key}": size
    for part in ("encoder", "decoder")
    for key, size in (("layers", 2), ("attention_heads", 2), ("ffn_dim", 20))
}

# what is needed of a family: its config class, its sizes, the kind of input
FAMILIES: dict[str, tuple[str, dict[str, Any], str]] = {
    "bert": ("AddNormBertConfig", _TEXT, "text"),
    "albert": ("AddNormAlbertConfig", {**_TEXT, "embedding_size": 8}, "text"),
    "modernbert": ("AddNormModernBertConfig", {**_TEXT, **_IDS, "local_attention": 4}, "text"),
    "deberta_v2": ("AddNormDebertaV2Config", {**_TEXT, **_DEBERTA}, "text"),
    "vit": ("AddNormViTConfig", {**_SIZES, "image_size": 8, "patch_size": 4}, "images"),
    "wav2vec2": ("AddNormWav2Vec2Config", {**_SIZES, **_SOUND, "vocab_size": 12}, "sound"),
    "gpt2": ("AddNormGPT2Config", {**_GPT2, **_IDS}, "text"),
    "roberta": ("AddNormRobertaConfig", {**_TEXT, "max_position_embeddings": 20}, "text"),
    "electra": ("AddNormElectraConfig", {**_TEXT, "embedding_size": 8}, "text"),
    "megatron_bert": ("AddNormMegatronBertConfig", _TEXT, "text"),
    "distilbert": ("AddNormDistilBertConfig", _DISTILBERT, "text"),
    "mpnet": ("AddNormMPNetConfig", {**_TEXT, "max_position_embeddings": 20}, "text"),
    "deit": ("AddNormDeiTConfig", {**_SIZES, "image_size": 8, "patch_size": 4}, "images"),
    "hubert": ("AddNormHubertConfig", {**_SIZES, **_SOUND}, "sound"),
    "bart": ("AddNormBartConfig", {**_BART, **_IDS, "decoder_start_token_id": 2}, "two texts"),
}


def _part(model_type: str, **kwargs: Any) -> dict[str, Any]:
    return {"model_type": model_type, **_TEXT, **kwargs}


_STACK = {"encoders": [_part("addnorm_bert", add_norm="pre_ln"), _part("addnorm_albert", embedding_size=8)]}
_PAIR = {
    "encoder": _part("addnorm_bert", add_norm="sandwich_ln"),
    "decoder": {"model_type": "addnorm_gpt2", **_GPT2, **_IDS},
    "pad_token_id": 0,
    "decoder_start_token_id": 1,
}
# models of models: config class, what it is made of, the kind of input
COMPOSITES = {
    "stack": ("AddNormStackConfig", {**_STACK, "norm": "rms_norm"}, "text", "AutoModel"),
    "stack_parallel": ("AddNormStackConfig", {**_STACK, "arrangement": "parallel"}, "text", "AutoModelForMaskedLM"),
    "encoder_decoder": ("AddNormEncoderDecoderConfig", _PAIR, "two texts", "AutoModelForSeq2SeqLM"),
}

_RUNNING = {"attention": {"pre": "batch_norm"}, "feed_forward": {"pre": "power_norm"}, "final": "unified_norm"}
# what the add & norm of a model is, by axis; each is a BERT unless FAMILY_CASES has it
SCHEMES: dict[str, Any] = {
    "default": None,
    "pre_rms": {"preset": "pre_ln", "norm": "rms_norm"},
    "deepnorm": "deepnorm",
    "normformer": "normformer",
    "admin": "admin",
    "gtrxl": "gtrxl",
    "parallel": "parallel",
    "b2t": "b2t",
    "ngpt": "ngpt",
    # streams
    "dual_stream": "residual",
    "siamese": "siamese_norm",
    "hyper_connections": "hyper_connections",
    "dynamic_hyper_connections": "dynamic_hyper_connections",
    "mhc": "mhc",
    "dense": "dense_former",
    "altup": {"preset": "pre_rms_norm", "stream": {"kind": "altup", "streams": 3, "active": 1}},
    "attention_residuals": {"preset": "pre_rms_norm", "stream": "attention_residuals"},
    "gated_streams": {"attention": [], "feed_forward": [], "stream": {"kind": "gated_streams", "rank": 4}},
    # norms with running statistics, norms over tokens, element-wise ones
    "running_norms": {"preset": "pre_ln", **_RUNNING},
    "token_norms": {"preset": "pre_ln", "norm": "instance_norm", "feed_forward": {"pre": "dynamic_token_norm"}},
    "derf": "derf",
    # weights and tables
    "sigma_reparam": {"preset": "pre_ln", "weights": {"kind": "sigma_reparam", "start": "spectral_norm"}},
    "sinusoidal": {"preset": "t_fixup", "positions": {"kind": "sinusoidal", "length": 32}},
    # each layer and sublayer its own
    "by_layer": {
        "preset": "pre_ln",
        "residual": {"attention": "highway", "feed_forward": {"kind": "laurel_lr", "rank": 4}},
        "layers": [
            {"index": 0, "attention": {"pre": True, "q": True, "k": "l2_norm", "mid": "dyt"}},
            {"last": 1, "norm": "rms_norm", "residual": {"kind": "vector", "start": 0.5}, "drop_path": 0.1},
        ],
    },
}
# (family, scheme, Auto class)
CASES: dict[str, tuple[str, str, str]] = {f"bert_{name}": ("bert", name, "AutoModel") for name in SCHEMES} | {
    "bert_masked_lm": ("bert", "dynamic_hyper_connections", "AutoModelForMaskedLM"),
    "bert_classifier": ("bert", "pre_rms", "AutoModelForSequenceClassification"),
    "albert": ("albert", "default", "AutoModel"),
    "albert_siamese": ("albert", "siamese", "AutoModel"),
    "modernbert": ("modernbert", "default", "AutoModel"),
    "modernbert_by_layer": ("modernbert", "by_layer", "AutoModelForTokenClassification"),
    "deberta_v2": ("deberta_v2", "default", "AutoModel"),
    "vit": ("vit", "default", "AutoModel"),
    "vit_classifier": ("vit", "running_norms", "AutoModelForImageClassification"),
    "wav2vec2": ("wav2vec2", "default", "AutoModel"),
    "wav2vec2_ctc": ("wav2vec2", "dual_stream", "AutoModelForCTC"),
    "gpt2": ("gpt2", "default", "AutoModel"),
    "gpt2_lm": ("gpt2", "deepnorm", "AutoModelForCausalLM"),
}
# and those that came later, by the first release that has them
LATER: dict[str, dict[str, tuple[str, str, str]]] = {
    "0.2.0": {
        "roberta_masked_lm": ("roberta", "by_layer", "AutoModelForMaskedLM"),
        "electra": ("electra", "default", "AutoModel"),
        "megatron_bert": ("megatron_bert", "default", "AutoModel"),
        "distilbert": ("distilbert", "default", "AutoModel"),
        "mpnet": ("mpnet", "dual_stream", "AutoModel"),
        "deit": ("deit", "default", "AutoModelForImageClassification"),
        "hubert": ("hubert", "running_norms", "AutoModel"),
        "bart": ("bart", "default", "AutoModel"),
        "bart_seq2seq": ("bart", "hyper_connections", "AutoModelForSeq2SeqLM"),
    }
}
for _cases in LATER.values():
    CASES |= _cases


def inputs_of(kind: str) -> dict[str, torch.Tensor]:
    """Two inputs, the second one padded where there is a mask."""
    if kind == "images":
        return {"pixel_values": torch.sin(torch.arange(2 * 3 * 8 * 8.0)).view(2, 3, 8, 8)}
    if kind == "sound":
        return {"input_values": torch.sin(0.3 * torch.arange(200.0) ** 1.1).view(2, 100)}
    ids = (torch.arange(14).view(2, 7) * 11) % 47 + 3
    mask = torch.ones(2, 7, dtype=torch.long)
    mask[1, 5:] = 0
    more = {"decoder_input_ids": ids[:, :5] % 13 + 3} if kind == "two texts" else {}
    return {"input_ids": ids, "attention_mask": mask, **more}


@torch.no_grad()
def _values(model: torch.nn.Module) -> Iterator[torch.Tensor]:
    """All floating-point tensors that are saved, each once."""
    seen = set()
    for _, tensor in sorted(model.state_dict().items()):
        if tensor.is_floating_point() and tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            yield tensor


@torch.no_grad()
def fill(model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> None:
    """Weights with a pattern around their start, running statistics of three training steps; all on the grid."""
    for index, tensor in enumerate(_values(model)):
        pattern = torch.sin(0.7 * torch.arange(tensor.numel()) + index)
        tensor += 0.1 * pattern.view_as(tensor)
    model.train()
    for _ in range(3):
        model(**inputs)
    for tensor in _values(model):
        tensor.copy_((tensor / GRID).round() * GRID)


def save(folder: Path, config: Any, auto: str, kind: str) -> None:
    """One case: a saved model, its inputs and outputs."""
    torch.manual_seed(0)
    model = getattr(transformers, auto).from_config(config)
    inputs = inputs_of(kind)
    fill(model, inputs)
    model.save_pretrained(folder)
    case = Case(folder, auto, inputs, {})
    found = outputs(case.load(), inputs)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in found.values()), folder.name
    tensors = {f"inputs.{key}": value for key, value in inputs.items()}
    tensors |= {f"outputs.{key}": value.float() for key, value in found.items()}
    save_file({key: value.contiguous() for key, value in tensors.items()}, folder / REPLAY, metadata={"auto": auto})


def config_of(name: str) -> tuple[Any, str, str]:
    """A case's config, its Auto class and the kind of its inputs."""
    if name in COMPOSITES:
        config_class, parts, kind, auto = COMPOSITES[name]
        return getattr(hf_addnorm, config_class)(**parts), auto, kind
    family, scheme, auto = CASES[name]
    config_class, sizes, kind = FAMILIES[family]
    return getattr(hf_addnorm, config_class)(**sizes, add_norm=SCHEMES[scheme]), auto, kind


def save_all(folder: Path, names: Iterable[str] = (*CASES, *COMPOSITES)) -> None:
    """The cases of these names, each in a folder of its own."""
    for name in names:
        save(folder / name, *config_of(name))


def pack(folder: Path, archive: Path) -> None:
    """The folder's files in one archive: what is there many times, the code, is packed once."""
    # files of a name together: what is alike lies near
    files = sorted((path for path in folder.rglob("*") if path.is_file()), key=lambda path: (path.name, path))
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:xz", preset=9, format=tarfile.USTAR_FORMAT) as tar:
        for path in files:
            member = tarfile.TarInfo(str(path.relative_to(folder)))
            member.size, member.mtime = path.stat().st_size, DATE
            tar.addfile(member, io.BytesIO(path.read_bytes()))
    archive.write_bytes(buffer.getvalue())


def main() -> None:
    """Make this version's archive."""
    archive = FOLDER / f"{hf_addnorm.__version__}.tar.xz"
    if archive.exists():
        sys.exit(f"{archive.name} is there: what a release has saved stays as it is")
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        save_all(Path(folder))
        pack(Path(folder), archive)
    sys.stdout.write(f"{archive}: {archive.stat().st_size / 1024:.0f} KiB\n")


if __name__ == "__main__":
    main()
