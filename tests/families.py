"""The families under test: one row each, from which every suite is generated."""

import importlib
import inspect
import os
import zlib
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
import transformers
from family_inputs import (
    TINY,
    TINY_BART,
    TINY_SOUND,
    TINY_SPEECH,
    TINY_T5,
    TINY_TEXT,
    TINY_WHISPER,
    electra_inputs,
    glyph_inputs,
    image_inputs,
    page_inputs,
    quantized_sound_inputs,
    sound_inputs,
    spectrogram_inputs,
    speech_inputs,
    text_inputs,
    translation_inputs,
    two_segment_inputs,
)
from family_row import NO_SPHERE, NO_TABLES, Family
from image_families import IMAGE_FAMILIES
from other_specs import OTHER_SPECS

from hf_addnorm import (
    AddNormAlbertConfig,
    AddNormBartConfig,
    AddNormBertConfig,
    AddNormBertModel,
    AddNormCamembertConfig,
    AddNormData2VecAudioConfig,
    AddNormData2VecTextConfig,
    AddNormDebertaV2Config,
    AddNormDeiTConfig,
    AddNormDistilBertConfig,
    AddNormElectraConfig,
    AddNormErnieConfig,
    AddNormGPT2Config,
    AddNormGPTNeoXConfig,
    AddNormHubertConfig,
    AddNormLayoutLMConfig,
    AddNormMarianConfig,
    AddNormMBartConfig,
    AddNormMegatronBertConfig,
    AddNormModernBertConfig,
    AddNormMPNetConfig,
    AddNormMT5Config,
    AddNormOPTConfig,
    AddNormRobertaConfig,
    AddNormRobertaPreLayerNormConfig,
    AddNormRoCBertConfig,
    AddNormSpec,
    AddNormSpeechT5Config,
    AddNormT5Config,
    AddNormUMT5Config,
    AddNormUniSpeechConfig,
    AddNormViTConfig,
    AddNormWav2Vec2Config,
    AddNormWavLMConfig,
    AddNormWhisperConfig,
    AddNormXLMRobertaConfig,
    presets,
)


FAMILIES = {
    "bert": Family(AddNormBertConfig, TINY_TEXT, two_segment_inputs, position_table=True),
    "vit": Family(
        AddNormViTConfig,
        {**TINY, "image_size": 16, "patch_size": 4, "encoder_stride": 4},
        image_inputs,
        without=NO_TABLES,
    ),
    "albert": Family(
        AddNormAlbertConfig,
        {**TINY_TEXT, "embedding_size": 16},
        two_segment_inputs,
        without=NO_SPHERE,
        position_table=True,
    ),
    "albert_groups": Family(
        AddNormAlbertConfig,
        {**TINY_TEXT, "embedding_size": 16, "num_hidden_groups": 2, "inner_group_num": 2},
        two_segment_inputs,
        without=NO_SPHERE,
        position_table=True,
    ),
    "modernbert": Family(
        AddNormModernBertConfig,
        {
            **TINY_TEXT,
            "global_attn_every_n_layers": 2,
            "local_attention": 4,
            "pad_token_id": 0,
            "attention_dropout": 0.1,
            "mlp_dropout": 0.1,
            "embedding_dropout": 0.1,
            "classifier_dropout": 0.1,
        },
        text_inputs,
        without=NO_SPHERE,
    ),
    "deberta_v2": Family(
        AddNormDebertaV2Config,
        {
            **TINY_TEXT,
            "relative_attention": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_buckets": 8,
            "legacy": False,
        },
        two_segment_inputs,
        ("eager",),
        without=NO_SPHERE,
        position_table=True,
    ),
    "deberta_v2_conv": Family(
        AddNormDebertaV2Config,
        {
            **TINY_TEXT,
            "embedding_size": 16,
            "relative_attention": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_buckets": 8,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "conv_kernel_size": 3,
        },
        two_segment_inputs,
        ("eager",),
        without=NO_SPHERE,
        position_table=True,
    ),
    "wav2vec2": Family(AddNormWav2Vec2Config, TINY_SOUND, sound_inputs, without=NO_TABLES),
    "wav2vec2_stable": Family(
        AddNormWav2Vec2Config,
        {**TINY_SOUND, "do_stable_layer_norm": True, "feat_extract_norm": "layer", "adapter_attn_dim": 8},
        sound_inputs,
        without=NO_TABLES + NO_SPHERE,
    ),
    "gpt2": Family(
        AddNormGPT2Config,
        {
            "vocab_size": 99,
            "n_embd": 32,
            "n_layer": 4,
            "n_head": 4,
            "n_inner": 37,
            "n_positions": 64,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
        text_inputs,
        more_models=("AddNormGPT2DoubleHeadsModel",),
        causal=True,
        position_table=True,
    ),
}

# families that share BERT's layers
_TWO_SEGMENTS = {**TINY_TEXT, "type_vocab_size": 2}


def bert_shaped(config_class: type[Any], inputs: Any = two_segment_inputs, tiny: Any = (), **row: Any) -> Family:
    """The row of a member of BERT's shape."""
    return Family(config_class, {**_TWO_SEGMENTS, **dict(tiny)}, inputs, position_table=True, shape="bert", **row)


# families that share Wav2Vec2's layers
_STABLE = {"do_stable_layer_norm": True}
_WAVLM = {"num_buckets": 8, "max_bucket_distance": 12}


def sound_shaped(config_class: type[Any], tiny: Any, **row: Any) -> Family:
    """The row of a member of Wav2Vec2's shape."""
    return Family(
        config_class, {**TINY_SOUND, **tiny}, quantized_sound_inputs, without=NO_TABLES, shape="wav2vec2", **row
    )


FAMILIES["bart"] = Family(AddNormBartConfig, TINY_BART, translation_inputs, causal=True, position_table=True)
FAMILIES["mbart"] = Family(
    AddNormMBartConfig, TINY_BART, translation_inputs, causal=True, position_table=True, shape="bart"
)
# its padding and its first token are no words that the inputs have
FAMILIES["marian"] = Family(
    AddNormMarianConfig,
    {**TINY_BART, "pad_token_id": 1, "decoder_start_token_id": 1, "eos_token_id": 2, "forced_eos_token_id": 2},
    translation_inputs,
    causal=True,
    shape="bart",
)
FAMILIES["whisper"] = Family(
    AddNormWhisperConfig, TINY_WHISPER, spectrogram_inputs, causal=True, without=NO_TABLES, shape="bart"
)
FAMILIES["speecht5"] = Family(
    AddNormSpeechT5Config,
    TINY_SPEECH,
    speech_inputs,
    ("eager",),
    more_models=("AddNormSpeechT5ForSpeechToSpeech",),
    causal=True,
    without=NO_TABLES,
)
FAMILIES["t5"] = Family(AddNormT5Config, TINY_T5, translation_inputs, causal=True, without=NO_SPHERE)
FAMILIES["t5_gated"] = Family(
    AddNormT5Config,
    {**TINY_T5, "feed_forward_proj": "gated-gelu"},
    translation_inputs,
    causal=True,
    without=NO_SPHERE,
    shape="t5",
)
FAMILIES["mt5"] = Family(AddNormMT5Config, TINY_T5, translation_inputs, causal=True, without=NO_SPHERE, shape="t5")
FAMILIES["umt5"] = Family(AddNormUMT5Config, TINY_T5, translation_inputs, causal=True, without=NO_SPHERE, shape="t5")
# decoders beside GPT-2; q and k are rotated in part
_GPT_NEOX = {
    **TINY_TEXT,
    "attention_dropout": 0.1,
    "hidden_dropout": 0.1,
    "rope_parameters": {"rope_theta": 10000, "rope_type": "default", "partial_rotary_factor": 0.5},
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
FAMILIES["gpt_neox"] = Family(AddNormGPTNeoXConfig, _GPT_NEOX, text_inputs, causal=True, without=NO_SPHERE)
FAMILIES["gpt_neox_in_turn"] = Family(
    AddNormGPTNeoXConfig,
    {**_GPT_NEOX, "use_parallel_residual": False},
    text_inputs,
    causal=True,
    without=NO_SPHERE,
    shape="gpt_neox",
)
_OPT = {
    **{key: value for key, value in TINY_TEXT.items() if key != "intermediate_size"},
    "ffn_dim": 37,
    "attention_dropout": 0.1,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
FAMILIES["opt"] = Family(AddNormOPTConfig, _OPT, text_inputs, causal=True, position_table=True, shape="bart")
# as opt-350m
FAMILIES["opt_post"] = Family(
    AddNormOPTConfig,
    {**_OPT, "do_layer_norm_before": False, "word_embed_proj_dim": 16},
    text_inputs,
    causal=True,
    position_table=True,
    without=NO_SPHERE,
    shape="bart",
)
FAMILIES["distilbert"] = Family(
    AddNormDistilBertConfig,
    {
        "dim": 32,
        "n_layers": 4,
        "n_heads": 4,
        "hidden_dim": 37,
        "vocab_size": 99,
        "max_position_embeddings": 64,
    },
    text_inputs,
    position_table=True,
)
FAMILIES["mpnet"] = Family(
    AddNormMPNetConfig,
    TINY_TEXT,
    text_inputs,
    ("eager",),
    position_table=True,
)
FAMILIES["deit"] = Family(
    AddNormDeiTConfig,
    {**TINY, "image_size": 16, "patch_size": 4, "encoder_stride": 4},
    image_inputs,
    more_models=("AddNormDeiTForImageClassificationWithTeacher",),
    without=NO_TABLES,
    shape="vit",
)
FAMILIES |= IMAGE_FAMILIES
FAMILIES |= {
    "hubert": sound_shaped(AddNormHubertConfig, {}),
    "hubert_stable": sound_shaped(AddNormHubertConfig, _STABLE),
    "unispeech": sound_shaped(AddNormUniSpeechConfig, {"num_ctc_classes": 20}),
    "unispeech_stable": sound_shaped(AddNormUniSpeechConfig, {**_STABLE, "num_ctc_classes": 20}),
    "data2vec_audio": sound_shaped(
        AddNormData2VecAudioConfig, {"conv_pos_kernel_size": 19, "num_conv_pos_embeddings": 2}
    ),
    "wavlm": sound_shaped(AddNormWavLMConfig, _WAVLM, attentions=("eager",)),
    "wavlm_stable": sound_shaped(AddNormWavLMConfig, {**_WAVLM, **_STABLE}, attentions=("eager",)),
    "roberta": bert_shaped(AddNormRobertaConfig),
    "xlm_roberta": bert_shaped(AddNormXLMRobertaConfig),
    "camembert": bert_shaped(AddNormCamembertConfig),
    "electra": bert_shaped(AddNormElectraConfig, electra_inputs, {"embedding_size": 16}, without=NO_SPHERE),
    "ernie": bert_shaped(AddNormErnieConfig, tiny={"task_type_vocab_size": 3, "use_task_id": True}),
    "data2vec_text": bert_shaped(AddNormData2VecTextConfig),
    "roc_bert": bert_shaped(
        AddNormRoCBertConfig,
        glyph_inputs,
        {
            "pronunciation_vocab_size": 5,
            "pronunciation_embed_dim": 6,
            "shape_vocab_size": 7,
            "shape_embed_dim": 8,
        },
    ),
    "layoutlm": bert_shaped(AddNormLayoutLMConfig, page_inputs, {"max_2d_position_embeddings": 16}),
    "roberta_prelayernorm": bert_shaped(AddNormRobertaPreLayerNormConfig),
    "megatron_bert": bert_shaped(AddNormMegatronBertConfig, attentions=("eager",)),
}

# and those of other packages, by the modules that have their rows: see test_toy_family.py
for _module in filter(None, os.environ.get("MORE_FAMILIES", "").split(",")):
    FAMILIES |= importlib.import_module(_module).ROWS

MODELS = [(family, model) for family in FAMILIES for model in FAMILIES[family].models]
PRESET_NAMES = list(presets())

SPECS: dict[str, Any] = {name: name for name in PRESET_NAMES} | OTHER_SPECS


def _traits(spec: Any) -> set[tuple[Any, ...]]:
    """What a spec runs through that another may not: slots, residuals, stream, wiring, norms, start rules."""
    parsed = AddNormSpec.parse(spec)
    stream = {key: value for key, value in parsed.stream.options.items() if key in ("dynamic", "fractions")}
    traits = {("stream", parsed.stream.kind, *stream.items()), ("wiring", parsed.wiring.kind)}
    traits.add(("place", getattr(parsed.embed, "kind", parsed.embed)))
    traits |= {("init", rule.kind) for rule in parsed.init} | {("norm", norm.kind) for _, norm in parsed.norms(4)}
    traits |= {("residual", residual.kind) for _, residual in parsed.residuals()}
    for layer in (parsed.layer(index, 4) for index in range(4)):
        traits |= {(name, *layer.slot_norms(name)) for name in ("attention", "feed_forward")}
        traits.add(("width", layer.qkv_width, "q" in layer.attention))
    return traits


def _covering(specs: dict[str, Any]) -> list[str]:
    """Few of the specs that together have all traits: the one with the most new ones, again and again."""
    traits = {name: _traits(spec) for name, spec in specs.items()}
    chosen, missing = [], set().union(*traits.values())
    while missing:
        chosen.append(max(traits, key=lambda name: len(traits[name] & missing)))
        missing -= traits[chosen[-1]]
    return chosen


# one spec for each slot set, residual, stream, wiring, kind of norm and start rule
COVERING = _covering(SPECS)
# those that reach the most of a family's own code
FEW_SPECS = ["post_ln", "all_slots", "hybrid_norm", "residual", "hyper_connections"]
BASE_MODELS = {family: row.config_class.auto_classes["AutoModel"] for family, row in FAMILIES.items()}


# where a preset has a meaning, if not everywhere
ONLY_IN = {
    preset: {family for family, row in FAMILIES.items() if preset not in row.without} for preset in ("t_fixup", "ngpt")
}


# those that a causal model can have: the others have norms over tokens
CAUSAL = [name for name, spec in SPECS.items() if not AddNormSpec.parse(spec).token_norms(4)]


def specs_of(family: str, model: str) -> list[str]:
    """The specs that a family's model can have."""
    row = FAMILIES[family]
    specs = [spec for spec in (CAUSAL if row.is_causal(model) else SPECS) if spec not in row.without]
    if not row.shape:
        return specs
    return [spec for spec in specs if spec in (FEW_SPECS if model == BASE_MODELS[family] else ["post_dyt_everywhere"])]


def slow_unless(quick: bool, *values: Any) -> Any:
    """A test's parameters; they are in every test run, or else where `-m slow` asks for them."""
    return pytest.param(*values, marks=() if quick else pytest.mark.slow)


def _stable_hash(*names: str) -> int:
    """A number of these names alone: a new family leaves what the others run as it is."""
    return zlib.crc32(" ".join(names).encode())


def deal(specs: Iterable[str], hands: Iterable[str], allowed: Callable[[str, str], bool]) -> set[tuple[str, str]]:
    """(hand, spec): every spec once, to a hand that may have it; a hand left empty has one spec that it may have."""
    specs, hands = list(specs), list(hands)
    able = {spec: [hand for hand in hands if allowed(hand, spec)] for spec in specs}
    dealt = {(min(able[spec], key=lambda hand: _stable_hash(hand, spec)), spec) for spec in specs if able[spec]}
    empty = set(hands) - {hand for hand, _ in dealt}
    left = {hand: [spec for spec in specs if allowed(hand, spec)] for hand in empty}
    return dealt | {(hand, _turn(hand, specs)) for hand, specs in left.items() if specs}


def _turn(name: str, values: list[str]) -> str:
    """One of the values, drawn for a family."""
    return min(values, key=lambda value: _stable_hash(name, value))


# those that share another family's layers: of what that one runs, they run a part
MEMBERS = [family for family, row in FAMILIES.items() if row.shape]
# those with layers of their own
OWN_LAYERS = [family for family in FAMILIES if family not in MEMBERS]


def _quick_heads() -> set[tuple[str, str]]:
    heads = {member: [name for name in FAMILIES[member].models if name != BASE_MODELS[member]] for member in MEMBERS}
    return {(member, _turn(member, names)) for member, names in heads.items()}


# Every run has one head of a member of a shape, and all heads of one row for each class.
_QUICK_HEADS = _quick_heads()
_FIRST_ROWS = {row.config_class: family for family, row in reversed(FAMILIES.items())}.values()


def is_quick(family: str, model: str) -> bool:
    """Whether every run has this model: all base models, all heads of a family with layers of its own, few others."""
    if model == BASE_MODELS[family] or (family, model) in _QUICK_HEADS:
        return True
    return family not in MEMBERS and family in _FIRST_ROWS


def covering_models(models: Iterable[tuple[str, str]] = tuple(MODELS)) -> list[Any]:
    """(family, model), all of them; what is not quick is marked slow."""
    return [slow_unless(is_quick(*pair), *pair) for pair in models]


def covering(pairs: Iterable[tuple[str, str]]) -> list[Any]:
    """(family, spec), all the pairs; every run has every spec once, in some family, the rest is slow.

    A member of a shape has one spec.
    """
    pairs = list(pairs)
    specs = dict.fromkeys(spec for family, spec in pairs if family not in MEMBERS)
    quick = deal(specs, OWN_LAYERS, lambda family, spec: (family, spec) in pairs)
    for member in MEMBERS:
        able = [spec for family, spec in pairs if family == member]
        quick |= {(member, _turn(member, able))} if able else set()
    return [slow_unless(pair in quick, *pair) for pair in pairs if pair in quick or pair[0] not in MEMBERS]


def slow_beyond_covering(pairs: Iterable[tuple[str, str]]) -> list[Any]:
    """(family, spec), all the pairs; of BERT's specs, every run has those that together run through everything."""
    return [
        slow_unless(family != "bert" or spec in COVERING or spec == "stock", family, spec) for family, spec in pairs
    ]


# each spec in one family
_DEALT = deal(
    [spec for spec in SPECS if spec not in FEW_SPECS],
    OWN_LAYERS,
    lambda family, spec: spec in specs_of(family, BASE_MODELS[family]),
)


def quick_specs(family: str, model: str) -> list[str]:
    """The specs with which every test run has a model.

    A member of a shape: one with its base model and with one head. A base model of another family: a few, and its
    share of all. A model with a head: one that changes every norm.
    """
    if not is_quick(family, model):
        return []
    if family in MEMBERS:
        return [_turn(family, specs_of(family, model))]
    if model != BASE_MODELS[family]:
        return ["post_dyt_everywhere"]
    own = [spec for spec in SPECS if spec in FEW_SPECS or (family, spec) in _DEALT]
    return [spec for spec in specs_of(family, model) if spec in own]


def product(models: list[tuple[str, str]]) -> list[Any]:
    """(family, model, spec), all of them; what is not among the quick ones is marked slow."""
    return [
        slow_unless(spec in quick_specs(family, model), family, model, spec)
        for family, model in models
        for spec in specs_of(family, model)
    ]


def fill_with_pattern(model: torch.nn.Module) -> None:
    """Distinct, bounded values in every parameter, so that a weight in the wrong place shows."""
    with torch.no_grad():
        for index, (name, parameter) in enumerate(sorted(model.named_parameters())):
            # a table of sines is no part of a checkpoint
            if not parameter.requires_grad:
                continue
            # what is squashed must not be so large that all of it becomes one number: a vector that a token is
            # multiplied with, the slope of a curve
            small = name.endswith((".direction", ".weight_beta"))
            middle = 0.0 if small or parameter.dim() > 1 else 0.2 if name.endswith("norm.alpha") else 1.0
            flat = torch.arange(parameter.numel(), dtype=torch.float64)
            values = 0.1 * torch.sin(0.7 * flat + index) + middle
            parameter.copy_(values.view_as(parameter))


def tiny_config(add_norm: Any, layers: int = 3, **kwargs: Any) -> Any:
    """A BERT small enough to write its formula out."""
    return AddNormBertConfig(
        vocab_size=11,
        hidden_size=8,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=12,
        max_position_embeddings=8,
        add_norm=add_norm,
        **kwargs,
    )


def stacks_of(net: Any) -> list[tuple[str, Any]]:
    """Every stack of layers of a model: what its paths begin with, and its config."""
    homes = {
        part.stack_name: f"{path}." if path else ""
        for path, part in reversed(list(net.named_modules()))
        if hasattr(part, "runs_layers") and part.runs_layers()
    }
    return [(homes[name], config) for name, config in net.stack_configs.items()]


def layer_paths(net: Any) -> list[str]:
    """The path of every layer of a model, of one stack after the other, each where it runs first."""
    paths = (home + path for home, config in stacks_of(net) for path in net.layout_of(config).layers(config))
    return list(dict.fromkeys(paths))


def real_tokens(inputs: dict[str, Any]) -> Any:
    """[batch, seq], true for the tokens of a text model's output that are no padding."""
    return inputs.get("decoder_attention_mask", inputs["attention_mask"]).bool()


# where a scheme has parameters of its own, beside norms
OWN_PARAMETERS = ("residual_", "average_norm", "begin_norm", "backout_norm", "start_gate", "layer_gate", "head_gate")


def twins(*specs: Any, **kwargs: Any) -> list[Any]:
    """Models of these specs in float64 with the same random weights, as far as they have the same."""
    models = [AddNormBertModel(tiny_config(spec, **kwargs)).double().eval() for spec in specs]
    generator = torch.Generator().manual_seed(5)
    shared: dict[str, torch.Tensor] = {}
    for model in models:
        for path, parameter in model.named_parameters():
            if path not in shared:
                shared[path] = torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.3
            if not any(home in path for home in OWN_PARAMETERS):
                parameter.data = shared[path] + ("norm.weight" in path.lower())
    return models


# the argument and the output that a decoder's cache is: Transformers 5.24 gave it another name
CACHE = "cache" if "cache" in inspect.signature(transformers.BertModel.forward).parameters else "past_key_values"


def checkpoint_activations(model: Any, *args: Any) -> None:
    """Recompute the layers in the backward; the method has this name from Transformers 5.23 on."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable(*args)


def keep_activations(model: Any) -> None:
    """The opposite."""
    disable = getattr(model, "activation_checkpointing_disable", None) or model.gradient_checkpointing_disable
    disable()
